"""Render the leaderboard: README.md, index.html, the summaries, and exports."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcbench.errors import UserError
from lmcbench.latex import document_comment, latex_table
from lmcbench.leaderboard import text as words
from lmcbench.leaderboard.markdown import number, render_markdown
from lmcbench.leaderboard.payload import make_payload
from lmcbench.leaderboard.ranking_table import Scores, Standing, SuiteTable, make_tables
from lmcbench.leaderboard.scores import COLUMNS, column
from lmcbench.leaderboard.submission_file import Meta
from lmcbench.leaderboard.summary_cache import RESULTS, SUBMISSIONS, SUMMARY, Row, read_rows, summary_path
from lmcbench.leaderboard.trust import TrustLevel
from lmcbench.page import embed, page_style, template_text, templates, theme_script
from lmcbench.results.atomic_files import remove_orphans, write_atomic
from lmcbench.results.provenance import command_line, versions, without_folders
from lmcbench.untrusted import read_bytes


def render_html(payload: Mapping[str, Any]) -> str:
    """Return the page, with style, script and numbers in one file; the JSON contains no `<`."""
    template = templates("lmcbench.leaderboard").get_template("leaderboard.html.j2")
    text = template.render(
        words=words,
        style=page_style() + template_text("leaderboard.css", "lmcbench.leaderboard"),
        theme=theme_script(),
        script=template_text("leaderboard.js", "lmcbench.leaderboard"),
        data=embed(payload),
    )
    return text.rstrip("\n") + "\n"


HEADLINE = "headline"
"""The `shift` of the row that is a mean over the suite's training shifts."""


def export_rows(
    tables: Sequence[SuiteTable], about: Mapping[str, tuple[Meta, TrustLevel]]
) -> list[dict[str, Any]]:
    """Return a row per entry and training shift; `shift` is `headline` for the mean over them.

    Every column KEY comes with KEY_half (half-width of the 95 % t interval) and KEY_n (replicates). The last
    columns are the command that wrote the table, the suite's citation and the version.
    """
    rows = []
    for table in tables:
        for standing in table.standings:
            head = _head(table, standing, *about[standing.entry.slug])
            views = {HEADLINE: standing.scores} | dict(standing.by_shift)
            made = _made(table)
            rows += [head | {"shift": label} | _numbers(scores) | made for label, scores in views.items()]
    return rows


def _made(table: SuiteTable) -> dict[str, str]:
    """Return the columns that end every row of a table file: command, citation, versions."""
    return {
        "command": without_folders(command_line()),
        "citation": table.published.citation if table.published is not None else "",
        "versions": f"lmcbench {versions()['lmcbench']}",
    }


PAPER = ("area", "area_errors", "skill_lost", "barrier", "accuracy", "ensemble_gain")
"""Columns of the LaTeX tables."""


def to_latex(tables: Sequence[SuiteTable], about: Mapping[str, tuple[Meta, TrustLevel]]) -> str:
    r"""Return a table per suite in LaTeX, with intervals; it needs `\usepackage{booktabs,graphicx}`."""
    parts = []
    for table in tables:
        made = _made(table)
        named = f"{table.suite.name} version {table.suite.version}"
        facts = {
            "Written by": made["command"],
            "Suite": f"{named}, digest {table.suite.digest}",
            "Cite": made["citation"],
            "Versions": made["versions"],
        }
        columns = [column(key) for key in PAPER]
        rows = []
        for standing in table.standings:
            n = standing.n or len(standing.entry.replicates)
            numbers = [number(standing.scores.columns[c.key], c, n) for c in columns]
            rank = "baseline" if standing.baseline else "–" if standing.rank is None else str(standing.rank)
            rows.append([rank, about[standing.entry.slug][0].title, *numbers, str(n)])
        caption = (
            f"{named}: mean over replicates (n) with the half-width of its 95 % interval; areas, "
            "skill lost and accuracy in percent, barrier and gain in percentage points; ranks are "
            "simultaneous 95 % intervals."
        )
        heads = ["rank", "entry", *(c.title for c in columns), "n"]
        body = latex_table(heads, rows, caption=caption, label=table.name, left=2)
        parts.append(f"{document_comment({k: v for k, v in facts.items() if v})}\n{body}\n")
    return "\n".join(parts)


def export_entries(
    tables: Sequence[SuiteTable], about: Mapping[str, tuple[Meta, TrustLevel]]
) -> dict[str, Any]:
    """Return all numbers as one JSON document, an item per entry.

    `instability_area` has the area of every replicate, null where it is undefined; `rank` is null for entries
    without. All other numbers are as in `export_rows`: of the headline, and by training shift in `shifts`.
    """
    return {
        "entries": [
            {
                "entry": standing.entry.slug,
                **_head(table, standing, *about[standing.entry.slug]),
                "rank": None if standing.rank is None else list(standing.rank),
                "frontier": standing.frontier,
                "instability_area": {str(r): area for r, area in standing.areas.items()},
                **_numbers(standing.scores),
                "shifts": {label: _numbers(scores) for label, scores in standing.by_shift.items()},
            }
            for table in tables
            for standing in table.standings
        ]
    }


def _head(table: SuiteTable, standing: Standing, meta: Meta, trust: TrustLevel) -> dict[str, Any]:
    entry, rank = standing.entry, standing.rank
    return {
        "suite": table.suite.name,
        "version": table.suite.version,
        "suite_digest": table.suite.digest,
        "slug": entry.slug,
        "title": meta.title,
        "authors": "; ".join(meta.authors),
        "architecture": entry.network.label,
        "recipe": entry.recipe["name"],
        "params": entry.network.params,
        "baseline": standing.baseline,
        "rank_first": None if rank is None else rank.first,
        "rank_last": None if rank is None else rank.last,
        "basis": standing.basis or "claimed",
        "unranked": "; ".join(standing.unranked),
        "replicates": len(entry.replicates),
        "cells_ok": entry.count("ok"),
        "cells_diverged": entry.count("diverged"),
        "cells_failed": entry.count("failed"),
        "cells_missing": standing.missing,
        "trust": trust,
        "submission_sha256": entry.submission_sha256,
    }


def _numbers(scores: Scores) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key in (c.key for c in COLUMNS):
        value = scores.columns[key]
        row |= {key: value.mean, f"{key}_half": value.half_width, f"{key}_n": value.n}
    point = scores.stability
    ends = point.interval or (None, None)
    return row | {
        "stability_share": point.median,
        "stability_first": ends[0],
        "stability_last": ends[1],
        "stability_never": point.never,
        "stability_n": point.n,
    }


MARKDOWN, HTML = "README.md", "index.html"


@dataclass(frozen=True)
class Rendered:
    """A rendered leaderboard.

    Attributes:
        files: path -> content.
        leftovers: summaries of submissions that no longer exist.
        tables: one per suite and version.
        about: by slug, `submission.toml` and the trust level.
    """

    files: Mapping[Path, str]
    leftovers: tuple[Path, ...]
    tables: tuple[SuiteTable, ...]
    about: Mapping[str, tuple[Meta, TrustLevel]]

    def outdated(self) -> list[Path]:
        """Return the files that differ from what was rendered, are missing, or should not exist."""
        changed = [path for path, content in self.files.items() if not _has(path, content.encode())]
        return sorted([*changed, *self.leftovers])

    def write(self) -> list[Path]:
        """Write what is out of date, remove leftovers, and return these paths."""
        outdated = self.outdated()
        for folder in {path.parent for path in self.files}:
            remove_orphans(folder)
        for path in outdated:
            if path in self.files:
                write_atomic(path, self.files[path])
            else:
                path.unlink()
        return outdated


def render_leaderboard(board: Path, *, afresh: bool = False, beside: Path | None = None) -> Rendered:
    """Render a leaderboard from its submissions.

    Args:
        board: its folder.
        afresh: recompute every summary, as a check must.
        beside: another leaderboard, whose entries are shown beside those of `board`.

    Raises:
        UserError: if `board` or `beside` is no leaderboard, or a submission in it is not sound.
    """
    rows = read_rows(board, afresh=afresh)
    others = [] if beside is None else read_others(beside, rows)
    return render_rows(board, rows, others)


def read_others(beside: Path, rows: Sequence[Row]) -> list[Row]:
    """Return the submissions of another leaderboard that are not among `rows`, by slug or records."""
    slugs = {row.entry.slug for row in rows}
    records = {row.submission.meta.sha256.records for row in rows}
    return [
        row
        for row in read_rows(beside)
        if row.entry.slug not in slugs and row.submission.meta.sha256.records not in records
    ]


def render_rows(board: Path, rows: list[Row], others: Sequence[Row] = ()) -> Rendered:
    """Render submissions; `others` are those of another leaderboard, which is not changed."""
    shown = [*rows, *others]
    about = {row.entry.slug: (row.submission.meta, row.trust) for row in shown}
    tables = make_tables((row.entry for row in shown), {row.entry.slug: row.basis for row in shown})
    places = {
        row.entry.slug: Path(os.path.relpath(row.submission.folder, board)).as_posix() for row in others
    }
    files = {summary_path(board, row.entry.slug): row.entry.to_json() for row in rows if not row.known}
    files[board / MARKDOWN] = render_markdown(tables, about, places)
    files[board / HTML] = render_html(make_payload(tables, about))
    leftovers = [
        path
        for path in sorted((board / RESULTS).glob(f"*/{SUMMARY}"))
        if path not in files and not (board / SUBMISSIONS / path.parent.name).exists()
    ]
    return Rendered(files, tuple(leftovers), tuple(tables), about)


def _has(path: Path, content: bytes) -> bool:
    """Whether a file has this content; a pipe, a device and a larger file are not read."""
    try:
        return read_bytes(path, limit=len(content)) == content
    except UserError:
        return False
