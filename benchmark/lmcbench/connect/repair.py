"""The path between two networks with repaired activation statistics (Jordan et al., 2023, REPAIR)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lmcbench.connect.arguments import Split
from lmcbench.connect.blending import Stack, State, unstack
from lmcbench.connect.features import output_hooks, units_last
from lmcbench.connect.interpolation import prepare_path, states_on_line
from lmcbench.connect.isolation import isolated
from lmcbench.connect.network import Network
from lmcbench.errors import UserError
from lmcbench.results.curves import Array, Curve, blend

_TOLERANCE = 0.01
"""Largest difference of a repaired unit's deviation from the one wanted, over the layer's largest."""

Moments = dict[str, tuple[Tensor, Tensor]]
"""Layer -> mean and standard deviation of its output over images and positions, each `[units]` float64."""


def repair_path(
    model: nn.Module,
    state_a: State,
    state_b: State,
    splits: Mapping[str, Split],
    calibration: Tensor,
    alphas: int | Sequence[float] = 21,
    batch_size: int = 1000,
    device: str | torch.device | None = None,
) -> dict[str, Curve]:
    """Return `trace_path` over the repaired states of the line.

    Arguments and errors are those of `trace_path` and `repaired_states`; `calibration` is required.
    """
    p = prepare_path(model, state_a, state_b, splits, alphas, batch_size, device)
    return p.curves(repaired_states(p.network, p.a, p.b, calibration))


def repaired_states(
    network: Network, state_a: State, state_b: State, images: Tensor
) -> Callable[[Array], Stack]:
    """Return a function from alphas to the repaired states on the line, computed on `images` in one batch.

    Networks with BatchNorm are repaired by recalibrating its statistics. In others, the pre-activations X of
    every unit (outputs of convolutions and linear layers, except the classifier) are rescaled and shifted so
    that (Jordan et al., 2023, arXiv 2211.08403)

        mean X_alpha = (1 - alpha) mean X_A + alpha mean X_B,  and likewise for the standard deviation.

    The correction is folded into weight and bias, layer by layer from input to output; in layers that
    standardise their weights, into their gain. Constant units are shifted only. Both ends are exact.

    Raises:
        UserError: for fewer than two images, a layer without a bias, one that runs twice, or one that
            computes its weights without a gain.
    """
    if network.norms:
        return lambda alphas: network.recalibrate(states_on_line(network, state_a, state_b, alphas), images)
    if len(images) < 2:
        raise UserError(f"Repair needs at least two images, found {len(images)}.")
    ends = unstack(network.prepare([state_a, state_b]))
    moments_a, moments_b = (_moments(network, end, images) for end in ends)

    def states(alphas: Array) -> Stack:
        path = states_on_line(network, state_a, state_b, alphas)
        for state, x in zip(unstack(path), alphas.tolist(), strict=True):
            for name, value in _corrected(network, state, _between(moments_a, moments_b, x), images).items():
                state[name].copy_(value)  # writes into the stack
        return path

    [middle] = unstack(states(np.array([0.5])))
    _check_repaired(_moments(network, middle, images), _between(moments_a, moments_b, 0.5))
    return states


def _between(moments_a: Moments, moments_b: Moments, alpha: float) -> Moments:
    return {
        layer: (blend(mean, moments_b[layer][0], alpha), blend(deviation, moments_b[layer][1], alpha))
        for layer, (mean, deviation) in moments_a.items()
    }


def _check_repaired(found: Moments, targets: Moments) -> None:
    """Raise if the deviations of a repaired state are not those wanted, except of constant units."""
    for name, (_, wanted) in targets.items():
        deviation = found[name][1]
        missed = (deviation - wanted).abs()[deviation > 0]
        if bool((missed > _TOLERANCE * wanted.max()).any()):
            raise UserError(
                f"Layer {name!r} cannot be repaired: its output does not grow with its weight, which it "
                "standardises or computes from others."
            )


def _moments(network: Network, state: State, images: Tensor) -> Moments:
    """Return the moments of every layer to repair, in the order of execution."""
    seen: Moments = {}

    def record(name: str, module: nn.Module, output: Tensor) -> None:
        if name in seen:
            raise UserError(f"Layer {name!r} runs more than once; its statistics cannot be repaired.")
        seen[name] = _measure(module, output)

    _run(network, state, images, record)
    seen.popitem()  # the classifier's outputs are logits, not pre-activations
    for name in seen:
        if f"{name}.bias" not in state:
            raise UserError(f"Layer {name!r} has no bias to hold the repair of its mean.")
        if f"{name}.weight" not in state:
            raise UserError(f"Layer {name!r} has no weight to hold the repair: it is computed from others.")
    return seen


def _corrected(network: Network, state: State, targets: Moments, images: Tensor) -> dict[str, Tensor]:
    """Return weights and biases that give the layers the moments `targets`; `state` is not modified."""
    fixed: dict[str, Tensor] = {}

    def correct(name: str, module: nn.Module, output: Tensor) -> Tensor | None:
        if name not in targets:
            return None
        mean, deviation = _measure(module, output)
        target_mean, target_deviation = targets[name]
        scale = torch.where(deviation > 0, target_deviation / deviation, 1.0)
        shift = target_mean - mean * scale
        # a weight that is standardised keeps its size: timm's layers multiply it by a gain
        factor = "gain" if f"{name}.gain" in state else "weight"
        for part in (factor, "bias"):
            value = state[f"{name}.{part}"]
            rows = scale.view(-1, *[1] * (value.ndim - 1))
            new = value.double() * rows + (shift if part == "bias" else 0)
            fixed[f"{name}.{part}"] = new.to(value.dtype)
        shape = _shape(module, output)
        return output * scale.to(output.dtype).view(shape) + shift.to(output.dtype).view(shape)

    _run(network, state, images, correct)
    return fixed


def _measure(module: nn.Module, output: Tensor) -> tuple[Tensor, Tensor]:
    units = units_last(module, output).double().flatten(0, -2)
    return units.mean(0), units.std(0)


def _shape(module: nn.Module, output: Tensor) -> list[int]:
    """Return the shape that broadcasts a value per unit over a layer's output."""
    return [-1] if isinstance(module, nn.Linear) else [-1, *[1] * (output.ndim - 2)]


@torch.no_grad()
def _run(
    network: Network, state: State, images: Tensor, hook: Callable[[str, nn.Module, Tensor], Tensor | None]
) -> None:
    """Run all images in one batch; `hook` gets each layer's output and may return a replacement."""
    with output_hooks(network.model, hook), isolated(network.device), network.chunked_convolutions():
        network.forward(state, images)
