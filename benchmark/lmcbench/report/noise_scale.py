"""Does the noise scale of SGD set the barrier? Records of a grid of recipes in, rank correlations out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lmcbench.errors import UserError
from lmcbench.results.cell_values import architecture_label, barrier_value, error_barrier, shift_label
from lmcbench.results.record import Record
from lmcbench.spec.recipe import noise_scale
from lmcbench.stats.estimates import FITTED, MIN_POINTS, Estimate, estimate, spearman

SAME_STEPS = 0.05
"""Trainings whose lengths in steps differ by less than this share are of equal length."""

EPOCHS, STEPS = "equal epochs", "equal steps"


@dataclass(frozen=True)
class Point:
    """A measured cell at fork 0.

    Attributes:
        length: T in steps.
        g: noise scale lr (N/B - 1), mean over the siblings' views.
        error: error barrier on the test set, chord form, a fraction; mean over pairs.
        loss: loss barrier, nats.
        train_error: of the worst sibling on its own view.
    """

    architecture: str
    shift: str
    recipe: str
    replicate: int
    lr: float
    batch_size: int
    epochs: int
    length: int
    g: float
    error: float
    loss: float
    train_error: float

    @property
    def fitted(self) -> bool:
        """Whether every sibling reached the training error that counts."""
        return self.train_error <= FITTED


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of barrier and g, one architecture, shift and way of being equal.

    Attributes:
        equal: what the trainings have in common: epochs or steps.
        error: of the error barrier, one value per replicate.
        loss: of the loss barrier, likewise.
        counted: cells that it stands on.
        underfit: cells left out because a sibling did not fit its training data.
        constant: replicates without a correlation: too few cells, or all barriers equal.
    """

    architecture: str
    shift: str
    equal: str
    error: Estimate
    loss: Estimate
    counted: int
    underfit: int
    constant: int


def noise_points(records: Iterable[Record]) -> list[Point]:
    """The measured cells of fork 0; what diverged or failed has no barrier.

    Raises:
        UserError: where a record does not tell how many images a view has.
    """
    found = [
        (r, error_barrier(r), barrier_value(r, "loss_chord"))
        for r in records
        if r.fork.name == "0" and r.status == "ok"
    ]
    return [_point(r, error, loss) for r, error, loss in found if error is not None and loss is not None]


def correlations(points: Sequence[Point]) -> list[Correlation]:
    """Per architecture, shift and way of being equal: the correlation in each replicate, then their mean.

    The replicate is the unit of inference: cells inside it share their seeds.
    """
    found = []
    for architecture in dict.fromkeys(p.architecture for p in points):
        grid = [p for p in points if p.architecture == architecture]
        for equal, chosen in ((EPOCHS, equal_epochs(grid)), (STEPS, equal_steps(grid))):
            for shift in dict.fromkeys(p.shift for p in chosen):
                found.append(_correlation([p for p in chosen if p.shift == shift], equal))
    return found


def noise_rows(records: Iterable[Record]) -> pd.DataFrame:
    """The correlations as a table, numbers formatted; empty where no architecture has several recipes."""
    rows = [
        {
            "architecture": c.architecture,
            "shift": c.shift,
            "recipes of": c.equal,
            "error barrier": _text(c.error),
            "loss barrier": _text(c.loss),
            "cells": str(c.counted),
            "underfit": str(c.underfit),
            "n": str(c.error.n),
        }
        for c in correlations(noise_points(records))
    ]
    return pd.DataFrame(rows)


NOTES = (
    "Spearman's rank correlation of barrier and noise scale g = lr (N/B - 1), N of the sibling's view; mean "
    "over replicates (n) of the correlation inside each, ± half-width of the 95 % Student t interval.",
    f"Cells count where every sibling reaches {100 * FITTED:g} % training error; the others are underfit. A "
    f"replicate whose barriers are all equal, or with fewer than {MIN_POINTS} cells, has no correlation.",
)


def cell_rows(records: Iterable[Record]) -> pd.DataFrame:
    """What the correlations are of: the barrier of every recipe and shift, by noise scale, as a table.

    Only of architectures with several recipes; numbers formatted, means over replicates.
    """
    points = noise_points(records)
    gridded = {c.architecture for c in correlations(points)}
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for p in points:
        if p.architecture in gridded:
            groups.setdefault((p.architecture, p.shift, p.recipe), []).append(p)
    lines = list(dict.fromkeys((p.architecture, p.shift) for p in points))

    def place(group: Sequence[Point]) -> tuple[int, float, int, str]:
        one = group[0]
        return lines.index((one.architecture, one.shift)), _mean_scale(group), one.epochs, one.recipe

    return pd.DataFrame([_cell_row(group) for group in sorted(groups.values(), key=place)])


CELL_NOTES = (
    "Barriers on the test set, chord form, and the training error of the worst sibling on its own view: mean "
    "over replicates (n) ± half-width of the 95 % Student t interval, none for n = 1. T: optimizer steps.",
    f"Underfit: replicates in which a sibling stays above {100 * FITTED:g} % training error, of those "
    "measured; they are shown here and not counted above.",
)


# --- points --------------------------------------------------------------------------------------


def _point(record: Record, error: float, loss: float) -> Point:
    recipe = record.recipe
    n = next(d["n"] for d in record.data if d["split"] == "train")
    scales = [noise_scale(recipe["lr"], size, recipe["batch_size"]) for size in _view_sizes(record)]
    return Point(
        architecture=architecture_label(record),
        shift=shift_label(record),
        recipe=recipe["name"],
        replicate=record.replicate,
        lr=recipe["lr"],
        batch_size=recipe["batch_size"],
        epochs=recipe["epochs"],
        length=recipe["epochs"] * (n // recipe["batch_size"]),
        g=float(np.mean(scales)),
        error=error,
        loss=loss,
        train_error=max(s.splits["view"].error for s in record.siblings),
    )


def _view_sizes(record: Record) -> list[int]:
    """Images in each sibling's view; old records tell it only where train curves are on all of them."""
    if record.noise is not None:
        return list(record.noise["views"])
    if "train_eval" in record.protocol:
        raise UserError(
            f"Cell {record.key}: its train curves are on a part of the views (train_eval), "
            "so that their sizes, and with them the noise scale, are not known."
        )
    sizes: dict[int, int] = {}
    for pair in record.pairs:
        for sibling, split in ((pair.i, "train_a"), (pair.j, "train_b")):
            sizes[sibling] = pair.curves.get(split, pair.curves["train"]).n
    return list(sizes.values())


def equal_epochs(points: Sequence[Point]) -> list[Point]:
    """The largest group of recipes with one number of epochs and several batch sizes."""
    return _largest([[p for p in points if p.epochs == e] for e in sorted({p.epochs for p in points})])


def equal_steps(points: Sequence[Point]) -> list[Point]:
    """The largest group of recipes of about one number of steps and several batch sizes."""
    lengths = sorted({p.length for p in points})
    return _largest([[p for p in points if t <= p.length <= t * (1 + SAME_STEPS)] for t in lengths])


def _largest(groups: Sequence[list[Point]]) -> list[Point]:
    grids = [g for g in groups if len({p.batch_size for p in g}) > 1]
    return max(grids, key=lambda g: len({(p.lr, p.batch_size) for p in g}), default=[])


# --- correlations --------------------------------------------------------------------------------


def _correlation(points: Sequence[Point], equal: str) -> Correlation:
    fitted = [p for p in points if p.fitted]
    replicates = sorted({p.replicate for p in points})
    by_replicate = [[p for p in fitted if p.replicate == r] for r in replicates]
    error = [spearman([p.g for p in mine], [p.error for p in mine]) for mine in by_replicate]
    loss = [spearman([p.g for p in mine], [p.loss for p in mine]) for mine in by_replicate]
    return Correlation(
        architecture=points[0].architecture,
        shift=points[0].shift,
        equal=equal,
        error=estimate([v for v in error if v is not None]),
        loss=estimate([v for v in loss if v is not None]),
        counted=len(fitted),
        underfit=len(points) - len(fitted),
        constant=sum(v is None for v in error),
    )


# --- print ---------------------------------------------------------------------------------------


def _cell_row(group: Sequence[Point]) -> dict[str, str]:
    """The replicates of one architecture, shift and recipe."""
    one, underfit = group[0], sum(not p.fitted for p in group)
    return {
        "architecture": one.architecture,
        "shift": one.shift,
        "g": f"{_mean_scale(group):.3g}",
        "batch": str(one.batch_size),
        "lr": f"{one.lr:g}",
        "epochs": str(one.epochs),
        "T": f"{one.length:,}",
        "error barrier, points": _plain([100 * p.error for p in group], 1),
        "loss barrier, nats": _plain([p.loss for p in group], 3),
        "training error, %": _plain([100 * p.train_error for p in group], 1),
        "n": str(len(group)),
        "underfit": f"{underfit}/{len(group)}" if underfit else "",
    }


def _mean_scale(group: Sequence[Point]) -> float:
    """Sizes of views, and with them g, may differ between replicates."""
    return float(np.mean([p.g for p in group]))


def _plain(values: Sequence[float], digits: int) -> str:
    found = estimate(values)
    interval = "" if found.half_width is None else f" ± {found.half_width:.{digits}f}"
    return f"{found.mean:.{digits}f}{interval}"


def _text(value: Estimate) -> str:
    if value.mean is None:
        return "–"
    interval = "" if value.half_width is None else f" ± {value.half_width:.2f}"
    return f"{value.mean:+.2f}{interval}"
