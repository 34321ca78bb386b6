"""A recipe: every setting of training that changes the weights, except network and data."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lmcbench.errors import UserError
from lmcbench.values import as_integer, as_number

OptimizerName = Literal["sgd", "adamw"]


class OptimizerSettings(BaseModel):
    """An optimizer and its constants other than learning rate and weight decay."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    optimizer: OptimizerName = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of SGD")
    nesterov: bool = False
    betas: tuple[float, float] = Field(default=(0.9, 0.999), strict=False, description="of AdamW")
    eps: float = Field(default=1e-8, gt=0, description="of AdamW")
    decay_vectors: bool = Field(default=True, description="decay biases and norm weights too")

    @model_validator(mode="after")
    def _check_betas(self) -> Self:
        if any(not 0 <= b < 1 for b in self.betas):
            raise ValueError("betas must lie in [0, 1)")
        return self


class TrainingSettings(BaseModel):
    """Length, batch size, schedule, augmentation and precision: what a sweep has in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    schedule: Literal["constant", "cosine", "step"] = "cosine"
    milestones: tuple[float, ...] = Field(
        default=(), strict=False, description="fractions of training at which 'step' divides lr by 10"
    )
    warmup_epochs: float = Field(default=0.0, ge=0, description="linear, from lr / warm-up steps")
    batch_size: int = Field(ge=1, le=10**9)
    epochs: int = Field(ge=1, le=10**9, description="passes over the full training set; sets T")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    clip_norm: float | None = Field(default=None, gt=0, description="of the whole gradient")
    augmentation: tuple[Literal["flip", "shift1", "crop4", "crop4-reflect"], ...] = Field(
        default=(), strict=False
    )
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError("milestones are required with schedule 'step' and not allowed with others")
        if any(a >= b for a, b in pairwise((0.0, *self.milestones, 1.0))):
            raise ValueError("milestones must increase strictly inside (0, 1)")
        if self.warmup_epochs >= self.epochs:
            raise ValueError("warmup_epochs must be less than epochs")
        return self


class Recipe(TrainingSettings, OptimizerSettings):
    """Optimizer, learning rate, schedule, batch size, length, augmentation and precision.

    A new field needs a default that keeps the previous behaviour: digests omit defaults, so existing suites
    keep their digest.
    """

    lr: float = Field(gt=0, description="peak learning rate")
    weight_decay: float = Field(default=0.0, ge=0)

    def steps_per_epoch(self, n: int) -> int:
        """Return the number of full batches in `n` images; an incomplete last batch is dropped."""
        return n // self.batch_size

    def length(self, n: int) -> int:
        """Return T, the steps of a full training on a training set of `n` images."""
        return self.epochs * self.steps_per_epoch(n)

    def lr_at(self, step: int, length: int) -> float:
        """Return the learning rate at the 0-based `step` of a training of `length` steps.

        Ends of warm-up and milestones are rounded to the nearest step.
        """
        warmup = round(self.warmup_epochs / self.epochs * length)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (length - warmup)))
        passed = sum(step >= round(m * length) for m in self.milestones)
        return self.lr * 0.1**passed


def noise_scale(lr: float, n: int, batch_size: int) -> float:
    """Return the scale of SGD's gradient noise, g = lr (N/B - 1), in units of the learning rate.

    (Hepburn, Zielke and Raulf, 2025, arXiv 2511.04514, after Smith and Le, 2018, arXiv 1710.06451.)

    Args:
        lr: peak learning rate, finite and at least 0.
        n: N, number of images in the view that the network is trained on.
        batch_size: B, images in a batch, from 1 to N.

    Raises:
        UserError: if an argument is not a number or out of range.

    Examples:
        >>> noise_scale(lr=0.5, n=1000, batch_size=100)
        4.5
    """
    rate = as_number(lr, "noise_scale: lr", least=0)
    images, size = as_integer(n, "noise_scale: n", 1), as_integer(batch_size, "noise_scale: batch_size")
    if not 1 <= size <= images:
        raise UserError(f"noise_scale: batch_size must lie in 1..{images}, found {size}.")
    return rate * (images / size - 1)


EngineName = Literal["reference", "channels-last", "stacked"]
"""`reference` trains networks one after another, `channels-last` likewise on images in that memory layout,
`stacked` advances a fleet in one pass."""

ENGINES: tuple[EngineName, ...] = get_args(EngineName)
