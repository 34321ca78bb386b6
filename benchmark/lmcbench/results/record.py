"""The record of a cell: every field with its unit, and the readers' refusals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lmcbench.errors import UserError, reading
from lmcbench.results.curves import Barrier, Curve, barrier

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
    """One sibling; splits `train` (all siblings' items), `view` (its own), `test`.

    Where the suite measures on a part of the training items (`train_eval`), `view` is what the sibling sees
    of that part; a pair's `train_a` and `train_b` are the same of its two siblings.
    """

    splits: dict[str, Score] = Field(description="normalisation statistics recalibrated")
    as_trained: dict[str, Score] | None = Field(description="statistics as trained; null without such layers")
    train_loss: float = Field(
        description="mean mini-batch loss, nats, of the last epoch: floor(N/B) steps, N of the full set"
    )


class PairRecord(Fields):
    """The line between siblings i and j.

    Further measures add keys of their own; a measure that could not be taken holds `skipped`, the reason.
    Their images are stratified parts of the training items (`train`) and of test sets, `n` of them.
    Statistics are recalibrated on the list of `protocol.calibration`, as those of `curves` are; losses are in
    nats, errors fractions, lengths Euclidean over the parameters.

    - `curvature`: `loss` and `error` on the line; `predicted` (as published) and `predicted_with_gradients`
      (nats, statistics held fixed at each end); `hessian` of the mean loss at three alphas: `top`
      eigenvalues with their `residuals` |H v - value v|, and `trace` as the mean of `probes` Rademacher
      products with its `trace_standard_error`.
    - `layers`: by layer, the curves where it alone moves, `from_a` (others those of A) and `from_b` (its
      alpha 0 is B, its alpha 1 is B with this layer of A), and the published prediction on each of these
      lines; `cumulative`: A with its first (`from_input`) or last (`from_output`) 0, 1, ... layers B's.
    - `landscape`: at every logged `step`, the line between the siblings, their distances, angle and cosine at
      the fork, and `length_a`, `length_b`: of their ways so far, straight from one logged state to the next.
    - `plane`: coordinates `x` (towards A) and `y` in units of the weights with the fork at 0; `loss[i][j]`
      and `error[i][j]` at `y[i]`, `x[j]`; `anchors`: fork, A and B.
    - `repair`: the lines with statistics `blended` as they are, and `repaired`: taken anew on the
      calibration list in networks with BatchNorm; elsewhere pre-activations are given blended means and
      deviations (REPAIR), those over the measure's own `train` images.
    - `align`: the lines to B with its units permuted to match A, `aligned` (statistics recalibrated) and
      `aligned_and_repaired` (as under `repair`); `distance` between the two, `distance_before` of A and B.
    - `features`: linear CKA of penultimate features by split: between the `siblings`, and of every alpha
      with either end (`to_a`, `to_b`).
    """

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

    train_flop: float = Field(
        description="floating point operations of training, trunk counted once: of matrix products and "
        "convolutions, 2 a multiply-add, forward and backward (no gradient of the images)"
    )
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
    seeds: dict[str, Any] = Field(
        description="of this replicate; `init`, `order`, `augment` and `layer` by index, the trunk's first. "
        "Test images under evaluation shift are drawn by `shift` of replicate 0, in every replicate"
    )
    data: list[dict[str, Any]]
    views_digest: str | None
    protocol: dict[str, Any] = Field(
        description="`alphas`; of the `calibration` list and of the part of the training items that train "
        "splits are (`train_eval`, not there where they are all), `n` and the sha256 of their positions as "
        "canonical JSON: the former by class, the latter sorted"
    )
    siblings: list[SiblingRecord]
    pairs: list[PairRecord]
    ensemble: dict[str, dict[str, float | None]] | None = Field(
        description="keys of `compare_predictions` per test split, from the stored fp16 logits: "
        "`accuracy_mean` may be an image or two from the `error` of the siblings, which is of the fp32 logits"
    )
    soup: dict[str, Score] | None
    functions: dict[str, dict[str, Any]] | None = Field(
        default=None,
        description="per test split, from the stored logits: the keys of `compare_errors`, and under `sizes` "
        "ensembles of 2 to K members",
    )
    noise: dict[str, Any] | None = Field(
        default=None,
        description="`views`: images in each sibling's view; `g` on it, lr (N/B - 1), and `g_momentum`, that "
        "over 1 - momentum (of one network: those of the siblings it is compared with, while it sees all "
        "they see); `gradient`: covariance of the gradients of 300 images at the fork, nats^2 per squared "
        "unit of the weights, null without a fork: of each of `views` and of their `union` its `trace`, "
        "`norm2` of the mean gradient and `scale`, the ratio of the two, in images; `between`: the part of "
        "the union's trace that lies between the views, and `between_share` of it",
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
