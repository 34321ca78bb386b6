"""Compute the numbers of an entry's row from its summary alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from lmcbench.leaderboard.summary import SCALED, Place, Summary, Values
from lmcbench.results.cell_values import SPLIT
from lmcbench.results.instability import ERROR_FLOOR, LOSS_FLOOR, instability, skill_lost
from lmcbench.spec.forks import EQUAL_COST, INDEPENDENT
from lmcbench.spec.suite import Suite
from lmcbench.stats.cells import Line
from lmcbench.stats.estimates import Estimate, estimate
from lmcbench.stats.instability_area import EARLY_SHARE, LAST_SHARE, instability_area
from lmcbench.stats.stability import Stability

AREA = "area"
HEADLINE_FORK = "0"
NO_SHIFT = "none"

Series = dict[int, float]
"""One value per replicate."""


class View:
    """An entry under some training shifts: every value is a mean over them, per replicate.

    Attributes:
        entry: its summary.
        labels: of the shifts; a replicate that lacks one of them has no value.
        suite: the definition of the entry's suite, if it is published.
    """

    def __init__(self, entry: Summary, labels: Sequence[str], suite: Suite | None = None) -> None:
        self.entry = entry
        self.labels = tuple(labels)
        self.suite = suite

    @cached_property
    def latest(self) -> str | None:
        """The latest fork of the trunk."""
        shares = [(p.share, p.fork) for _, p in self.entry.places if p.share is not None]
        return max(shares)[1] if shares else None

    def barrier(self, name: str, fork: str = HEADLINE_FORK) -> Series:
        """Return a field of `Barrier` on the test split, by default at fork 0."""
        return self._mean(fork, lambda place: place.barriers[name])

    def areas(self, measure: str = "loss_mid", floor: float = LOSS_FLOOR) -> dict[int, float | None]:
        """Return the instability area of every replicate, None where it is undefined or a cell is missing.

        Args:
            measure: `loss_mid`, `error_mid` for the area from errors, or `loss_mid_scaled` for that at
                fitted temperatures.
            floor: in the unit of `measure`.
        """
        found = [self._areas_of(label, measure, floor) for label in self.labels]
        areas: dict[int, float | None] = {}
        for replicate in self.entry.replicates:
            values = [one.get(replicate) for one in found]
            known = [value for value in values if value is not None]
            areas[replicate] = math.fsum(known) / len(known) if known and len(known) == len(values) else None
        return areas

    def _areas_of(self, label: str, measure: str, floor: float) -> dict[int, float | None]:
        """Return the area of every replicate under one shift; all forks of the suite must be there."""
        places = self.entry.shifts[label].places if label in self.entry.shifts else []
        held = {place.share: place for place in places if place.share is not None}
        shares = set(held)
        if self.suite is not None:
            epochs = self.entry.recipe["epochs"]
            wanted = {fork.share(epochs) for shift, fork in self.suite.conditions if shift.label == label}
            shares |= {share for share in wanted if share is not None}
        excess = {
            share: _by_replicate(held[share], measure) if share in held else {} for share in sorted(shares)
        }
        shifted = self.entry.shifts.get(label)
        far = None if shifted is None else shifted.place(INDEPENDENT)
        scale = {} if far is None else _by_replicate(far, measure)
        return {
            r: instability_area({share: at.get(r) for share, at in excess.items()}, scale.get(r), floor)
            for r in self.entry.replicates
        }

    def instability(self) -> dict[float, Series]:
        """Return B at every fork up to 30 % of training that all shifts have, by share of training."""
        of_shifts = [self._instability_of(label) for label in self.labels]
        shares = set.intersection(*map(set, of_shifts)) if of_shifts else set()
        return {share: average([found[share] for found in of_shifts]) for share in sorted(shares)}

    def _instability_of(self, label: str) -> dict[float, Series]:
        shifted = self.entry.shifts.get(label)
        far = None if shifted is None else shifted.place(INDEPENDENT)
        if shifted is None or far is None:
            return {}
        scale = _by_replicate(far, "loss_mid")
        found: dict[float, Series] = {}
        for place in shifted.places:
            if place.share is not None and place.share <= LAST_SHARE:
                excess = _by_replicate(place, "loss_mid")
                values = {r: instability(excess[r], scale.get(r)) for r in excess}
                found[place.share] = {r: value for r, value in values.items() if value is not None}
        return found

    def skill_lost(self) -> Series:
        """Return (E(1/2) - E of the ends) / (E of chance - E of the ends) at fork 0, E the test error."""
        chance = self.entry.chance
        if chance is None:
            return {}
        rise, member = self.barrier("error_mid"), self.worth("member", HEADLINE_FORK)
        lost = {r: skill_lost(rise[r], 1 - member[r], chance) for r in sorted(rise.keys() & member.keys())}
        return {r: value for r, value in lost.items() if not math.isnan(value)}

    def shift_effect(self) -> Series:
        """Return the error midpoint under shift less that under its control, forks up to 3 % of training."""
        found = []
        for label in self.labels:
            control = self.entry.shifts[label].control if label in self.entry.shifts else None
            if control is None:
                return {}
            for place in self.entry.shifts[label].places:
                if place.share is not None and place.share <= EARLY_SHARE:
                    plain = View(self.entry, [control]).barrier("error_mid", place.fork)
                    found.append(minus(View(self.entry, [label]).barrier("error_mid", place.fork), plain))
        return average(found)

    def gain_per_training(self, splits: Sequence[str] = (SPLIT,)) -> Series:
        """Return the ensemble's gain at the latest fork over the cost of all members and their trunk."""
        gain = minus(self.worth("ensemble", self.latest, splits), self.worth("member", self.latest, splits))
        cost = self._mean(self.latest, lambda place: place.trainings)
        return {r: gain[r] / cost[r] for r in gain.keys() & cost.keys() if cost[r] > 0}

    def separation(self) -> Series:
        """Return the distance between siblings over the distance that both travelled, fork 0."""
        return self._mean(HEADLINE_FORK, lambda place: place.separation)

    def worth(self, name: str, fork: str | None, splits: Sequence[str] = (SPLIT,)) -> Series:
        """Return a field of `Worth`, averaged over splits."""

        def pick(split: str) -> Callable[[Place], Values | None]:
            return lambda place: getattr(place.worth[split], name) if split in place.worth else None

        return average([self._mean(fork, pick(split)) for split in splits])

    def flop(self, fork: str | None) -> Series:
        """Return the training FLOPs of a cell."""
        return self._mean(fork, lambda place: place.flop)

    def stability(self) -> Stability:
        """Return from which fork on replicates are connected under all of the shifts."""
        found = [self.entry.shifts[label].onsets for label in self.labels if label in self.entry.shifts]
        whole = len(found) == len(self.labels) and len(found) > 0
        common = sorted(set.intersection(*(set(onsets) for onsets in found))) if whole else []
        onsets = {r: max((o[r] for o in found), key=_onset) for r in common}
        line = Line(self.entry.network.label, self.entry.recipe["name"], ", ".join(self.labels))
        return Stability(line, (), onsets, len(self.entry.replicates) - len(onsets))

    def over_equal_cost(self, name: str, splits: Sequence[str] = (SPLIT,)) -> Series:
        """Return a field of `Worth` at the latest fork minus an independent ensemble of equal cost.

        It is a mean over the shifts under which the suite (if it is not published, the entry) has such
        ensembles.
        """
        # siblings that fork at initialisation share no training: independent networks cost the same
        other = INDEPENDENT if self.latest == HEADLINE_FORK else EQUAL_COST
        if self.suite is None:
            held = {label for label, place in self.entry.places if place.fork == other}
        else:  # a cell that the entry lacks is missing: the mean is not taken over the others
            held = {shift.label for shift, fork in self.suite.conditions if fork.name == other}
        both = View(self.entry, [label for label in self.labels if label in held])
        return minus(both.worth(name, self.latest, splits), both.worth("ensemble", other, splits))

    def _mean(self, fork: str | None, pick: Callable[[Place], Values | None]) -> Series:
        return average([_series(self.entry, label, fork, pick) for label in self.labels])


def average(series: Iterable[Series]) -> Series:
    """Return the mean of several values per replicate, for replicates that have all of them."""
    found = list(series)
    common = set.intersection(*(set(one) for one in found)) if found else set()
    return {r: math.fsum(one[r] for one in found) / len(found) for r in sorted(common)}


def minus(a: Series, b: Series) -> Series:
    """Return paired differences, for replicates that have both."""
    return {r: a[r] - b[r] for r in sorted(a.keys() & b.keys())}


def _series(entry: Summary, label: str, fork: str | None, pick: Callable[[Place], Values | None]) -> Series:
    shifted = entry.shifts.get(label)
    place = None if shifted is None or fork is None else shifted.place(fork)
    values = None if place is None else pick(place)
    if place is None or values is None:
        return {}
    return {r: v for r, v in zip(place.replicates, values, strict=True) if v is not None}


def _by_replicate(place: Place, measure: str) -> Series:
    found = zip(place.replicates, place.barriers[measure], strict=True)
    return {r: value for r, value in found if value is not None}


def _onset(onset: float | None) -> float:
    return math.inf if onset is None else onset


# --- the columns ---------------------------------------------------------------------------------

Unit = Literal["percent", "points", "gain", "flop"]
Group = Literal["barriers", "forms", "worth", "evaluation"]


@dataclass(frozen=True)
class Column:
    """One number of a row.

    Attributes:
        key: its name in exports and addresses.
        group: the set of columns it is shown with.
        title: its heading.
        unit: percent; points: a barrier or a difference of barriers, in percentage points; gain: signed
            difference of accuracies, in percentage points; flop: floating point operations.
        better: which direction is better, if one is.
        help: a sentence that describes it.
        series: its values by replicate.
    """

    key: str
    group: Group
    title: str
    unit: Unit
    better: Literal["lower", "higher"] | None
    help: str
    series: Callable[[View], Series]

    def score(self, view: View) -> Estimate:
        """Return the mean over replicates with its 95 % t interval, in fractions (or operations)."""
        return estimate(list(self.series(view).values()))


def _plain(view: View) -> View:
    return View(view.entry, [NO_SHIFT])


def _defined(areas: dict[int, float | None]) -> Series:
    return {r: area for r, area in areas.items() if area is not None}


def _worth_columns(
    group: Group, prefix: str, where: str, splits: Callable[[View], Sequence[str]]
) -> list[Column]:
    """Return columns of the accuracy and gain of ensemble and soup at the latest fork."""

    def own(name: str) -> Callable[[View], Series]:
        return lambda view: view.worth(name, view.latest, splits(view))

    def gain(name: str) -> Callable[[View], Series]:
        return lambda view: minus(own(name)(view), own("member")(view))

    def equal(name: str) -> Callable[[View], Series]:
        return lambda view: view.over_equal_cost(name, splits(view))

    columns = [
        Column(f"{prefix}member", group, "member", "percent", "higher",
               f"Mean accuracy of the siblings of the latest fork {where}.", own("member")),
    ]  # fmt: skip
    for name in ("ensemble", "soup"):
        what = {"ensemble": "Accuracy of the siblings' ensemble (mean of their predicted probabilities)",
                "soup": "Accuracy of the siblings' soup (plain average of their weights)"}[name]  # fmt: skip
        columns += [
            Column(f"{prefix}{name}", group, name, "percent", "higher",
                   f"{what} {where}, latest fork.", own(name)),
            Column(f"{prefix}{name}_gain", group, f"{name} − member", "gain", "higher",
                   f"The {name}'s accuracy minus the mean member's {where}, by replicate.", gain(name)),
            Column(f"{prefix}{name}_equal_cost", group, f"{name} − independent", "gain", "higher",
                   f"The {name}'s accuracy minus that of an ensemble of independent networks that cost as "
                   f"much training {where}, paired by replicate; under the shifts that the suite trains such "
                   "networks under.", equal(name)),
        ]  # fmt: skip
    columns += [
        Column(f"{prefix}soup_ensemble", group, "soup − ensemble", "gain", "higher",
               f"The soup's accuracy minus the ensemble's {where}, by replicate.",
               lambda view: minus(own("soup")(view), own("ensemble")(view))),
        Column(f"{prefix}gain_per_training", group, "gain per training", "gain", "higher",
               f"The ensemble's gain over its mean member {where}, over the training cost of members and "
               "trunk in full trainings of one network.", lambda view: view.gain_per_training(splits(view))),
        Column(f"{prefix}corrected_gain", group, "gain without priors", "gain", "higher",
               f"The ensemble's gain over its mean member {where}, with the label prior of each member's "
               "view taken out.", own("corrected_gain")),
        Column(f"{prefix}path", group, "path ensemble", "percent", "higher",
               f"Accuracy of the ensemble of points on the path between two siblings {where}, latest fork.",
               own("path")),
    ]  # fmt: skip
    return columns


COLUMNS: tuple[Column, ...] = (
    Column(AREA, "barriers", "instability area", "percent", "lower",
           "How far apart siblings are, in percent of how far apart independent networks are, over the first "
           "30 % of training: mean over the suite's training shifts. Ranks are by it; it says nothing of "
           "accuracy.",
           lambda view: _defined(view.areas())),
    Column("area_errors", "barriers", "area from errors", "percent", "lower",
           "The same from errors instead of losses, which do not depend on a network's confidence.",
           lambda view: _defined(view.areas("error_mid", ERROR_FLOOR))),
    Column("area_scaled", "barriers", "area at fitted temperature", "percent", "lower",
           "The same from losses with each network's logits at the temperature of its least loss.",
           lambda view: _defined(view.areas(SCALED))),
    Column("skill_lost", "barriers", "skill lost", "points", "lower",
           "Share of the members' advantage over chance that is lost halfway between siblings that fork at "
           "initialisation, percent, signed.", lambda view: view.skill_lost()),
    Column("barrier", "barriers", "barrier at 0", "points", "lower",
           "Error barrier halfway between siblings that fork at initialisation, over the mean of the ends, "
           "signed, mean over the suite's training shifts.",
           lambda view: view.barrier("error_mid")),
    Column("barrier_none", "barriers", "barrier at 0, no shift", "points", "lower",
           "The same without training shift.", lambda view: _plain(view).barrier("error_mid")),
    Column("shift_effect", "barriers", "shift − control", "points", "lower",
           "The barrier under shift minus that under its control, whose siblings see the same images; forks "
           "up to 3 % of training.", lambda view: view.shift_effect()),
    Column("separation", "barriers", "separation", "percent", None,
           "Distance between siblings in percent of the distance that both travelled, fork at "
           "initialisation: 71 for orthogonal directions, 100 for opposite ones.",
           lambda view: view.separation()),
    Column("chord_form", "forms", "highest point", "points", "lower",
           "Error barrier at the highest point of the curve (chord form), under training shift, as claimed.",
           lambda view: view.barrier("error_chord")),
    Column("mean_form", "forms", "mean form", "points", "lower",
           "Error barrier over the mean of both ends (mean form), under training shift.",
           lambda view: view.barrier("error_mean")),
    Column("mean_form_none", "forms", "mean form, no shift", "points", "lower",
           "The same without training shift.", lambda view: _plain(view).barrier("error_mean")),
    Column("floor", "forms", "floor", "points", None,
           "Half the difference between both ends' errors, which the mean form cannot fall below.",
           lambda view: view.barrier("error_floor")),
    Column("disagreement", "barriers", "disagreement", "percent", None,
           "Test images on which two siblings' top-1 differ, fork at initialisation.",
           lambda view: view.worth("disagreement", HEADLINE_FORK)),
    Column("accuracy", "barriers", "accuracy", "percent", "higher",
           "Mean test accuracy of the siblings that fork at initialisation; a rank needs the suite's floor.",
           lambda view: view.worth("member", HEADLINE_FORK)),
    *_worth_columns("worth", "", "on the test set", lambda view: (SPLIT,)),
    *_worth_columns("evaluation", "shifted_", "under evaluation shift (mean over those of the suite)",
                    lambda view: view.entry.evaluations),
    Column("flop", "worth", "training FLOPs", "flop", "lower",
           "Floating point operations of training the siblings of the latest fork, their trunk once.",
           lambda view: view.flop(view.latest)),
)  # fmt: skip
"""The columns of the page, the Markdown and the exports."""


def column(key: str) -> Column:
    """Return a column by its key."""
    return next(c for c in COLUMNS if c.key == key)
