"""The record of a cell: all fields with their units."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from lmcbench.results.analysis_schema import ANALYSES, SkippedFields
from lmcbench.results.curves import Barrier, Curve, barrier
from lmcbench.results.record_schema import (
    CorrectedFields,
    DataFields,
    EnvironmentFields,
    EvidenceFields,
    FunctionFields,
    GeometryFields,
    NoiseFields,
    PathEnsembleFields,
    ProtocolFields,
    RecipeFields,
    SeedsFields,
    TemperatureFields,
    TrainingFields,
)
from lmcbench.results.record_types import (
    KEYS,
    LARGEST,
    SLACK,
    SPLITS,
    Count,
    Fields,
    ForkName,
    Fraction,
    Images,
    Key,
    Name,
    Positive,
    Real,
    Settings,
    Splits,
    Text,
    check_lengths,
    checked,
    describe_fault,
)

SCHEMA = "lmcbench/cell/2"

Status = Literal["ok", "did-not-learn", "diverged", "failed"]

UNTRAINED = frozenset({"did-not-learn", "diverged"})
"""Statuses that are results, but in no mean."""

BARRIER_FIELDS = tuple(field.name for field in fields(Barrier))

MAX_SIBLINGS = 100

Numbers = Annotated[dict[Name, Real | None], Field(max_length=KEYS)]


class Score(Fields):
    """One network on one split. Further keys are numbers."""

    __pydantic_extra__: dict[str, Real | None] = Field(init=False)
    error: Fraction = Field(description="fraction misclassified")
    loss: Real = Field(description="mean cross-entropy, nats")
    ece: Fraction = Field(
        description="expected calibration error, 15 equal bins of top-1 confidence, fraction"
    )


class CurveRecord(Fields):
    """A curve at `protocol.alphas`."""

    loss: list[Real] = Field(description="mean cross-entropy, nats, one per alpha")
    error: list[Fraction] = Field(description="fraction misclassified, one per alpha")
    n: Images = Field(description="images")


class EndsRecord(Fields):
    """Both ends of a curve."""

    loss: Annotated[list[Real], Field(min_length=2, max_length=2)] = Field(
        description="mean cross-entropy, nats, of A and B"
    )
    error: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = Field(
        description="fraction misclassified, of A and B"
    )


class BarrierRecord(Fields, Barrier):  # type: ignore[misc]  # pydantic takes over the fields only
    """The fields of `lmcbench.Barrier`."""

    @model_validator(mode="after")
    def _is_bounded(self) -> BarrierRecord:
        for name in BARRIER_FIELDS:
            value = getattr(self, name)
            bound = 1 + SLACK if name.startswith("error_") or name.endswith("_argmax") else LARGEST
            if value is not None and abs(value) > bound:
                raise ValueError(f"{name}: found {value}, beyond {bound:g}")
        return self


class SiblingRecord(Fields):
    """One sibling, on the splits `train` (union of all views), `view` (its own), `test` and test splits.

    If the suite evaluates part of the training items (`train_eval`), `view` is the part of them in the
    sibling's view. The splits `train_a` and `train_b` of a pair are the views of its siblings.
    """

    splits: Splits[Score] = Field(description="as trained, with its own normalisation statistics")
    recalibrated: Splits[Score] | None = Field(
        default=None, description="with recalibrated normalisation statistics; absent without such layers"
    )
    train_loss: Real = Field(
        description="mean mini-batch loss, nats, over the last floor(N/B) steps, N of the full training set"
    )

    @model_serializer(mode="wrap")
    def _without_absent(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without(write(self), "recalibrated")


class PairRecord(Fields):
    """The line between siblings i (A) and j (B).

    The ends of `curves` are the siblings as trained; points between them have normalisation statistics
    recalibrated on the list of `protocol.calibration`.

    Analyses add a key each, which contains only `skipped`, the reason, if the analysis was not possible. They
    use `n` images: stratified parts of the training items (`train`) and of test sets. Normalisation
    statistics are recalibrated at every point, ends included, but for `landscape`, whose curves are as
    `curves`. Losses are in nats, errors are fractions, and lengths are Euclidean over the parameters.

    - `curvature`: `loss` and `error` on the line; the second-order predictions `predicted` (as published by
      Singh et al., 2024) and `predicted_with_gradients`, nats, with statistics fixed at each end; `hessian`
      of the mean loss at three alphas: `top` eigenvalues, their `residuals` |H v - value v|, and `trace`, the
      mean of `probes` Rademacher products, with its `trace_standard_error`.
    - `layers`: for each layer, the curves where only this layer moves: `from_a` (all others from A) and
      `from_b` (all others from B; alpha 1 has this layer of A), and the second-order prediction with
      gradients on each of these lines; `cumulative`: A with its first (`from_input`) or last (`from_output`)
      0, 1, ... layers replaced by B's.
    - `landscape`: at every logged `step`, the line between the siblings, their distances, angle and cosine at
      the fork, and `length_a`, `length_b`: the lengths of their paths so far, straight between logged steps.
    - `plane`: coordinates `x` (towards A) and `y` in weight space with the fork at the origin; `loss[i][j]`
      and `error[i][j]` at `y[i]`, `x[j]`; `anchors`: fork, A and B.
    - `repair`: the lines with `blended` statistics, and `repaired`: with statistics recalibrated on the
      calibration list in networks with BatchNorm. In other networks pre-activations are rescaled to
      interpolated means and standard deviations over the `train` images (Jordan et al., 2023, REPAIR).
    - `align`: the lines to B with its units permuted to match A (Ainsworth et al., 2023, Git Re-Basin):
      `aligned` (statistics recalibrated) and `aligned_and_repaired` (as in `repair`); `distance` from A to
      the permuted B, `distance_before` to B.
    - `features`: linear CKA of penultimate features by split: between the `siblings`, and of every alpha with
      each end (`to_a`, `to_b`).
    """

    i: Count
    j: Count
    curves: Splits[CurveRecord]
    ends_recalibrated: Splits[EndsRecord] | None = Field(
        default=None,
        description="the ends with recalibrated statistics, by split of `curves`; absent without "
        "normalisation statistics",
    )
    curves_uncalibrated: Splits[CurveRecord] | None = Field(
        default=None,
        description="with blended statistics, on `train` and `test`; absent without normalisation statistics",
    )
    barriers: Splits[BarrierRecord] = Field(description="of `curves`")
    area: Splits[Numbers] | None = Field(
        default=None,
        description="signed area between curve and chord: `loss` (nats), `error` (fraction)",
    )
    temperature_scaled: Splits[Annotated[dict[str, Any], checked(TemperatureFields)]] | None = Field(
        default=None,
        description="for each test split, from the stored fp16 logits at alpha = 0, 1/2 and 1: the `loss` "
        "(nats) at the temperature where it is least, and that `inverse_temperature`",
    )
    disagreement: Splits[Fraction] = Field(description="fraction of images with different top-1")
    path_ensemble: Splits[dict[Name, Annotated[dict[str, Any], checked(PathEnsembleFields)]]] | None = Field(
        default=None,
        description="ensembles of points on the path, by split and number of members: their alphas and the "
        "keys of `compare_predictions`, from fp32 logits",
    )
    geometry: Annotated[dict[str, Any], checked(GeometryFields)] | None = Field(
        default=None,
        description="Euclidean distances in weight space between the siblings and to their fork, angle at "
        "the fork (radians) and its cosine, for all weights and by layer; null without a fork",
    )

    @model_validator(mode="after")
    def _agree(self) -> PairRecord:
        if self.barriers.keys() != self.curves.keys():
            raise ValueError("barriers and curves have different splits")
        if self.ends_recalibrated is not None and self.ends_recalibrated.keys() != self.curves.keys():
            raise ValueError("ends_recalibrated and curves have different splits")
        if (self.ends_recalibrated is None) != (self.curves_uncalibrated is None):
            raise ValueError("ends_recalibrated and curves_uncalibrated: one is missing")
        others = (
            *(self.curves_uncalibrated, self.area, self.temperature_scaled),
            *(self.path_ensemble, self.disagreement),
        )
        if any(not self.curves.keys() >= (table or {}).keys() for table in others):
            raise ValueError("a split is not among those of the curves")
        for name, table in (self.model_extra or {}).items():
            if name in ANALYSES:
                skipped = isinstance(table, dict) and "skipped" in table
                try:
                    (SkippedFields if skipped else ANALYSES[name]).model_validate(table, strict=True)
                except ValidationError as error:
                    raise ValueError(f"{name}.{describe_fault(error)}") from None
        return self

    @model_serializer(mode="wrap")
    def _without_absent(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without(write(self), "ends_recalibrated", "curves_uncalibrated")


def _without(table: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a table without those of `names` that are null: keys that a network without statistics lacks."""
    return {key: value for key, value in table.items() if value is not None or key not in names}


class ArchitectureRecord(Fields):
    """The network."""

    name: Name
    kwargs: Settings
    adapt: Name | None = Field(default=None, description="adaptation to small images; null: none")
    source: Name
    fingerprint: Name
    params: Count | None = Field(description="number of trainable weights; null if the network was not built")


class SuiteRecord(Fields):
    """The suite: name, version and digest of its content."""

    name: Name
    version: Count
    digest: Name


class ShiftRecord(Fields):
    """The training shift. That of a user's file also has its `fingerprint`."""

    name: Name
    params: Settings
    noise: Literal["own", "shared"]


class ForkRecord(Fields):
    """The point where siblings left the trunk; without a trunk only the name is not null.

    Siblings of a given checkpoint also have its `sha256`.
    """

    name: ForkName
    epoch: Annotated[int | float, Field(ge=0, le=10**9)] | None
    step: Count | None = Field(description="optimizer steps")
    fraction: Fraction | None = Field(description="step / T, of the full training")
    learning_rate: Positive | None = Field(description="of the first step after the fork")
    trunk_accuracy: Fraction | None = Field(
        description="accuracy of the trunk at the fork, as trained, on the test set; null without a trunk, "
        "and in cells that were not evaluated"
    )


class CostRecord(Fields):
    """Cost of the cell. A trunk shared by cells is counted in each."""

    train_flop: Positive = Field(
        description="training FLOPs, trunk counted once: matrix products and convolutions, forward and "
        "backward (without gradients of the images), 2 for each multiply-add"
    )
    train_steps: Count = Field(description="optimizer steps, trunk counted once")
    train_s: Positive = Field(description="device-seconds: the fleet's wall time in proportion to steps")
    eval_s: Positive = Field(description="seconds of evaluation")
    peak_bytes: Count = Field(description="peak memory: resident set on CPU, allocated on CUDA")


class Record(Fields):
    """The results of one cell (docs/design.md, section 6).

    `views_digest` is the sha256 of indices, labels and names of transforms of all views. If views have
    transforms, `views_pixels` has the sha256 of the transformed images, by transform.
    """

    schema_: str = Field(default=SCHEMA, alias="schema")
    key: Key
    status: Status
    reason: Text | None
    suite: SuiteRecord
    architecture: ArchitectureRecord
    recipe: Annotated[dict[str, Any], checked(RecipeFields)]
    shift: ShiftRecord
    fork: ForkRecord
    replicate: Count
    seeds: Annotated[dict[str, Any], checked(SeedsFields)] = Field(
        description="seeds of this replicate; `init`, `order`, `augment` and `layer` are lists, the trunk's "
        "first. Evaluation shifts use seed `shift` of replicate 0 in every replicate"
    )
    data: list[Annotated[dict[str, Any], checked(DataFields)]] = Field(
        max_length=SPLITS,
        description="one entry per split with images of its own: `name`, `source`, `revision` on the hub, "
        "`sha256`, `split`, `n`, `largest_class`, images of the commonest class (of the test set), and "
        "`domains`, images of each domain (absent where the data have none)",
    )
    views_digest: Name | None
    protocol: Annotated[dict[str, Any], checked(ProtocolFields)] = Field(
        description="`alphas`; `calibration` and, if train curves use part of the training items, "
        "`train_eval`: `n` and the sha256 of the positions as canonical JSON (by class, and sorted)"
    )
    siblings: list[SiblingRecord] = Field(max_length=MAX_SIBLINGS)
    pairs: list[PairRecord]
    ensemble: Splits[Numbers] | None = Field(
        description="keys of `compare_predictions` for each test split, from the stored fp16 logits; the "
        "`error` of siblings is from fp32 logits, so `accuracy_mean` may differ from it by an image or two"
    )
    corrected: Splits[Annotated[dict[str, Any], checked(CorrectedFields)]] | None = Field(
        description="keys of `compare_corrected` for each test split, from the stored fp16 logits: "
        "accuracies with the log-prior of each member's view subtracted (Laplace smoothing by one image "
        "per class); null as `ensemble`"
    )
    soup: Splits[Score] | None = Field(description="with recalibrated normalisation statistics")
    functions: Splits[Annotated[dict[str, Any], checked(FunctionFields)]] | None = Field(
        default=None,
        description="for each test split, from the stored logits: the keys of `compare_errors`, and in "
        "`sizes` ensembles of 2 to K members",
    )
    noise: Annotated[dict[str, Any], checked(NoiseFields)] | None = Field(
        default=None,
        description="`views`: images in each sibling's view; `g`: lr (N/B - 1) of each view, and "
        "`g_momentum`, g / (1 - momentum) (for a single network, those of the siblings it is compared with); "
        "`gradient`: covariance of the gradients of 300 images at the fork, nats^2 per squared unit of the "
        "weights, null without a fork: for each of `views` and for their `union` its `trace`, `norm2` of the "
        "mean gradient and their ratio `scale`, in images; `between`: the part of the union's trace between "
        "the views, and `between_share`, its fraction",
    )
    training: Annotated[dict[str, Any], checked(TrainingFields)] | None = Field(
        description="by network: `losses`, as `train_loss` of siblings, null if not finite, and "
        "`label_counts`, images of every class in its view, and `domain_counts`, images of every domain in "
        "it (absent where the data have no domains); null if the cell was not trained"
    )
    evidence: Annotated[dict[str, Any], checked(EvidenceFields)] | None
    cost: CostRecord | None
    env: Annotated[dict[str, Any], checked(EnvironmentFields)]

    @model_validator(mode="after")
    def _agree(self) -> Record:
        """Compare the parts of a record with each other."""
        alphas = self.protocol["alphas"]
        for p, pair in enumerate(self.pairs):
            if not 0 <= pair.i < pair.j < len(self.siblings):
                raise ValueError(f"pairs.{p}: no siblings {pair.i} and {pair.j} among {len(self.siblings)}")
            for kind, curves in (("curves", pair.curves), ("curves_uncalibrated", pair.curves_uncalibrated)):
                for split, curve in (curves or {}).items():
                    check_lengths(
                        len(alphas),
                        **{
                            f"pairs.{p}.{kind}.{split}.loss": curve.loss,
                            f"pairs.{p}.{kind}.{split}.error": curve.error,
                        },
                    )
        if len({(pair.i, pair.j) for pair in self.pairs}) < len(self.pairs):
            raise ValueError("pairs: two are of the same siblings")
        if self.status == "ok" and not self.siblings:
            raise ValueError("siblings: must not be empty for a cell that is ok")
        if self.status == "ok" and len(self.siblings) > 1 and not self.pairs:
            raise ValueError("pairs: must not be empty for a cell of several siblings")
        for s, sibling in enumerate(self.siblings):
            if sibling.splits.keys() != self.siblings[0].splits.keys():
                raise ValueError(f"siblings.{s}.splits: siblings have different splits")
            if sibling.recalibrated is not None and sibling.recalibrated.keys() != sibling.splits.keys():
                raise ValueError(f"siblings.{s}.recalibrated: splits are not those of splits")
        forms = {sibling.recalibrated is None for sibling in self.siblings}
        if len(forms | {pair.ends_recalibrated is None for pair in self.pairs}) > 1:
            raise ValueError("siblings: recalibrated scores are missing from a sibling or a pair")
        if self.training is not None and self.siblings:
            check_lengths(len(self.siblings), **{"training.losses": self.training["losses"]})
        splits = [entry["split"] for entry in self.data]
        if not {"train", "test"} <= set(splits):
            raise ValueError("data: must have an entry of split train and one of split test")
        if len(set(splits)) < len(splits):
            raise ValueError("data: two entries are of the same split")
        return self

    def to_json(self) -> str:
        """Return the record as JSON with full precision; missing values are `null`, never NaN."""
        return json.dumps(self.model_dump(by_alias=True), indent=1, allow_nan=False) + "\n"


def curve_records(curves: Mapping[str, Curve]) -> dict[str, CurveRecord]:
    """Convert curves by split to fields of a record."""
    return {
        split: CurveRecord(loss=curve.loss.tolist(), error=curve.error.tolist(), n=curve.n)
        for split, curve in curves.items()
    }


def barrier_records(curves: Mapping[str, Curve]) -> dict[str, BarrierRecord]:
    """Compute the barriers of curves by split as fields of a record."""
    return {split: BarrierRecord(**asdict(barrier(curve))) for split, curve in curves.items()}
