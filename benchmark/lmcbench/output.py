"""Print and format text that contains foreign values: names, labels, descriptions, arguments, messages.

Every command prints through `print_text`, every table is made by `make_table`, and text in Markdown passes
`escape_markdown`; pages of HTML are jinja templates with autoescape.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from tabulate import tabulate

from lmcbench.untrusted import printable

MESSAGE = 2_000
"""Characters of a message that are shown; the middle of a longer one is cut."""

GITHUB = "github"
"""The format of tabulate for tables in Markdown."""


def print_text(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print `terminal_text(text)` on standard output or standard error."""
    stream = sys.stderr if err else sys.stdout
    print(terminal_text(text), end="\n" if nl else "", file=stream, flush=True)


def terminal_text(text: str) -> str:
    r"""Return text with every control character but line end and tab as a visible escape.

    >>> terminal_text("a\x1b[31mb\n")
    'a\\x1b[31mb\n'
    """
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(printable(part, sys.maxsize) for part in line.split("\t")) for line in lines)


def h_m_s(seconds: float) -> str:
    """Return a duration as `0:03:20`, in whole seconds."""
    return str(timedelta(seconds=round(seconds)))


def shorten(text: str, limit: int = MESSAGE) -> str:
    """Return text of at most `limit` characters, cut in the middle."""
    if len(text) <= limit:
        return text
    head = (limit - 5) * 2 // 3
    return f"{text[:head]} ... {text[len(text) - (limit - 5 - head) :]}"


def one_line(text: str) -> str:
    """Return text as one line of at most `MESSAGE` printable characters."""
    return printable(text, MESSAGE)


def escape_markdown(text: str, limit: int = MESSAGE) -> str:
    r"""Return text as Markdown that shows it literally, on one line that fits into a cell of a table.

    Text of more than `limit` characters is cut in the middle.

    >>> escape_markdown("lmc_mlp(name=<b>|x)")
    'lmc_mlp(name=&lt;b&gt;\\|x)'
    """
    text = printable(" ".join(text.split()), limit)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\g<0>", text)


# an underscore inside a word is not emphasis; "//" and "www." would become links
_MARKUP = re.compile(r"[\\`*\[\]|~@$#]|(?<![^\W_])_|_(?![^\W_])|(?<=\w):(?=//)|(?<=\bwww)\.", re.IGNORECASE)


def make_table(
    rows: Iterable[Sequence[Any] | Mapping[str, Any]],
    headers: Sequence[str] = (),
    style: str = "simple",
    *,
    limit: int = MESSAGE,
    **options: Any,
) -> str:
    """Return a table as text; every cell is one line of at most `limit` characters.

    Args:
        rows: cells, or tables of cells by column, which then are the headers.
        headers: of the columns.
        style: a format of tabulate. The cells of `github` are escaped as Markdown.
        limit: in characters.
        options: of tabulate.
    """
    listed = list(rows)
    if listed and isinstance(listed[0], Mapping):
        headers = list(listed[0])
        listed = [list(row.values()) for row in listed if isinstance(row, Mapping)]

    def cell(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return escape_markdown(value, limit) if style == GITHUB else printable(value, limit)

    return tabulate(
        [[cell(value) for value in row] for row in listed],
        [cell(name) for name in headers],
        tablefmt=style,
        **options,
    )


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as CSV with a header; empty cells were not measured."""
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _csv_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _csv_cell(value: Any) -> Any:
    # a spreadsheet would evaluate text that begins like this as a formula
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
