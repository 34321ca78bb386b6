"""The tables of a suite file: data, protocol, training shifts and probe cells, each valid by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from lmcbench.spec.forks import Fork
from lmcbench.spec.shifts import HOW_TO_NAME_DOMAINS, Noise, Shift

MAX_HELD_OUT = 10_000
"""Most domains that a suite holds out."""

COUNT = 10**9
"""Largest number of images, epochs and the like."""


class SuiteTable(BaseModel):
    """A table of a suite file. It is frozen and rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataSpec(SuiteTable):
    """The data set of a suite: its name in the table of sources, and the part that is used."""

    name: str
    train_sha256: str | None = Field(default=None, description="expected sha256 of the split as used")
    test_sha256: str | None = Field(default=None, description="expected sha256 of the split as used")
    shifted_sha256: dict[str, str] = Field(
        default_factory=dict, description="expected sha256 of shifted test sets, by evaluation shift"
    )
    train_size: int | None = Field(default=None, ge=1, le=COUNT, description="images, stratified; null: all")
    test_size: int | None = Field(default=None, ge=1, le=COUNT, description="images, stratified; null: all")
    resplit_test: int | None = Field(
        default=None,
        ge=1,
        le=COUNT,
        description="images to test on, stratified over all images of both splits; the others are trained "
        "on; null: the data set's own splits",
    )
    image_size: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="side in pixels to which a user's images are resized and cropped; null: not resized",
    )
    holdout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the training set that replaces the test set, for tuning",
    )
    domain: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description='column with the domain of each image; "folder": folders DOMAIN/CLASS; null: no domains',
    )
    hold_out: list[str] = Field(
        default_factory=list,
        max_length=MAX_HELD_OUT,
        description="domains that are neither trained on nor in the test set; 'domain:NAME' tests on them",
    )

    @model_validator(mode="after")
    def _has_domains(self) -> DataSpec:
        if self.hold_out and self.domain is None:
            raise ValueError(f"hold_out needs data with domains. {HOW_TO_NAME_DOMAINS}")
        check_unique("domain of hold_out", iter(self.hold_out))
        return self

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # a dict field is not hashable


class Protocol(SuiteTable):
    """How curves are measured (docs/design.md, section 3)."""

    alphas: int = Field(default=21, ge=3, le=10_001, description="number of points on the line, odd")
    calibration: int = Field(default=1000, ge=2, le=COUNT, description="images for normalisation statistics")
    calibration_batches: int = Field(
        default=1, ge=1, le=COUNT, description="number of batches of these images"
    )
    train_eval: int | None = Field(
        default=None,
        ge=1,
        le=COUNT,
        description="number of training items, stratified, for train curves; more if a view would have "
        "fewer than 10 of them; null: all",
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


def _fork(value: Any) -> Any:
    if Fork.parse(value).checkpoint is not None:
        raise ValueError("a suite cannot contain a checkpoint; give it to a run: --fork from:FILE")
    return value


ForkList = Annotated[
    list[Annotated[str | int | float, BeforeValidator(_fork)]], Field(min_length=1, max_length=1000)
]


class ShiftSpec(SuiteTable):
    """A training shift of a suite: a name, or a table with parameters, noise mode and forks of its own."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)
    noise: Noise = "own"
    forks: ForkList | None = Field(
        default=None, description="in place of the suite's forks, comparators included; null: the suite's"
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known(self) -> ShiftSpec:
        self.shift  # noqa: B018  (parsing validates)
        check_unique(f"fork of shift {self.name}", (f.name for f in self.fork_list or []))
        return self

    @property
    def shift(self) -> Shift:
        """The shift with all its parameters."""
        return Shift.parse(self.name, self.params, self.noise)

    @property
    def fork_list(self) -> list[Fork] | None:
        """The forks of its own, parsed."""
        return None if self.forks is None else [Fork.parse(fork) for fork in self.forks]

    def definition(self) -> dict[str, Any]:
        """Return the shift as in digests: without defaults."""
        forks = self.fork_list
        return self.shift.definition() | ({} if forks is None else {"forks": [f.name for f in forks]})


class Probe(SuiteTable):
    """The cells with analyses: snapshots of their siblings are stored during training."""

    shifts: list[str] = Field(default_factory=list, description="names of training shifts; all forks")
    replicates: int = Field(default=1, ge=1, le=COUNT, description="number of replicates, from 0")
    images: int = Field(
        default=500, ge=2, le=COUNT, description="images of each of training and test set, stratified"
    )
    snapshots: int = Field(
        default=12, ge=1, le=COUNT, description="maximal number of snapshots of a sibling after its first"
    )

    def logged(self, start: int, length: int, per_epoch: int) -> list[int]:
        """Return the steps of the snapshots of siblings: `start` and evenly spaced ends of epochs.

        The last step, `length`, is not included, because trained siblings are always stored.
        """
        ends = range((start // per_epoch + 1) * per_epoch, length, per_epoch)
        return [start, *ends[:: max(1, -(-len(ends) // self.snapshots))]]


def check_unique(kind: str, names: Iterator[str]) -> None:
    """Raise `ValueError` if a name occurs twice; `kind` says what they are names of."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{kind} {name!r} is listed twice")
        seen.add(name)
