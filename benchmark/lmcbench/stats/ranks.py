"""Rank intervals of entries by their mean instability area, with few replicates.

1. Mean areas are compared on the scale asin(sqrt(area)), where the spread of replicates depends little on the
   mean (Anscombe, 1948). An area's spread grows with its mean, and most areas are near 0.
2. The variance of an entry's replicates on this scale is raised to the table's median, then moderated over
   the entries (Smyth, 2004), so that five replicates that happen to agree do not decide a rank.
3. Every two entries are compared by a t test with unequal variances (Welch, 1947); all p-values are corrected
   together (Holm, 1979).
4. An entry's interval is from 1 + the number of entries that are significantly better, to the number of
   entries minus the number that are significantly worse (Mogstad et al., 2024, section 3: simultaneous
   confidence sets for all ranks).

The intervals of a table are simultaneous: they are made to contain all true ranks together with probability
0.95, where true means the order of the expected areas. No test is exact with five replicates of a skewed
area: `benchmark/board.md` has the rates measured in simulation, and where they are higher.

Replicates of different entries are treated as independent. Entries share seeds, but their areas hardly
correlate; a positive correlation makes the intervals wider than necessary, not wrong. Therefore all
replicates of an entry are used, and entries may have different numbers of them.

References:
    Anscombe (1948). The transformation of Poisson, binomial and negative-binomial data. Biometrika 35.
    Holm (1979). A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics
        6.
    Mogstad, Romano, Shaikh and Wilhelm (2024). Inference for ranks with applications to mobility across
        neighbourhoods and academic achievement across countries. Review of Economic Studies 91.
    Smyth (2004). Linear models and empirical Bayes methods for assessing differential expression in
        microarray experiments. Statistical Applications in Genetics and Molecular Biology 3.
    Welch (1947). The generalization of "Student's" problem when several different population variances are
        involved. Biometrika 34.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import digamma, polygamma, stdtr

from lmcbench.stats.inference import ALPHA, holm

Array = npt.NDArray[np.floating[Any]]

FEWEST_MODERATED = 5
"""Variances are moderated if at least this many entries have one; fewer show too little of their range."""

MOST_PRIOR_DF = 10.0
"""Largest prior degrees of freedom: the observed variances never count less than n - 1 to 10."""

LEAST_SPREAD = 0.01
"""Smallest standard deviation that an entry counts with, on the scale asin(sqrt(area))."""


class RankInterval(NamedTuple):
    """The ranks that an entry may have; 1 is best.

    Attributes:
        first: 1 + the number of entries that are significantly better.
        last: the number of entries - the number that are significantly worse.
    """

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"


def rank_intervals(
    areas: Mapping[str, Mapping[int, float]], resolution: float = 1e-9
) -> dict[str, RankInterval]:
    """Return the rank interval of every entry; smaller areas are better.

    Args:
        areas: by entry, then by replicate; in [0, 1], at least two of each entry.
        resolution: mean areas that differ by less are equal (values that were rounded).

    Raises:
        ValueError: for fewer than two replicates, or areas outside of [0, 1].

    Examples:
        >>> rank_intervals({"a": {0: 0.01, 1: 0.02, 2: 0.00}, "b": {0: 0.21, 1: 0.26, 2: 0.19}})
        {'a': RankInterval(first=1, last=1), 'b': RankInterval(first=2, last=2)}
    """
    names = sorted(areas)
    values = [np.array([areas[name][r] for r in sorted(areas[name])], dtype=float) for name in names]
    for name, own in zip(names, values, strict=True):
        if len(own) < 2 or not ((own >= 0) & (own <= 1)).all():
            raise ValueError(f"{name}: at least two areas in [0, 1] are needed, found {own.tolist()}")
    if len(names) < 2:
        return {name: RankInterval(1, 1) for name in names}
    better = better_entries(values, resolution)
    first = 1 + better.sum(axis=0)
    last = len(names) - better.sum(axis=1)
    return {name: RankInterval(int(a), int(b)) for name, a, b in zip(names, first, last, strict=True)}


def better_entries(values: Sequence[Array], resolution: float = 1e-9) -> npt.NDArray[np.bool_]:
    """Return a matrix: [i, j] says whether entry i is significantly better (smaller) than entry j.

    Args:
        values: areas of the replicates of each entry; at least two entries.
        resolution: as in `rank_intervals`.
    """
    means = np.array([own.mean() for own in values])
    i, j = np.triu_indices(len(values), 1)
    p = p_values(values)[i, j]
    p[np.abs(means[i] - means[j]) < resolution] = 1.0
    different = np.array(holm(p.tolist())) <= ALPHA
    better = np.zeros((len(values), len(values)), dtype=bool)
    better[i, j] = different & (means[i] < means[j])
    better[j, i] = different & (means[j] < means[i])
    return better


def p_values(values: Sequence[Array]) -> Array:
    """Return the uncorrected two-sided p-value of every two entries' mean areas, `[entries, entries]`.

    Welch's t test on the scale asin(sqrt(area)) with moderated variances and their degrees of freedom
    (Welch-Satterthwaite).

    Args:
        values: areas of the replicates of each entry; at least two entries.
    """
    spread = moderated_spread([np.arcsin(np.sqrt(own)) for own in values])
    scaled = np.arcsin(np.sqrt([own.mean() for own in values]))
    shares = spread.variances / [len(own) for own in values]
    total = shares[:, None] + shares
    terms = shares**2 / spread.df
    df = total**2 / (terms[:, None] + terms)
    return np.asarray(np.minimum(1.0, 2 * stdtr(df, -np.abs(scaled[:, None] - scaled) / np.sqrt(total))))


@dataclass(frozen=True)
class Spread:
    """Moderated variances of entries.

    Attributes:
        variances: of one replicate of each entry.
        df: their degrees of freedom.
    """

    variances: Array
    df: Array


def moderated_spread(values: Sequence[Array]) -> Spread:
    """Return the variance that each entry counts with.

    Variances below the median are raised to it. They are then moderated: (d0 s0^2 + d s^2) / (d0 + d), with
    d0 + d degrees of freedom, at most as many as all entries have together (Smyth, 2004, section 3). With
    fewer than `FEWEST_MODERATED` entries d0 is 0. Entries whose replicates are all equal (areas of exactly 0)
    do not show their spread: they count with the largest variance of the table, and with d0 if it is not 0.

    Args:
        values: of each entry, on a scale where spreads are similar.
    """
    own = np.array([v.var(ddof=1) for v in values])
    df = np.array([len(v) - 1.0 for v in values])
    known = np.array([not np.all(v == v[0]) for v in values])
    if not known.any():
        return Spread(np.full(len(own), LEAST_SPREAD**2), df)
    raised = np.maximum(own, max(float(np.median(own[known])), LEAST_SPREAD**2))
    if known.sum() < FEWEST_MODERATED:
        return Spread(np.where(known, raised, raised[known].max()), df)
    prior, prior_df = variance_prior(raised[known], df[known])
    seen = np.where(known, df, 0.0)
    moderated = (prior_df * prior + seen * raised) / (prior_df + seen)
    largest = moderated[known].max()
    return Spread(np.where(known, moderated, largest), np.minimum(prior_df + seen, seen.sum()))


def variance_prior(variances: Array, df: Array) -> tuple[float, float]:
    """Return s0^2 and d0 of the scaled inverse chi-square prior of variances, by moments of their logarithms.

    Smyth (2004), section 6.2. d0 is at most `MOST_PRIOR_DF`.

    Args:
        variances: positive.
        df: degrees of freedom of each.
    """
    logs = np.log(variances) - digamma(df / 2) + np.log(df / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, df / 2).mean())
    prior_df = min(MOST_PRIOR_DF, 2 * _inverse_trigamma(excess)) if excess > 0 else MOST_PRIOR_DF
    prior = math.exp(float(logs.mean()) + float(digamma(prior_df / 2)) - math.log(prior_df / 2))
    return prior, prior_df


def _inverse_trigamma(value: float) -> float:
    """Return x with trigamma(x) = value > 0 by Newton's method (Smyth, 2004, appendix)."""
    x = 0.5 + 1 / value
    for _ in range(50):
        found = float(polygamma(1, x))
        step = found * (1 - found / value) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x
