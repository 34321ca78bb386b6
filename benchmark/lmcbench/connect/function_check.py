"""Check that two states of a network compute the same function."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmcbench.connect.blending import State
from lmcbench.connect.isolation import copy_model
from lmcbench.connect.network import Network
from lmcbench.errors import UserError

_TOLERANCE = 1e-4
"""Largest difference of logits before and after, over the largest logit."""


def check_function(model: nn.Module, before: State, after: State, images: Tensor) -> None:
    """Check on images that two states compute the same function.

    Single precision is tried first, then double: a network of random weights may amplify rounding.

    Raises:
        UserError: if the logits differ by more than 1e-4 of the largest.
    """
    found = logit_difference(model, before, after, images)
    if not found <= _TOLERANCE:
        found = logit_difference(model, before, after, images, torch.float64)
    if not found <= _TOLERANCE:
        raise UserError(
            "The network cannot be aligned: the result changes its function (logits differ by "
            f"{found:.2g} of the largest), so an operation of it is misunderstood. Please report it."
        )


def logit_difference(
    model: nn.Module, before: State, after: State, images: Tensor, dtype: torch.dtype | None = None
) -> float:
    """Return the largest difference of two states' logits over the largest logit; NaN if they overflow.

    Args:
        model: the network of both states.
        before: a state dict.
        after: another.
        images: `[n, ...]`.
        dtype: what to compute in; None: as the network is.
    """
    if dtype is not None:
        model = copy_model(model).cpu().to(dtype)
        before, after = (
            {name: x.to(dtype) if x.is_floating_point() else x for name, x in state.items()}
            for state in (before, after)
        )
        images = images.to(dtype)
    network = Network(model, "cpu")
    # without copies of the weights, which a stack of states would be
    one, other = (network.outputs(state, images) for state in (before, after))
    return float((one - other).abs().max()) / max(float(one.abs().max()), 1e-30)
