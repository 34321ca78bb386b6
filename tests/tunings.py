"""Tuning files with chosen accuracies, without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmcbench.results.tuning import TUNING_SCHEMA, Setting, Training, Tuning, choose
from lmcbench.spec.architectures import Architecture
from lmcbench.spec.recipe import Recipe
from lmcbench.spec.suite import Suite
from lmcbench.spec.sweep import TUNING_REPLICATES

HELD_OUT = 1000
ENTROPY = 2.3


def setting(recipe: Recipe, accuracies: Sequence[int | str]) -> Setting:
    """Return a setting; an accuracy is a number of right images of `HELD_OUT`, or a status."""
    return Setting(
        recipe=recipe,
        trainings=[_training(r, a) for r, a in zip(TUNING_REPLICATES, accuracies, strict=True)],
    )


def _training(replicate: int, right: int | str) -> Training:
    if isinstance(right, int):
        return Training(
            replicate=replicate, status="ok", accuracy=right / HELD_OUT, train_loss=0.1, label_entropy=ENTROPY
        )
    ended: dict[str, Any] = {"accuracy": 0.1, "train_loss": 2.28} if right == "did-not-learn" else {}
    return Training.model_validate(
        {"replicate": replicate, "status": right, "reason": right, "label_entropy": ENTROPY, **ended}
    )


def make_tuning(suite: Suite, architecture: Architecture, rights: Sequence[Sequence[int | str]]) -> Tuning:
    """Return the tuning file of a network; `rights` has the accuracies of each setting of the sweep."""
    assert suite.sweep is not None
    settings = [setting(r, a) for r, a in zip(suite.sweep.settings, rights, strict=True)]
    return Tuning.model_validate(
        {
            "schema": TUNING_SCHEMA,
            "suite": {**suite.identity(), "tuning_digest": suite.tuning_digest},
            "architecture": {"label": architecture.label, **architecture.identity()},
            "data": {"name": "digits", "sha256": "0" * 64, "trained_on": 4000, "held_out": HELD_OUT},
            "settings": settings,
            "choice": choose(settings),
            "cost": {
                "engine": "stacked",
                "device": "cpu",
                "train_flop": 1e9,
                "train_s": 1.0,
                "versions": {"torch": "2.15.0"},
            },
        }
    )
