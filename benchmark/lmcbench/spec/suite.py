"""A suite: the published definition of what is run, validated from one TOML file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from lmcbench.errors import unknown
from lmcbench.spec.architectures import Architecture
from lmcbench.spec.canonical import digest
from lmcbench.spec.evaluation_shifts import check_evaluations, is_shifted, parse_shifted, parse_transform
from lmcbench.spec.forks import EQUAL_COST, WHOLE_BUDGET, Fork
from lmcbench.spec.gate_tests import MAX_TESTS, GateTest
from lmcbench.spec.recipe import Recipe
from lmcbench.spec.shifts import Noise, Shift

DEMONSTRATIONS = frozenset({"digits", "noise-grid"})
"""Suites whose recipes were chosen to make effects visible: they are no evidence (design 3.12)."""

SLUG = r"^[a-z0-9][a-z0-9-]*$"


class SuiteTable(BaseModel):
    """A table of a suite file: frozen, and every key must be known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataSpec(SuiteTable):
    """The data set of a suite, by its name in the table of sources, and how much of it is used."""

    name: str
    train_sha256: str | None = Field(default=None, description="of the split as used; others are refused")
    test_sha256: str | None = Field(default=None, description="of the split as used; others are refused")
    shifted_sha256: dict[str, str] = Field(
        default_factory=dict, description="of shifted test sets, by evaluation shift; others are refused"
    )
    train_size: int | None = Field(default=None, ge=1, description="images, stratified; null: all")
    test_size: int | None = Field(default=None, ge=1, description="images, stratified; null: all")
    holdout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the training set that replaces the test set, for tuning",
    )

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # a table of hashes has none of its own


class Protocol(SuiteTable):
    """How curves are measured (design section 3)."""

    alphas: int = Field(default=21, ge=3, description="odd number of points on the line")
    calibration: int = Field(default=1000, ge=2, description="images for normalisation statistics")
    calibration_batches: int = Field(default=1, ge=1, description="batches they are passed in")
    train_eval: int | None = Field(
        default=None,
        ge=1,
        description="training items, stratified, that train curves are taken on, and more where a view "
        "would have fewer than 10 among them; null: all",
    )

    @field_validator("alphas")
    @classmethod
    def _odd(cls, alphas: int) -> int:
        if alphas % 2 == 0:
            raise ValueError("must be odd, so that alpha = 1/2 is on the grid")
        return alphas

    @property
    def grid(self) -> list[float]:
        """The alphas, evenly spaced from 0 to 1."""
        return [i / (self.alphas - 1) for i in range(self.alphas)]


class ShiftSpec(SuiteTable):
    """A training shift of a suite: a bare name, or a table with parameters and noise mode."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)
    noise: Noise = "own"

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known(self) -> ShiftSpec:
        self.shift  # noqa: B018  (parsing is the check)
        return self

    @property
    def shift(self) -> Shift:
        """The shift with all its parameters."""
        return Shift.parse(self.name, self.params, self.noise)


class Probe(SuiteTable):
    """The cells whose siblings are kept on their way and can be asked for the expensive measures."""

    shifts: list[str] = Field(default_factory=list, description="training shifts, by name; all forks")
    replicates: int = Field(default=1, ge=1, description="the first so many")
    images: int = Field(default=500, ge=2, description="of training and test set each, stratified")
    snapshots: int = Field(default=12, ge=1, description="at most so many states of a sibling on its way")

    def logged(self, start: int, length: int, per_epoch: int) -> list[int]:
        """The steps at which siblings that start at `start` are kept: there, and at ends of epochs.

        The last step, `length`, is not among them: the trained siblings are kept anyway.
        """
        ends = range((start // per_epoch + 1) * per_epoch, length, per_epoch)
        return [start, *ends[:: max(1, -(-len(ends) // self.snapshots))]]


def _fork(value: Any) -> Any:
    if Fork.parse(value).checkpoint is not None:
        raise ValueError("a checkpoint is given to a run: --fork from:FILE.safetensors")
    return value


def _evaluation(name: str) -> str:
    if is_shifted(name):
        parse_shifted(name)
    else:
        parse_transform(name)
    return name


def _spelled_out(name: str) -> str:
    """One text for every spelling of an evaluation shift: `rotate-15` for `rotate-15.0` too."""
    if is_shifted(name):
        return name
    parsed = parse_transform(name)
    amount = parsed.amount
    text = "+".join(map(str, amount)) if isinstance(amount, tuple) else f"{float(amount)}".removesuffix(".0")
    return f"{parsed.kind}-{text}"


class Suite(SuiteTable):
    """Architectures x training shifts x forks x replicates on one data set, and the rules of measuring."""

    name: str = Field(pattern=SLUG)
    version: int = Field(ge=1)
    description: str
    citation: str = ""
    cost: str = Field(default="", description="expected time, with the machine it was measured on")
    data: DataSpec
    recipes: dict[str, Recipe] = Field(min_length=1)
    architectures: list[Architecture] = Field(min_length=1)
    shifts: list[ShiftSpec] = Field(min_length=1)
    forks: list[Annotated[str | int | float, BeforeValidator(_fork)]] = Field(min_length=1)
    comparator_shifts: list[str] | None = Field(
        default=None,
        min_length=1,
        description="training shifts, by name, under which the comparators of cost are trained; null: all",
    )
    evaluations: list[Annotated[str, AfterValidator(_evaluation)]] = Field(
        default_factory=list,
        description="evaluation shifts: transforms of the test set, or test sets that are shifted in truth",
    )
    siblings: int = Field(default=2, ge=2, description="K, siblings per cell")
    replicates: int = Field(default=3, ge=1)
    protocol: Protocol = Protocol()
    probe: Probe = Probe()
    floor: float = Field(default=0.0, ge=0, le=1, description="mean member accuracy needed for a rank")
    gate: list[GateTest] = Field(
        default_factory=list, max_length=MAX_TESTS, description="headline tests of 'lmcbench compare'"
    )

    @model_validator(mode="after")
    def _agree(self) -> Suite:
        for architecture in self.architectures:
            if architecture.recipe not in self.recipes:
                raise ValueError(
                    f"architecture {architecture.name!r} asks for recipe {architecture.recipe!r}, "
                    f"but the suite has {', '.join(sorted(self.recipes))}"
                )
        _unique("architecture", (f"{a.label} with {a.recipe}" for a in self.architectures))
        _unique("shift", (s.shift.label for s in self.shifts))
        _unique("evaluation shift", map(_spelled_out, self.evaluations))
        check_evaluations(self.evaluations, self.data.name)
        for name in self.data.shifted_sha256:
            if not is_shifted(name) or name not in self.evaluations:
                raise ValueError(
                    f"data: {name!r} is pinned, but is no shifted test set among the evaluations"
                )
        _unique("fork", (f.name for f in self.fork_list))
        _unique("gate measure", (test.measure for test in self.gate))
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
        _unique("shift of the comparators", iter(compared))
        if compared and not any(fork.is_cost_matched for fork in self.fork_list):
            raise ValueError(
                f"comparator_shifts: no fork is {EQUAL_COST!r} or {WHOLE_BUDGET!r}; list one, or leave it out"
            )
        for test in self.gate:
            if not any(
                (not test.shifts or shift.label in test.shifts)
                and (not test.forks or fork.name in test.forks)
                for shift, fork in self.conditions
            ):
                raise ValueError(
                    f"gate: {test.measure} is tested on fork {' and '.join(test.forks)} under "
                    f"{', '.join(test.shifts)}, where comparator_shifts leaves no cell"
                )
        for fork in self.fork_list:
            for name, recipe in self.recipes.items():
                if fork.epoch is not None and fork.epoch >= recipe.epochs:
                    raise ValueError(f"fork {fork.name} is not before the end of recipe {name!r}")
            if fork.is_cost_matched and self.latest_fork is None:
                raise ValueError(
                    f"fork {fork.name!r} costs what siblings of the latest epoch do; list an epoch"
                )
        return self

    @property
    def fork_list(self) -> list[Fork]:
        """The forks, parsed."""
        return [Fork.parse(fork) for fork in self.forks]

    @cached_property
    def conditions(self) -> list[tuple[Shift, Fork]]:
        """Training shift and fork of every cell of an architecture and replicate."""
        return self.conditions_of([spec.shift for spec in self.shifts], self.fork_list)

    def conditions_of(self, shifts: Iterable[Shift], forks: Iterable[Fork]) -> list[tuple[Shift, Fork]]:
        """Every shift with every fork, but comparators of cost only where the suite has them."""
        under, forks = self.comparator_shifts, list(forks)
        return [
            (shift, fork)
            for shift in shifts
            for fork in forks
            if under is None or not fork.is_cost_matched or shift.label in under
        ]

    @property
    def latest_fork(self) -> Fork | None:
        """The latest fork of the trunk, by which comparators of equal cost are priced (design 3.10)."""
        forks = [fork for fork in self.fork_list if fork.epoch is not None]
        return max(forks, key=lambda fork: fork.order) if forks else None

    def identity(self) -> dict[str, Any]:
        """The suite as records and run folders hold it."""
        return {"name": self.name, "version": self.version, "digest": self.digest}

    @cached_property
    def digest(self) -> str:
        """Sha256 of what changes numbers, non-default fields only (design section 4).

        Name and version are in it because every seed is derived from them.
        """
        fields = {"name", "version", "data", "recipes", "evaluations", "siblings", "protocol"}
        content = self.model_dump(mode="json", include=fields, exclude_defaults=True)
        content["shifts"] = [spec.shift.definition() for spec in self.shifts]
        content["forks"] = [fork.name for fork in self.fork_list]
        if self.comparator_shifts is not None:
            content["comparator_shifts"] = sorted(self.comparator_shifts)
        return digest(content)


def _unique(kind: str, names: Iterator[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{kind} {name!r} is listed twice")
        seen.add(name)
