"""Summarize a submission's records: everything that the leaderboard shows of it.

Values that are compared are stored per replicate, because entries share seeds; curves are averaged. Sums are
exact (`math.fsum`) and numbers rounded to `DIGITS` decimals, so that every machine writes the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lmcbench.errors import UserError
from lmcbench.results.cell_values import SPLIT, cell_value
from lmcbench.results.frame import build_frame
from lmcbench.results.record import Record, Status
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.evaluation_shifts import EVALUATION
from lmcbench.spec.forks import Fork
from lmcbench.stats.cells import Line, is_control, line_of, prediction
from lmcbench.stats.estimates import estimate
from lmcbench.stats.stability import stability_points

SCHEMA: Literal["lmcbench/summary/1"] = "lmcbench/summary/1"
DIGITS = 9
BARRIERS = tuple(
    f"{kind}_{form}"
    for kind in ("error", "loss")
    for form in ("chord", "chord_interior", "mid", "mean", "floor")
)
"""The fields of `Barrier` in a summary."""

Values = list[float | None]
"""One value per replicate of a place; null: diverged, failed or not measured."""

Kind = Literal["none", "control", "shift"]


class Part(BaseModel):
    """A part of a summary; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Worth(Part):
    """Accuracies and disagreement on one split, fractions."""

    member: Values = Field(description="accuracy, mean over the siblings (or of the one network)")
    ensemble: Values = Field(description="accuracy")
    soup: Values = Field(description="accuracy")
    disagreement: Values = Field(description="mean over pairs")


class Band(Part):
    """A curve on the test split, averaged over pairs and then over replicates, one value per alpha."""

    mean: list[float]
    half: list[float] | None = Field(description="half-width of the 95 % t interval; null for one replicate")


class Place(Part):
    """All replicates of one training shift and fork."""

    fork: str
    epoch: float | None = Field(description="of the trunk; null: a comparator or a given checkpoint")
    replicates: list[int]
    status: list[Status]
    barriers: dict[str, Values] = Field(description="test split, mean over pairs; keys: `BARRIERS`")
    worth: dict[str, Worth] = Field(description="by split: test, and every evaluation shift")
    flop: Values = Field(description="training FLOPs of the cell, its trunk included")
    curves: dict[str, Band] = Field(description="error (fractions) and loss (nats); empty without pairs")


class Shifted(Part):
    """One training shift: the measures at each fork, and the stability points."""

    kind: Kind = Field(description="none; a control, whose siblings share one view; or a shift")
    places: list[Place] = Field(description="epochs first, then checkpoints, then comparators")
    onsets: dict[int, float | None] = Field(
        description="stability point by replicate, as share of training; null: never connected"
    )

    def place(self, fork: str) -> Place | None:
        """Return the measures at a fork; None if there are none."""
        return next((p for p in self.places if p.fork == fork), None)


class Network(Part):
    """The network, as in its records."""

    label: str
    name: str
    source: str
    fingerprint: str
    params: int | None


class SuiteId(Part):
    """The suite, by name and digest."""

    name: str
    version: int
    digest: str


class Summary(Part):
    """What the leaderboard shows of one submission, derived from its records alone.

    `submission_sha256` is that of `submission.toml`, which names the sha256 of the records.
    """

    schema_: Literal["lmcbench/summary/1"] = Field(default=SCHEMA, alias="schema")
    slug: str
    submission_sha256: str
    suite: SuiteId
    network: Network
    recipe: dict[str, Any]
    alphas: list[float]
    shifts: dict[str, Shifted] = Field(description="by label")

    def to_json(self) -> str:
        """Return canonical JSON, the same bytes on every machine."""
        return canonical_json(self.model_dump(by_alias=True, mode="json")) + "\n"

    @cached_property
    def places(self) -> list[tuple[str, Place]]:
        """The label of a shift with each of its places."""
        return [(label, place) for label, shifted in self.shifts.items() for place in shifted.places]

    @cached_property
    def replicates(self) -> list[int]:
        """Replicates with any record."""
        return sorted({r for _, place in self.places for r in place.replicates})

    def count(self, status: Status) -> int:
        """Return the number of cells of a status."""
        return sum(place.status.count(status) for _, place in self.places)

    def labels(self, kind: Kind) -> list[str]:
        """Return the training shifts of a kind."""
        return [label for label, shifted in self.shifts.items() if shifted.kind == kind]

    @cached_property
    def evaluations(self) -> list[str]:
        """Splits of evaluation shifts that any cell was measured on."""
        splits = {split for _, place in self.places for split in place.worth}
        return sorted(split for split in splits if split.startswith(EVALUATION))


def read_summary(content: bytes) -> Summary | None:
    """Return a summary from its JSON; None if it is damaged or of another schema, and must be recomputed."""
    try:
        return Summary.model_validate_json(content)
    except ValidationError:
        return None


def summarize(slug: str, submission_sha256: str, records: Iterable[Record]) -> Summary:
    """Return the summary of a submission.

    Args:
        slug: the submission's folder.
        submission_sha256: of its `submission.toml`.
        records: all of one suite, architecture and recipe, in any order.

    Raises:
        UserError: if they are not, or there are none.
    """
    records = sorted(records, key=lambda r: (Fork.parse(r.fork.name).order, r.replicate, r.key))
    if not records:
        raise UserError(f"Submission {slug} has no records.")
    lines = {r.key: line_of(r) for r in records}
    named = {
        (*_suite(r), lines[r.key].architecture, r.architecture.fingerprint, lines[r.key].recipe)
        for r in records
    }
    if len(named) > 1:
        listed = "; ".join(
            f"{suite} v{version} ({digest[:12]}), {architecture}, {recipe}"
            for suite, version, digest, architecture, _, recipe in sorted(named)
        )
        raise UserError(
            f"Submission {slug} contains more than one entry: {listed}. "
            "An entry is one architecture with one recipe on one suite; submit each by itself."
        )
    one = records[0]
    onsets = {found.line: found.points for found in stability_points(build_frame(records))}
    by_line: dict[Line, dict[str, list[Record]]] = {}
    for record in records:
        by_line.setdefault(lines[record.key], {}).setdefault(record.fork.name, []).append(record)
    shifts = {}
    for line, forks in sorted(by_line.items()):
        found = onsets.get(line, {})
        shifts[line.shift] = Shifted(
            kind=_kind(next(iter(forks.values()))[0]),
            places=[_place(held) for held in forks.values()],
            onsets={r: None if onset is None else _round(onset) for r, onset in found.items()},
        )
    return Summary(
        slug=slug,
        submission_sha256=submission_sha256,
        suite=SuiteId(**one.suite.model_dump(include={"name", "version", "digest"})),
        network=Network(
            label=lines[one.key].architecture,
            **one.architecture.model_dump(include={"name", "source", "fingerprint", "params"}),
        ),
        recipe=one.recipe,
        alphas=next((r.protocol["alphas"] for r in records if r.pairs), []),
        shifts=shifts,
    )


def _suite(record: Record) -> tuple[str, int, str]:
    return record.suite.name, record.suite.version, record.suite.digest


def _kind(record: Record) -> Kind:
    if record.shift.name == "none":
        return "none"
    return "control" if is_control(record) else "shift"


def _place(records: Sequence[Record]) -> Place:
    """Summarize the records of one shift and fork, ordered by replicate."""

    def values(of: Callable[[Record], float | None]) -> Values:
        found = [of(r) if r.status == "ok" else None for r in records]
        return [None if value is None else _round(value) for value in found]

    splits = {split for r in records for sibling in r.siblings for split in sibling.splits}
    worth = {
        split: Worth(
            member=values(lambda r, s=split: _member(r, s)),  # type: ignore[misc]
            ensemble=values(lambda r, s=split: prediction(r, "ensemble_accuracy", s)),  # type: ignore[misc]
            soup=values(lambda r, s=split: _soup(r, s)),  # type: ignore[misc]
            disagreement=values(lambda r, s=split: _disagreement(r, s)),  # type: ignore[misc]
        )
        for split in sorted(splits)
        if split == SPLIT or split.startswith(EVALUATION)
    }
    return Place(
        fork=records[0].fork.name,
        epoch=records[0].fork.epoch,
        replicates=[r.replicate for r in records],
        status=[r.status for r in records],
        barriers={name: values(lambda r, n=name: cell_value(r, n)) for name in BARRIERS},  # type: ignore[misc]
        worth=worth,
        flop=values(lambda r: None if r.cost is None else r.cost.train_flop),
        curves=_curves([r for r in records if r.status == "ok" and r.pairs]),
    )


def _curves(records: Sequence[Record]) -> dict[str, Band]:
    curves = {}
    for kind in ("error", "loss"):
        lines = [[getattr(p.curves[SPLIT], kind) for p in r.pairs if SPLIT in p.curves] for r in records]
        own = [[_mean(points) for points in zip(*pairs, strict=True)] for pairs in lines if pairs]
        if own:
            estimates = [estimate(points) for points in zip(*own, strict=True)]
            halves = [e.half_width for e in estimates if e.half_width is not None]
            curves[kind] = Band(
                mean=[_round(e.mean) for e in estimates if e.mean is not None],
                half=[_round(half) for half in halves] if halves else None,
            )
    return curves


def _member(record: Record, split: str) -> float | None:
    found = prediction(record, "accuracy_mean", split)
    if found is not None:
        return found
    scores = [s.splits[split].error for s in record.siblings if split in s.splits]
    return 1 - _mean(scores) if scores else None


def _soup(record: Record, split: str) -> float | None:
    score = (record.soup or {}).get(split)
    return None if score is None else 1 - score.error


def _disagreement(record: Record, split: str) -> float | None:
    found = [p.disagreement[split] for p in record.pairs if split in p.disagreement]
    return _mean(found) if found else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _round(value: float) -> float:
    # adding 0.0 turns a rounded -0.0 into 0.0; FLOPs keep all of their digits
    return round(float(value), DIGITS) + 0.0
