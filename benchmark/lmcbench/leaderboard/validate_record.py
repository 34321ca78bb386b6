"""Are a record's measurements consistent? What follows from its curves is recomputed, the rest bounded."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from lmcbench.errors import UserError
from lmcbench.leaderboard.check_protocol import (
    Found,
    check_cost,
    check_data,
    check_fork,
    check_status,
    collect,
)
from lmcbench.leaderboard.files import Fault
from lmcbench.leaderboard.predictions_file import count_images
from lmcbench.results.curves import Curve, barrier, chord_area
from lmcbench.results.record import BarrierRecord, PairRecord, Record, Score
from lmcbench.spec.cells import Cell
from lmcbench.spec.datasets import Pins
from lmcbench.spec.evaluation_shifts import EVALUATION

LOSS_SLACK = 1e-3
"""Relative difference of a loss computed in another batch: fp32 sums in another order, times a margin."""

ERROR_SLACK = 2e-3
"""Share of images whose top-1 may turn with that rounding, at least one image."""


_VIEWS = {
    "train_a": ("view", None),
    "train_b": (None, "view"),
    "test_a": (None, None),
    "test_b": (None, None),
}
"""Splits through one sibling's view, and the siblings' splits that their curves end at, if any."""

BARRIER_FIELDS = tuple(BarrierRecord.model_fields)


def _score(score: Score, field: str, n: int | None) -> Found:
    if not 0 <= score.error <= 1:
        yield f"{field}.error", f"found {score.error}, must lie in [0, 1]"
    elif n is not None and not _whole(score.error * n):
        yield f"{field}.error", f"found {score.error}, no whole number of {n} images"
    if score.loss < 0:
        yield f"{field}.loss", f"found {score.loss}, a cross-entropy is never negative"
    if not 0 <= score.ece <= 1:
        yield f"{field}.ece", f"found {score.ece}, must lie in [0, 1]"


def _whole(x: float) -> bool:
    return abs(x - round(x)) < 1e-6 * max(1.0, abs(x))


def _tested(record: Record, split: str) -> int | None:
    """Images of a test split; None of one whose images are not counted in the record's data."""
    return count_images(record, split) if split.partition(":")[0] in ("test", "test_a", "test_b") else None


def check_splits(record: Record, cell: Cell, pins: Pins) -> Found:
    """Everything is measured on the suite's splits: a further one would be averaged with them, and logits
    are kept by how many there are.
    """
    tests = {"test", *(f"{EVALUATION}{name}" for name in cell.suite.evaluations)}
    held: list[tuple[str, Collection[str], set[str]]] = []
    for s, sibling in enumerate(record.siblings):
        held.append((f"siblings.{s}.splits", sibling.splits, {"train", "view", *tests}))
    for p, pair in enumerate(record.pairs):
        views = set(_VIEWS) & pair.curves.keys()
        held.append((f"pairs.{p}.curves", pair.curves, {"train", *tests, *views}))
        held.append((f"pairs.{p}.disagreement", pair.disagreement, tests))
    held += [
        (field, found, tests)
        for field, found in (("ensemble", record.ensemble), ("soup", record.soup))
        if found is not None
    ]
    for field, found, wanted in held:
        for split in sorted(wanted ^ set(found)):
            yield field, f"split {split!r} is {'missing' if split in wanted else 'none of the suite'}"


def check_siblings(record: Record, cell: Cell, pins: Pins) -> Found:
    """Errors are whole numbers of images, losses are not negative."""
    for s, sibling in enumerate(record.siblings):
        for kind, scores in (("splits", sibling.splits), ("as_trained", sibling.as_trained or {})):
            for split, score in scores.items():
                yield from _score(score, f"siblings.{s}.{kind}.{split}", _tested(record, split))
        if sibling.train_loss < 0:
            yield f"siblings.{s}.train_loss", f"found {sibling.train_loss}, never negative"


def check_pairs(record: Record, cell: Cell, pins: Pins) -> Found:
    """Barriers and areas are those of the curves, whose ends and middle fit siblings and soup."""
    for p, pair in enumerate(record.pairs):
        field = f"pairs.{p}"
        curves: dict[str, Curve] = {}
        for kind, held in (("curves", pair.curves), ("curves_uncalibrated", pair.curves_uncalibrated or {})):
            for split, points in held.items():
                place = f"{field}.{kind}.{split}"
                try:
                    built = Curve(cell.suite.protocol.grid, points.loss, points.error, points.n)
                except UserError as error:
                    yield place, str(error).removeprefix("Curve: ").rstrip(".")
                    continue
                if kind == "curves":
                    curves[split] = built
                yield from _curve(built, place, _tested(record, split))
        for split, curve in curves.items():
            again = asdict(barrier(curve))
            for name in BARRIER_FIELDS:
                found = getattr(pair.barriers[split], name)
                if found != again[name]:
                    yield f"{field}.barriers.{split}.{name}", f"found {found}, its curve gives {again[name]}"
            areas = (pair.area or {}).get(split)
            for kind, values in (("loss", curve.loss), ("error", curve.error)):
                area = chord_area(curve.alphas, values)
                if areas is not None and not close(areas.get(kind), area):
                    yield f"{field}.area.{split}.{kind}", f"found {areas.get(kind)}, its curve gives {area}"
        yield from _ends(record, pair, field, curves)
        yield from _disagreement(record, pair, field)


def _curve(curve: Curve, field: str, n: int | None) -> Found:
    if n is not None and curve.n != n:
        yield f"{field}.n", f"found {curve.n}, the test set has {n} images"
    if curve.error.min() < 0 or curve.error.max() > 1:
        yield f"{field}.error", "holds a value outside [0, 1]"
    elif not all(_whole(value * curve.n) for value in curve.error):
        yield f"{field}.error", f"holds a value that is no whole number of {curve.n} images"
    if curve.loss.min() < 0:
        yield f"{field}.loss", "holds a negative value; a cross-entropy is never negative"


def _ends(record: Record, pair: PairRecord, field: str, curves: Mapping[str, Curve]) -> Found:
    """A curve begins and ends at its siblings and, between two, passes the soup at its middle."""
    a, b = record.siblings[pair.i].splits, record.siblings[pair.j].splits
    for split, curve in curves.items():
        first, last = _VIEWS.get(split, (split, split))
        known = [(0, "alpha 0", a.get(first or "")), (-1, "alpha 1", b.get(last or ""))]
        if len(record.siblings) == 2 and record.soup is not None:
            known.append((len(curve.alphas) // 2, "alpha 1/2", record.soup.get(split)))
        for at, where, score in known:
            if score is None:
                continue
            who = "the soup" if where == "alpha 1/2" else f"sibling {pair.i if at == 0 else pair.j}"
            for kind, slack in (
                ("loss", LOSS_SLACK * (1 + abs(score.loss))),
                ("error", max(1 / curve.n, ERROR_SLACK) + 1e-9),
            ):
                found = float(getattr(curve, kind)[at])
                if abs(found - getattr(score, kind)) > slack:
                    yield (
                        f"{field}.curves.{split}.{kind}",
                        f"found {found} at {where}, {who} has {getattr(score, kind)}",
                    )


def _disagreement(record: Record, pair: PairRecord, field: str) -> Found:
    """|err_A - err_B| <= d <= err_A + err_B, up to images on which rounding to fp16 makes a tie."""
    for split, d in pair.disagreement.items():
        place = f"{field}.disagreement.{split}"
        if not 0 <= d <= 1:
            yield place, f"found {d}, must lie in [0, 1]"
            continue
        scores = [record.siblings[s].splits.get(split) for s in (pair.i, pair.j)]
        if scores[0] is None or scores[1] is None:
            continue
        a, b = scores[0].error, scores[1].error
        slack = 2 * max(1 / count_images(record, split), ERROR_SLACK)
        if not abs(a - b) - slack <= d <= a + b + slack:
            yield place, f"found {d}, with errors {a} and {b} it lies in [{abs(a - b)}, {a + b}]"


def check_soup(record: Record, cell: Cell, pins: Pins) -> Found:
    """As for siblings."""
    for split, score in (record.soup or {}).items():
        yield from _score(score, f"soup.{split}", _tested(record, split))


def close(found: float | None, expected: float | None) -> bool:
    """Equal up to the last digits of exp and of sums, which NumPy orders by what the CPU can do."""
    if found is None or expected is None:
        return found is expected
    return bool(np.isclose(found, expected, rtol=1e-9, atol=1e-9))


_ABSOLUTE = re.compile(r"""(?:^|[\s"'(=:])(?:/[\w.-]+/[\w./-]+|[A-Za-z]:\\)""")


def soundness_faults(record: Record, file: str, cell: Cell, pins: Pins) -> list[Fault]:
    """Everything in a record that cannot be, whoever measured it; `file` names it in faults.

    Recomputed exactly: the fields of every barrier, from its curve. Bounded: errors, losses, the ends and
    the middle of curves against siblings and soup, disagreement, steps and FLOPs of training.
    """
    checks = (
        *(check_data, check_fork, check_status, check_cost),
        *(check_splits, check_siblings, check_pairs, check_soup, _leaves),
    )
    return collect(checks, record, file, cell, pins)


def _leaves(record: Record, cell: Cell, pins: Pins) -> Found:
    """Keys that this version does not know may hold anything but infinities and paths of a machine."""
    for place, value in _walk(record.model_dump(by_alias=True), ""):
        if isinstance(value, float) and not math.isfinite(value):
            yield place, f"found {value}; what was not measured is null"
        if isinstance(value, str) and _ABSOLUTE.search(value):
            yield place, f"holds a path of somebody's machine: {value[:80]!r}"


def _walk(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _walk(inner, f"{place}.{i}")
    else:
        yield place, value
