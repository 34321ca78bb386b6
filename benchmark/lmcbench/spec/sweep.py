"""A suite's sweep: the settings among which `lmcbench tune` chooses a network's recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from lmcbench.spec.recipe import OptimizerSettings, Recipe, TrainingSettings

TUNED = "tuned"
"""Name of the recipe that a tuning file contains; no recipe of a suite may have it."""

MAX_SETTINGS = 24
"""Most settings of a sweep."""

TUNING_REPLICATES = range(1000, 1003)
"""Replicates that settings are compared on; no published replicate is among them."""

HELD_OUT = 0.2
"""Share of the training set on which settings are compared; they are trained on the rest."""


class SweepOptimizer(OptimizerSettings):
    """One optimizer of a sweep: every learning rate is combined with every weight decay."""

    lr: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        min_length=1, max_length=MAX_SETTINGS, strict=False, description="peak learning rates"
    )
    weight_decay: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default=(0.0,), min_length=1, max_length=MAX_SETTINGS, strict=False, description="weight decays"
    )


class Sweep(TrainingSettings):
    """Optimizers with their learning rates and weight decays; length, batch size and the rest in common."""

    optimizers: list[SweepOptimizer] = Field(min_length=1, max_length=MAX_SETTINGS)

    @model_validator(mode="after")
    def _check_settings(self) -> Sweep:
        count = sum(len(each.lr) * len(each.weight_decay) for each in self.optimizers)
        if count > MAX_SETTINGS:
            raise ValueError(f"has {count} settings; at most {MAX_SETTINGS} are allowed")
        settings = self.settings
        for i, setting in enumerate(settings):
            if setting in settings[:i]:
                raise ValueError(f"{setting_text(setting)} is listed twice")
        return self

    @property
    def settings(self) -> list[Recipe]:
        """The settings in file order: by optimizer, learning rate and weight decay."""
        common = {name: getattr(self, name) for name in TrainingSettings.model_fields}
        return [
            Recipe(
                **common,
                **{name: getattr(each, name) for name in OptimizerSettings.model_fields},
                lr=lr,
                weight_decay=decay,
            )
            for each in self.optimizers
            for lr in each.lr
            for decay in each.weight_decay
        ]


def setting_text(recipe: Recipe) -> str:
    """Return what tells a setting from others, for people: `sgd, lr 0.1, weight decay 0.0005`.

    Constants of the optimizer are named where they are not the defaults.
    """
    parts = [recipe.optimizer, f"lr {recipe.lr:g}", f"weight decay {recipe.weight_decay:g}"]
    constants = recipe.model_dump(include=set(OptimizerSettings.model_fields), exclude_defaults=True)
    constants.pop("optimizer", None)
    return ", ".join([*parts, *(f"{name} {value}" for name, value in constants.items())])
