"""Tables in, the JSON value out that the page draws from: whole numbers and packed curves, to stay small.

Fractions are in units of `UNIT` (0.01 percentage points), losses of `LOSS_UNIT`; an estimate is `[mean]`,
`[mean, half]` or, of other replicates than the row's n, `[mean, half or null, n]`; null is not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lmcbench.board.entry import Band, Entry, Place, Values
from lmcbench.board.observations import EVALUATION
from lmcbench.board.scores import COLUMNS, Column, View, minus
from lmcbench.board.stability import Onset, StabilityPoint
from lmcbench.board.standings import Scores, Standing, SuiteTable
from lmcbench.board.statistics import Estimate, estimate
from lmcbench.board.submission import Meta
from lmcbench.board.trust import TrustLevel
from lmcbench.spec.forks import Fork

UNIT = 1e-4
LOSS_UNIT = 1e-4
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
LEVELS = len(ALPHABET) ** 2 - 1
EVERY = "*"
"""The view under the suite's training shifts together."""

PLACE_BARRIERS = ("error_chord", "error_mean", "error_floor", "error_mid", "loss_chord", "loss_mean")
PLACE_WORTH = ("disagreement", "member", "ensemble", "soup")


def make_payload(
    tables: Sequence[SuiteTable], about: Mapping[str, tuple[Meta, TrustLevel]]
) -> dict[str, Any]:
    """What the page holds.

    Args:
        tables: one per suite.
        about: by slug, what is said of an entry besides its numbers.
    """
    return {
        "unit": UNIT,
        "lossUnit": LOSS_UNIT,
        "alphabet": ALPHABET,
        "columns": [_column(column) for column in COLUMNS],
        "placeBarriers": PLACE_BARRIERS,
        "placeWorth": PLACE_WORTH,
        "suites": [_suite(table, about) for table in tables],
    }


def _column(column: Column) -> dict[str, Any]:
    return {
        "key": column.key,
        "group": column.group,
        "title": column.title,
        "unit": column.unit,
        "better": column.better,
        "help": column.help,
    }


def _suite(table: SuiteTable, about: Mapping[str, tuple[Meta, TrustLevel]]) -> dict[str, Any]:
    suite = table.published
    return {
        "id": table.name,
        "title": f"{table.suite.name} version {table.suite.version}",
        "digest": table.suite.digest[:12],
        "description": "" if suite is None else suite.description,
        "published": suite is not None,
        "floor": None if suite is None else _whole(suite.floor, UNIT),
        "siblings": None if suite is None else suite.siblings,
        "headline": list(table.headline),
        "shifts": sorted({label for s in table.standings for label in s.entry.shifts}, key=_shift_order(table)),
        "ranked": table.ranked,
        "entries": [_entry(standing, *about[standing.entry.slug]) for standing in table.standings],
    }


def _shift_order(table: SuiteTable) -> Callable[[str], tuple[bool, bool, str]]:
    """The headline's shifts first, then no shift and the controls."""
    return lambda label: (label not in table.headline, label != "none", label)


def _entry(standing: Standing, meta: Meta, trust: TrustLevel) -> dict[str, Any]:
    entry = standing.entry
    view = View(entry, entry.labels("shift") or entry.labels("none"))
    return {
        "slug": entry.slug,
        "title": meta.title,
        "authors": ", ".join(meta.authors),
        "licence": meta.licence,
        "pretraining": meta.pretraining,
        "extraData": meta.extra_data,
        "notes": meta.notes,
        "trust": str(trust),
        "architecture": entry.network.label,
        "source": entry.network.source,
        "fingerprint": entry.network.fingerprint,
        "params": entry.network.params,
        "recipe": entry.recipe["name"],
        "recipeSettings": {k: v for k, v in sorted(entry.recipe.items()) if k != "name" and v is not None},
        "manifest": entry.manifest[:12],
        "baseline": standing.baseline,
        "rank": None if standing.rank is None else list(standing.rank),
        "unranked": list(standing.unranked),
        "n": standing.n,
        "replicates": len(entry.replicates),
        "cells": [entry.count("ok"), entry.count("diverged"), entry.count("failed"), standing.missing],
        "latest": view.latest,
        "views": {EVERY: _scores(standing.scores, standing.n)}
        | {label: _scores(scores, standing.n) for label, scores in standing.by_shift.items()},
        "evaluations": {
            split.removeprefix(EVALUATION): _evaluation(view, split, standing.n) for split in entry.evaluations
        },
        "points": len(entry.alphas),
        "places": {
            label: [_place(place, standing.n) for place in shifted.places]
            for label, shifted in entry.shifts.items()
        },
    }


def _scores(scores: Scores, n: int) -> list[Any]:
    """The columns in their order, then the stability point."""
    values = [_estimate(scores.columns[c.key], n, None if c.unit == "flop" else UNIT) for c in COLUMNS]
    return [*values, _stability(scores.stability)]


def _stability(point: StabilityPoint) -> list[Any] | None:
    """Median, earliest and latest replicate, how many, and how many never; epochs, null: never."""
    if not point.n:
        return None
    ends = point.interval or (point.median, point.median)
    return [_epoch(point.median), _epoch(ends[0]), _epoch(ends[1]), point.n, point.never]


def _epoch(onset: Onset | None) -> float | None:
    return None if onset is None else onset.epoch


def _evaluation(view: View, split: str, n: int) -> list[Any]:
    """Member, ensemble and soup at the latest fork, and the ensemble against equal cost."""
    own = [view.worth(name, view.latest, [split]) for name in ("member", "ensemble", "soup")]
    equal = minus(own[1], view.worth("ensemble", view.equal_cost, [split]))
    return [_estimate(estimate(list(series.values())), n, UNIT) for series in (*own, equal)]


def _place(place: Place, n: int) -> dict[str, Any]:
    worth = place.worth.get("test")
    units = [UNIT if name.startswith("error") else LOSS_UNIT for name in PLACE_BARRIERS]
    return {
        "fork": place.fork,
        "epoch": place.epoch,
        "priced": Fork.parse(place.fork).priced,
        "cells": [place.status.count("ok"), place.status.count("diverged"), place.status.count("failed")],
        "barriers": [
            _over(place.barriers[name], n, unit) for name, unit in zip(PLACE_BARRIERS, units, strict=True)
        ],
        "worth": [_over(getattr(worth, name), n, UNIT) if worth else None for name in PLACE_WORTH],
        "flop": _over(place.flop, n, None),
        "error": _band(place.curves.get("error"), with_half=True),
        "loss": _band(place.curves.get("loss"), with_half=False),
    }


def _over(values: Values, n: int, unit: float | None) -> list[Any] | None:
    return _estimate(estimate([v for v in values if v is not None]), n, unit)


def _estimate(value: Estimate, n: int, unit: float | None) -> list[Any] | None:
    """In whole units, or to four digits without one."""
    if value.mean is None:
        return None
    shown = [value.mean] if value.half_width is None else [value.mean, value.half_width]
    found: list[Any] = [_whole(v, unit) if unit is not None else _digits(v) for v in shown]
    if value.n != n:
        found = [*found, *([None] if len(found) == 1 else []), value.n]
    return found


def _whole(value: float, unit: float) -> int:
    return round(value / unit)


def _digits(value: float) -> float | int:
    """Four significant digits; whole where it is."""
    rounded = float(f"{value:.4g}")
    return int(rounded) if rounded.is_integer() else rounded


def _band(band: Band | None, with_half: bool) -> list[Any] | None:
    """The largest value, then mean and half-width packed as shares of it."""
    if band is None:
        return None
    halves = band.half if with_half and band.half is not None else []
    top = float(f"{max(*band.mean, *halves, 1e-12):.4e}")
    return [top, pack(band.mean, top), *([pack(halves, top)] if halves else [])]


def pack(values: Iterable[float], top: float) -> str:
    """Two letters of `ALPHABET` for each value of 0 to `top`: finer than a pixel of any figure."""
    levels = (min(max(round(value / top * LEVELS), 0), LEVELS) for value in values)
    return "".join(ALPHABET[level // len(ALPHABET)] + ALPHABET[level % len(ALPHABET)] for level in levels)
