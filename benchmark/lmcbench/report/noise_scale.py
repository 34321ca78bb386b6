"""Rank correlations of barriers at fork 0 with the noise scale of SGD, over a grid of recipes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from lmcbench.errors import UserError
from lmcbench.stats.cells import average_pairs
from lmcbench.stats.estimates import FITTED, MIN_POINTS, Estimate, estimate, spearman

SAME_STEPS = 0.05
"""Trainings whose lengths in steps differ by less than this share count as equally long."""

EPOCHS, STEPS = "equal epochs", "equal steps"

RECIPE = ["lr", "batch_size", "epochs"]
POINT = ["architecture", "shift", "recipe", "replicate", *RECIPE, "error_chord", "loss_chord", "view_error"]


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of barrier and g for one architecture and shift.

    Attributes:
        equal: what the trainings have in common: `EPOCHS` or `STEPS`.
        error: of the error barrier, over replicates; one whose barriers are all equal, or with too few cells,
            has none.
        loss: of the loss barrier, likewise.
        counted: number of cells.
        underfit: cells excluded because a sibling does not fit its training data.
    """

    architecture: str
    shift: str
    equal: str
    error: Estimate
    loss: Estimate
    counted: int
    underfit: int


def noise_points(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the measured cells of fork 0 with their noise scale.

    Args:
        rows: the table of `load_records`.

    Returns:
        One row per cell: the columns `POINT`, `length` (T, in steps), `g` = lr (N/B - 1) with the mean view
        size N, and `fitted`, whether every sibling reaches the training error that counts.

    Raises:
        UserError: if a record does not contain the number of images in a view.
    """
    cells = average_pairs(rows[rows["fork"] == "0"])
    cells = cells.dropna(subset=["error_chord", "loss_chord"])
    unknown = cells.loc[cells["view_images"].isna(), "key"]
    if len(unknown):
        raise UserError(
            f"Cell {unknown.iloc[0]}: the record has train curves on a part of the views (train_eval) and no "
            "view sizes, so the noise scale is unknown. Run the cell again."
        )
    return cells[POINT].assign(
        length=cells["epochs"] * (cells["train_images"] // cells["batch_size"]),
        g=cells["lr"] * (cells["view_images"] / cells["batch_size"] - 1),
        fitted=cells["view_error"] <= FITTED,
    )


def correlations(points: pd.DataFrame) -> list[Correlation]:
    """Return the correlations of every architecture and shift at equal epochs and at equal steps.

    The replicate is the unit of inference: cells within a replicate share their seeds.
    """
    return [
        _correlation(group, equal)
        for _, grid in points.groupby("architecture", sort=False)
        for equal, chosen in ((EPOCHS, equal_epochs(grid)), (STEPS, equal_steps(grid)))
        for _, group in chosen.groupby("shift", sort=False)
    ]


def noise_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the correlations as formatted text; empty if no architecture has several recipes."""
    table = [
        {
            "architecture": c.architecture,
            "shift": c.shift,
            "recipes of": c.equal,
            "error barrier": c.error.text(2, sign=True),
            "loss barrier": c.loss.text(2, sign=True),
            "cells": str(c.counted),
            "underfit": str(c.underfit),
            "n": str(c.error.n),
        }
        for c in correlations(noise_points(rows))
    ]
    return pd.DataFrame(table)


NOTES = (
    "Spearman's rank correlation of barrier and noise scale g = lr (N/B - 1), N of the sibling's view; mean "
    "over replicates (n) of the correlation inside each, ± half-width of the 95 % Student t interval.",
    f"Cells count where every sibling reaches {100 * FITTED:g} % training error; the others are underfit. A "
    f"replicate whose barriers are all equal, or with fewer than {MIN_POINTS} cells, has no correlation.",
)


def recipe_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the barrier of every recipe and shift by noise scale as formatted text.

    Only of architectures with several recipes; numbers are means over replicates.
    """
    points = noise_points(rows)
    points = points[points["architecture"].isin({c.architecture for c in correlations(points)})]
    if points.empty:
        return pd.DataFrame()
    points["line"] = points.groupby(["architecture", "shift"], sort=False).ngroup()
    points["mean_g"] = points.groupby(["line", "recipe"])["g"].transform("mean")
    groups = points.groupby(["line", "mean_g", "epochs", "recipe"])
    return pd.DataFrame([_recipe_row(group) for _, group in groups])


RECIPE_NOTES = (
    "Barriers on the test set, chord form, and the training error of the worst sibling on its own view: mean "
    "over replicates (n) ± half-width of the 95 % Student t interval, none for n = 1. T: optimizer steps.",
    f"Underfit: replicates in which a sibling stays above {100 * FITTED:g} % training error, of those "
    "measured; they are shown here and not counted above.",
)


def equal_epochs(points: pd.DataFrame) -> pd.DataFrame:
    """Return the largest group of recipes with the same number of epochs and several batch sizes."""
    return _largest([group for _, group in points.groupby("epochs")], points)


def equal_steps(points: pd.DataFrame) -> pd.DataFrame:
    """Return the largest group of recipes with about the same number of steps and several batch sizes."""
    lengths, steps = sorted(points["length"].unique()), points["length"]
    return _largest([points[steps.between(t, t * (1 + SAME_STEPS))] for t in lengths], points)


def _largest(groups: Sequence[pd.DataFrame], points: pd.DataFrame) -> pd.DataFrame:
    grids = [group for group in groups if group["batch_size"].nunique() > 1]
    sizes = [len(group[["lr", "batch_size"]].drop_duplicates()) for group in grids]
    return grids[sizes.index(max(sizes))] if grids else points[:0]


def _correlation(points: pd.DataFrame, equal: str) -> Correlation:
    replicates = [group[group["fitted"]] for _, group in points.groupby("replicate")]
    error, loss = (
        [spearman(group["g"], group[barrier]) for group in replicates]
        for barrier in ("error_chord", "loss_chord")
    )
    counted = int(points["fitted"].sum())
    return Correlation(
        architecture=points["architecture"].iloc[0],
        shift=points["shift"].iloc[0],
        equal=equal,
        error=estimate([value for value in error if value is not None]),
        loss=estimate([value for value in loss if value is not None]),
        counted=counted,
        underfit=len(points) - counted,
    )


def _recipe_row(group: pd.DataFrame) -> dict[str, str]:
    one, underfit = group.iloc[0], int((~group["fitted"]).sum())
    return {
        "architecture": one["architecture"],
        "shift": one["shift"],
        "g": f"{one['mean_g']:.3g}",
        "batch": f"{one['batch_size']:.0f}",
        "lr": f"{one['lr']:g}",
        "epochs": f"{one['epochs']:.0f}",
        "T": f"{one['length']:,.0f}",
        "error barrier, points": estimate((100 * group["error_chord"]).tolist()).text(),
        "loss barrier, nats": estimate(group["loss_chord"].tolist()).text(3),
        "training error, %": estimate((100 * group["view_error"]).tolist()).text(),
        "n": str(len(group)),
        "underfit": f"{underfit}/{len(group)}" if underfit else "",
    }
