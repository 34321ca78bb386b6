"""Compute the numbers of an entry's row from its summary alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from lmcbench.leaderboard.headline import HEADLINE_FORK, NO_SHIFT
from lmcbench.leaderboard.summary import Place, Summary, Values
from lmcbench.results.cell_values import SPLIT
from lmcbench.spec.forks import EQUAL_COST, INDEPENDENT
from lmcbench.spec.suite import Suite
from lmcbench.stats.cells import Line
from lmcbench.stats.estimates import Estimate, estimate
from lmcbench.stats.stability import Stability

CONNECTIVITY = "connectivity"

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
        epochs = [(p.epoch, p.fork) for _, p in self.entry.places if p.epoch is not None]
        return max(epochs)[1] if epochs else None

    def barrier(self, name: str) -> Series:
        """Return a field of `Barrier` on the test split, of siblings that fork at initialisation."""
        return self._mean(HEADLINE_FORK, lambda place: place.barriers[name])

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


def _over_plain(view: View, name: str) -> Series:
    return minus(view.barrier(name), _plain(view).barrier(name))


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
    return columns


COLUMNS: tuple[Column, ...] = (
    Column(CONNECTIVITY, "barriers", "connectivity", "points", "lower",
           "Error barrier halfway between siblings that fork at initialisation, under training shift: chord "
           "form, signed, test split, mean over the suite's training shifts. Ranks are by it; it says "
           "nothing of accuracy.",
           lambda view: view.barrier("error_mid")),
    Column("barrier_none", "barriers", "no shift", "points", "lower",
           "The same without training shift.", lambda view: _plain(view).barrier("error_mid")),
    Column("barrier_difference", "barriers", "shift − none", "points", "lower",
           "What the shift adds: the first minus the second, paired by replicate.",
           lambda view: _over_plain(view, "error_mid")),
    Column("chord_form", "forms", "highest point", "points", "lower",
           "Error barrier at the highest point of the curve (chord form), under training shift, as claimed.",
           lambda view: view.barrier("error_chord")),
    Column("mean_form", "forms", "mean form", "points", "lower",
           "Error barrier over the mean of both ends (mean form), under training shift.",
           lambda view: view.barrier("error_mean")),
    Column("mean_form_none", "forms", "mean form, no shift", "points", "lower",
           "The same without training shift.", lambda view: _plain(view).barrier("error_mean")),
    Column("mean_form_difference", "forms", "mean form, shift − none", "points", "lower",
           "The mean form with shift minus that without, paired by replicate.",
           lambda view: _over_plain(view, "error_mean")),
    Column("floor", "forms", "floor", "points", None,
           "Half the difference between both ends' errors, which the mean form cannot fall below.",
           lambda view: view.barrier("error_floor")),
    Column("disagreement", "barriers", "disagreement", "percent", None,
           "Test images on which two siblings' top-1 differ, fork at initialisation.",
           lambda view: view.worth("disagreement", HEADLINE_FORK)),
    Column("accuracy", "barriers", "accuracy", "percent", "higher",
           "Mean test accuracy of the siblings that connectivity is of; a rank needs the suite's floor.",
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
