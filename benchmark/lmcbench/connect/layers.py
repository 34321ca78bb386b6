"""Which layers cause the barrier: paths that move one layer, or exchange one layer after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lmcbench.connect.arguments import CalibrationLike, LazySplit
from lmcbench.connect.blending import (
    Stack,
    State,
    blend_stack,
    layer_of,
    states_per_chunk,
    unstack,
    weight_names,
)
from lmcbench.connect.curvature import Objective, predict
from lmcbench.connect.interpolation import PathInputs, Scores, chunk_points, prepare_path, score_states
from lmcbench.connect.loaders import Images
from lmcbench.connect.network import Network
from lmcbench.results.curves import Array, Curve

_CHUNK = 8
"""Maximum number of mixed states in memory."""

_SPLIT = "split"
"""Name of the split in error messages."""


@dataclass(frozen=True)
class LayerPath:
    """Curves on which one layer moves and all others stay at the start of the path.

    Attributes:
        from_a: from A to A with this layer of B.
        from_b: from B to B with this layer of A.
        predicted_from_a: second-order prediction of the loss of `from_a` above its chord, nats, `[A]`.
        predicted_from_b: the same for `from_b`.
    """

    from_a: Curve
    from_b: Curve
    predicted_from_a: Array
    predicted_from_b: Array


@dataclass(frozen=True, eq=False)
class CumulativePath:
    """Loss and error while the layers of A are replaced by B's, one after another.

    Attributes:
        layers: L names in the order of replacement.
        loss: mean cross-entropy in nats after 0 .. L replacements, `[L + 1]`; A first, B last.
        error: fraction misclassified, `[L + 1]`.
        n: number of images.
    """

    layers: tuple[str, ...]
    loss: Array
    error: Array
    n: int


def layers_of(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return layer name -> names of its tensors, in `named_modules` order; a partition of the state.

    A layer is a module that owns parameters directly, with its buffers; a parameter of the root is a layer of
    its own name. Tensors of modules without parameters belong to the layer before them (or to the first).
    """
    layers: dict[str, list[str]] = {}
    known: dict[int, str] = {}  # a module used under two names is one layer
    leading: list[str] = []
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            continue
        prefix, _, own = name.rpartition(".")
        module = model.get_submodule(prefix)
        owns = (
            own in module._parameters if not prefix else any(True for _ in module.parameters(recurse=False))
        )
        if owns:
            layer = known.setdefault(id(module), layer_of(name)) if prefix else name
            layers.setdefault(layer, []).append(name)
        elif layers:
            next(reversed(layers.values())).append(name)
        else:
            leading.append(name)
    first = next(iter(layers.values()))
    first[:0] = leading
    return {layer: tuple(names) for layer, names in layers.items()}


def layerwise(
    model: nn.Module,
    state_a: State,
    state_b: State,
    split: LazySplit,
    alphas: int | Sequence[float] = 21,
    calibration: CalibrationLike | None = None,
    *,
    batch_size: int = 1000,
    device: str | torch.device | None = None,
) -> dict[str, Curve]:
    """Return loss (nats) and error (fraction) along paths on which only one layer moves from A to B.

    Layer-wise linear mode connectivity of Adilova et al. (2023, arXiv 2307.06966): alpha 0 is A, alpha 1 is A
    with this layer of B. A layer is a module that owns parameters directly, with its buffers; a parameter of
    the root is a layer of its own name. A weight tied between layers moves only in the layer of the curve.

    Args:
        model: any classifier; not modified.
        state_a: state dict at alpha 0.
        state_b: state dict whose layers are reached at alpha 1.
        split: images `[n, c, h, w]` floating and labels `[n]` of any integer type.
        alphas: an odd number of evenly spaced points, or an increasing sequence that contains 0, 1/2 and 1.
        calibration: floating images `[m, c, h, w]` on which BatchNorm statistics are recalibrated at every
            alpha; None: statistics move with their layer.
        batch_size: images per forward pass.
        device: where to compute; the model's own by default.

    Returns:
        Layer name -> `Curve`, in `named_modules` order.

    Raises:
        UserError: if the states are of different networks or not finite, the split or calibration is invalid,
            or `alphas` misses 0, 1/2 or 1.

    Examples:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 8), torch.nn.Linear(8, 3))
        >>> a = model.state_dict()
        >>> b = {name: value + 1 if name.startswith("2.") else value for name, value in a.items()}
        >>> curves = layerwise(model, a, b, (torch.randn(9, 1, 2, 2), torch.arange(9) % 3), alphas=3)
        >>> list(curves)
        ['1', '2']
        >>> bool((curves["1"].loss == curves["1"].loss[0]).all())  # equal in A and B
        True
    """
    p = _prepare(model, state_a, state_b, split, alphas, batch_size=batch_size, device=device)
    layers = layers_of(p.network.model)
    calibration = p.network.calibration(p.a, calibration)
    return dict(_moved(p.network, layers, p.a, p.b, p.splits[_SPLIT], p.grid, calibration))


def layer_paths(
    model: nn.Module,
    state_a: State,
    state_b: State,
    split: LazySplit,
    alphas: int | Sequence[float] = 21,
    gradients: bool = False,
    calibration: Images | None = None,
    *,
    device: str | torch.device | None = None,
) -> dict[str, LayerPath]:
    """Return the curves of `layerwise` from both ends, each with its second-order prediction.

    Arguments and errors are those of `layerwise` and `predict_barrier`.
    """
    p = _prepare(model, state_a, state_b, split, alphas, device=device)
    network, grid, split = p.network, p.grid, p.splits[_SPLIT]
    layers = layers_of(network.model)
    curves, predictions = [], []
    for base, other in ((p.a, p.b), (p.b, p.a)):
        curves.append(dict(_moved(network, layers, base, other, split, grid, calibration)))
        predictions.append(
            dict(_predicted(network, layers, base, other, split, grid, gradients, calibration))
        )
    return {
        layer: LayerPath(curves[0][layer], curves[1][layer], predictions[0][layer], predictions[1][layer])
        for layer in layers
    }


def cumulative_paths(
    model: nn.Module,
    state_a: State,
    state_b: State,
    split: LazySplit,
    calibration: Images | None = None,
    *,
    device: str | torch.device | None = None,
) -> tuple[CumulativePath, CumulativePath]:
    """Replace the layers of A by B's one after another, from the input on, and from the output on.

    Arguments and errors are those of `layerwise`.
    """
    p = _prepare(model, state_a, state_b, split, 3, device=device)
    network, a, b, split = p.network, p.a, p.b, p.splits[_SPLIT]
    layers = layers_of(network.model)
    order = tuple(layers)
    size = len(order)
    mixed = [_mix(a, b, layers, order[:k]) for k in range(size + 1)]  # A, ..., B
    mixed += [_mix(a, b, layers, order[size - k :]) for k in range(1, size)]
    count = min(_CHUNK, states_per_chunk(a))
    parts = [
        score_states(network, _calibrated(network, mixed[i : i + count], calibration), *split, name="split")
        for i in range(0, len(mixed), count)
    ]
    loss = torch.cat([part.loss.mean(1) for part in parts]).numpy()
    error = torch.cat([part.wrong.double().mean(1) for part in parts]).numpy()
    back = [0, *range(size + 1, 2 * size), size]  # both orders share the ends
    n = len(split[0])
    return (
        CumulativePath(order, loss[: size + 1], error[: size + 1], n),
        CumulativePath(order[::-1], loss[back], error[back], n),
    )


def _prepare(
    model: nn.Module,
    state_a: State,
    state_b: State,
    split: LazySplit,
    alphas: int | Sequence[float],
    *,
    batch_size: int = 1000,
    device: str | torch.device | None,
) -> PathInputs:
    """Check the arguments and move the states to the network's device."""
    opened = prepare_path(model, state_a, state_b, {_SPLIT: split}, alphas, batch_size, device)
    a, b = unstack(opened.network.prepare([opened.a, opened.b]))
    return replace(opened, a=a, b=b)


def _moved(
    network: Network,
    layers: Mapping[str, Sequence[str]],
    base: State,
    other: State,
    split: LazySplit,
    grid: Array,
    calibration: Images | None,
) -> Iterator[tuple[str, Curve]]:
    """Yield the curve of each layer; `base`, the start of all curves, is scored once."""
    start = score_states(network, _calibrated(network, [base], calibration), *split, name="split")
    count = len(grid) - 1
    for layer, names in layers.items():
        if all(torch.equal(base[name], other[name]) for name in names):
            path = Scores(start.loss.expand(count, -1), start.wrong.expand(count, -1))
        else:
            here, there = ({name: state[name] for name in names} for state in (base, other))
            parts = []
            for alphas in chunk_points(grid[1:], here):
                stacked: Stack = {n: value.expand(len(alphas), *value.shape) for n, value in base.items()}
                stacked |= blend_stack(here, there, alphas.tolist())
                if calibration is not None:
                    stacked = network.recalibrate(stacked, calibration)
                parts.append(score_states(network, stacked, *split, _SPLIT, alphas))
                del stacked  # frees their memory before the next chunk is created
            path = Scores.join(*parts)
        yield layer, Scores.join(start, path).curve(grid)


def _predicted(
    network: Network,
    layers: Mapping[str, Sequence[str]],
    base: State,
    other: State,
    split: LazySplit,
    grid: Array,
    gradients: bool,
    calibration: Images | None,
) -> Iterator[tuple[str, Array]]:
    (start,) = unstack(_calibrated(network, [base], calibration))
    weights = set(weight_names(base))
    for layer, names in layers.items():
        moving = [name for name in names if name in weights]
        if all(torch.equal(base[name], other[name]) for name in moving):
            yield layer, np.zeros(len(grid))
            continue
        (end,) = unstack(_calibrated(network, [_mix(base, other, layers, [layer])], calibration))
        # only this layer moves, so only its block of the Hessian matters
        yield layer, predict(Objective(network, split, moving), start, end, grid, gradients)


def _mix(base: State, other: State, layers: Mapping[str, Sequence[str]], switched: Sequence[str]) -> State:
    return {**base, **{name: other[name] for layer in switched for name in layers[layer]}}


def _calibrated(network: Network, states: Sequence[State], calibration: Images | None) -> Stack:
    stacked = network.prepare(states)
    return stacked if calibration is None else network.recalibrate(stacked, calibration)
