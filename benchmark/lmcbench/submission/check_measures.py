"""Check a record's measurements: what follows from its curves is recomputed, the rest is bounded."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from lmcbench.ensemble.sub_ensembles import PATH_MEMBERS, path_members
from lmcbench.errors import UserError
from lmcbench.leaderboard.files import Fault
from lmcbench.results.curves import Curve, barrier, chord_area
from lmcbench.results.record import BarrierRecord, CurveRecord, EndsRecord, PairRecord, Record, Score
from lmcbench.spec.cells import Cell
from lmcbench.spec.datasets import Pins
from lmcbench.submission.check_protocol import (
    VIEWS,
    Problems,
    check_cost,
    check_data,
    check_evidence,
    check_fork,
    check_splits,
    check_status,
    check_training,
)
from lmcbench.submission.check_views import all_close, check_domains, check_images, check_noise
from lmcbench.submission.predictions_file import count_images

LOSS_SLACK = 1e-3
"""Relative difference of a loss computed in another batch: fp32 sums in another order, times a margin."""

ERROR_SLACK = 2e-3
"""Share of images whose top-1 may change by that rounding; at least one image is allowed."""

_SCORE = r"(?:siblings\.\d+\.(?:splits|recalibrated)|soup)\..+"
_CURVE = r"pairs\.\d+\.(?:curves(?:_uncalibrated)?|ends_recalibrated)\..+"
_PATH = r"pairs\.\d+\.path_ensemble\..+"
ENSEMBLE_FRACTIONS = (
    *("accuracy_mean", "ensemble_accuracy", "disagreement", "both_wrong", "same_wrong", "ensemble_ece"),
)
ENSEMBLE_POSITIVE = (
    *("nll_mean", "ensemble_nll", "brier_mean", "ensemble_brier", "js_divergence", "mutual_information"),
)
_FRACTION = re.compile(
    rf"{_SCORE}\.(?:error|ece)|{_CURVE}\.error\.\d+|pairs\.\d+\.disagreement\..+"
    rf"|{_PATH}\.(?:{'|'.join(ENSEMBLE_FRACTIONS)})"
)
_POSITIVE = re.compile(
    rf"{_SCORE}\.loss|siblings\.\d+\.train_loss|{_CURVE}\.loss\.\d+|{_PATH}\.(?:{'|'.join(ENSEMBLE_POSITIVE)})"
    r"|cost\.(?:train_s|eval_s|peak_bytes)"
)
_MACHINE_PATH = re.compile(r"""(?:^|[\s"'(=:])(?:/[\w.-]+/[\w./-]+|[A-Za-z]:\\)""")


def record_faults(record: Record, file: str, cell: Cell, pins: Pins) -> list[Fault]:
    """Return every contradiction in a record; `file` names it in faults.

    Recomputed exactly: what follows from the suite, the fields of every barrier from its curve, noise scales
    from the recipe. Bounded: errors, losses, the ends and the middle of curves by siblings and soup,
    disagreement, ensembles of points on the path by the curve, steps and FLOPs of training.
    """
    checks = (
        *(check_data, check_fork, check_status, check_training, check_cost, check_evidence, check_splits),
        *(_check_leaves, _check_scores, _check_pairs, check_noise, check_images, check_domains),
        _check_path_ensembles,
    )
    faults = []
    for check in checks:
        try:
            problems = list(check(record, cell, pins))
        except UserError as error:
            problems = [("data", str(error).rstrip("."))]
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            # extra keys of a record may have any value
            problems = [("", f"cannot be checked: {type(error).__name__}: {error}")]
        faults += [Fault(file, field, f"{message}.") for field, message in problems]
    return faults


def _check_leaves(record: Record, cell: Cell, pins: Pins) -> Problems:
    """Check every value by its place: bounds, and no infinities or paths of a machine anywhere."""
    for place, value in _walk(record.model_dump(by_alias=True), ""):
        if isinstance(value, str):
            if _MACHINE_PATH.search(value):
                yield place, f"contains a path of somebody's machine: {value[:80]!r}"
        elif isinstance(value, float) and not math.isfinite(value):
            yield place, f"found {value}; what was not measured is null"
        elif _FRACTION.fullmatch(place):
            if not -1e-9 <= value <= 1 + 1e-9:
                yield place, f"found {value}, must lie in [0, 1]"
        elif _POSITIVE.fullmatch(place) and not value >= -1e-9:
            yield place, f"found {value}, must not be negative"


def _walk(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _walk(inner, f"{place}.{key}" if place else str(key))
    else:
        yield place, value


def _check_scores(record: Record, cell: Cell, pins: Pins) -> Problems:
    """Check that test errors are whole numbers of images."""
    tables = {"soup": record.soup or {}}
    for s, sibling in enumerate(record.siblings):
        tables |= {
            f"siblings.{s}.splits": sibling.splits,
            f"siblings.{s}.recalibrated": sibling.recalibrated or {},
        }
    for field, scores in tables.items():
        for split, score in scores.items():
            n = _tested(record, split)
            if n is not None and not _is_whole(score.error * n):
                yield f"{field}.{split}.error", f"found {score.error}, no whole number of {n} images"


def _is_whole(x: float) -> bool:
    return abs(x - round(x)) < 1e-6 * max(1.0, abs(x))


def _tested(record: Record, split: str) -> int | None:
    """Return the number of images of a test split; None for training splits, whose numbers are not stored."""
    return count_images(record, split) if split.partition(":")[0] in ("test", "test_a", "test_b") else None


def _check_pairs(record: Record, cell: Cell, pins: Pins) -> Problems:
    """Recompute barriers and areas; compare the ends and the middle of curves with siblings and soup."""
    for p, pair in enumerate(record.pairs):
        field = f"pairs.{p}"
        curves: dict[str, Curve] = {}
        for kind, stored in (
            ("curves", pair.curves),
            ("curves_uncalibrated", pair.curves_uncalibrated or {}),
        ):
            for split, points in stored.items():
                place = f"{field}.{kind}.{split}"
                try:
                    curve = Curve(cell.suite.protocol.grid, points.loss, points.error, points.n)
                except UserError as error:
                    yield place, str(error).removeprefix("Curve: ").rstrip(".")
                    continue
                if kind == "curves":
                    curves[split] = curve
                n, set_of = _tested(record, split), "test set"
                if n is None and kind != "curves" and split in curves:
                    n, set_of = curves[split].n, "recalibrated curve"
                if n is not None and curve.n != n:
                    yield f"{place}.n", f"found {curve.n}, the {set_of} has {n} images"
                if not all(_is_whole(value * curve.n) for value in curve.error):
                    yield f"{place}.error", f"contains a value that is no whole number of {curve.n} images"
        for split, curve in curves.items():
            again = asdict(barrier(curve))
            for name in BarrierRecord.model_fields:
                found = getattr(pair.barriers[split], name)
                if found != again[name]:
                    yield f"{field}.barriers.{split}.{name}", f"found {found}, its curve gives {again[name]}"
            areas = (pair.area or {}).get(split)
            for kind, values in (("loss", curve.loss), ("error", curve.error)):
                area = chord_area(curve.alphas, values)
                if areas is not None and not is_close(areas.get(kind), area):
                    yield f"{field}.area.{split}.{kind}", f"found {areas.get(kind)}, its curve gives {area}"
            yield from _ends(record, pair, f"{field}.curves.{split}", split, curve)
            if pair.ends_recalibrated is not None:
                place = f"{field}.ends_recalibrated.{split}"
                yield from _ends_recalibrated(record, pair, place, split, curve.n)
        uncalibrated = pair.curves_uncalibrated
        if uncalibrated is not None:
            yield from _uncalibrated_ends(pair, f"{field}.curves_uncalibrated")
        yield from _disagreement(record, pair, field)
        yield from _temperatures(pair, field)


def _ends(record: Record, pair: PairRecord, field: str, split: str, curve: Curve) -> Problems:
    """Compare the ends of a curve with its siblings and, between two siblings, its middle with the soup."""
    first, last = VIEWS.get(split, (split, split))
    known = [
        (0, f"at alpha 0, sibling {pair.i}", record.siblings[pair.i].splits.get(first or "")),
        (-1, f"at alpha 1, sibling {pair.j}", record.siblings[pair.j].splits.get(last or "")),
    ]
    if len(record.siblings) == 2 and record.soup is not None:
        known.append((len(curve.alphas) // 2, "at alpha 1/2, the soup", record.soup.get(split)))
    yield from _compare(field, curve, curve.n, known)


Known = list[tuple[int, str, Score | None]]
"""Positions on a curve, where they are, and the score that is expected there."""


def _compare(field: str, found: Curve | EndsRecord, n: int, known: Known) -> Problems:
    """Compare points of a curve on `n` images with scores, up to rounding in other batches."""
    for at, where, score in known:
        if score is None:
            continue
        for kind, slack in (
            ("loss", LOSS_SLACK * (1 + abs(score.loss))),
            ("error", max(1 / n, ERROR_SLACK) + 1e-9),
        ):
            value, expected = float(getattr(found, kind)[at]), getattr(score, kind)
            if abs(value - expected) > slack:
                yield f"{field}.{kind}", f"found {value} {where} has {expected}"


def _ends_recalibrated(record: Record, pair: PairRecord, field: str, split: str, n: int) -> Problems:
    """Compare recalibrated ends with the siblings' scores; errors are whole numbers of images."""
    ends = (pair.ends_recalibrated or {})[split]
    if not all(_is_whole(value * n) for value in ends.error):
        yield f"{field}.error", f"contains a value that is no whole number of {n} images"
    names = VIEWS.get(split, (split, split))
    known: Known = [
        (at, f"of sibling {s}, which", (record.siblings[s].recalibrated or {}).get(name or ""))
        for at, s, name in ((0, pair.i, names[0]), (1, pair.j, names[1]))
    ]
    yield from _compare(field, ends, n, known)


def _uncalibrated_ends(pair: PairRecord, field: str) -> Problems:
    """Check that curves without recalibration have the ends of the others: the siblings as trained."""
    for split, points in (pair.curves_uncalibrated or {}).items():
        curve = pair.curves[split]
        for kind in ("loss", "error"):
            found, expected = getattr(points, kind), getattr(curve, kind)
            if (found[0], found[-1]) != (expected[0], expected[-1]):
                yield f"{field}.{split}.{kind}", "its ends are not those of the curve, which are as trained"


def _disagreement(record: Record, pair: PairRecord, field: str) -> Problems:
    """Check |err_A - err_B| <= d <= err_A + err_B, up to images on which rounding to fp16 makes a tie."""
    for split, d in pair.disagreement.items():
        scores = [record.siblings[s].splits.get(split) for s in (pair.i, pair.j)]
        if scores[0] is None or scores[1] is None:
            continue
        a, b = scores[0].error, scores[1].error
        slack = 2 * max(1 / count_images(record, split), ERROR_SLACK)
        if not abs(a - b) - slack <= d <= a + b + slack:
            within = f"with errors {a} and {b} it lies in [{abs(a - b)}, {a + b}]"
            yield f"{field}.disagreement.{split}", f"found {d}, {within}"


def _temperatures(pair: PairRecord, field: str) -> Problems:
    """Check that losses at fitted temperatures are at most the plain losses, up to rounding to fp16."""
    for split, scaled in (pair.temperature_scaled or {}).items():
        losses = pair.curves[split].loss
        for which, at in enumerate((0, len(losses) // 2, -1)):
            if scaled["loss"][which] > losses[at] + LOSS_SLACK * (1 + losses[at]):
                found = f"found {scaled['loss'][which]}, more than the curve's {losses[at]}"
                yield f"{field}.temperature_scaled.{split}.loss.{which}", found


def _check_path_ensembles(record: Record, cell: Cell, pins: Pins) -> Problems:
    """Check the points of ensembles on the path, and their means and bounds by the curve at these points."""
    grid = np.asarray(cell.suite.protocol.grid)
    expected = {str(size): points for size in PATH_MEMBERS if (points := path_members(grid, size))}
    for p, pair in enumerate(record.pairs):
        for split, ensembles in (pair.path_ensemble or {}).items():
            place = f"pairs.{p}.path_ensemble.{split}"
            if sorted(ensembles) != sorted(expected):
                yield place, f"found ensembles of {', '.join(ensembles)}, must be of {', '.join(expected)}"
                continue
            for size, points in expected.items():
                alphas = grid[points].tolist()
                if not all_close(ensembles[size].get("alphas"), alphas):
                    found = ensembles[size].get("alphas")
                    yield f"{place}.{size}.alphas", f"found {found}, must be {alphas}"
                for key, message in _path_ensemble(ensembles[size], pair.curves[split], points):
                    yield f"{place}.{size}.{key}", message


def _path_ensemble(values: Mapping[str, Any], curve: CurveRecord, points: list[int]) -> Problems:
    if missing := {*ENSEMBLE_FRACTIONS, *ENSEMBLE_POSITIVE, "ensemble_gain"} - values.keys():
        yield min(missing), "is missing"
        return
    error = float(np.mean([curve.error[k] for k in points]))
    loss = float(np.mean([curve.loss[k] for k in points]))
    for key, expected, slack in (
        ("accuracy_mean", 1 - error, max(1 / curve.n, ERROR_SLACK) + 1e-9),
        ("nll_mean", loss, LOSS_SLACK * (1 + loss)),
    ):
        if not abs(values[key] - expected) <= slack:
            yield key, f"found {values[key]}, the curve at its points gives {expected}"
    if not abs(values["ensemble_gain"] - (values["ensemble_accuracy"] - values["accuracy_mean"])) <= 1e-9:
        yield "ensemble_gain", f"found {values['ensemble_gain']}, must be the difference of both accuracies"
    if not _is_whole(values["ensemble_accuracy"] * curve.n):
        found = values["ensemble_accuracy"]
        yield "ensemble_accuracy", f"found {found}, no whole number of {curve.n} images"
    # both scores are convex in the probabilities
    for mean, ensemble in (("nll_mean", "ensemble_nll"), ("brier_mean", "ensemble_brier")):
        if not values[ensemble] <= values[mean] + 1e-6 * (1 + values[mean]):
            yield ensemble, f"found {values[ensemble]}, more than the members' mean {values[mean]}"


def is_close(found: float | None, expected: float | None) -> bool:
    """Return whether two values are equal up to the rounding of exp and sums, which depends on the CPU."""
    if found is None or expected is None:
        return found is expected
    return bool(np.isclose(found, expected, rtol=1e-9, atol=1e-9))
