"""Scores of entries in, ranks out: as intervals, as wide as the replicates leave them.

Entries share seeds, so that they are compared replicate by replicate: a paired t test for every two of them,
all p-values corrected together (Holm 1979). With probability 0.95 no entry is called better than another
that it is not better than, and then every interval holds its entry's true rank (all that true ties share).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from lmcbench.board.inference import ALPHA, holm, paired
from lmcbench.board.observations import is_baseline
from lmcbench.board.pages.summary import DIGITS
from lmcbench.errors import counted
from lmcbench.results.record import Record

MIN_REPLICATES = 5
"""Replicates that a rank needs, and that two entries must have in common to be told apart."""


class RankInterval(NamedTuple):
    """The ranks that an entry may have, 1 is best; first == last: told apart from all others.

    Attributes:
        first: 1 + the number of entries that are significantly better.
        last: the number of entries - the number that are significantly worse.
    """

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"


def rank_intervals(scores: Mapping[str, Mapping[int, float]]) -> dict[str, RankInterval]:
    """The rank interval of every entry, lower scores being better.

    Args:
        scores: by entry, then by replicate.
    """
    pairs = list(combinations(sorted(scores), 2))
    found = [_compare(scores[a], scores[b]) for a, b in pairs]
    better = dict.fromkeys(scores, 0)
    worse = dict.fromkeys(scores, 0)
    corrected = holm([p for _, p in found])
    for (a, b), (difference, _), p in zip(pairs, found, corrected, strict=True):
        if p <= ALPHA:
            low, high = (a, b) if difference > 0 else (b, a)
            better[high] += 1
            worse[low] += 1
    return {name: RankInterval(1 + better[name], len(scores) - worse[name]) for name in scores}


def rank_notes(records: Sequence[Record]) -> list[str]:
    """What keeps a whole submission from a rank: too few replicates; the baseline takes none anyway."""
    count = len({r.replicate for r in records})
    if count >= MIN_REPLICATES or is_baseline(records[0]):
        return []
    return [f"{counted(count, 'replicate')} of the {MIN_REPLICATES} that a rank needs: shown, not ranked."]


def _compare(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[float, float]:
    """Mean of b - a over common replicates and its two-sided p-value, 1 with too few of them."""
    common = sorted(a.keys() & b.keys())
    if len(common) < MIN_REPLICATES:
        return 0.0, 1.0
    difference = paired([a[r] for r in common], [b[r] for r in common])
    # equal means of other numbers differ by the rounding of those, perhaps alike in every replicate
    alike = abs(difference.estimate) < 10.0**-DIGITS
    return difference.estimate, 1.0 if alike else difference.p_change()
