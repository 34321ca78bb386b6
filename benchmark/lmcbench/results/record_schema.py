"""Types and bounds of the tables of a record: data, protocol, noise, provenance, geometry and analyses.

A record keeps these tables as dicts, with the keys of later versions. The validator `checked(M)` raises where
a table lacks a field of the model `M` or has one out of bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema

from lmcbench.errors import printable
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.forks import Fork

LARGEST = 1e60
"""Bound of losses, distances and the like: their squares and sums stay finite. A float32 is below 1e39."""

SLACK = 1e-9
"""Rounding by which a fraction may leave [0, 1] and a loss may be negative."""

SPLITS = 1_000
"""Most splits of one table."""

KEYS = 100
"""Most numbers of one network or ensemble on one split; each is a column of the table of records."""

CLASSES = 100_000
"""Most classes of one data set."""

DOMAINS = 20_000
"""Most domains of one data set."""

SETTINGS_LENGTH = 4_000
"""Longest settings of a recipe, a shift or an architecture as JSON, in characters."""

Real = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Positive = Annotated[float, Field(ge=-SLACK, le=LARGEST)]
Fraction = Annotated[float, Field(ge=-SLACK, le=1 + SLACK)]
SignedFraction = Annotated[float, Field(ge=-1 - SLACK, le=1 + SLACK)]
Count = Annotated[int, Field(ge=0, le=2**63)]
Images = Annotated[int, Field(ge=1, le=2**53)]
Name = Annotated[str, Field(max_length=300)]
Text = Annotated[str, Field(max_length=10_000)]
KEY_PATTERN = r"^[0-9a-f]{16}$"
Key = Annotated[str, Field(pattern=KEY_PATTERN)]


def _stop_at_first_faults(schema: Any) -> None:
    for inner in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(inner, dict | list):
            _stop_at_first_faults(inner)
    if isinstance(schema, dict) and schema.get("type") == "list":
        schema["fail_fast"] = True


class Fields(BaseModel):
    """A part of a record. Unknown keys, added by later versions, are kept."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Stop at the first fault of each list: a million wrong numbers would take gigabytes."""
        schema = handler(source)
        _stop_at_first_faults(schema)
        return schema


def checked(model: type[BaseModel]) -> AfterValidator:
    """Return a validator that compares a table with `model` and returns the table itself."""

    def check(table: dict[str, Any]) -> dict[str, Any]:
        model.model_validate(table, strict=True)
        return table

    return AfterValidator(check)


def _check_fork(name: str) -> str:
    fork = Fork.parse(name)
    if fork.checkpoint is not None and (fork.mark is None or fork.name != name):
        raise ValueError("must be from:FILE@ and 8 hex digits, without a folder")
    return name


T = TypeVar("T")
Splits = Annotated[dict[Name, T], Field(max_length=SPLITS)]
"""Values by split."""

ForkName = Annotated[Name, AfterValidator(_check_fork)]


def _check_settings(table: dict[str, Any]) -> dict[str, Any]:
    if (length := len(canonical_json(table))) > SETTINGS_LENGTH:
        raise ValueError(f"has {length:,} characters; at most {SETTINGS_LENGTH:,} are allowed")
    return table


def list_faults(error: ValidationError, limit: int) -> list[tuple[str, str]]:
    """Return field and message of the first `limit` faults of a pydantic error, as printable text."""
    return [
        (
            ".".join(printable(str(part), 60) for part in fault["loc"]),
            printable(fault["msg"].removeprefix("Value error, ").rstrip("."), 300),
        )
        for fault in error.errors(include_url=False, include_input=False)[:limit]
    ]


def describe_fault(error: ValidationError) -> str:
    """Return the first fault of a pydantic error as field and message, in one line."""
    return ": ".join(filter(None, list_faults(error, 1)[0]))


Settings = Annotated[dict[str, Any], AfterValidator(_check_settings)]


def check_alphas(alphas: Sequence[float]) -> Sequence[float]:
    """Raise `ValueError` if a grid does not increase strictly from 0 to 1."""
    if len(alphas) < 2 or alphas[0] != 0 or alphas[-1] != 1 or any(a >= b for a, b in pairwise(alphas)):
        raise ValueError("must increase strictly from 0 to 1")
    return alphas


Alphas = Annotated[list[float], Field(max_length=10_001), AfterValidator(check_alphas)]


def check_lengths(n: int, **lists: Sequence[object]) -> None:
    """Raise `ValueError` for a list that does not have `n` values."""
    for name, values in lists.items():
        if len(values) != n:
            raise ValueError(f"{name}: found {len(values)} values, must be {n}")


# --- data, protocol, noise, provenance -----------------------------------------------------------


class RecipeFields(Fields):
    """The settings of a recipe; those of later versions are kept."""

    name: Name
    lr: Positive | None = None
    batch_size: Images | None = None
    epochs: Images | None = None

    @model_validator(mode="after")
    def _is_short(self) -> RecipeFields:
        _check_settings(self.model_extra or {})
        return self


DomainCounts = Annotated[dict[Name, Images], Field(min_length=1, max_length=DOMAINS)]
"""Images of each domain."""


class DataFields(Fields):
    """One split of the data; `domains` is absent where the data set has none."""

    name: Name
    split: Name
    n: Images
    sha256: Name | None = None
    domains: DomainCounts | None = None
    largest_class: Images | None = None

    @model_validator(mode="after")
    def _agree(self) -> DataFields:
        if self.domains is not None and sum(self.domains.values()) != self.n:
            raise ValueError("domains: their numbers of images do not add up to n")
        if self.largest_class is not None and self.largest_class > self.n:
            raise ValueError("largest_class: must be at most n")
        return self


class SeedsFields(Fields):
    """The seeds of a replicate."""

    init: list[Count]
    order: list[Count]
    augment: list[Count]
    layer: list[Count]
    shift: Count


class PartFields(Fields):
    """Images that were drawn, and the sha256 of their positions."""

    n: Images | None = None
    batches: Images | None = None
    items: Name | None = None


class ProtocolFields(Fields):
    """How curves were measured."""

    alphas: Alphas
    calibration: Annotated[dict[str, Any], checked(PartFields)] | None = None
    train_eval: Annotated[dict[str, Any], checked(PartFields)] | None = None


class CovarianceFields(Fields):
    """Covariance of the gradients of images."""

    n: Images
    trace: Real | None
    norm2: Real | None
    scale: Real | None


class GradientFields(Fields):
    """Gradients at the fork, by view and over the union of the views."""

    views: list[CovarianceFields] | None = None
    union: CovarianceFields | None = None
    between: Real | None = None
    between_share: Real | None = None


class NoiseFields(Fields):
    """Noise scales of SGD, one per view."""

    views: list[Images]
    g: list[Real]
    g_momentum: list[Real]
    gradient: GradientFields | None = None

    @model_validator(mode="after")
    def _agree(self) -> NoiseFields:
        check_lengths(len(self.views), g=self.g, g_momentum=self.g_momentum)
        return self


class FileFields(Fields):
    """A file of a run folder."""

    path: Name
    sha256: Name

    @model_validator(mode="after")
    def _inside(self) -> FileFields:
        if self.path.startswith("/") or "\\" in self.path or ".." in self.path.split("/"):
            raise ValueError("path: must lie in the run folder")
        return self


class EvidenceFields(Fields):
    """Files with predictions and weights."""

    predictions: FileFields | None = None
    checkpoints: list[FileFields] | None = None


class GitFields(Fields):
    """The checkout that lmcbench ran from."""

    commit: Name | None = None
    dirty: bool | None = None


class FlagFields(Fields):
    """Settings that may change the last bits."""

    threads: Count | None = None


class EnvironmentFields(Fields):
    """Engine, device and versions."""

    engine: Name | None = None
    fleet: Count | None = None
    trained_on: Name | None = None
    device: Name | None = None
    versions: dict[Name, Name | None] | None = None
    flags: FlagFields | None = None
    git: GitFields | None = None


class TrainingFields(Fields):
    """The end of training, one item per network of the cell."""

    losses: list[Real | None]
    label_counts: list[Annotated[list[Count], Field(min_length=1, max_length=CLASSES)]]
    domain_counts: list[DomainCounts] | None = None

    @model_validator(mode="after")
    def _agree(self) -> TrainingFields:
        check_lengths(len(self.losses), label_counts=self.label_counts)
        if self.domain_counts is not None:
            check_lengths(len(self.losses), domain_counts=self.domain_counts)
            both = zip(self.label_counts, self.domain_counts, strict=True)
            if any(sum(labels) != sum(domains.values()) for labels, domains in both):
                raise ValueError("domain_counts: not as many images as in label_counts")
        if any(sum(counts) == 0 for counts in self.label_counts):
            raise ValueError("label_counts: a view has no images")
        if len({len(counts) for counts in self.label_counts}) > 1:
            raise ValueError("label_counts: views have different numbers of classes")
        return self


class CorrectedFields(Fields):
    """Accuracies without the label priors of the members' views."""

    accuracies: list[Fraction]
    accuracy_mean: Fraction
    ensemble_accuracy: Fraction
    ensemble_gain: SignedFraction


# --- measures of a pair --------------------------------------------------------------------------


class TriangleFields(Fields):
    """The triangle of fork, A and B in weight space."""

    distance_ab: Positive | None = None
    distance_a: Positive | None = None
    distance_b: Positive | None = None
    angle: Real | None = None
    cosine: SignedFraction | None = None


class GeometryFields(TriangleFields):
    """The triangle over all weights, and of each layer."""

    layers: dict[Text, TriangleFields | None] | None = None


class TemperatureFields(Fields):
    """The least loss over all temperatures at alpha = 0, 1/2 and 1."""

    inverse_temperature: Annotated[list[Positive], Field(min_length=3, max_length=3)]
    loss: Annotated[list[Positive], Field(min_length=3, max_length=3)]


class PathEnsembleFields(Fields):
    """An ensemble of points on the path; all further keys are those of `compare_predictions`."""

    __pydantic_extra__: dict[str, Real | None] = Field(init=False)
    alphas: list[Fraction]


class Values(Fields):
    """Loss and error at the points of a line."""

    loss: list[Real]
    error: list[Fraction]


class SplitFields(Fields):
    """The images of an analysis on one split."""

    split: Name
    n: Images


class HessianFields(Fields):
    """The Hessian at one point of the line."""

    alpha: Fraction
    top: list[Real]
    residuals: list[Real]
    trace: Real | None
    trace_standard_error: Real | None
    probes: Count


class CurvatureFields(SplitFields, Values):
    """Second-order predictions, and the Hessian at three points."""

    alphas: Alphas
    predicted: list[Real]
    predicted_with_gradients: list[Real]
    hessian: Annotated[list[HessianFields], Field(min_length=3)]

    @model_validator(mode="after")
    def _agree(self) -> CurvatureFields:
        for name in ("loss", "error", "predicted", "predicted_with_gradients"):
            check_lengths(len(self.alphas), **{name: getattr(self, name)})
        return self


class LayerFields(Fields):
    """The lines where one layer moves."""

    from_a: Values
    from_b: Values
    predicted_from_a: list[Real]
    predicted_from_b: list[Real]


class SwitchFields(Values):
    """A with its first or last layers replaced by those of B."""

    layers: list[Text]

    @model_validator(mode="after")
    def _agree(self) -> SwitchFields:
        check_values(len(self.layers) + 1, self)  # the first is A
        return self


class CumulativeFields(Fields):
    """Layers replaced from the input on, and from the output on."""

    from_input: SwitchFields
    from_output: SwitchFields


class LayersFields(SplitFields):
    """Lines layer by layer."""

    alphas: Alphas
    layers: Annotated[dict[Text, LayerFields], Field(min_length=1)]
    cumulative: CumulativeFields

    @model_validator(mode="after")
    def _agree(self) -> LayersFields:
        for layer in self.layers.values():
            check_values(len(self.alphas), layer.from_a, layer.from_b)
            check_lengths(len(self.alphas), a=layer.predicted_from_a, b=layer.predicted_from_b)
        return self


def check_values(n: int, *lines: Values) -> None:
    """Raise `ValueError` for a line that does not have `n` points."""
    for line in lines:
        check_lengths(n, loss=line.loss, error=line.error)


class SnapshotFields(TriangleFields):
    """The line between the siblings at one logged step."""

    step: Count
    epoch: Positive
    curves: dict[Name, Values]
    length_a: Positive
    length_b: Positive


class LinesFields(Fields):
    """The grid and numbers of images of lines on several splits."""

    n: dict[Name, Images]
    alphas: Alphas


class LandscapeFields(LinesFields):
    """The line at every logged step."""

    points: Annotated[list[SnapshotFields], Field(min_length=1)]

    @model_validator(mode="after")
    def _agree(self) -> LandscapeFields:
        for point in self.points:
            check_splits(self.n, point.curves)
            check_values(len(self.alphas), *point.curves.values())
        return self


def check_splits(wanted: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise `ValueError` for a table that does not have the splits of another."""
    if wanted.keys() != found.keys():
        raise ValueError("tables of one analysis have different splits")


class PlaneFields(SplitFields):
    """Loss and error on a plane."""

    x: Annotated[list[Real], Field(min_length=2)]
    y: Annotated[list[Real], Field(min_length=2)]
    loss: list[list[Real]]
    error: list[list[Fraction]]
    anchors: Annotated[list[Annotated[list[Real], Field(min_length=2, max_length=2)]], Field(min_length=3)]

    @model_validator(mode="after")
    def _agree(self) -> PlaneFields:
        for axis in (self.x, self.y):
            if any(a >= b for a, b in pairwise(axis)):
                raise ValueError("x and y must increase")
        check_lengths(len(self.y), loss=self.loss, error=self.error)
        for row in (*self.loss, *self.error):
            check_lengths(len(self.x), row=row)
        return self


class RepairFields(LinesFields):
    """Lines with blended and repaired statistics."""

    blended: dict[Name, Values]
    repaired: dict[Name, Values]

    @model_validator(mode="after")
    def _agree(self) -> RepairFields:
        for lines in (self.blended, self.repaired):
            check_splits(self.n, lines)
            check_values(len(self.alphas), *lines.values())
        return self


class AlignFields(LinesFields):
    """Lines to B with its units permuted."""

    distance: Positive
    distance_before: Positive
    aligned: dict[Name, Values]
    aligned_and_repaired: dict[Name, Values]

    @model_validator(mode="after")
    def _agree(self) -> AlignFields:
        for lines in (self.aligned, self.aligned_and_repaired):
            check_splits(self.n, lines)
            check_values(len(self.alphas), *lines.values())
        return self


class SimilarityFields(Fields):
    """Linear CKA on one split; null where features are constant."""

    n: Images
    siblings: Real | None
    to_a: list[Real | None]
    to_b: list[Real | None]


class FeaturesFields(Fields):
    """Linear CKA of penultimate features."""

    alphas: Alphas
    splits: dict[Name, SimilarityFields]

    @model_validator(mode="after")
    def _agree(self) -> FeaturesFields:
        for split in self.splits.values():
            check_lengths(len(self.alphas), to_a=split.to_a, to_b=split.to_b)
        return self


ANALYSES: dict[str, type[BaseModel]] = {
    "curvature": CurvatureFields,
    "layers": LayersFields,
    "landscape": LandscapeFields,
    "plane": PlaneFields,
    "repair": RepairFields,
    "align": AlignFields,
    "features": FeaturesFields,
}
"""The fields of every analysis that `--measure` adds to a pair, unless it was skipped."""


class SkippedFields(Fields):
    """The reason why an analysis was not possible."""

    skipped: Text


class SizeFields(Fields):
    """An ensemble of some of the siblings."""

    __pydantic_extra__: dict[str, Real | None] = Field(init=False)


class FunctionFields(Fields):
    """The keys of `compare_errors`, and ensembles by number of members."""

    __pydantic_extra__: dict[str, Real | None] = Field(init=False)
    sizes: dict[Name, SizeFields] | None = None
