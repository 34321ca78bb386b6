"""Types and bounds of the analyses that `--measure` adds to a pair of a record."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

from lmcbench.results.record_types import (
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
    check_lengths,
)


class TriangleFields(Fields):
    """The triangle of fork, A and B in weight space."""

    distance_ab: Positive | None = None
    distance_a: Positive | None = None
    distance_b: Positive | None = None
    angle: Real | None = None
    cosine: SignedFraction | None = None


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
