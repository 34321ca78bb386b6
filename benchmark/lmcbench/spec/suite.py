"""The suite: definition and validation of a benchmark, written as one TOML file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from lmcbench.errors import printable, unknown
from lmcbench.spec.architectures import Architecture
from lmcbench.spec.canonical import digest
from lmcbench.spec.evaluation_shifts import (
    check_evaluations,
    has_own_images,
    is_domain,
    is_shifted,
    parse_shifted,
    parse_transform,
)
from lmcbench.spec.forks import EQUAL_COST, WHOLE_BUDGET, Fork
from lmcbench.spec.gate_tests import MAX_TESTS, GateTest
from lmcbench.spec.recipe import Recipe
from lmcbench.spec.shifts import HOW_TO_NAME_DOMAINS, Shift
from lmcbench.spec.suite_tables import (
    COUNT,
    DataSpec,
    ForkList,
    Probe,
    Protocol,
    ShiftSpec,
    SuiteTable,
    check_unique,
)
from lmcbench.spec.sweep import TUNED, Sweep

DEMONSTRATIONS = frozenset({"digits", "noise-grid"})
"""Suites whose networks or recipes were chosen to make effects visible: their results are not evidence."""

SLUG = r"^[a-z0-9][a-z0-9-]{0,99}$"

MAX_CELLS = 200_000
"""Most cells of a suite or a run: a typing error would fill the memory with them."""


def _evaluation(name: str) -> str:
    if is_shifted(name):
        parse_shifted(name)
    elif not is_domain(name):
        parse_transform(name)
    return name


def _normalise_evaluation(name: str) -> str:
    """Return the same text for every spelling of an evaluation shift: `rotate-15` for `rotate-15.0`."""
    if has_own_images(name):
        return name
    parsed = parse_transform(name)
    amount = parsed.amount
    text = "+".join(map(str, amount)) if isinstance(amount, tuple) else f"{float(amount)}".removesuffix(".0")
    return f"{parsed.kind}-{text}"


class Suite(SuiteTable):
    """Architectures, training shifts, forks and replicates on one data set, and how they are measured."""

    name: str = Field(pattern=SLUG)
    version: int = Field(ge=1, le=COUNT)
    description: str
    citation: str = ""
    cost: str = Field(default="", description="measured time and the machine")
    data: DataSpec
    recipes: dict[str, Recipe] = Field(min_length=1)
    sweep: Sweep | None = Field(default=None, description="settings that 'lmcbench tune' compares")
    architectures: list[Architecture] = Field(min_length=1)
    shifts: list[ShiftSpec] = Field(min_length=1)
    forks: ForkList
    comparator_shifts: list[str] | None = Field(
        default=None,
        min_length=1,
        description="names of training shifts with cost-matched comparators; null: all",
    )
    evaluations: list[Annotated[str, AfterValidator(_evaluation)]] = Field(
        default_factory=list,
        description="evaluation shifts: transforms of the test set, or shifted test sets",
    )
    siblings: int = Field(default=2, ge=2, le=100, description="K, siblings per cell")
    replicates: int = Field(default=3, ge=1, le=COUNT)
    protocol: Protocol = Protocol()
    probe: Probe = Probe()
    floor: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description='mean member accuracy required for a rank; in the file also "baseline+x", a number x '
        "above baseline_accuracy",
    )
    baseline_accuracy: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="test accuracy of the convex baseline without shift, as 'lmcbench calibrate' measures it",
    )
    gate: list[GateTest] = Field(
        default_factory=list, max_length=MAX_TESTS, description="tests of 'lmcbench compare'"
    )

    @model_validator(mode="before")
    @classmethod
    def _floor_above_baseline(cls, table: Any) -> Any:
        """Replace a floor of the form "baseline+x" by its number."""
        floor = table.get("floor") if isinstance(table, dict) else None
        if not isinstance(floor, str):
            return table
        added = re.fullmatch(r"baseline\+(0|0?\.\d{1,6})", floor)
        if added is None:
            raise ValueError(f'floor: write a number or "baseline+0.01" (found {printable(floor)!r})')
        baseline = table.get("baseline_accuracy")
        if not isinstance(baseline, int | float):
            raise ValueError(
                "floor: baseline_accuracy is missing. Set a number as floor, measure the baseline's accuracy "
                "with 'lmcbench calibrate', and store it in the file"
            )
        return {**table, "floor": min(round(baseline + float(added[1]), 12), 1.0)}

    @model_validator(mode="after")
    def _agree(self) -> Suite:
        # before anything is combined; comparators may be under fewer shifts
        places = sum(len(self.forks if spec.forks is None else spec.forks) for spec in self.shifts)
        cells = len(self.architectures) * places * self.replicates
        if cells > MAX_CELLS:
            raise ValueError(
                f"has {cells:,} cells (architectures x shifts x forks x replicates); at most {MAX_CELLS:,} "
                "are allowed"
            )
        if TUNED in self.recipes:
            raise ValueError(f"recipes: the name {TUNED!r} is reserved for the choice of 'lmcbench tune'")
        for architecture in self.architectures:
            if architecture.recipe not in self.recipes:
                raise ValueError(
                    f"architecture {architecture.name!r} asks for recipe {architecture.recipe!r}, "
                    f"but the suite has {', '.join(sorted(self.recipes))}"
                )
        check_unique("architecture", (f"{a.label} with {a.recipe}" for a in self.architectures))
        check_unique("shift", (s.shift.label for s in self.shifts))
        check_unique("evaluation shift", map(_normalise_evaluation, self.evaluations))
        check_evaluations(self.evaluations, self.data.name)
        for name in self.data.shifted_sha256:
            if not has_own_images(name) or name not in self.evaluations:
                raise ValueError(
                    f"data: {name!r} has an expected sha256, but is not a shifted test set of the suite"
                )
        if self.data.domain is None:
            named = [f"shift {s.shift.label}" for s in self.shifts if s.shift.needs_domains]
            named += [f"evaluation shift {name}" for name in self.evaluations if is_domain(name)]
            if named:
                raise ValueError(f"{named[0]} needs data with domains. {HOW_TO_NAME_DOMAINS}")
        check_unique("fork", (Fork.parse(f).name for f in self.forks))
        check_unique("gate measure", (test.measure for test in self.gate))
        labels, forks = [s.shift.label for s in self.shifts], [f.name for f in self.fork_list]
        for test in self.gate:
            for kind, named, known in (("shift", test.shifts, labels), ("fork", test.forks, forks)):
                for name in named:
                    if name not in known:
                        raise unknown(f"{kind} of the gate", name, known)
        compared = self.comparator_shifts or []
        for part, named in (("probe", self.probe.shifts), ("comparator_shifts", compared)):
            for shift in named:
                if shift not in labels:
                    raise ValueError(f"{part}: the suite has no shift {shift!r}; it has {', '.join(labels)}")
        for spec in self.shifts:
            if spec.shift.has_own_statistics and spec.shift.label in self.probe.shifts:
                raise ValueError(
                    f"probe: analyses need one standardisation of the images, which {spec.shift.label!r} "
                    "has not; drop it from the probe"
                )
        check_unique("shift of the comparators", iter(compared))
        for spec in self.shifts:
            if spec.forks is not None and spec.shift.label in compared:
                raise ValueError(
                    f"comparator_shifts: {spec.shift.label!r} has forks of its own; list comparators there"
                )
        if compared and not any(fork.is_cost_matched for fork in self.fork_list):
            raise ValueError(
                f"comparator_shifts: no fork is {EQUAL_COST!r} or {WHOLE_BUDGET!r}; list one or drop this key"
            )
        for test in self.gate:
            if not any(
                (not test.shifts or shift.label in test.shifts)
                and (not test.forks or fork.name in test.forks)
                for shift, fork in self.conditions
            ):
                raise ValueError(
                    f"gate: {test.measure} has no cell, because fork {' and '.join(test.forks)} is not under "
                    f"{', '.join(test.shifts)} (comparator_shifts, or forks of a shift)"
                )
        for fork in self.fork_list:
            for name, recipe in self.recipes.items():
                if fork.epoch is not None and fork.epoch >= recipe.epochs:
                    raise ValueError(f"fork {fork.name} is not before the end of recipe {name!r}")
            if self.sweep is not None and fork.epoch is not None and fork.epoch >= self.sweep.epochs:
                raise ValueError(f"fork {fork.name} is not before the end of training in the sweep")
            if fork.is_cost_matched and not self.trunk_forks:
                raise ValueError(
                    f"fork {fork.name!r} has the cost of the latest fork of a trunk; list an epoch or a "
                    "share of training as well"
                )
        return self

    @property
    def fork_list(self) -> list[Fork]:
        """All forks, parsed: the suite's, then further ones of single shifts."""
        own = (fork for spec in self.shifts for fork in spec.forks or [])
        return list(dict.fromkeys(Fork.parse(fork) for fork in (*self.forks, *own)))

    @cached_property
    def conditions(self) -> list[tuple[Shift, Fork]]:
        """Training shift and fork of every cell of one architecture and replicate."""
        return self.conditions_of([spec.shift for spec in self.shifts], self.fork_list)

    def conditions_of(self, shifts: Iterable[Shift], forks: Iterable[Fork]) -> list[tuple[Shift, Fork]]:
        """Return the combinations of `shifts` and `forks` that are cells; a given checkpoint is always one.

        A shift has the forks of its own, or those of the suite: then cost-matched comparators only if it is
        one of the suite's `comparator_shifts`.
        """
        forks, common = list(forks), [Fork.parse(fork) for fork in self.forks]
        under = self.comparator_shifts
        of_shift = {
            spec.shift.label: [
                fork
                for fork in common
                if under is None or not fork.is_cost_matched or spec.shift.label in under
            ]
            if spec.fork_list is None
            else spec.fork_list
            for spec in self.shifts
        }
        return [
            (shift, fork)
            for shift in shifts
            for fork in forks
            if fork.checkpoint is not None or fork in of_shift[shift.label]
        ]

    @property
    def trunk_forks(self) -> list[Fork]:
        """The forks of the trunk; the latest sets the length of cost-matched comparators."""
        return [fork for fork in self.fork_list if fork.has_trunk]

    def with_tuned(self, recipe: Recipe) -> Suite:
        """Return the suite with `recipe`, the choice of 'lmcbench tune' for a network, under the name TUNED.

        The digest stays; keys of cells contain the recipe's settings instead of its name.
        """
        return self.model_copy(update={"recipes": {**self.recipes, TUNED: recipe}})

    @cached_property
    def tuning_digest(self) -> str:
        """The sha256 of what the results of 'lmcbench tune' depend on: seeds, training data and sweep.

        It stays when recipes, shifts or forks change, so that a suite's own recipes can be the choice of its
        sweep.
        """
        data = self.data.model_dump(mode="json", exclude_defaults=True)
        return digest(
            {
                "name": self.name,
                "version": self.version,
                "data": {
                    k: v for k, v in data.items() if k not in ("test_sha256", "test_size", "shifted_sha256")
                },
                "sweep": None
                if self.sweep is None
                else self.sweep.model_dump(mode="json", exclude_defaults=True),
            }
        )

    def identity(self) -> dict[str, Any]:
        """Return the suite as in records and run folders."""
        return {"name": self.name, "version": self.version, "digest": self.digest}

    @cached_property
    def digest(self) -> str:
        """The sha256 of the fields that change numbers, defaults omitted (docs/design.md, section 4).

        It includes name and version, because seeds are derived from them.
        """
        fields = {"name", "version", "data", "recipes", "evaluations", "siblings", "protocol"}
        content = self.model_dump(mode="json", include=fields, exclude_defaults=True)
        content["recipes"].pop(TUNED, None)  # of one network, by a tuning file: part of keys instead
        if self.sweep is not None:
            content["sweep"] = self.sweep.model_dump(mode="json", exclude_defaults=True)
        content["shifts"] = [spec.definition() for spec in self.shifts]
        content["forks"] = [Fork.parse(fork).name for fork in self.forks]
        if self.comparator_shifts is not None:
            content["comparator_shifts"] = sorted(self.comparator_shifts)
        return digest(content)
