"""The table of a suite: entries with their scores, ranked by the instability area.

Ranks are simultaneous 95 % intervals (`lmcbench.stats.ranks`). An entry with an undefined area is not ranked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from lmcbench.errors import counted
from lmcbench.leaderboard.scores import AREA, COLUMNS, View
from lmcbench.leaderboard.summary import DIGITS, SuiteId, Summary
from lmcbench.leaderboard.trust import FIRST_CHOSEN, Basis
from lmcbench.results.instability import LOSS_FLOOR
from lmcbench.results.record import Record
from lmcbench.results.tuning import is_tuned
from lmcbench.spec.architectures import BASELINE
from lmcbench.spec.suite import Suite
from lmcbench.spec.suite_files import published_suite
from lmcbench.stats.cells import is_baseline
from lmcbench.stats.estimates import Estimate
from lmcbench.stats.instability_area import headline_shifts
from lmcbench.stats.pareto import Offer, pareto
from lmcbench.stats.ranks import RankInterval, rank_intervals
from lmcbench.stats.stability import Stability

MIN_REPLICATES = 5
"""Replicates that a rank needs. The board's standard on suites that train in minutes is ten."""

CLAIMED = "claimed: its midpoints were not recomputed from logits, nor all of their cells re-run"
"""Why an entry has no rank whose midpoints were not checked."""


def rank_by_area(areas: Mapping[str, Mapping[int, float]]) -> dict[str, RankInterval]:
    """Return the rank interval of every entry from its areas by replicate (`lmcbench.stats.ranks`)."""
    return rank_intervals(areas, resolution=10.0**-DIGITS)


def rank_notes(records: Sequence[Record]) -> list[str]:
    """Return why a complete submission has no rank: too few replicates. The baseline is never ranked."""
    count = len({r.replicate for r in records})
    if count >= MIN_REPLICATES or is_baseline(records[0]):
        return []
    return [f"{counted(count, 'replicate')} of the {MIN_REPLICATES} that a rank needs: shown, not ranked."]


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
        entry: its summary.
        areas: the instability area by replicate; None: undefined, or a cell is missing.
        missing: cells of the suite without a record, on the replicates that it must cover.
        unranked: why it has no rank; empty for ranked entries and the baseline.
        basis: how its midpoints were checked; None: they are claimed, and it is not ranked.
        rank: None for unranked entries and the baseline.
        frontier: whether its midpoints were checked, and no other such recipe of the architecture is as
            accurate and as stable, and better in one.
        scores: under the suite's training shifts together.
        by_shift: under each training shift, by label.
    """

    entry: Summary
    areas: Mapping[int, float | None]
    missing: int
    unranked: tuple[str, ...]
    basis: Basis | None
    rank: RankInterval | None
    scores: Scores
    by_shift: Mapping[str, Scores]
    frontier: bool = False

    @property
    def n(self) -> int:
        """Number of replicates that have an area."""
        return sum(area is not None for area in self.areas.values())

    @property
    def baseline(self) -> bool:
        """Whether it is the baseline, which is never ranked."""
        return _is_baseline(self.entry)


@dataclass(frozen=True)
class SuiteTable:
    """The table of one suite and version.

    Attributes:
        suite: by name and content.
        published: its definition; None if this version of lmcbench has none with this digest.
        headline: the training shifts that the area is a mean over; empty if it is not published.
        standings: ranked entries and the baseline by score, then the others.
    """

    suite: SuiteId
    published: Suite | None
    headline: tuple[str, ...]
    standings: tuple[Standing, ...]

    @property
    def name(self) -> str:
        """The name in addresses and headings; with the digest if the suite is not published."""
        known = f"{self.suite.name}-v{self.suite.version}"
        return known if self.published is not None else f"{known}-{self.suite.digest[:12]}"

    @property
    def compared(self) -> tuple[str, ...]:
        """The headline's shifts that have comparators of equal cost."""
        under = None if self.published is None else self.published.comparator_shifts
        return tuple(label for label in self.headline if under is None or label in under)

    @property
    def comparison(self) -> str:
        """A sentence that says under which of the headline's shifts ensembles are compared; empty: all."""
        if self.compared == self.headline:
            return ""
        if not self.compared:
            return "No shift of this suite has an equal-cost comparison with independent networks."
        return f"Ensembles are compared with independent ones under {', '.join(self.compared)} only."

    @property
    def ranked(self) -> int:
        """The number of entries with a rank."""
        return sum(standing.rank is not None for standing in self.standings)


def make_tables(
    entries: Iterable[Summary],
    bases: Mapping[str, Basis | None] | None = None,
) -> list[SuiteTable]:
    """Return a table per suite, version and digest, sorted by name, the newest version first.

    Args:
        entries: summaries.
        bases: by slug, how the midpoints were checked; an entry without is claimed.
    """
    by_suite: dict[tuple[str, int, str], list[Summary]] = {}
    for entry in sorted(entries, key=lambda e: e.slug):
        s = entry.suite
        by_suite.setdefault((s.name, -s.version, s.digest), []).append(entry)
    return [_table(group, bases or {}) for _, group in sorted(by_suite.items())]


def _table(entries: list[Summary], bases: Mapping[str, Basis | None]) -> SuiteTable:
    named = entries[0].suite
    suite = published_suite(named.name, named.version, named.digest)
    headline = () if suite is None else headline_shifts(suite)
    cells = set() if suite is None else {(shift.label, fork.name) for shift, fork in suite.conditions}
    rows = []
    for entry in entries:
        view = View(entry, headline or own_shifts(entry), suite)
        scores = _scores(view)
        by_shift = {label: _scores(View(entry, [label], suite)) for label in entry.shifts}
        areas = view.areas()
        missing = count_missing(entry, cells, suite.replicates) if suite is not None else 0
        basis = bases.get(entry.slug)
        reasons = [] if _is_baseline(entry) else _reasons(entry, suite, scores, areas, missing, basis)
        rows.append(Standing(entry, areas, missing, tuple(reasons), basis, None, scores, by_shift))
    ranked = [s for s in rows if not s.unranked and not s.baseline]
    ranks = rank_by_area({s.entry.slug: {r: a for r, a in s.areas.items() if a is not None} for s in ranked})
    frontier = _frontier(rows)
    standings = [replace(s, rank=ranks.get(s.entry.slug), frontier=s.entry.slug in frontier) for s in rows]
    return SuiteTable(entries[0].suite, suite, headline, tuple(sorted(standings, key=_place)))


def _frontier(rows: Sequence[Standing]) -> set[str]:
    """Return the slugs on their architecture's frontier of accuracy against instability, by means.

    Only entries whose midpoints were checked count: a claim takes nobody off the frontier.
    """
    offers: dict[str, dict[str, Offer]] = {}
    for standing in rows:
        area, accuracy = (standing.scores.columns[key].mean for key in (AREA, "accuracy"))
        if standing.basis is not None and area is not None and accuracy is not None:
            same = offers.setdefault(standing.entry.network.label, {})
            same[standing.entry.slug] = Offer(area, accuracy)
    return {
        slug
        for same in offers.values()
        for slug, optimal in zip(same, pareto(list(same.values())), strict=True)
        if optimal
    }


def count_missing(entry: Summary, cells: Set[tuple[str, str]], replicates: int) -> int:
    """Return the number of cells that the entry lacks.

    It must cover the replicates from 0 to its last one, and at least as many as the suite has, so that
    leaving a replicate out does not improve a score.

    Args:
        entry: the entry.
        cells: shift and fork of every cell that the suite has of a replicate.
        replicates: of the suite. An entry with other replicates only (a reproduction) lacks none.
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
    """Return the shifts that the area is a mean over if the suite is not published."""
    own = [label for label in entry.labels("shift") if entry.shifts[label].noise == "own"]
    return own or entry.labels("none")


def _scores(view: View) -> Scores:
    return Scores({c.key: c.score(view) for c in COLUMNS}, view.stability())


def _is_baseline(entry: Summary) -> bool:
    return entry.network.source == "lmcbench" and entry.network.name == BASELINE


def _reasons(
    entry: Summary,
    suite: Suite | None,
    scores: Scores,
    areas: Mapping[int, float | None],
    missing: int,
    basis: Basis | None,
) -> list[str]:
    """Return why the entry is not ranked, in words; empty if it is."""
    if suite is None:
        return ["suite not published with this version of lmcbench"]
    reasons = [] if basis else [CLAIMED]
    failed = entry.count("failed")
    lacking = [f"{counted(n, 'cell')} {what}" for n, what in ((missing, "missing"), (failed, "failed")) if n]
    if lacking:
        reasons.append(" and ".join(lacking))
    own = [r for r in entry.replicates if r >= FIRST_CHOSEN]
    if own:
        reasons.append(f"replicates from {FIRST_CHOSEN} up, which recipes are tuned on")
    network = entry.network
    if suite.sweep is not None and not is_tuned(suite, network.label, network.fingerprint, entry.recipe):
        reasons.append(f"recipe {entry.recipe['name']}, which is not the choice of 'lmcbench tune'")
    undefined = [r for r, area in areas.items() if area is None]
    if undefined:
        where = "every replicate" if len(undefined) == len(areas) else counted(len(undefined), "replicate")
        reasons.append(
            f"the instability area of {where} is undefined: a cell was not measured, there are no forks at 0 "
            f"and 30 % of training, or independent networks are at most {LOSS_FLOOR:g} nats apart"
        )
    if len(areas) < MIN_REPLICATES:
        reasons.append(f"{counted(len(areas), 'replicate')} of the {MIN_REPLICATES} that a rank needs")
    accuracy = scores.columns["accuracy"].mean
    if accuracy is not None and accuracy < suite.floor:
        reasons.append(f"accuracy {100 * accuracy:.1f} %, below the suite's floor of {100 * suite.floor:g} %")
    return reasons


def _place(standing: Standing) -> tuple[bool, float, str]:
    """Return a sort key: unranked entries last, then by score, then by name."""
    score = standing.scores.columns[AREA].mean
    return bool(standing.unranked), math.inf if score is None else score, standing.entry.slug
