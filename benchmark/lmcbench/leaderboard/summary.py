"""Summarize a submission's records: everything that the leaderboard shows of it.

Values that are compared are stored per replicate, because entries share seeds; curves are averaged. Sums are
exact (`math.fsum`) and numbers rounded to `DIGITS` decimals, so that every machine writes the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lmcbench.errors import UserError
from lmcbench.results.cell_values import SPLIT, chance_error
from lmcbench.results.frame import build_frame
from lmcbench.results.instability import separation
from lmcbench.results.record import Record, Status
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.evaluation_shifts import EVALUATION
from lmcbench.stats.cells import LINE, are_controls, average_pairs, control_labels, full_trainings
from lmcbench.stats.estimates import estimate
from lmcbench.stats.stability import stability_points

SCHEMA: Literal["lmcbench/summary/3"] = "lmcbench/summary/3"
DIGITS = 9
BARRIERS = tuple(
    f"{kind}_{form}"
    for kind in ("error", "loss")
    for form in ("chord", "chord_interior", "mid", "mean", "floor")
)
"""The fields of `Barrier` in a summary."""

SCALED = "loss_mid_scaled"
"""The loss barrier at alpha = 1/2 at fitted temperatures, beside the fields of `Barrier`."""

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
    path: Values = Field(description="accuracy of the ensemble of points on the path")
    corrected_gain: Values = Field(description="ensemble less member, without the label priors of the views")
    disagreement: Values = Field(description="mean over pairs")


class Band(Part):
    """A curve on the test split, averaged over pairs and then over replicates, one value per alpha."""

    mean: list[float]
    half: list[float] | None = Field(description="half-width of the 95 % t interval; null for one replicate")


class Place(Part):
    """All replicates of one training shift and fork."""

    fork: str
    share: float | None = Field(
        description="nominal share of training at the fork; null: a comparator or a given checkpoint"
    )
    replicates: list[int]
    status: list[Status]
    barriers: dict[str, Values] = Field(
        description="test split, mean over pairs; keys: `BARRIERS` and `SCALED`"
    )
    worth: dict[str, Worth] = Field(description="by split: test, and every evaluation shift")
    flop: Values = Field(description="training FLOPs of the cell, its trunk included")
    trainings: Values = Field(description="training steps in full trainings of one network, trunk included")
    separation: Values = Field(description="distance between siblings over the distance that both travelled")
    curves: dict[str, Band] = Field(description="error (fractions) and loss (nats); empty without pairs")

    def count(self, status: str) -> int:
        """Return the number of cells of a status."""
        return sum(found == status for found in self.status)


class Shifted(Part):
    """One training shift: the measures at each fork, and the stability points."""

    kind: Kind = Field(description="none; a control, whose siblings share one view; or a shift")
    noise: Literal["own", "shared"]
    control: str | None = Field(description="the label of its control; null: there is none")
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

    schema_: Literal["lmcbench/summary/3"] = Field(default=SCHEMA, alias="schema")
    slug: str
    submission_sha256: str
    suite: SuiteId
    network: Network
    recipe: dict[str, Any]
    alphas: list[float]
    chance: float | None = Field(description="test error of always answering the commonest class")
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

    def count(self, status: str) -> int:
        """Return the number of cells of a status."""
        return sum(place.count(status) for _, place in self.places)

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
    records = list(records)
    if not records:
        raise UserError(f"Submission {slug} has no records.")
    rows = build_frame(records)
    cells = rows.drop_duplicates("key")
    named = cells[NAMED].drop_duplicates().sort_values(NAMED)
    if len(named) > 1:
        listed = "; ".join(
            f"{suite} v{version} ({digest[:12]}), {architecture}, {recipe}"
            for suite, version, digest, architecture, _, recipe in named.itertuples(index=False, name=None)
        )
        raise UserError(
            f"Submission {slug} contains more than one entry: {listed}. "
            "An entry is one architecture with one recipe on one suite; submit each by itself."
        )
    one = records[0]
    by_key = {record.key: record for record in records}
    cells = cells.assign(is_control=are_controls(cells))
    cells = cells.sort_values(["fork_share", "fork", "replicate", "key"])  # without a share last
    onsets: dict[tuple[str, ...], Any] = {found.line: found.points for found in stability_points(rows)}
    controls = control_labels(cells)
    splits = [s for s in rows["split"].dropna().unique() if s == SPLIT or s.startswith(EVALUATION)]
    tables = {split: _measured(rows, split) for split in splits}
    shifts = {}
    groups: Any = cells.groupby(LINE, sort=True)
    for line, group in groups:
        label = line[-1]
        first = group.iloc[0]
        shifts[label] = Shifted(
            kind="none" if first["shift_name"] == "none" else "control" if first["is_control"] else "shift",
            noise=first["noise_mode"],
            control=controls.get(label),
            places=[_place(place, tables, by_key) for _, place in group.groupby("fork", sort=False)],
            onsets={r: None if onset is None else _round(onset) for r, onset in onsets.get(line, {}).items()},
        )
    return Summary(
        slug=slug,
        submission_sha256=submission_sha256,
        suite=SuiteId(**one.suite.model_dump(include={"name", "version", "digest"})),
        network=Network(
            label=named["architecture"].iloc[0],
            **one.architecture.model_dump(include={"name", "source", "fingerprint", "params"}),
        ),
        recipe=one.recipe,
        alphas=next((r.protocol["alphas"] for r in sorted(records, key=lambda r: r.key) if r.pairs), []),
        chance=next((chance for record in records if (chance := chance_error(record)) is not None), None),
        shifts=shifts,
    )


NAMED = ["suite", "version", "digest", "architecture", "architecture_fingerprint", "recipe"]
"""The columns in which all records of an entry agree."""


def _measured(rows: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return the measured cells by key, with the columns that a summary takes from a split."""
    table = average_pairs(rows, split)
    table = table.reindex(columns=list(dict.fromkeys([*table.columns, *OPTIONAL])))
    member = table["accuracy_mean"].astype(float).fillna(1 - table["error"])
    soup = 1 - table["soup_error"].astype(float)
    table = table.assign(
        member=member, soup=soup, separation=separation(table), trainings=full_trainings(table)
    )
    return table.set_index("key")


OPTIONAL = (
    *("accuracy_mean", "ensemble_accuracy", "soup_error", "path_ensemble_accuracy"),
    "corrected_ensemble_gain",
)
"""Columns that a table of records may lack."""


def _place(cells: pd.DataFrame, tables: Mapping[str, pd.DataFrame], records: Mapping[str, Record]) -> Place:
    """Summarize the cells of one shift and fork, ordered by replicate."""
    keys = list(cells["key"])

    def values(name: str, split: str = SPLIT) -> Values:
        table = tables.get(split)
        found = [None] * len(keys) if table is None else table[name].reindex(keys).tolist()
        return [None if value is None or math.isnan(value) else _round(value) for value in found]

    worth = {
        split: Worth(
            member=values("member", split),
            ensemble=values("ensemble_accuracy", split),
            soup=values("soup", split),
            path=values("path_ensemble_accuracy", split),
            corrected_gain=values("corrected_ensemble_gain", split),
            disagreement=values("disagreement", split),
        )
        for split in sorted(tables)
        if len(tables[split].index.intersection(keys))
    }
    share = cells["fork_share"].iloc[0]
    return Place(
        fork=cells["fork"].iloc[0],
        share=None if math.isnan(share) else float(share),
        replicates=list(map(int, cells["replicate"])),
        status=list(cells["status"]),
        barriers={name: values(name) for name in (*BARRIERS, SCALED)},
        worth=worth,
        flop=values("train_flop"),
        trainings=values("trainings"),
        separation=values("separation"),
        curves=_curves([r for r in (records[key] for key in keys) if r.status == "ok" and r.pairs]),
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


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _round(value: float) -> float:
    # adding 0.0 turns a rounded -0.0 into 0.0; FLOPs keep all of their digits
    return round(float(value), DIGITS) + 0.0
