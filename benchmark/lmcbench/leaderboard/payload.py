"""Make the JSON value of the page from tables, as whole numbers and packed curves, to keep it small.

Fractions are in units of `UNIT` (0.01 percentage points), losses of `LOSS_UNIT`, both cut off (see `cut`);
FLOPs of `FLOP_UNIT`. An estimate is `[mean]`, `[mean, half]` or, of other replicates than the row's n,
`[mean, half or null, n]`; null is what was not measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any

from lmcbench.leaderboard.ranking_table import Scores, Standing, SuiteTable, own_shifts
from lmcbench.leaderboard.scores import COLUMNS, Column, View
from lmcbench.leaderboard.submission_file import Meta
from lmcbench.leaderboard.summary import Band, Place, Summary, Values
from lmcbench.leaderboard.trust import TrustLevel
from lmcbench.results.cell_values import SPLIT
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.evaluation_shifts import EVALUATION
from lmcbench.spec.forks import Fork
from lmcbench.stats.estimates import Estimate, estimate
from lmcbench.stats.stability import Stability

UNIT = 1e-4
LOSS_UNIT = 1e-4
FLOP_UNIT = 1e3
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
EVERY = "*"
"""The name of the view over all training shifts of the suite."""

BARRIERS = ("error_chord", "error_mean", "error_floor", "error_mid", "loss_chord")
WORTH = ("disagreement", "member", "ensemble", "soup")
STATUSES = ("ok", "did-not-learn", "diverged", "failed")
PLACE = ("fork", "cells", *BARRIERS, *WORTH, "flop", "error", "loss")
"""The items of a place's list: the fork by its number in the suite; cells by `STATUSES`, null where
all are ok; estimates; curves."""


def make_payload(
    tables: Sequence[SuiteTable], about: Mapping[str, tuple[Meta, TrustLevel]]
) -> dict[str, Any]:
    """Return the page's value.

    Args:
        tables: one per suite.
        about: by slug, `submission.toml` and the trust level.
    """
    return {
        "unit": UNIT,
        "lossUnit": LOSS_UNIT,
        "flopUnit": FLOP_UNIT,
        "alphabet": ALPHABET,
        "columns": [_column(column) for column in COLUMNS],
        "place": PLACE,
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


def order_forks(shares: Mapping[str, float | None]) -> list[str]:
    """Return forks by their share of training; those without one come last, by name."""
    return sorted(shares, key=lambda name: (math.inf if (share := shares[name]) is None else share, name))


def _suite(table: SuiteTable, about: Mapping[str, tuple[Meta, TrustLevel]]) -> dict[str, Any]:
    suite = table.published
    entries = [standing.entry for standing in table.standings]
    shares = {place.fork: place.share for entry in entries for _, place in entry.places}
    names = order_forks(shares)
    recipes = sorted({canonical_json(_settings(entry)) for entry in entries})
    return {
        "id": table.name,
        "title": f"{table.suite.name} version {table.suite.version}",
        "digest": table.suite.digest[:12],
        "description": "" if suite is None else suite.description,
        "citation": "" if suite is None else suite.citation,
        "published": suite is not None,
        "floor": None if suite is None else _whole(suite.floor, UNIT),
        "headline": list(table.headline),
        "comparison": table.comparison,
        "shifts": sorted({label for entry in entries for label in entry.shifts}, key=_shift_order(table)),
        "forks": [
            {"name": name, "trunk": shares[name] is not None, "priced": Fork.parse(name).is_cost_matched}
            for name in names
        ],
        "recipes": [json.loads(recipe) for recipe in recipes],
        "ranked": table.ranked,
        "entries": [
            _entry(table, standing, *about[standing.entry.slug], names, recipes)
            for standing in table.standings
        ],
    }


def _settings(entry: Summary) -> dict[str, Any]:
    """Return the recipe without settings that are off."""
    return {key: value for key, value in entry.recipe.items() if value not in (None, False, 0, [])}


def _shift_order(table: SuiteTable) -> Callable[[str], tuple[bool, int, str]]:
    """Return the headline's shifts first, then no shift and the controls, each in the suite's order."""
    listed = [] if table.published is None else [spec.shift.label for spec in table.published.shifts]
    order = {label: i for i, label in enumerate(listed)}
    return lambda label: (label not in table.headline, order.get(label, len(order)), label)


def _entry(
    table: SuiteTable,
    standing: Standing,
    meta: Meta,
    trust: TrustLevel,
    forks: Sequence[str],
    recipes: Sequence[str],
) -> dict[str, Any]:
    entry = standing.entry
    view = View(entry, table.headline or own_shifts(entry), table.published)
    n = standing.n or len(entry.replicates)
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
        "recipe": recipes.index(canonical_json(_settings(entry))),
        "submission": entry.submission_sha256[:12],
        "baseline": standing.baseline,
        "frontier": standing.frontier,
        "rank": None if standing.rank is None else list(standing.rank),
        "basis": standing.basis or "claimed",
        "unranked": list(standing.unranked),
        "n": n,
        "measured": standing.n,
        "replicates": len(entry.replicates),
        "cells": [*(entry.count(status) for status in STATUSES), standing.missing],
        "latest": view.latest,
        "views": {EVERY: _scores(standing.scores, n)}
        | {label: _scores(scores, n) for label, scores in standing.by_shift.items()},
        "evaluations": {
            split.removeprefix(EVALUATION): _evaluation(view, split, n) for split in entry.evaluations
        },
        "steps": {EVERY: _steps(view, n)}
        | {label: _steps(View(entry, [label], table.published), n) for label in standing.by_shift},
        "points": len(entry.alphas),
        "places": {
            label: [_place(place, n, forks) for place in shifted.places]
            for label, shifted in entry.shifts.items()
        },
    }


def _steps(view: View, n: int) -> list[Any]:
    """Return the share of training at each fork up to 30 %, in percent, and the instability there."""
    estimates = {
        share: _estimate(estimate(list(series.values())), n, UNIT)
        for share, series in view.instability().items()
    }
    return [[_percent(share), found] for share, found in estimates.items() if found is not None]


def _scores(scores: Scores, n: int) -> list[Any]:
    """Return the columns in their order, then the stability point."""
    values = [_estimate(scores.columns[c.key], n, FLOP_UNIT if c.unit == "flop" else UNIT) for c in COLUMNS]
    return [*values, _stability(scores.stability)]


def _stability(point: Stability) -> list[Any] | None:
    """Return median, earliest and latest replicate, their number, and how many never.

    Points are in percent of training; null: never.
    """
    if not point.n:
        return None
    ends = point.interval or (point.median, point.median)
    return [*map(_percent, (point.median, *ends)), point.n, point.never]


def _percent(onset: float | None) -> float | None:
    return None if onset is None else float(f"{100 * onset:.3g}")


def _evaluation(view: View, split: str, n: int) -> list[Any]:
    """Return member, ensemble and soup at the latest fork, and the ensemble against equal cost."""
    own = [view.worth(name, view.latest, [split]) for name in ("member", "ensemble", "soup")]
    equal = view.over_equal_cost("ensemble", [split])
    return [_estimate(estimate(list(series.values())), n, UNIT) for series in (*own, equal)]


def _place(place: Place, n: int, forks: Sequence[str]) -> list[Any]:
    """Return the values of `PLACE`."""
    worth = place.worth.get(SPLIT)
    cells = [place.count(status) for status in STATUSES]
    barriers = []
    for name in BARRIERS:
        estimated = _over(place.barriers[name], n, UNIT if name.startswith("error") else LOSS_UNIT)
        # of the lesser ones the mean is shown alone
        barriers.append(estimated[:1] if estimated and name in ("error_floor", "error_mid") else estimated)
    return [
        forks.index(place.fork),
        cells if any(cells[1:]) else None,
        *barriers,
        *(_over(getattr(worth, name), n, UNIT) if worth else None for name in WORTH),
        _flop(place),
        _band(place.curves.get("error"), with_half=True),
        _band(place.curves.get("loss"), with_half=False),
    ]


def _over(values: Values, n: int, unit: float) -> list[Any] | None:
    return _estimate(estimate([v for v in values if v is not None]), n, unit)


def _flop(place: Place) -> int | None:
    mean = estimate([v for v in place.flop if v is not None]).mean
    return None if mean is None else _whole(mean, FLOP_UNIT)


def _estimate(value: Estimate, n: int, unit: float) -> list[Any] | None:
    if value.mean is None:
        return None
    shown = [value.mean] if value.half_width is None else [value.mean, value.half_width]
    found: list[Any] = [_whole(v, unit) for v in shown]
    if value.n != n:
        found = [*found, *([None] if len(found) == 1 else []), value.n]
    return found


def cut(value: float, unit: float = UNIT) -> int:
    """Return a value in whole units, rounded towards zero.

    Rounded here, it would be rounded twice where less digits are shown: 74.648 to 74.65 to 74.7.
    """
    return math.trunc(round(value / unit, 6))  # 0.57 / 1e-4 is 5699.999999999999


def _whole(value: float, unit: float) -> int:
    """Return a value in whole units, FLOPs to four digits."""
    return int(float(f"{round(value / unit):.4g}")) if unit == FLOP_UNIT else cut(value, unit)


def _band(band: Band | None, with_half: bool) -> list[Any] | None:
    """Return the largest mean and the means packed as shares of it; half-widths likewise, more coarsely."""
    if band is None:
        return None
    packed = [*_packed(band.mean, letters=2)]
    return packed + _packed(band.half, letters=1) if with_half and band.half is not None else packed


def _packed(values: Sequence[float], letters: int) -> list[Any]:
    top = float(f"{max(*values, 1e-12):.3e}")
    return [top, pack(values, top, letters)]


def pack(values: Iterable[float], top: float, letters: int) -> str:
    """Return `letters` letters of `ALPHABET`, most significant first, for each value of 0 to `top`.

    Two are finer than a pixel of any figure, one is enough for the edge of a shaded band.
    """
    words = _words(letters)
    most = len(words) - 1
    return "".join(words[min(max(round(value / top * most), 0), most)] for value in values)


@cache
def _words(letters: int) -> list[str]:
    return ["".join(word) for word in product(ALPHABET, repeat=letters)]
