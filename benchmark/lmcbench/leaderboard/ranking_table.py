"""Scores of entries in, ranks out: as intervals, as wide as the replicates leave them.

Entries share seeds, so that they are compared replicate by replicate: a paired t test for every two of them,
all p-values corrected together (Holm 1979). With probability 0.95 no entry is called better than another
that it is not better than, and then every interval holds its entry's true rank (all that true ties share).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from lmcbench.errors import counted
from lmcbench.leaderboard.scores import COLUMNS, CONNECTIVITY, NO_SHIFT, View, column
from lmcbench.leaderboard.summary import DIGITS, SuiteId, Summary
from lmcbench.leaderboard.trust import FIRST_CHOSEN
from lmcbench.results.record import Record
from lmcbench.spec.architectures import BASELINE
from lmcbench.spec.suite import Suite
from lmcbench.spec.suite_files import published_suite
from lmcbench.stats.cells import is_baseline
from lmcbench.stats.estimates import Estimate
from lmcbench.stats.inference import ALPHA, holm, paired
from lmcbench.stats.stability import Stability

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


@dataclass(frozen=True)
class Scores:
    """An entry's numbers under some training shifts.

    Attributes:
        columns: by key of `COLUMNS`, in fractions (or operations).
        stability: from which fork on it is connected under all of the shifts.
    """

    columns: Mapping[str, Estimate]
    stability: Stability


@dataclass(frozen=True)
class Standing:
    """An entry's row.

    Attributes:
        entry: whose.
        n: replicates that have the headline's value.
        missing: cells of the suite without a record, for the replicates from 0 up that it should have.
        unranked: why it has no rank, in order of weight; empty for ranked ones and the baseline.
        rank: None for those and for the baseline.
        scores: under the suite's training shifts together.
        by_shift: under each training shift, by label.
    """

    entry: Summary
    n: int
    missing: int
    unranked: tuple[str, ...]
    rank: RankInterval | None
    scores: Scores
    by_shift: Mapping[str, Scores]

    @property
    def baseline(self) -> bool:
        """Whether it is the permanent baseline, which takes no rank."""
        return _is_baseline(self.entry)


@dataclass(frozen=True)
class SuiteTable:
    """One suite and version.

    Attributes:
        suite: by name and content.
        published: its definition; None where this version of lmcbench ships none with this digest.
        headline: the training shifts that connectivity is a mean over; empty where it is not published.
        standings: ranked ones and the baseline by score, then the others.
    """

    suite: SuiteId
    published: Suite | None
    headline: tuple[str, ...]
    standings: tuple[Standing, ...]

    @property
    def name(self) -> str:
        """As addresses and headings have it; the digest tells apart what nobody published."""
        known = f"{self.suite.name}-v{self.suite.version}"
        return known if self.published is not None else f"{known}-{self.suite.digest[:12]}"

    @property
    def compared(self) -> tuple[str, ...]:
        """Those of the headline's shifts that comparators of cost are trained under."""
        under = None if self.published is None else self.published.comparator_shifts
        return tuple(label for label in self.headline if under is None or label in under)

    @property
    def comparison(self) -> str:
        """Under which of the headline's shifts ensembles are compared, as a sentence; empty: under all."""
        if self.compared == self.headline:
            return ""
        if not self.compared:
            return "Under none of them ensembles are held against independent ones."
        return f"Ensembles are held against independent ones under {', '.join(self.compared)} only."

    @property
    def ranked(self) -> int:
        """Entries with a rank."""
        return sum(standing.rank is not None for standing in self.standings)


def make_tables(entries: Iterable[Summary]) -> list[SuiteTable]:
    """A table per suite, version and digest, sorted by name; the newest version first."""
    by_suite: dict[tuple[str, int, str], list[Summary]] = {}
    for entry in sorted(entries, key=lambda e: e.slug):
        s = entry.suite
        by_suite.setdefault((s.name, -s.version, s.digest), []).append(entry)
    return [_table(held) for _, held in sorted(by_suite.items())]


def _table(entries: list[Summary]) -> SuiteTable:
    named = entries[0].suite
    suite = published_suite(named.name, named.version, named.digest)
    headline = () if suite is None else headline_shifts(suite)
    cells = set() if suite is None else {(shift.label, fork.name) for shift, fork in suite.conditions}
    rows = []
    for entry in entries:
        view = View(entry, headline or own_shifts(entry), suite)
        scores = _scores(view)
        by_shift = {label: _scores(View(entry, [label], suite)) for label in entry.shifts}
        series = column(CONNECTIVITY).series(view)
        missing = count_missing(entry, cells, suite.replicates) if suite is not None else 0
        reasons = [] if _is_baseline(entry) else _reasons(entry, suite, scores, missing)
        rows.append((Standing(entry, len(series), missing, tuple(reasons), None, scores, by_shift), series))
    ranks = rank_intervals({s.entry.slug: series for s, series in rows if not s.unranked and not s.baseline})
    standings = [
        Standing(s.entry, s.n, s.missing, s.unranked, ranks.get(s.entry.slug), s.scores, s.by_shift)
        for s, _ in rows
    ]
    return SuiteTable(entries[0].suite, suite, headline, tuple(sorted(standings, key=_place)))


def headline_shifts(suite: Suite) -> tuple[str, ...]:
    """The training shifts that connectivity is a mean over: all but none and controls.

    A suite without any is ranked by the barrier without shift.
    """
    shifts = [spec.shift for spec in suite.shifts]
    real = [s.label for s in shifts if s.name != NO_SHIFT and not s.is_control]
    return tuple(real or [s.label for s in shifts if s.name == NO_SHIFT])


def count_missing(entry: Summary, cells: Set[tuple[str, str]], replicates: int) -> int:
    """Cells that the suite has and the entry lacks, of as many replicates as the suite has, or its last one.

    Leaving a replicate out is no way to a better score: those between count as missing.

    Args:
        entry: whose.
        cells: shift and fork of every cell that the suite has of a replicate.
        replicates: of the suite; an entry that is on other ones only (a reproduction) lacks none of them.
    """
    published = [r for r in entry.replicates if r < FIRST_CHOSEN]
    last = max(replicates - 1, *published) if published else -1
    held = {
        (label, place.fork, r)
        for label, place in entry.places
        for r in place.replicates
        if (label, place.fork) in cells and 0 <= r <= last
    }
    return len(cells) * (last + 1) - len(held)


def own_shifts(entry: Summary) -> list[str]:
    """What connectivity is a mean over where nobody published the suite."""
    return entry.labels("shift") or entry.labels("none")


def _scores(view: View) -> Scores:
    return Scores({c.key: c.score(view) for c in COLUMNS}, view.stability())


def _is_baseline(entry: Summary) -> bool:
    return entry.network.source == "lmcbench" and entry.network.name == BASELINE


def _reasons(entry: Summary, suite: Suite | None, scores: Scores, missing: int) -> list[str]:
    """Why the entry is not ranked, in words; empty if it is."""
    if suite is None:
        return ["suite not published with this version of lmcbench"]
    reasons = []
    failed = entry.count("failed")
    lacking = [f"{counted(n, 'cell')} {what}" for n, what in ((missing, "missing"), (failed, "failed")) if n]
    if lacking:
        reasons.append(" and ".join(lacking))
    own = [r for r in entry.replicates if r >= FIRST_CHOSEN]
    if own:
        reasons.append(f"replicates from {FIRST_CHOSEN} up, which recipes are tuned on")
    n = scores.columns[CONNECTIVITY].n
    if n == 0:
        reasons.append(f"no replicate with all training shifts, of the {MIN_REPLICATES} that a rank needs")
    elif n < MIN_REPLICATES:
        reasons.append(f"{counted(n, 'measured replicate')} of the {MIN_REPLICATES} that a rank needs")
    accuracy = scores.columns["accuracy"].mean
    if accuracy is not None and accuracy < suite.floor:
        reasons.append(f"accuracy {100 * accuracy:.1f} %, below the suite's floor of {100 * suite.floor:g} %")
    return reasons


def _place(standing: Standing) -> tuple[bool, float, str]:
    """Sort key: those without a rank last, then by score; equal ones by name."""
    score = standing.scores.columns[CONNECTIVITY].mean
    return bool(standing.unranked), math.inf if score is None else score, standing.entry.slug
