"""The test of each claim: cells and a split in, one number per replicate and contrast out.

A contrast compares cells that differ in what the claim is about and in nothing else. The docstrings of the
public functions are printed below the findings as the exact tests. "Barrier" is the signed error barrier
at alpha = 1/2, test error there minus the mean of the ends, unless another is named: it does not change when
a network's logits are rescaled, and noise does not bias it upward as it does a maximum.
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
from lmcbench.results.instability import separation
from lmcbench.results.record import Record
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.forks import EQUAL_COST, WHOLE_BUDGET
from lmcbench.stats.cells import LINE, Cells, have_one_view, join_control, join_fork
from lmcbench.stats.estimates import FITTED, MIN_POINTS, Contrast, spearman
from lmcbench.stats.instability_area import EARLY_SHARE
from lmcbench.stats.stability import stability_points

BARRIER = "error_mid"

EARLY = 0.2
"""Share of training within which a stability point counts as early: the latest that Frankle et al. (2020,
section 3.2) report, for ResNet-50 on ImageNet (read at second hand)."""

MIN_FORKS = 2
"""Fewest forks of a stability point."""

HALVES, SKEW = "disjoint-halves", "label-skew"
EVEN_SHARE = 0.5
"""Share of label-skew at which the views have equal labels: disjoint halves."""


# --- Hepburn et al.: shift and noise -------------------------------------------------------------


def shift_against_control(cells: Cells, split: str) -> Iterator[Contrast]:
    """Barrier under shift s less that under same(s), own noise: same architecture, recipe, parameters and
    fork; forks up to 3 % of training. Shifts without such a control in the records are not compared.
    """
    both = join_control(_early(cells, split, "own"))
    return _contrasts(both, both[BARRIER] - both[f"{BARRIER}_other"])


def labels_against_images(cells: Cells, split: str) -> Iterator[Contrast]:
    """Barrier under label-skew less that under disjoint-halves, shared noise: both have different images, and
    only the first other labels; by share of skew; same architecture, recipe and fork up to 3 % of training.
    """
    table = _early(cells, split, "shared")
    halves = table[table["shift_name"] == HALVES]
    place = ["architecture", "recipe", "fork", "replicate"]
    both = table[table["shift_name"] == SKEW].merge(halves, on=place, suffixes=("", "_other"))
    return _contrasts(both, both[BARRIER] - both[f"{BARRIER}_other"])


def dose_of_skew(cells: Cells, split: str) -> Iterator[Contrast]:
    """Least-squares slope of the barrier over the share of label-skew, per 0.1 of share, shared noise; three
    or more shares, of which disjoint-halves are 0.5; same architecture, recipe and fork up to 3 %.
    """
    for place, group in _graded(_early(cells, split, "shared")):
        yield _contrast(place, float(np.polyfit(group["share"], group[BARRIER], 1)[0]) / 10)


def learning_rate(cells: Cells, split: str) -> Iterator[Contrast]:
    """Slope of log barrier over log learning rate at fork 0, among recipes that differ in learning rate only;
    own noise, same shift. The barrier is in chord form, and at least half a test image. Siblings reach 2 %
    error on their own view.
    """
    return _exponents(cells, split, "lr")


def batch_size(cells: Cells, split: str) -> Iterator[Contrast]:
    """The same over log batch size, with its sign reversed, among recipes that differ in batch size only: at
    equal epochs.
    """
    return (Contrast(r, what, -value) for r, what, value in _exponents(cells, split, "batch_size"))


def shift_and_noise(cells: Cells, split: str) -> Iterator[Contrast]:
    """Slope of log barrier over log learning rate under shift s less that under same(s), same recipes: the
    interaction of shift and noise scale.
    """
    slopes: dict[tuple[Any, ...], float] = {
        (c.replicate, *c.what): c.value for c in _exponents(cells, split, "lr")
    }
    table = _fork_0(cells, split)
    both = join_control(table)[["shift", "shift_other"]].drop_duplicates()
    control = dict(zip(both["shift"], both["shift_other"], strict=True))
    for (replicate, architecture, other, shift, fixed), value in slopes.items():
        plain = slopes.get((replicate, architecture, other, control.get(str(shift)), fixed))
        if plain is not None:
            yield Contrast(replicate, (architecture, other, shift, fixed), value - plain)


def recalibration(cells: Cells, split: str) -> Iterator[Contrast]:
    """Error barrier (chord form) with BatchNorm statistics blended as they are, less that with statistics
    recalibrated inside the line; the ends are as trained in both; forks of the trunk.
    """
    table = cells.forked(split)
    blended = {record.key: _blended_barrier(record, split) for record in cells.records}
    return _contrasts(table, table["key"].map(blended).astype(float) - table["error_chord"])


def gradient_noise(cells: Cells, split: str) -> Iterator[Contrast]:
    """Rank correlation, over disjoint-halves and label-skew of three or more shares together, of the share of
    the gradient covariance at fork 0 that lies between the views with the barrier; by noise mode.
    """
    table = _fork_0(cells, split).dropna(subset=["gradient_between_share"])
    for mode in ("own", "shared"):
        for place, group in _graded(table[table["noise_mode"] == mode]):
            correlation = spearman(group["gradient_between_share"], group[BARRIER])
            if correlation is not None:
                yield _contrast((*place, mode), correlation)


# --- Hepburn et al.: what siblings are worth -----------------------------------------------------


def disagreement_follows(cells: Cells, split: str) -> Iterator[Contrast]:
    """Rank correlation of the barrier with the siblings' disagreement over three or more recipes of one
    architecture; same shift, noise mode and replicate; fork 0.
    """
    return _dose_response(cells, split, "disagreement")


def overlap_follows(cells: Cells, split: str) -> Iterator[Contrast]:
    """The same with the overlap of errors (both wrong over either wrong), with its sign reversed."""
    return (Contrast(r, what, -v) for r, what, v in _dose_response(cells, split, "error_overlap"))


def gain_follows(cells: Cells, split: str) -> Iterator[Contrast]:
    """The same with the ensemble's gain over its mean member."""
    return _dose_response(cells, split, "ensemble_gain")


def equal_cost(cells: Cells, split: str) -> Iterator[Contrast]:
    """Ensemble accuracy of siblings less that of as many independent networks that saw the same data and
    have, together, the siblings' training steps (up to rounding); without shift, because a trunk sees the
    whole training set and independent networks under shift only their view. By number of members.
    """
    both = _join_equal_cost(cells, EQUAL_COST, split)
    values = _column(both, "ensemble_accuracy") - _column(both, "ensemble_accuracy_other")
    return _contrasts(both, values, [*LINE, "fork", "siblings"])


def whole_budget(cells: Cells, split: str) -> Iterator[Contrast]:
    """Ensemble accuracy of siblings less the accuracy of one network that saw the same data and was trained
    for as many steps as all of them and their trunk; cells as for independent networks.
    """
    both = _join_equal_cost(cells, WHOLE_BUDGET, split)
    return _contrasts(both, _column(both, "ensemble_accuracy") - (1 - both["error_other"]))


# --- Singh et al., Frankle et al. ----------------------------------------------------------------


def later_forks(cells: Cells, split: str) -> Iterator[Contrast]:
    """Barrier at the earliest fork less that at the latest, siblings of one view: under different labels
    averaging lowers the error at late forks by itself.
    """
    both = _join_latest(cells, split)
    values = both[BARRIER] - both[f"{BARRIER}_other"]
    return _contrasts(both, values, [*LINE, "fork", "fork_other"])


def separation_falls(cells: Cells, split: str) -> Iterator[Contrast]:
    """Distance between siblings over the distance that both travelled from the fork (1: opposite directions,
    0.71: orthogonal ones), at the earliest fork less at the latest, siblings of one view. The distance alone
    falls because there is less training left.
    """
    both = _join_latest(cells, split)
    apart = separation(both) - separation(both, "_other")
    return _contrasts(both, apart, [*LINE, "fork", "fork_other"])


def second_order(cells: Cells, split: str) -> Iterator[Contrast]:
    """Over cells that leave the trunk (shifts and forks of one architecture and recipe), how much better the
    published second-order form ranks the largest measured loss above the chord inside the line than the
    distance between the siblings does: the difference of both rank correlations.
    """
    return (ranked.contrast for ranked in rank_cells(cells, over_distance=True))


def second_order_with_gradients(cells: Cells, split: str) -> Iterator[Contrast]:
    """The same for the form with the gradients at both ends."""
    found = rank_cells(cells, "predicted_with_gradients", over_distance=True)
    return (ranked.contrast for ranked in found)


def layer_ranking(cells: Cells, split: str) -> Iterator[Contrast]:
    """Rank correlation over a network's layers, moved alone from either end, of the largest loss that the
    second-order form with gradients predicts inside that line (signed) with the largest measured loss above
    its chord there; forks of the trunk. The published form is not testable (premise violated): one end
    of such a line is a network of mixed layers, which is not stationary.
    """
    return (ranked.contrast for ranked in rank_layers(cells))


def stable_early(cells: Cells, split: str) -> Iterator[Contrast]:
    """0.2 less the stability point as a share of training, without shift; a replicate that is never
    connected counts as 1. Forks set how finely it is known; of fewer than two nothing is said.
    """
    for stability in stability_points(cells.rows[cells.rows["shift_name"] == "none"]):
        if len(stability.forks) >= MIN_FORKS:
            for replicate, share in stability.points.items():
                yield Contrast(replicate, stability.line, EARLY - (1.0 if share is None else share))


# --- shared --------------------------------------------------------------------------------------


def _contrasts(
    table: pd.DataFrame, values: pd.Series[float], labels: Sequence[str] = (*LINE, "fork")
) -> Iterator[Contrast]:
    """Return one contrast per cell, without missing values."""
    known = values.notna()
    names = table.loc[known, list(labels)].itertuples(index=False, name=None)
    for replicate, what, value in zip(table["replicate"][known], names, values[known], strict=True):
        yield Contrast(int(replicate), what, value)


def _contrast(place: tuple[Any, ...], value: float) -> Contrast:
    replicate, *what = place
    return Contrast(int(replicate), tuple(what), value)


def _column(table: pd.DataFrame, name: str) -> pd.Series[float]:
    """Return a column; NaN if no record has the measure."""
    return table[name] if name in table else pd.Series(np.nan, index=table.index)


def _early(cells: Cells, split: str, noise: str) -> pd.DataFrame:
    table = cells.forked(split)
    return table[(table["fork_share"] <= EARLY_SHARE) & (table["noise_mode"] == noise)]


def _fork_0(cells: Cells, split: str) -> pd.DataFrame:
    table = cells.forked(split)
    return table[table["fork_share"] == 0]


def _graded(table: pd.DataFrame) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Yield (replicate, architecture, recipe, fork) and its cells of three or more shares of label-skew."""
    table = table[table["shift_name"].isin([HALVES, SKEW])].dropna(subset=[BARRIER])
    shares = [
        EVEN_SHARE if name == HALVES else json.loads(params).get("share")
        for name, params in zip(table["shift_name"], table["shift_params"], strict=True)
    ]
    table = table.assign(share=pd.Series(shares, index=table.index, dtype=float)).dropna(subset="share")
    groups: Any = table.groupby(["replicate", "architecture", "recipe", "fork"])
    for place, group in groups:
        if group["share"].nunique() >= MIN_POINTS:
            yield place, group


def _dose_response(cells: Cells, split: str, response: str) -> Iterator[Contrast]:
    table = _fork_0(cells, split)
    table = table.assign(response=_column(table, response)).dropna(subset=[BARRIER, "response"])
    groups: Any = table.groupby(["replicate", "architecture", "shift", "noise_mode"])
    for place, group in groups:
        correlation = spearman(group[BARRIER], group["response"])
        if correlation is not None:
            yield _contrast(place, correlation)


def _join_equal_cost(cells: Cells, comparator: str, split: str) -> pd.DataFrame:
    """Return cells beside comparators of equal cost that saw the same data."""
    siblings = cells.forked(split)
    both = join_fork(siblings[siblings["shift_name"] == "none"], comparator, cells.measured(split))
    # each network's length is a whole number of steps
    equal = (both["train_steps"] - both["train_steps_other"]).abs() <= both["siblings"] / 2
    return both[equal]


def _join_latest(cells: Cells, split: str) -> pd.DataFrame:
    """Return the cells of one view at each line's earliest fork beside those at its latest."""
    table = cells.forked(split)
    table = table[have_one_view(table)]
    ends = cells.rows.groupby(LINE)["fork_share"].agg(["min", "max"]).reset_index()
    table = table.merge(ends[ends["min"] < ends["max"]], on=LINE)
    last = table[table["fork_share"] == table["max"]]
    return table[table["fork_share"] == table["min"]].merge(
        last, on=[*LINE, "replicate"], suffixes=("", "_other")
    )


def _exponents(cells: Cells, split: str, setting: str) -> Iterator[Contrast]:
    """Yield slopes of log barrier over log `setting` among recipes that are otherwise the same."""
    table = _fork_0(cells, split).dropna(subset="error_chord")
    table = table[(table["view_error"] <= FITTED) & (table["noise_mode"] == "own")]
    fixed = "batch_size" if setting == "lr" else "lr"
    table = table.assign(
        height=np.log2(np.maximum(table["error_chord"], 0.5 / table["n"])),
        dose=np.log2(table[setting]),
        other=table["recipe_settings"].map(_other_settings),
    )
    groups: Any = table.groupby(["replicate", "architecture", "other", "shift", fixed])
    for place, group in groups:
        if np.ptp(group["dose"]) > 0:
            yield _contrast(place, float(np.polyfit(group["dose"], group["height"], 1)[0]))


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
