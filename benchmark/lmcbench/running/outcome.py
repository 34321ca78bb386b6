"""Judge a finished training: it went well, diverged, or did not learn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lmcbench.spec.learning import did_not_learn

IF_NOT_FINITE = "try a smaller learning rate, a warm-up or gradient clipping"
IF_NOT_LEARNING = "try a smaller or larger learning rate, more epochs or another recipe"
"""Advice for the two ways in which training goes wrong; part of a record's reason."""


@dataclass(frozen=True)
class TrainingOutcome:
    """How a training ended.

    Attributes:
        status: as in records.
        reason: why it is not `ok`, with advice; it continues a sentence about the network.
        train_loss: mean mini-batch loss of the last pass in nats; None if it is not finite.
    """

    status: Literal["ok", "diverged", "did-not-learn"]
    reason: str | None
    train_loss: float | None


def judge_training(
    losses: Tensor, per_epoch: int, entropy: float, finite: bool, start: int = 0, outputs: bool = True
) -> TrainingOutcome:
    """Return how a training ended.

    Args:
        losses: of its mini-batches in nats, `[steps]`.
        per_epoch: steps of a pass over its images.
        entropy: of its images' labels, in nats.
        finite: whether its weights and statistics are finite at the end.
        start: step of the first loss.
        outputs: whether its outputs on other images are finite.
    """
    last = float(losses[-per_epoch:].double().mean())
    train_loss = last if math.isfinite(last) else None
    bad = torch.nonzero(~torch.isfinite(losses))
    where = None
    if len(bad):
        where = f"the loss is not finite at step {start + int(bad[0])}"
    elif not finite:
        where = "a weight is not finite at the end of training"
    elif not outputs or train_loss is None:
        where = "an output is not finite at the end of training"
    if where is not None:
        return TrainingOutcome("diverged", f"{where}; {IF_NOT_FINITE}", train_loss)
    if did_not_learn(last, entropy):
        found = f"final training loss {last:.3f}, entropy of its labels {entropy:.3f}"
        return TrainingOutcome("did-not-learn", f"did not learn: {found}; {IF_NOT_LEARNING}", train_loss)
    return TrainingOutcome("ok", None, train_loss)
