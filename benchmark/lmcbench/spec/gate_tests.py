"""What the regression gate tests: a measure, how it is judged, and the margin with its reason."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lmcbench.errors import unknown
from lmcbench.spec.forks import Fork

Kind = Literal["equivalence", "non-inferiority"]
Better = Literal["higher", "lower"]

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
"""Measures a gate may test, by the names of `load_records` on the test split, and which way is better.

Barriers enter at alpha = 1/2 or over the interior, both signed: a maximum over the whole grid is never
below 0, hence biased upward on small test sets.
"""

MAX_TESTS = 3
"""Holm's correction asks the first of k tests for p <= 0.05 / k: with more, few replicates decide nothing."""


def _fork_name(value: object) -> str:
    return Fork.parse(value).name  # type: ignore[arg-type]


class GateTest(BaseModel):
    """One headline test of a suite.

    Shifts and forks name the cells it looks at; empty means all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    measure: str
    kind: Kind
    margin: float = Field(gt=0, allow_inf_nan=False, description="absolute, in the measure's unit")
    reason: str = Field(min_length=1, description="why this margin")
    shifts: list[str] = Field(default_factory=list, description="labels")
    forks: list[Annotated[str, BeforeValidator(_fork_name)]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _judgeable(self) -> GateTest:
        if self.measure not in MEASURES:
            raise unknown("measure of the gate", self.measure, MEASURES)
        if self.kind == "non-inferiority" and self.better is None:
            directed = ", ".join(name for name, better in MEASURES.items() if better is not None)
            raise ValueError(
                f"{self.measure} has no better direction: test it for equivalence "
                f"(non-inferiority is for {directed})"
            )
        return self

    @property
    def better(self) -> Better | None:
        """Which way is better, if any."""
        return MEASURES[self.measure]


DEFAULT_GATE = (
    GateTest(
        measure="error_mid",
        kind="equivalence",
        margin=0.05,
        reason="the default: five points of a barrier that runs from 0 to about 90",
    ),
    GateTest(
        measure="accuracy_mean",
        kind="non-inferiority",
        margin=0.01,
        reason="the default: one point of accuracy",
    ),
    GateTest(
        measure="ensemble_accuracy",
        kind="non-inferiority",
        margin=0.01,
        reason="the default: one point of accuracy",
    ),
)
"""The headline tests of a suite that declares none."""
