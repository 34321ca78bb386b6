"""Second derivatives of the mean loss in the weights, and the barrier they predict."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lmcbench.connect.arguments import Split, as_examples, as_model, as_split, as_state
from lmcbench.connect.blending import State, check_pair, unstack, weight_names
from lmcbench.connect.interpolation import alpha_grid, check_labels
from lmcbench.connect.isolation import isolated, without_autocast
from lmcbench.connect.network import Network
from lmcbench.results.curves import Array, NotFiniteError

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs `[n, classes]` and labels `[n, ...]` -> each example's loss `[n]`."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats, `[n, classes]` and `[n]` -> `[n]`."""
    check_labels("split", labels, logits.shape[1])
    return F.cross_entropy(logits, labels, reduction="none")


class Objective:
    """The mean loss of one network over one split, as a function of the named weights.

    Eval mode; everything that is not named, normalisation statistics above all, is held fixed. Vectors
    are flat, `[P]` float64 on the network's device, the weights in the order of `names`. Sums over
    batches are float64; within a batch the network's own dtype is used.

    Args:
        network: where to run, and how many images at a time.
        split: images `[n, c, h, w]` and labels.
        names: the tensors of the state that are differentiated.
        loss: each example's loss.

    Raises:
        UserError: for a split that cannot be measured.
    """

    def __init__(
        self, network: Network, split: Split, names: Sequence[str], loss: Loss = cross_entropy
    ) -> None:
        checked = as_split if loss is cross_entropy else as_examples
        images, labels = checked("split", split)
        self.network = network
        self.images = images
        self.labels = labels.to(network.device)
        self.names = list(names)
        self.loss = loss

    def flat(self, state: State) -> Tensor:
        """The named weights of `state` as one vector."""
        return torch.cat([state[name].detach().double().flatten() for name in self.names])

    def gradient(self, state: State) -> Tensor:
        """The gradient at `state`, `[P]`."""
        return self._derivatives(state, None)[0]

    def hvp(self, state: State, vector: Tensor) -> Tensor:
        """The Hessian at `state` times `vector`, `[P]`."""
        return self._derivatives(state, vector)[1]

    def gradient_and_hvp(self, state: State, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Both, for the price of the product."""
        return self._derivatives(state, vector)

    def _derivatives(self, state: State, vector: Tensor | None) -> tuple[Tensor, Tensor]:
        leaves = [state[name].detach().clone().requires_grad_() for name in self.names]
        size = sum(leaf.numel() for leaf in leaves)
        gradient = torch.zeros(size, dtype=torch.float64, device=self.network.device)
        product = torch.zeros_like(gradient)
        direction = None if vector is None else self._like(leaves, vector)
        there = {**state, **dict(zip(self.names, leaves, strict=True))}
        batch = self.network.images_per_pass(self.images)
        # the fused attention kernels have no second derivative
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


@torch.inference_mode(False)  # there is no gradient in the caller's
def predict_barrier(
    model: nn.Module,
    state_a: State,
    state_b: State,
    split: Split,
    alphas: int | Sequence[float] = 21,
    gradients: bool = False,
    calibration: Tensor | None = None,
    *,
    loss: Loss = cross_entropy,
    batch_size: int = 500,
    device: str | torch.device | None = None,
) -> Array:
    """The barrier that the ends' derivatives predict, S(a) in nats at every alpha, `[A]`.

    With d = theta_B - theta_A: a (1-a) / 2 * d' (a H_A + (1-a) H_B) d as published ([S] Singh et al.,
    arXiv 2406.16300, the second-order prediction), plus a (1-a) (g_A - g_B)' d with `gradients`. The
    published form assumes both ends to be minima; on a single quadratic it is -S (oracle 3). With
    gradients it is exact for quadratics at every alpha and for cubics at 1/2.

    Args:
        model: any classifier; it stays as it is.
        state_a: state dict at alpha 0.
        state_b: state dict at alpha 1.
        split: images `[n, c, h, w]` floating and labels `[n]` of any integer type.
        alphas: an odd number of evenly spaced points, or an increasing sequence that contains 0, 1/2 and 1.
        gradients: add the first-order term.
        calibration: images `[m, c, h, w]` floating on which each end's BatchNorm statistics are taken
            anew, then held fixed; None: each end's own.
        loss: another loss than cross-entropy, outputs `[n, classes]` and labels -> `[n]`.
        batch_size: images per pass.
        device: where to compute; the model's own by default.

    Returns:
        S at every alpha, `[A]` float64, in the loss's unit (nats); 0 at both ends.

    Raises:
        UserError: for states of different networks or with NaN, a split or calibration that cannot be
            measured, a grid that misses 0, 1/2 or 1, and a loss or derivative that is not finite.
    """
    grid = alpha_grid(alphas)
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
    """The formula of `predict_barrier` on states already on the network's device, `[A]`."""
    step = objective.flat(state_b) - objective.flat(state_a)
    gradient_a, product_a = objective.gradient_and_hvp(state_a, step)
    gradient_b, product_b = objective.gradient_and_hvp(state_b, step)
    curvature_a, curvature_b = float(step @ product_a), float(step @ product_b)
    weight = alphas * (1 - alphas)
    predicted: Array = weight / 2 * (alphas * curvature_a + (1 - alphas) * curvature_b)
    if gradients:
        predicted = predicted + weight * float((gradient_a - gradient_b) @ step)
    return predicted
