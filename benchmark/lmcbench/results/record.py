"""The record of a cell: every field with its unit, and the readers' refusals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lmcbench.errors import UserError, reading
from lmcbench.results.measures import Barrier, Curve, barrier

SCHEMA = "lmcbench/cell/1"
Status = Literal["ok", "diverged", "failed"]


class Fields(BaseModel):
    """A part of a record; later measures add keys of their own, which older readers keep."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class Score(Fields):
    """One network on one split."""

    error: float = Field(description="fraction misclassified")
    loss: float = Field(description="mean cross-entropy, nats")
    ece: float = Field(description="expected calibration error, 15 equal bins of top-1 confidence, fraction")


class CurveRecord(Fields):
    """A curve at the alphas of `protocol.alphas`."""

    loss: list[float] = Field(description="mean cross-entropy, nats, one per alpha")
    error: list[float] = Field(description="fraction misclassified, one per alpha")
    n: int = Field(description="images")


class BarrierRecord(Fields, Barrier):  # type: ignore[misc]  # fields alone are taken over
    """The fields of `lmcbench.Barrier`: losses in nats, errors as fractions, argmax as alpha."""


class SiblingRecord(Fields):
    """One sibling; splits `train` (all siblings' items), `view` (its own), `test`."""

    splits: dict[str, Score] = Field(description="normalisation statistics recalibrated")
    as_trained: dict[str, Score] | None = Field(description="statistics as trained; null without such layers")
    train_loss: float = Field(description="mean mini-batch loss of the last epoch, nats")


class PairRecord(Fields):
    """The line between siblings i and j."""

    i: int
    j: int
    curves: dict[str, CurveRecord]
    curves_uncalibrated: dict[str, CurveRecord] | None = Field(
        description="null without normalisation statistics"
    )
    barriers: dict[str, BarrierRecord] = Field(description="of `curves`")
    area: dict[str, dict[str, float]] | None = Field(
        default=None,
        description="between curve and chord, signed: `loss` in nats, `error` as a fraction, per unit alpha",
    )
    disagreement: dict[str, float] = Field(description="fraction of images with different top-1")
    path_ensemble: dict[str, dict[str, dict[str, Any]]] | None = Field(
        default=None,
        description="ensembles of points on the path by split and number of members: their alphas and the "
        "keys of `compare_predictions`, from the fp32 evaluation",
    )
    geometry: dict[str, Any] | None = Field(
        default=None,
        description="distances between the siblings and to their fork (Euclidean, in units of the weights), "
        "angle at the fork (radians) and its cosine, over all weights and by layer; null: no fork, no angle",
    )


class ArchitectureRecord(Fields):
    """The network."""

    name: str
    kwargs: dict[str, Any]
    adapt: str | None = Field(default=None, description="its adaptation to small images; null: none")
    source: str
    fingerprint: str
    params: int | None = Field(description="number of trainable weights; null if it was never built")


class SuiteRecord(Fields):
    """The suite, by name and content."""

    name: str
    version: int
    digest: str


class ShiftRecord(Fields):
    """The training shift."""

    name: str
    params: dict[str, Any]
    noise: Literal["own", "shared"]


class ForkRecord(Fields):
    """Where siblings left the trunk; all but the name are null where there is none.

    Siblings of a given checkpoint have its `sha256` beside these.
    """

    name: str
    epoch: int | float | None
    step: int | None = Field(description="optimizer steps")
    fraction: float | None = Field(description="of the full training")


class CostRecord(Fields):
    """What the cell cost. A trunk or fleet that cells share is counted in each by its own steps."""

    train_flop: float = Field(description="floating point operations of training, trunk counted once")
    train_steps: int = Field(description="optimizer steps, trunk counted once")
    train_s: float = Field(description="device-seconds: the fleet's wall time in proportion to steps")
    eval_s: float = Field(description="seconds of measuring")
    peak_bytes: int = Field(description="peak memory: resident set on a CPU, allocated on CUDA")


class Record(Fields):
    """One cell (design section 6).

    `views_digest` is over indices, labels and names of transforms of all views. Where views pass images
    through transforms, the sha256 of what comes out stands beside it: `views_pixels`, by transform.
    """

    schema_: str = Field(default=SCHEMA, alias="schema")
    key: str
    status: Status
    reason: str | None
    suite: SuiteRecord
    architecture: ArchitectureRecord
    recipe: dict[str, Any]
    shift: ShiftRecord
    fork: ForkRecord
    replicate: int
    seeds: dict[str, Any]
    data: list[dict[str, Any]]
    views_digest: str | None
    protocol: dict[str, Any]
    siblings: list[SiblingRecord]
    pairs: list[PairRecord]
    ensemble: dict[str, dict[str, float | None]] | None
    soup: dict[str, Score] | None
    functions: dict[str, dict[str, Any]] | None = Field(
        default=None,
        description="per test split, from the stored logits: the keys of `compare_errors`, and under `sizes` "
        "ensembles of 2 to K members",
    )
    noise: dict[str, Any] | None = Field(
        default=None,
        description="`views`: images in each sibling's view; `g` on it, lr (N/B - 1), and `g_momentum`, that "
        "over 1 - momentum; `gradient`: gradient covariance at the fork, within and between views (nats^2 "
        "per squared unit of the weights), null without a fork",
    )
    evidence: dict[str, Any] | None
    cost: CostRecord | None
    env: dict[str, Any]

    @model_validator(mode="after")
    def _agree(self) -> Record:
        for p, pair in enumerate(self.pairs):
            if not 0 <= pair.i < pair.j < len(self.siblings):
                raise ValueError(f"pairs.{p}: no siblings {pair.i} and {pair.j} in {len(self.siblings)}")
            if pair.barriers.keys() != pair.curves.keys():
                raise ValueError(f"pairs.{p}: barriers and curves are not of the same splits")
        if "name" not in self.recipe:
            raise ValueError("recipe: its name is missing")
        return self

    def to_json(self) -> str:
        """Full precision, `null` for what is not there, never NaN."""
        return json.dumps(self.model_dump(by_alias=True), indent=1, allow_nan=False) + "\n"


def curve_records(curves: Mapping[str, Curve]) -> dict[str, CurveRecord]:
    """Curves as a record holds them, by split."""
    return {
        split: CurveRecord(loss=curve.loss.tolist(), error=curve.error.tolist(), n=curve.n)
        for split, curve in curves.items()
    }


def barrier_records(curves: Mapping[str, Curve]) -> dict[str, BarrierRecord]:
    """The barriers of curves as a record holds them, by split."""
    return {split: BarrierRecord(**asdict(barrier(curve))) for split, curve in curves.items()}


def parse_record(content: bytes | str, origin: str) -> Record:
    """A record from JSON; `origin` names the file in errors.

    Raises:
        UserError: for text that is not a whole record, or one of a newer schema.
    """
    try:
        table = json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin} is not a whole record: {error}.") from None
    check_schema(table, origin)
    try:
        return Record.model_validate(table)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in fault["loc"])
        message = f"{key}: {fault['msg']}" if key else fault["msg"].removeprefix("Value error, ")
        raise UserError(f"{origin} is not a record: {message}.") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON; what was not measured is null")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return table


class NewerSchemaError(UserError):
    """A file of a schema that only a later version reads."""


def check_schema(table: object, origin: str, schema: str = SCHEMA) -> None:
    """Refuse what is not of `schema`, and say how to upgrade where it is of a newer one."""
    found = table.get("schema") if isinstance(table, dict) else None
    stem, _, version = schema.rpartition("/")
    if not isinstance(found, str) or not found.startswith(f"{stem}/"):
        raise UserError(f"{origin} is not a {stem} file (schema {found!r}).")
    number = found.rpartition("/")[2]
    if not number.isdecimal() or int(number) > int(version):
        raise NewerSchemaError(
            f"{origin} has schema {found}; this lmcbench reads up to {schema}. "
            "Upgrade: pip install -U lmcbench."
        )


def read_record(path: Path) -> Record:
    """The record in a file.

    Raises:
        UserError: as `parse_record`, or where the file cannot be read.
    """
    with reading(path):
        content = path.read_bytes()
    return parse_record(content, str(path))
