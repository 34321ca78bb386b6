"""A leaderboard's folder in, the content of every rendered file out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lmcbench.board.entries.submission import Meta
from lmcbench.board.entries.trust import TrustLevel
from lmcbench.board.pages.derived import RESULTS, SUBMISSIONS, SUMMARY, Row, read_rows, summary_path
from lmcbench.board.pages.html import render_html
from lmcbench.board.pages.markdown import render_markdown
from lmcbench.board.pages.payload import make_payload
from lmcbench.board.pages.standings import SuiteTable, make_tables
from lmcbench.results.store import write_atomic

MARKDOWN, HTML = "README.md", "index.html"


@dataclass(frozen=True)
class Rendered:
    """A leaderboard.

    Attributes:
        files: path -> content of what was rendered and derived now.
        leftovers: derived files of submissions that are no more.
        tables: one per suite and version.
        about: by slug, what is said of an entry besides its numbers.
    """

    files: Mapping[Path, str]
    leftovers: tuple[Path, ...]
    tables: tuple[SuiteTable, ...]
    about: Mapping[str, tuple[Meta, TrustLevel]]

    def outdated(self) -> list[Path]:
        """Committed files that are not what they should be, are missing, or should not be there."""
        changed = [path for path, content in self.files.items() if _read(path) != content.encode()]
        return sorted([*changed, *self.leftovers])

    def write(self) -> list[Path]:
        """Write what is out of date and remove what is left over; returns those paths."""
        outdated = self.outdated()
        for path in outdated:
            if path in self.files:
                write_atomic(path, self.files[path])
            else:
                path.unlink()
        return outdated


def render_leaderboard(board: Path, *, afresh: bool = False) -> Rendered:
    """Everything that is rendered from a leaderboard's submissions.

    Args:
        board: its folder.
        afresh: trust no entry that was derived before, as a check must not.

    Raises:
        UserError: where `board` is no leaderboard, or a submission in it is not sound.
    """
    rows = read_rows(board, afresh=afresh)
    return render_rows(board, rows)


def render_rows(board: Path, rows: list[Row]) -> Rendered:
    """The same for submissions that were read."""
    about = {row.entry.slug: (row.submission.meta, row.trust) for row in rows}
    tables = make_tables(row.entry for row in rows)
    files = {summary_path(board, row.entry.slug): row.entry.to_json() for row in rows if not row.known}
    files[board / MARKDOWN] = render_markdown(tables, about)
    files[board / HTML] = render_html(make_payload(tables, about))
    leftovers = [
        path
        for path in sorted((board / RESULTS).glob(f"*/{SUMMARY}"))
        if path not in files and not (board / SUBMISSIONS / path.parent.name).exists()
    ]
    return Rendered(files, tuple(leftovers), tuple(tables), about)


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
