"""The straight line between two states of one network, as curves of loss and error."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lmcbench.connect.arguments import Split, as_integer, as_model, as_splits, as_state
from lmcbench.connect.blending import (
    Stack,
    State,
    blend_stack,
    check_matches_model,
    check_pair,
    states_per_chunk,
)
from lmcbench.connect.network import Images, Network
from lmcbench.errors import UserError
from lmcbench.results.curves import Array, Curve, NotFiniteError, check_alphas


@dataclass(frozen=True)
class Scores:
    """What many states make of each image of a split.

    Attributes:
        loss: cross-entropy in nats, `[S, n]` float64.
        wrong: misclassified, `[S, n]` bool; of tied classes the lowest is predicted (torch's argmax).
    """

    loss: Tensor
    wrong: Tensor

    def curve(self, alphas: Array, subset: Tensor | None = None) -> Curve:
        """Means over the images, or over `subset` (positions `[m]`), one point per state."""
        loss, wrong = (
            (self.loss, self.wrong) if subset is None else (self.loss[:, subset], self.wrong[:, subset])
        )
        return Curve(alphas, loss.mean(1).numpy(), wrong.double().mean(1).numpy(), loss.shape[1])

    def of(self, index: int) -> Scores:
        """Those of one state."""
        return Scores(self.loss[index : index + 1], self.wrong[index : index + 1])

    @staticmethod
    def join(*parts: Scores) -> Scores:
        """Those of all states of the parts, in order."""
        return Scores(torch.cat([p.loss for p in parts]), torch.cat([p.wrong for p in parts]))


def trace_path(
    model: nn.Module,
    state_a: State,
    state_b: State,
    splits: Mapping[str, Split],
    alphas: int | Sequence[float] = 21,
    calibration: Tensor | None = None,
    batch_size: int = 1000,
    device: str | torch.device | None = None,
) -> dict[str, Curve]:
    """Loss (nats) and error (fraction) along the line from A to B, on every split (design 3.1 to 3.4).

    Linear interpolation as by Frankle et al. (arXiv 1912.05671, section 2). Images and labels may be NumPy
    arrays; a state may stand under `state_dict`, `model_state_dict` or `model`, as scripts save it.

    Args:
        model: any classifier; its mode, weights, buffers and device stay as they are.
        state_a: state dict at alpha 0.
        state_b: state dict at alpha 1.
        splits: name -> (images `[n, c, h, w]` floating, labels `[n]` of any integer type).
        alphas: an odd number of evenly spaced points, or an increasing sequence that contains 0, 1/2 and 1.
        calibration: images `[m, c, h, w]` floating on which BatchNorm statistics are taken anew at every
            alpha, the ends included; None: buffers are blended as they are.
        batch_size: images per forward pass.
        device: where to compute; the model's own by default.

    Returns:
        A `Curve` per split. The forward pass is in the model's parameter dtype, sums are float64. A
        network with BatchNorm layers without running statistics depends on `batch_size`.

    Raises:
        UserError: naming the argument, for states of different networks, NaN weights or images, labels out of
            range, an empty split, pixels that are not floating, a grid that misses one of the three
            points, or a device that is not there.
    """
    p = prepare_path(model, state_a, state_b, splits, alphas, batch_size, device)
    calibration = p.network.calibration(p.a, calibration)

    def states(alphas: Array) -> Stack:
        path = states_on_line(p.network, p.a, p.b, alphas)
        return path if calibration is None else p.network.recalibrate(path, calibration)

    return p.curves(states)


@dataclass(frozen=True)
class PathInputs:
    """The arguments of a path, checked.

    Attributes:
        network: the model's private copy.
        a: state at alpha 0.
        b: state at alpha 1.
        splits: images and labels by name.
        grid: alphas, `[A]`.
    """

    network: Network
    a: State
    b: State
    splits: dict[str, Split]
    grid: Array

    def curves(self, states: Callable[[Array], Stack]) -> dict[str, Curve]:
        """Each split's curve over the states that `states` makes for alphas, a stretch of them at a time."""
        found: dict[str, list[Scores]] = {name: [] for name in self.splits}
        for alphas in chunk_points(self.grid, self.a):
            path = states(alphas)
            for name, split in self.splits.items():
                found[name].append(score_states(self.network, path, *split, name, alphas))
            del path  # or the next one would be made beside it
        return {name: Scores.join(*parts).curve(self.grid) for name, parts in found.items()}


def prepare_path(
    model: nn.Module,
    state_a: State,
    state_b: State,
    splits: Mapping[str, Split],
    alphas: int | Sequence[float],
    batch_size: int,
    device: str | torch.device | None,
) -> PathInputs:
    """What is common to every path: the arguments checked (see `trace_path`)."""
    grid = alpha_grid(alphas)
    model = as_model(model)
    a, b = as_state(state_a, "state_a", model), as_state(state_b, "state_b", model)
    check_pair(a, b)
    check_matches_model(model, a)
    checked = as_splits(splits)
    network = Network(model, device, batch_size)
    network.stacked = network.device.type == "cuda"
    for name, (images, _) in checked.items():
        network.check_accepts(a, images, f"Split {name!r}")
    return PathInputs(network, a, b, checked, grid)


def chunk_points(points: Array, state: State) -> Iterator[Array]:
    """`points` in order, in equal parts of so many that their states, like `state`, may be held at once."""
    yield from np.array_split(points, -(-len(points) // states_per_chunk(state)))


def states_on_line(network: Network, state_a: State, state_b: State, alphas: Array) -> Stack:
    """The states at `alphas` on the line from A to B, on the network's device."""
    a = {name: value.to(network.device) for name, value in state_a.items()}
    b = {name: value.to(network.device) for name, value in state_b.items()}
    return blend_stack(a, b, alphas.tolist())


def score_states(
    network: Network,
    states: Stack,
    images: Images,
    labels: Tensor,
    name: str = "images",
    alphas: Array | None = None,
) -> Scores:
    """Loss and error of every state on every image; the split's `name` and the states' `alphas` for errors.

    Raises:
        UserError: for labels beyond the network's classes, or outputs that are not finite.
    """
    parts = []
    start = 0
    for logits in network.batches(states, images):
        target = labels[start : start + logits.shape[1]]
        start += logits.shape[1]
        parts.append(scores_from_logits(logits, target, name, alphas))
    return Scores(torch.cat([p.loss for p in parts], 1), torch.cat([p.wrong for p in parts], 1))


def scores_from_logits(
    logits: Tensor, labels: Tensor, name: str = "images", alphas: Array | None = None
) -> Scores:
    """Loss and error from the logits of S states, `[S, n, classes]`; `name` and `alphas` as in `score`.

    Raises:
        UserError: for labels beyond the classes.
        NotFiniteError: for logits that are not finite, which makes a cell diverged rather than failed.
    """
    size, n, classes = logits.shape
    target = labels.to(logits.device)
    check_labels(name, target, classes)
    flat = logits.reshape(size * n, classes)
    # half precision would round each loss to 3 digits; wider types stay as they are
    flat = flat.float() if flat.dtype.itemsize < 4 else flat
    loss = F.cross_entropy(flat, target.repeat(size), reduction="none")
    scores = Scores(loss.view(size, n).double().cpu(), (logits.argmax(-1) != target).cpu())
    if not torch.isfinite(scores.loss).all():
        bad = _first_bad(scores.loss)
        where = f"state {bad} of {size}" if alphas is None else f"alpha {alphas[bad]:g}"
        raise NotFiniteError(f"Split {name!r}: the loss is not finite at {where}.")
    return scores


def _first_bad(loss: Tensor) -> int:
    return int((~torch.isfinite(loss)).any(1).nonzero()[0])


def alpha_grid(alphas: int | Sequence[float]) -> Array:
    """The points on the line, `[A]` float64: an odd number, evenly spaced, or as given.

    Raises:
        UserError: for an even number, or a sequence that misses 0, 1/2 or 1.
    """
    if isinstance(alphas, numbers.Integral):
        count = as_integer(alphas, "alphas", 1)
        if count < 3 or count % 2 == 0:
            raise UserError(f"alphas must be an odd number of at least 3, found {count}.")
        return np.arange(count) / (count - 1)
    try:
        grid = np.asarray(alphas, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(
            f"alphas must be an odd whole number or a sequence of numbers, found {alphas!r}."
        ) from None
    if grid.ndim != 1:
        found = repr(alphas) if grid.ndim == 0 else f"shape {grid.shape}"
        raise UserError(f"alphas must be an odd whole number or a sequence of numbers, found {found}.")
    check_alphas(grid)
    if 0.5 not in grid:
        raise UserError("alphas must contain 1/2.")
    return grid


def check_labels(name: str, labels: Tensor, classes: int) -> None:
    """Refuse labels beyond the network's classes; `name` is the split's."""
    if int(labels.max()) >= classes:
        raise UserError(
            f"Split {name!r}: label {int(labels.max())} is out of range, there are {classes} classes."
        )
