"""Tests of the regression gate: a measure, the kind of test, and the margin with its reason."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lmcbench.errors import unknown
from lmcbench.spec.forks import Fork

Kind = Literal["equivalence", "non-inferiority"]
Better = Literal["higher", "lower"]

AREA = "instability_area"
"""A measure of replicates, not cells; the tested cells must include forks 0, 30 % and independent."""

MEASURES: dict[str, Better | None] = {
    "error_mid": None,
    "error_chord_interior": None,
    "loss_mid": None,
    "loss_chord_interior": None,
    "disagreement": None,
    "ensemble_gain": None,
    "accuracy_mean": "higher",
    "ensemble_accuracy": "higher",
    "error": "lower",
    "loss": "lower",
    "ensemble_nll": "lower",
    "ensemble_ece": "lower",
    "soup_error": "lower",
    "soup_loss": "lower",
}
"""Measures of cells that a gate may test, test split (names of `load_records`), and the better direction.

Barriers are taken at alpha = 1/2 or over the interior, both signed. A maximum over the whole grid is at least
0 and therefore biased upward on small test sets.
"""

MAX_TESTS = 3
"""Holm's correction requires p <= 0.05 / k of the first of k tests, so more tests need more replicates."""


def _fork_name(value: object) -> str:
    return Fork.parse(value).name  # type: ignore[arg-type]


class GateTest(BaseModel):
    """One headline test of a suite, on the cells of the named shifts and forks (empty: all)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    measure: str
    kind: Kind
    margin: float = Field(gt=0, allow_inf_nan=False, description="absolute, in the measure's unit")
    reason: str = Field(min_length=1, description="why this margin")
    shifts: list[str] = Field(default_factory=list, description="labels; empty: all")
    forks: list[Annotated[str, BeforeValidator(_fork_name)]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _judgeable(self) -> GateTest:
        if self.measure not in MEASURES and self.measure != AREA:
            raise unknown("measure of the gate", self.measure, [*MEASURES, AREA])
        if self.kind == "non-inferiority" and self.better is None:
            directed = ", ".join(name for name, better in MEASURES.items() if better is not None)
            raise ValueError(
                f"{self.measure} has no better direction. Use kind = 'equivalence'; "
                f"non-inferiority is available for {directed}"
            )
        return self

    @property
    def better(self) -> Better | None:
        """The direction that is better, if any."""
        return MEASURES.get(self.measure)

    def covers(self, shift: str, fork: str) -> bool:
        """Return whether it is of the cells of a shift, given by its label, and a fork."""
        return (not self.shifts or shift in self.shifts) and (not self.forks or fork in self.forks)


DEFAULT_GATE = (
    GateTest(
        measure="error_mid",
        kind="equivalence",
        margin=0.05,
        reason="default: five percentage points of a barrier that ranges from 0 to about 90",
    ),
    GateTest(
        measure="accuracy_mean",
        kind="non-inferiority",
        margin=0.01,
        reason="default: one percentage point of accuracy",
    ),
    GateTest(
        measure="ensemble_accuracy",
        kind="non-inferiority",
        margin=0.01,
        reason="default: one percentage point of accuracy",
    ),
)
"""The tests of a suite that declares none."""
