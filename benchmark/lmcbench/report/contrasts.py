"""The test of each claim: cells and a split in, one number per replicate and contrast out.

The docstrings of the public functions are printed below the findings as the exact tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from lmcbench.report.rank_correlation import rank_cells, rank_layers
from lmcbench.results.curves import Curve, barrier
from lmcbench.results.record import Record
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.forks import EQUAL_COST, INDEPENDENT, WHOLE_BUDGET
from lmcbench.stats.cells import LINE, Cells, join_control, join_fork
from lmcbench.stats.estimates import FITTED, Contrast, spearman
from lmcbench.stats.stability import stability_points

EARLY = 0.2
"""Share of training within which a stability point counts as early: the latest that Frankle et al. (2020,
section 3.2) report, for ResNet-50 on ImageNet (read at second hand)."""

MIN_FORKS = 2
"""Fewest forks of a stability point."""


# --- Hepburn et al.: shift and noise -------------------------------------------------------------


def shift_against_control(cells: Cells, split: str) -> Iterator[Contrast]:
    """Error barrier under shift s less that under same(s): same architecture, recipe, parameters and fork
    of the trunk; shifts without such a control in the records are not compared.
    """
    both = join_control(cells.forked(split))
    return _contrasts(both, both["error_chord"] - both["error_chord_other"])


def noise_without_shift(cells: Cells, split: str) -> Iterator[Contrast]:
    """Least-squares slope of the error barrier over log2 g, among recipes of one architecture that differ
    in learning rate and batch size only; cells without shift and controls, by fork of the trunk, whose
    siblings all reach 2 % error on their own view. g is taken with N of that view.
    """
    table = cells.forked(split)
    return _noise_slopes(table[table["is_control"]])


def noise_with_shift(cells: Cells, split: str) -> Iterator[Contrast]:
    """The same slope among cells whose siblings have different views."""
    table = cells.forked(split)
    return _noise_slopes(table[~table["is_control"]])


def recalibration(cells: Cells, split: str) -> Iterator[Contrast]:
    """Error barrier with BatchNorm statistics blended as they are, less that with statistics recalibrated
    at every alpha; forks of the trunk of networks that have such layers.
    """
    table = cells.forked(split)
    blended = {record.key: _blended_barrier(record, split) for record in cells.records}
    return _contrasts(table, table["key"].map(blended).astype(float) - table["error_chord"])


def gradient_noise(cells: Cells, split: str) -> Iterator[Contrast]:
    """Rank correlation over training shifts (three or more, controls included) of the share of the gradient
    covariance at the fork that lies between the views, with the error barrier; by architecture, recipe
    and fork.
    """
    table = cells.forked(split).dropna(subset=["gradient_between_share", "error_chord"])
    groups: Any = table.groupby(["replicate", "architecture", "recipe", "fork"])
    for (replicate, *what), group in groups:
        correlation = spearman(group["gradient_between_share"], group["error_chord"])
        if correlation is not None:
            yield Contrast(replicate, tuple(what), correlation)


# --- Hepburn et al.: what siblings are worth -----------------------------------------------------


def disagree_less(cells: Cells, split: str) -> Iterator[Contrast]:
    """Disagreement of independent networks less that of connected siblings (error barrier under 2 %), on
    the same shift; only shifts and forks that are connected in every replicate count.
    """
    return _independent_less_siblings(cells, "disagreement", split)


def overlap_more(cells: Cells, split: str) -> Iterator[Contrast]:
    """Error overlap (both wrong over either wrong) of connected siblings less that of independent networks,
    on the same shift; only shifts and forks that are connected in every replicate count.
    """
    return _independent_less_siblings(cells, "error_overlap", split, sign=-1)


def gain_less(cells: Cells, split: str) -> Iterator[Contrast]:
    """Ensemble gain over the mean member of independent networks less that of connected siblings, K of
    each, on the same shift; only shifts and forks that are connected in every replicate count.
    """
    return _independent_less_siblings(cells, "ensemble_gain", split)


def equal_cost(cells: Cells, split: str) -> Iterator[Contrast]:
    """Ensemble accuracy of siblings less that of K independent networks with a full schedule each and,
    together, the siblings' training steps (up to rounding).
    """
    both = _join_equal_cost(cells, EQUAL_COST, split)
    return _contrasts(both, _column(both, "ensemble_accuracy") - _column(both, "ensemble_accuracy_other"))


def whole_budget(cells: Cells, split: str) -> Iterator[Contrast]:
    """Ensemble accuracy of siblings less the accuracy of one network trained for as many steps as all of
    them and their trunk.
    """
    both = _join_equal_cost(cells, WHOLE_BUDGET, split)
    return _contrasts(both, _column(both, "ensemble_accuracy") - (1 - both["error_other"]))


# --- Singh et al., Frankle et al. ----------------------------------------------------------------


def later_forks(cells: Cells, split: str) -> Iterator[Contrast]:
    """Error barrier at the line's earliest fork less that at its latest."""
    both = _join_latest(cells, split)
    return _contrasts(both, both["error_chord"] - both["error_chord_other"], [*LINE, "fork", "fork_other"])


def distance_falls(cells: Cells, split: str) -> Iterator[Contrast]:
    """1 less the distance between siblings at the line's latest fork over that at its earliest."""
    both = _join_latest(cells, split)
    both = both[both["distance_ab"] != 0]
    fall = 1 - both["distance_ab_other"] / both["distance_ab"]
    return _contrasts(both, fall, [*LINE, "fork", "fork_other"])


def second_order(cells: Cells, split: str) -> Iterator[Contrast]:
    """Rank correlation over cells that leave the trunk (shifts and forks of one architecture and recipe) of
    the largest loss that the published second-order form predicts inside the line (0 < alpha < 1, signed)
    with the largest measured loss above the chord there, on the images that curvature was taken on.
    """
    return (ranked.contrast for ranked in rank_cells(cells))


def layer_ranking(cells: Cells, split: str) -> Iterator[Contrast]:
    """Rank correlation over a network's layers, moved alone from either end, of the largest loss that the
    published second-order form predicts inside that line (signed) with the largest measured loss above
    its chord there; forks of the trunk.
    """
    return (ranked.contrast for ranked in rank_layers(cells))


def stable_early(cells: Cells, split: str) -> Iterator[Contrast]:
    """0.2 less the stability point as a fraction of training, without shift; a replicate that is never
    connected counts as 1. Forks set how finely it is known; of fewer than two nothing is said.
    """
    for stability in stability_points(cells.rows[cells.rows["shift_name"] == "none"]):
        if len(stability.forks) >= MIN_FORKS:
            for replicate, point in stability.points.items():
                yield Contrast(replicate, stability.line, EARLY - (1.0 if point is None else point.fraction))


# --- shared --------------------------------------------------------------------------------------


def _contrasts(
    table: pd.DataFrame, values: pd.Series[float], labels: Sequence[str] = (*LINE, "fork")
) -> Iterator[Contrast]:
    """Return one contrast per cell, without missing values."""
    known = values.notna()
    names = table.loc[known, list(labels)].itertuples(index=False, name=None)
    for replicate, what, value in zip(table["replicate"][known], names, values[known], strict=True):
        yield Contrast(int(replicate), what, value)


def _column(table: pd.DataFrame, name: str) -> pd.Series[float]:
    """Return a column; NaN if no record has the measure."""
    return table[name] if name in table else pd.Series(np.nan, index=table.index)


def _independent_less_siblings(cells: Cells, name: str, split: str, sign: int = 1) -> Iterator[Contrast]:
    table = cells.forked(split)
    both = join_fork(table[table["connected"].eq(True)], INDEPENDENT, cells.measured(split))
    return _contrasts(both, sign * (_column(both, f"{name}_other") - _column(both, name)))


def _join_equal_cost(cells: Cells, comparator: str, split: str) -> pd.DataFrame:
    both = join_fork(cells.forked(split), comparator, cells.measured(split))
    # each network's length is a whole number of steps
    equal = (both["train_steps"] - both["train_steps_other"]).abs() <= both["siblings"] / 2
    return both[equal]


def _join_latest(cells: Cells, split: str) -> pd.DataFrame:
    """Return the cells of each line's earliest fork beside those of its latest, where these differ."""
    table = cells.forked(split)
    epochs = cells.rows.groupby(LINE)["fork_epoch"].agg(["min", "max"]).reset_index()
    table = table.merge(epochs[epochs["min"] < epochs["max"]], on=LINE)
    last = table[table["fork_epoch"] == table["max"]]
    return table[table["fork_epoch"] == table["min"]].merge(
        last, on=[*LINE, "replicate"], suffixes=("", "_other")
    )


def _noise_slopes(table: pd.DataFrame) -> Iterator[Contrast]:
    table = table[(table["view_error"] <= FITTED) & (table["view_images"] > table["batch_size"])]
    scale = table["lr"] * (table["view_images"].round() / table["batch_size"] - 1)
    table = table.assign(log_scale=np.log2(scale), other=table["recipe_settings"].map(_other_settings))
    place = ["replicate", "architecture", "other", "shift", "fork"]
    groups: Any = table.dropna(subset="error_chord").groupby(place)
    for (replicate, *what), group in groups:
        if np.ptp(group["log_scale"]) > 0:
            slope = float(np.polyfit(group["log_scale"], group["error_chord"], 1)[0])
            yield Contrast(replicate, tuple(what), slope)


@lru_cache
def _other_settings(settings: str) -> str:
    """Return the recipe without its name, learning rate and batch size."""
    recipe = json.loads(settings)
    return canonical_json({k: v for k, v in recipe.items() if k not in ("name", "lr", "batch_size")})


def _blended_barrier(record: Record, split: str) -> float | None:
    """Return the error barrier with blended normalisation statistics, None without such layers."""
    curves = [(pair.curves_uncalibrated or {}).get(split) for pair in record.pairs]
    alphas = record.protocol["alphas"]
    heights = [barrier(Curve(alphas, c.loss, c.error, c.n)).error_chord for c in curves if c is not None]
    return float(np.mean(heights)) if heights else None
