r"""LaTeX tables in the style of booktabs, with every foreign text escaped.

>>> print(latex_table(["shift", "area"], [["label-skew", "12.4 ± 1.3"]], caption="A & B", label="x", left=1))
\begin{table}
\centering
\caption{A \& B}
\label{tab:x}
\smallskip
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%
\begin{tabular}{lr}
\toprule
shift & area \\
\midrule
label-skew & $12.4 \pm 1.3$ \\
\bottomrule
\end{tabular}}
\end{table}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from textwrap import wrap

from lmcbench.output import one_line

MOST_LETTERS = 26
"""Letters of a text on one line; longer ones are broken."""
MOST_ROWS = 40
"""Rows on a page."""
WIDE = 60
"""Letters in a row from which columns stand closer to each other."""
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",  # \textquotedbl needs the T1 encoding
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "²": r"$^2$",
    "‘": "`",
    "’": "'",
    # after the end of a row, an opening bracket would begin an option
    "[": "{[}",
    "]": "{]}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}
_NUMBER = re.compile(r"([+\-−]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)( ± (\d+(?:\.\d+)?))?( \(\d+\))?")


def escape_latex(text: str) -> str:
    r"""Return text as LaTeX that prints it literally, on one line.

    Characters that pdfLaTeX has no glyph for are question marks.

    Examples:
        >>> print(escape_latex("lmc_mlp 50 % & x"))
        lmc\_mlp 50 \% \& x
    """
    return "".join(_SPECIAL.get(c, c if c.isascii() or c in "äöüÄÖÜß" else "?") for c in one_line(text))


def latex_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str] | str],
    *,
    caption: str,
    label: str,
    left: int = 1,
) -> str:
    r"""Return a `table` environment that fits a page; several, numbered in their captions, for many rows.

    Headings and long texts are broken into lines; what is then wider than the text is scaled down to it.
    Tables are divided above headings over all columns.

    Args:
        columns: headings.
        rows: cells, numbers as `12.4 ± 1.3`; a string is a heading over all columns.
        caption: above the table.
        label: letters, digits, `-`, `.` and `:`; others become `-`. It is `tab:LABEL`; further parts
            have `tab:LABEL-2` and so on.
        left: number of columns that are aligned to the left, the first ones.
    """
    cells = [row for row in rows if not isinstance(row, str)]
    longest = [max((len(row[k]) for row in cells), default=0) for k in range(len(columns))]
    is_long = [k < left and length > MOST_LETTERS for k, length in enumerate(longest)]
    headings = [
        wrap(one_line(name), max(min(length, MOST_LETTERS), 4), break_long_words=False) or [""]
        for name, length in zip(columns, longest, strict=True)
    ]
    letters = [
        max(min(length, MOST_LETTERS), *map(len, lines))
        for length, lines in zip(longest, headings, strict=True)
    ]
    alignment = "".join(
        f"p{{{0.42 * MOST_LETTERS:g}em}}" if long else "l" if k < left else "r"
        for k, long in enumerate(is_long)
    )
    head = [
        *([r"\setlength{\tabcolsep}{3pt}"] if sum(letters) > WIDE else []),
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(_heading(lines, "l" if k < left else "r") for k, lines in enumerate(headings)) + r" \\",
        r"\midrule",
    ]
    parts = _parts(rows)
    tables = []
    for number, part in enumerate(parts, 1):
        place = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
        name = re.sub(r"[^A-Za-z0-9.:-]", "-", label) + (f"-{number}" if number > 1 else "")
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(caption)}{place}}}",
            rf"\label{{tab:{name}}}",
            r"\smallskip",
            *head,
        ]
        for k, row in enumerate(part):
            if isinstance(row, str):
                lines += [r"\addlinespace"] if k else []
                lines.append(rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{escape_latex(row)}}}}} \\")
            else:
                texts = zip(row, is_long, strict=True)
                lines.append(
                    " & ".join((r"\raggedright " if long else "") + _cell(text) for text, long in texts)
                    + r" \\"
                )
        tables.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}"]))
    return "\n\n".join(tables)


def _parts(rows: Sequence[Sequence[str] | str]) -> list[list[Sequence[str] | str]]:
    """Divide rows into parts of at most `MOST_ROWS` where possible, each from a heading on."""
    groups: list[list[Sequence[str] | str]] = [[]]
    for row in rows:
        if isinstance(row, str) and groups[-1]:
            groups.append([])
        groups[-1].append(row)
    parts = [groups[0]]
    for group in groups[1:]:
        if len(parts[-1]) + len(group) > MOST_ROWS:
            parts.append(group)
        else:
            parts[-1] = [*parts[-1], *group]
    return parts


def _heading(lines: Sequence[str], side: str) -> str:
    text = r"\\".join(map(escape_latex, lines))
    return text if len(lines) == 1 else rf"\shortstack[{side}]{{{text}}}"


def document_comment(facts: Mapping[str, str]) -> str:
    """Return facts as lines of a comment, one fact a line."""
    lines = [f"% {one_line(name)}: {one_line(text)}" for name, text in facts.items()]
    return "\n".join([*lines, r"% needs \usepackage{booktabs,graphicx}"])


def _cell(text: str) -> str:
    found = _NUMBER.fullmatch(text)
    if found is None:
        return escape_latex(text)
    mean, half, few = found[1].replace("−", "-"), found[3], found[4] or ""
    if half is not None:
        return rf"${mean} \pm {half}${few}"
    return f"${mean}${few}" if mean[0] in "+-" else f"{mean}{few}"
