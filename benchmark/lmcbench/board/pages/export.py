"""Tables in, rows for other programs out: fractions in full precision, null for what was not measured."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from lmcbench.board.entries.submission import Meta
from lmcbench.board.entries.trust import TrustLevel
from lmcbench.board.pages.scores import COLUMNS
from lmcbench.board.pages.standings import Scores, Standing, SuiteTable
from lmcbench.board.stability import Onset

HEADLINE = "headline"
"""The `shift` of the row under the suite's training shifts together."""


def export_rows(
    tables: Sequence[SuiteTable], about: Mapping[str, tuple[Meta, TrustLevel]]
) -> list[dict[str, Any]]:
    """A row per entry and training shift; `shift` is `headline` where it is a mean over them.

    Every column KEY comes with KEY_half (half-width of the 95 % t interval) and KEY_n (replicates).
    """
    rows = []
    for table in tables:
        for standing in table.standings:
            head = _head(table, standing, *about[standing.entry.slug])
            views = {HEADLINE: standing.scores} | dict(standing.by_shift)
            rows += [head | {"shift": label} | _numbers(scores) for label, scores in views.items()]
    return rows


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV with a header; empty cells were not measured."""
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    # a spreadsheet would run text of these beginnings as a formula
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


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
        "unranked": "; ".join(standing.unranked),
        "replicates": len(entry.replicates),
        "cells_ok": entry.count("ok"),
        "cells_diverged": entry.count("diverged"),
        "cells_failed": entry.count("failed"),
        "cells_missing": standing.missing,
        "trust": trust,
        "manifest_sha256": entry.manifest,
    }


def _numbers(scores: Scores) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for column in COLUMNS:
        value = scores.columns[column.key]
        row |= {column.key: value.mean, f"{column.key}_half": value.half_width, f"{column.key}_n": value.n}
    point = scores.stability
    ends = point.interval or (None, None)
    return row | {
        "stability_epoch": _epoch(point.median),
        "stability_first": _epoch(ends[0]),
        "stability_last": _epoch(ends[1]),
        "stability_never": point.never,
        "stability_n": point.n,
    }


def _epoch(onset: Onset | None) -> float | None:
    return None if onset is None else onset.epoch
