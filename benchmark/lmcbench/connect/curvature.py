"""Gradients and Hessian-vector products of the mean loss, and the barrier that they predict."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lmcbench.connect.arguments import (
    CalibrationLike,
    Split,
    SplitLike,
    as_examples,
    as_model,
    as_split,
    as_state,
)
from lmcbench.connect.blending import State, check_pair, unstack, weight_names
from lmcbench.connect.interpolation import alpha_grid, check_labels
from lmcbench.connect.isolation import isolated, without_autocast
from lmcbench.connect.network import MAX_IMAGES, Network
from lmcbench.errors import UserError
from lmcbench.results.curves import Array, NotFiniteError
from lmcbench.values import check_bool, shown

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs `[n, classes]` and labels `[n, ...]` -> per-example loss `[n]`."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy in nats, `[n, classes]` and `[n]` -> `[n]`."""
    check_labels("split", labels, logits.shape[1])
    return F.cross_entropy(logits, labels, reduction="none")


class Objective:
    """The mean loss of one network over one split, as a function of the named weights.

    Eval mode; all other tensors, BatchNorm statistics included, are constant. Vectors are flat, `[P]` float64
    on the network's device, the weights in the order of `names`. Batches are computed in the network's own
    dtype and summed in float64.

    Args:
        network: the network, with its device and batch size.
        split: images `[n, c, h, w]` and labels.
        names: tensors of the state to differentiate.
        loss: per-example loss.

    Raises:
        UserError: if the split is invalid.
    """

    def __init__(
        self, network: Network, split: SplitLike, names: Sequence[str], loss: Loss = cross_entropy
    ) -> None:
        checked = as_split if loss is cross_entropy else as_examples
        images, labels = checked("split", split)
        self.network = network
        self.images = images
        self.labels = labels.to(network.device)
        self.names = list(names)
        self.loss = loss

    def flat(self, state: State) -> Tensor:
        """Return the named weights of `state` as one vector, `[P]`."""
        return torch.cat([state[name].detach().double().flatten() for name in self.names])

    def gradient(self, state: State) -> Tensor:
        """Return the gradient at `state`, `[P]`."""
        return self._derivatives(state, None)[0]

    def hvp(self, state: State, vector: Tensor) -> Tensor:
        """Return the Hessian at `state` times `vector`, `[P]`."""
        return self._derivatives(state, vector)[1]

    def gradient_and_hvp(self, state: State, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Return both at the cost of the product."""
        return self._derivatives(state, vector)

    def _derivatives(self, state: State, vector: Tensor | None) -> tuple[Tensor, Tensor]:
        leaves = [state[name].detach().clone().requires_grad_() for name in self.names]
        size = sum(leaf.numel() for leaf in leaves)
        gradient = torch.zeros(size, dtype=torch.float64, device=self.network.device)
        product = torch.zeros_like(gradient)
        direction = None if vector is None else self._like(leaves, vector)
        there = {**state, **dict(zip(self.names, leaves, strict=True))}
        batch = min(self.network.images_per_pass(self.images), MAX_IMAGES)
        # fused attention kernels have no second derivative
        with (
            torch.enable_grad(),
            sdpa_kernel(SDPBackend.MATH),
            without_autocast(self.network.device),
            isolated(self.network.device),
        ):
            for images, labels in zip(
                torch.split(self.images, batch), torch.split(self.labels, batch), strict=True
            ):
                loss = self.loss(self.network.forward(there, images), labels).sum()
                first = torch.autograd.grad(
                    loss, leaves, create_graph=direction is not None, materialize_grads=True
                )
                gradient += self._flatten(first)
                if direction is None:
                    continue
                slope = sum((g * v).sum() for g, v in zip(first, direction, strict=True))
                if isinstance(slope, Tensor) and slope.requires_grad:  # else the loss is linear: zero
                    product += self._flatten(torch.autograd.grad(slope, leaves, materialize_grads=True))
        return gradient / len(self.images), product / len(self.images)

    @staticmethod
    def _flatten(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.detach().double().flatten() for part in parts])

    @staticmethod
    def _like(leaves: Sequence[Tensor], vector: Tensor) -> list[Tensor]:
        parts = torch.split(vector, [leaf.numel() for leaf in leaves])
        return [part.view_as(leaf).to(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]


@torch.inference_mode(False)  # inference mode of the caller would disable gradients
def predict_barrier(
    model: nn.Module,
    state_a: State,
    state_b: State,
    split: Split,
    alphas: int | Sequence[float] = 21,
    gradients: bool = False,
    calibration: CalibrationLike | None = None,
    *,
    loss: Loss = cross_entropy,
    batch_size: int = 500,
    device: str | torch.device | None = None,
) -> Array:
    """Return the barrier predicted to second order from the derivatives at both ends, in nats at every alpha.

    With d = theta_B - theta_A, gradients g and Hessians H of the loss at the ends,

        S(a) = a (1 - a) / 2 * d' (a H_A + (1 - a) H_B) d  [ + a (1 - a) (g_A - g_B)' d ].

    The first term is the prediction published by Singh et al. (2024, arXiv 2406.16300), which assumes that
    both ends are minima. `gradients` adds the second term, which makes it exact for quadratics at every alpha
    and for cubics at 1/2. It predicts the chord form, L(a) - (1 - a) L_A - a L_B. On a single quadratic the
    published term alone has the wrong sign.

    Args:
        model: any classifier; not modified.
        state_a: state dict at alpha 0.
        state_b: state dict at alpha 1.
        split: images `[n, c, h, w]` floating and labels `[n]` of any integer type.
        alphas: an odd number of evenly spaced points, or an increasing sequence that contains 0, 1/2 and 1.
        gradients: add the first-order term.
        calibration: floating images `[m, c, h, w]` on which BatchNorm statistics are recalibrated at each
            end, then held fixed; None: each end's own.
        loss: per-example loss, outputs `[n, classes]` and labels -> `[n]`.
        batch_size: images per pass.
        device: where to compute; the model's own by default.

    Returns:
        S at every alpha, `[A]` float64, in the unit of the loss (nats); 0 at both ends.

    Raises:
        UserError: if the states are of different networks or not finite, the split or calibration is invalid,
            `alphas` misses 0, 1/2 or 1, or a loss or derivative is not finite.

    Examples:
        (w - 1)² between w = 0 and w = 2: loss 1 at both ends, 0 in the middle.

        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> a, b = ({"weight": torch.tensor([[w]])} for w in (0.0, 2.0))
        >>> split = (torch.ones(1, 1), torch.ones(1))
        >>> square = lambda outputs, targets: (outputs[:, 0] - targets) ** 2
        >>> predict_barrier(model, a, b, split, 3, gradients=True, loss=square).tolist()
        [0.0, -1.0, 0.0]
        >>> predict_barrier(model, a, b, split, 3, loss=square).tolist()
        [0.0, 1.0, 0.0]
    """
    grid = alpha_grid(alphas)
    check_bool(gradients, "gradients")
    if not callable(loss):
        raise UserError(f"loss must be a function of outputs and labels, found {shown(loss)}.")
    model = as_model(model)
    state_a, state_b = as_state(state_a, "state_a", model), as_state(state_b, "state_b", model)
    check_pair(state_a, state_b)
    network = Network(model, device, batch_size)
    objective = Objective(network, split, weight_names(state_a), loss)
    ends = network.prepare([state_a, state_b])
    network.check_accepts(state_a, objective.images, "Split 'split'")
    calibration = network.calibration(state_a, calibration)
    if calibration is not None:
        ends = network.recalibrate(ends, calibration)
    a, b = unstack(ends)
    predicted = predict(objective, a, b, grid, gradients)
    if not np.isfinite(predicted).all():
        raise NotFiniteError("Split 'split': the loss or a derivative is not finite at A or B.")
    return predicted


def predict(objective: Objective, state_a: State, state_b: State, alphas: Array, gradients: bool) -> Array:
    """Evaluate the formula of `predict_barrier` on states on the network's device, `[A]`."""
    step = objective.flat(state_b) - objective.flat(state_a)
    gradient_a, product_a = objective.gradient_and_hvp(state_a, step)
    gradient_b, product_b = objective.gradient_and_hvp(state_b, step)
    curvature_a, curvature_b = float(step @ product_a), float(step @ product_b)
    weight = alphas * (1 - alphas)
    predicted: Array = weight / 2 * (alphas * curvature_a + (1 - alphas) * curvature_b)
    if gradients:
        predicted = predicted + weight * float((gradient_a - gradient_b) @ step)
    return predicted
