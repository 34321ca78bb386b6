"""A recipe: all of training that changes weights, save the network and the data."""

from __future__ import annotations

import math
from itertools import pairwise
from numbers import Integral, Real
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lmcbench.errors import UserError


class Recipe(BaseModel):
    """Optimizer, learning rate, schedule, batch size, length, augmentation and precision.

    Fields added later get a default that means what was done before them: digests leave defaults out,
    so that old suites keep theirs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(gt=0, allow_inf_nan=False, description="peak learning rate")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of SGD")
    nesterov: bool = False
    betas: tuple[float, float] = Field(default=(0.9, 0.999), strict=False, description="of AdamW")
    eps: float = Field(default=1e-8, gt=0, allow_inf_nan=False, description="of AdamW")
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    decay_vectors: bool = Field(default=True, description="decay biases and norm weights too")
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    milestones: tuple[float, ...] = Field(
        default=(), strict=False, description="fractions of training at which 'step' divides lr by 10"
    )
    warmup_epochs: float = Field(default=0.0, ge=0, description="linear, from lr / warm-up steps")
    batch_size: int = Field(ge=1)
    epochs: int = Field(ge=1, description="passes over the full training set; sets T")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    clip_norm: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="of the whole gradient"
    )
    augmentation: tuple[Literal["flip", "shift1", "crop4", "crop4-reflect"], ...] = Field(
        default=(), strict=False
    )
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _agree(self) -> Recipe:
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError("milestones go with schedule 'step', and it needs them")
        if any(a >= b for a, b in pairwise((0.0, *self.milestones, 1.0))):
            raise ValueError("milestones must increase strictly inside (0, 1)")
        if self.warmup_epochs >= self.epochs:
            raise ValueError("warmup_epochs must be less than epochs")
        if any(not 0 <= b < 1 for b in self.betas):
            raise ValueError("betas must lie in [0, 1)")
        return self

    def steps_per_epoch(self, n: int) -> int:
        """Full batches in one pass over `n` images; the tail is dropped (design 3.5)."""
        return n // self.batch_size

    def length(self, n: int) -> int:
        """T: steps of a full training, set by the size `n` of the full training set."""
        return self.epochs * self.steps_per_epoch(n)

    def lr_at(self, step: int, length: int) -> float:
        """Learning rate of step `step` (0-based) in a training of `length` steps.

        Warm-up and milestones end at the nearest step.
        """
        warmup = round(self.warmup_epochs / self.epochs * length)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (length - warmup)))
        passed = sum(step >= round(m * length) for m in self.milestones)
        return self.lr * 0.1**passed


def noise_scale(lr: float, n: int, batch_size: int) -> float:
    """Scale of SGD's gradient noise, g = lr (N/B - 1) (Hepburn et al., arXiv 2511.04514, after Smith and
    Le, arXiv 1710.06451); in the unit of the learning rate.

    Args:
        lr: peak learning rate.
        n: N, images in the view that is trained on.
        batch_size: B.

    Raises:
        UserError: for what is no number, a negative rate, or a batch size outside 1..N.
    """
    if not (isinstance(lr, Real) and math.isfinite(lr) and lr >= 0):
        raise UserError(f"noise_scale: lr must be a finite number of at least 0, found {lr!r}.")
    for name, value in (("n", n), ("batch_size", batch_size)):
        if not isinstance(value, Integral):
            raise UserError(f"noise_scale: {name} must be a whole number, found {value!r}.")
    if not 1 <= batch_size <= n:
        raise UserError(f"noise_scale: batch_size must lie in 1..{n}, found {batch_size}.")
    return float(lr) * (int(n) / int(batch_size) - 1)


EngineName = Literal["reference", "stacked"]
"""One network after another, or all of a fleet in one pass (design 3.11)."""

ENGINES: tuple[EngineName, ...] = get_args(EngineName)
