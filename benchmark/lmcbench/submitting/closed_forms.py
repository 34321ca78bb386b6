"""What a record says that has a closed form or a bound: noise scales, ensembles of points on the path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lmcbench.board.entries.checks import Found, collect
from lmcbench.board.entries.manifest import Fault
from lmcbench.board.entries.measurements import ERROR_SLACK, LOSS_SLACK
from lmcbench.board.entries.stored import images
from lmcbench.ensemble.path import PATH_MEMBERS, path_members
from lmcbench.results.record import CurveRecord, Record
from lmcbench.spec.cells import Cell
from lmcbench.spec.pins import Pins
from lmcbench.spec.recipe import noise_scale

FRACTIONS = ("accuracy_mean", "ensemble_accuracy", "disagreement", "both_wrong", "same_wrong", "ensemble_ece")
NOT_NEGATIVE = (
    "nll_mean",
    "ensemble_nll",
    "brier_mean",
    "ensemble_brier",
    "js_divergence",
    "mutual_information",
)


def form_faults(record: Record, file: str, cell: Cell, pins: Pins) -> list[Fault]:
    """Where a record contradicts a closed form; `file` names it in faults.

    Exact: the noise scales g and g_momentum on views of the stated sizes, the points of path ensembles.
    Bounded: the mean accuracy and loss of those points, by the curve; what an ensemble cannot be.
    """
    return collect((_noise, _path_ensembles), record, file, cell, pins)


def _noise(record: Record, cell: Cell, pins: Pins) -> Found:
    if record.noise is None or record.status != "ok":
        return
    views, recipe = record.noise["views"], cell.recipe
    n = images(record, "train")
    if len(views) != cell.suite.siblings or not all(isinstance(v, int) and 1 <= v <= n for v in views):
        yield "noise.views", f"found {views}, must be {cell.suite.siblings} numbers of images up to {n}"
        return
    if min(views) < recipe.batch_size:
        yield "noise.views", f"found {views}, a view holds a full batch of {recipe.batch_size}"
        return
    damping = 1 - recipe.momentum if recipe.optimizer == "sgd" else 1.0
    scales = [noise_scale(recipe.lr, view, recipe.batch_size) for view in views]
    for key, expected in (("g", scales), ("g_momentum", [g / damping for g in scales])):
        found = record.noise.get(key)
        if not _equal(found, expected):
            yield f"noise.{key}", f"found {found}, the recipe gives {expected} on views of {views} images"


def _path_ensembles(record: Record, cell: Cell, pins: Pins) -> Found:
    grid = np.asarray(cell.suite.protocol.grid)
    for p, pair in enumerate(record.pairs):
        for split, ensembles in (pair.path_ensemble or {}).items():
            curve = pair.curves[split]
            expected = {size: points for size in PATH_MEMBERS if (points := path_members(grid, size))}
            place = f"pairs.{p}.path_ensemble.{split}"
            if sorted(ensembles) != sorted(map(str, expected)):
                yield (
                    place,
                    f"found ensembles of {', '.join(ensembles)}, must be of {', '.join(map(str, expected))}",
                )
                continue
            for size, points in expected.items():
                held, alphas = ensembles[str(size)], grid[points].tolist()
                if not _equal(held.get("alphas"), alphas):
                    yield f"{place}.{size}.alphas", f"found {held.get('alphas')}, must be {alphas}"
                for key, message in _path_ensemble(held, curve, points):
                    yield f"{place}.{size}.{key}", message


def _path_ensemble(held: Mapping[str, Any], curve: CurveRecord, points: list[int]) -> Found:
    """An ensemble's means against the curve at its points (its ends are the siblings), and its bounds."""
    error = float(np.mean([curve.error[k] for k in points]))
    loss = float(np.mean([curve.loss[k] for k in points]))
    for key, expected, slack in (
        ("accuracy_mean", 1 - error, max(1 / curve.n, ERROR_SLACK) + 1e-9),
        ("nll_mean", loss, LOSS_SLACK * (1 + loss)),
    ):
        if not abs(held[key] - expected) <= slack:
            yield key, f"found {held[key]}, the curve at its points gives {expected}"
    for key in FRACTIONS:
        if not -1e-9 <= held[key] <= 1 + 1e-9:
            yield key, f"found {held[key]}, must lie in [0, 1]"
    for key in NOT_NEGATIVE:
        if not held[key] >= -1e-9:
            yield key, f"found {held[key]}, must not be negative"
    if not abs(held["ensemble_gain"] - (held["ensemble_accuracy"] - held["accuracy_mean"])) <= 1e-9:
        yield "ensemble_gain", f"found {held['ensemble_gain']}, must be the difference of both accuracies"
    images_right = held["ensemble_accuracy"] * curve.n
    if abs(images_right - round(images_right)) > 1e-6 * curve.n:
        yield "ensemble_accuracy", f"found {held['ensemble_accuracy']}, no whole number of {curve.n} images"
    # both scores are convex in the probabilities
    for mean, ensemble in (("nll_mean", "ensemble_nll"), ("brier_mean", "ensemble_brier")):
        if not held[ensemble] <= held[mean] + 1e-6 * (1 + held[mean]):
            yield ensemble, f"found {held[ensemble]}, more than the members' mean {held[mean]}"


def _equal(found: object, expected: list[float]) -> bool:
    return (
        isinstance(found, list)
        and len(found) == len(expected)
        and bool(np.allclose(np.asarray(found, dtype=np.float64), expected, rtol=1e-9, atol=1e-12))
    )
