"""Types and bounds of the tables of a record: data, protocol, noise, training, provenance, and measures.

A record keeps these tables as dicts, with the keys of later versions. The validator `checked(M)` raises where
a table lacks a field of the model `M` or has one out of bounds.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from lmcbench.results.analysis_schema import TriangleFields
from lmcbench.results.record_types import (
    CLASSES,
    DOMAINS,
    Alphas,
    Count,
    Fields,
    Fraction,
    Images,
    Name,
    Positive,
    Real,
    SignedFraction,
    Text,
    _check_settings,
    check_lengths,
    checked,
)


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


class SizeFields(Fields):
    """An ensemble of some of the siblings."""

    __pydantic_extra__: dict[str, Real | None] = Field(init=False)


class FunctionFields(Fields):
    """The keys of `compare_errors`, and ensembles by number of members."""

    __pydantic_extra__: dict[str, Real | None] = Field(init=False)
    sizes: dict[Name, SizeFields] | None = None
