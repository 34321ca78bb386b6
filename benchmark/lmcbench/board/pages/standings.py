"""Entries in, one ranked table per suite and version out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from lmcbench.board.entries.trust import FIRST_CHOSEN
from lmcbench.board.pages.rank import MIN_REPLICATES, RankInterval, rank_intervals
from lmcbench.board.pages.scores import COLUMNS, CONNECTIVITY, NO_SHIFT, View, column
from lmcbench.board.pages.summary import SuiteId, Summary
from lmcbench.board.stability import StabilityPoint
from lmcbench.board.statistics import Estimate
from lmcbench.errors import counted
from lmcbench.spec.architectures import BASELINE
from lmcbench.spec.published import published_suite
from lmcbench.spec.suite import Suite


@dataclass(frozen=True)
class Scores:
    """An entry's numbers under some training shifts.

    Attributes:
        columns: by key of `COLUMNS`, in fractions (or operations).
        stability: from which fork on it is connected under all of the shifts.
    """

    columns: Mapping[str, Estimate]
    stability: StabilityPoint


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
    cells = set() if suite is None else {(shift.label, fork.name) for shift, fork in suite.places}
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
    real = [s.label for s in shifts if s.name != NO_SHIFT and not s.control]
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
