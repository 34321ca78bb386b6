"""Curves of loss and error on the straight line between two states of one network."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lmcbench.connect.arguments import (
    CalibrationLike,
    LazySplit,
    SplitLike,
    as_model,
    as_splits,
    as_state,
)
from lmcbench.connect.blending import (
    Stack,
    State,
    blend_stack,
    check_matches_model,
    check_pair,
    states_per_chunk,
)
from lmcbench.connect.loaders import Images
from lmcbench.connect.network import Network
from lmcbench.errors import UserError
from lmcbench.results.curves import Array, Curve, NotFiniteError, check_alphas
from lmcbench.values import as_integer, as_numbers, check_choice, shown

Ends = Literal["as-trained", "recalibrated"]
"""Normalisation statistics of a line's ends: the networks' own, or those of calibration images."""

ENDS: tuple[Ends, ...] = get_args(Ends)


MOST_ALPHAS = 100_001
"""Largest number of points if `alphas` is a number; a sequence may be longer."""


@dataclass(frozen=True)
class Scores:
    """Loss and misclassification of S states on each of n images.

    Attributes:
        loss: cross-entropy in nats, `[S, n]` float64.
        wrong: whether an image is misclassified, `[S, n]` bool; ties predict the lowest class.
    """

    loss: Tensor
    wrong: Tensor

    def curve(self, alphas: Array, subset: Tensor | None = None) -> Curve:
        """Return the curve of means over all images, or over those at positions `subset` `[m]`.

        State s is the point at `alphas[s]`.
        """
        loss, wrong = (
            (self.loss, self.wrong) if subset is None else (self.loss[:, subset], self.wrong[:, subset])
        )
        return Curve(alphas, loss.mean(1).numpy(), wrong.double().mean(1).numpy(), loss.shape[1])

    def of(self, index: int) -> Scores:
        """Return the scores of one state."""
        return Scores(self.loss[index : index + 1], self.wrong[index : index + 1])

    @staticmethod
    def join(*parts: Scores) -> Scores:
        """Concatenate the states of several scores."""
        return Scores(torch.cat([p.loss for p in parts]), torch.cat([p.wrong for p in parts]))

    @staticmethod
    def join_images(parts: Sequence[Scores]) -> Scores:
        """Concatenate the images of several scores of the same states."""
        return Scores(torch.cat([p.loss for p in parts], 1), torch.cat([p.wrong for p in parts], 1))


def trace_path(
    model: nn.Module,
    state_a: State,
    state_b: State,
    splits: Mapping[str, SplitLike],
    alphas: int | Sequence[float] = 21,
    calibration: CalibrationLike | None = None,
    batch_size: int | None = 1000,
    device: str | torch.device | None = None,
    ends: Ends = "as-trained",
) -> dict[str, Curve]:
    """Return loss (nats) and error (fraction) along the line from A to B, on every split.

    The error curve of linear interpolation by Frankle et al. (2020, arXiv 1912.05671, section 2); see
    `interpolate` for the states on the line and `barrier` for its height. With `calibration`, BatchNorm's
    running statistics are recomputed between the ends, as Jordan et al. (2023, REPAIR, arXiv 2211.08403)
    reset them. The ends keep their own statistics, because recalibration may harm a trained network.

    Args:
        model: any classifier, images `[n, c, h, w]` -> logits `[n, classes]`; not modified.
        state_a: state dict at alpha 0, also nested under `state_dict`, `model_state_dict` or `model`.
        state_b: state dict at alpha 1.
        splits: name -> (images `[n, c, h, w]` floating, labels `[n]` of any integer type), as tensors or
            NumPy arrays; or a `DataLoader` or `Dataset` of them in a fixed order, without augmentation.
        alphas: an odd number of evenly spaced points, or an increasing sequence that contains 0, 1/2 and 1.
        calibration: floating images `[m, c, h, w]` on which BatchNorm statistics are recalibrated at every
            alpha between the ends; None: running statistics are blended like weights.
        batch_size: images per forward pass; None: chosen by device and image size.
        device: where to compute; the model's own by default.
        ends: `as-trained`: A and B with their own statistics; `recalibrated`: as the points between them.

    Returns:
        Split name -> `Curve`. Forward passes use the model's parameter dtype, means are float64.

    Raises:
        UserError: if the states are of different networks, weights or images are not finite, labels are out
            of range, a split is empty, images are not floating, `alphas` misses 0, 1/2 or 1, or the device
            is missing. The message names the argument.

    Examples:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> a = model.state_dict()
        >>> b = {name: -value for name, value in a.items()}
        >>> split = (torch.randn(20, 1, 2, 2), torch.arange(20) % 3)
        >>> curve = trace_path(model, a, b, {"test": split}, alphas=5)["test"]
        >>> curve.alphas.tolist(), curve.n
        ([0.0, 0.25, 0.5, 0.75, 1.0], 20)
        >>> round(curve.loss[2].item(), 4)  # all weights are zero: ln 3
        1.0986
    """
    check_choice(ends, "ends", ENDS)
    p = prepare_path(model, state_a, state_b, splits, alphas, batch_size, device)
    checked = p.network.calibration(p.a, calibration)

    def states(alphas: Array) -> Stack:
        path = states_on_line(p.network, p.a, p.b, alphas)
        if checked is None:
            return path
        fresh = p.network.recalibrate(path, checked)
        if ends == "recalibrated":
            return fresh
        kept = torch.as_tensor((alphas == 0) | (alphas == 1), device=p.network.device)
        return {
            name: value  # weights are shared with the path, which a copy of all would double
            if value is path[name]
            else torch.where(kept.view(-1, *[1] * (value.ndim - 1)), path[name], value)
            for name, value in fresh.items()
        }

    return p.curves(states)


@dataclass(frozen=True)
class PathInputs:
    """Checked arguments of a path.

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
    splits: dict[str, LazySplit]
    grid: Array

    def curves(self, states: Callable[[Array], Stack]) -> dict[str, Curve]:
        """Return each split's curve over `states(alphas)`, which is called for chunks of the grid."""
        found: dict[str, list[Scores]] = {name: [] for name in self.splits}
        for alphas in chunk_points(self.grid, self.a):
            path = states(alphas)
            for name, split in self.splits.items():
                found[name].append(score_states(self.network, path, *split, name, alphas))
            del path  # frees its memory before the next chunk is created
        return {name: Scores.join(*parts).curve(self.grid) for name, parts in found.items()}


def prepare_path(
    model: nn.Module,
    state_a: State,
    state_b: State,
    splits: Mapping[str, SplitLike],
    alphas: int | Sequence[float],
    batch_size: int | None,
    device: str | torch.device | None,
) -> PathInputs:
    """Check the arguments that the functions on paths share (see `trace_path`)."""
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
    """Split `points` into nearly equal chunks, so small that the states at a chunk's points fit in memory."""
    yield from np.array_split(points, -(-len(points) // states_per_chunk(state)))


def states_on_line(network: Network, state_a: State, state_b: State, alphas: Array) -> Stack:
    """Return the states at `alphas` on the line from A to B, stacked on the network's device."""
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
    """Return loss and error of every state on every image.

    `name` of the split and `alphas` of the states are for error messages.

    Raises:
        UserError: if labels exceed the network's classes.
        NotFiniteError: if a loss is not finite.
    """
    parts = []
    start = 0
    for logits in network.batches(states, images):
        target = labels[start : start + logits.shape[1]]
        start += logits.shape[1]
        parts.append(scores_from_logits(logits, target, name, alphas))
    return Scores.join_images(parts)


def scores_from_logits(
    logits: Tensor, labels: Tensor, name: str = "images", alphas: Array | None = None
) -> Scores:
    """Return loss and error from the logits of S states, `[S, n, classes]`; see `score_states`.

    Raises:
        UserError: if labels exceed the classes.
        NotFiniteError: if a loss is not finite, which marks a cell as diverged rather than failed.
    """
    size, n, classes = logits.shape
    target = labels.to(logits.device)
    check_labels(name, target, classes)
    flat = logits.reshape(size * n, classes)
    # half precision would round each loss to 3 digits
    flat = flat.float() if flat.dtype.itemsize < 4 else flat
    loss = F.cross_entropy(flat, target.repeat(size), reduction="none")
    scores = Scores(loss.view(size, n).double().cpu(), (logits.argmax(-1) != target).cpu())
    finite = torch.isfinite(scores.loss).all(1)
    if not finite.all():
        bad = int(finite.logical_not().nonzero()[0])
        where = f"state {bad} of {size}" if alphas is None else f"alpha {alphas[bad]:g}"
        raise NotFiniteError(f"Split {name!r}: the loss is not finite at {where}.")
    return scores


def alpha_grid(alphas: int | Sequence[float]) -> Array:
    """Return the points on the line, `[A]` float64, from their odd number or as given.

    Raises:
        UserError: for an even number, or a sequence that does not increase or misses 0, 1/2 or 1.
    """
    if isinstance(alphas, numbers.Integral):
        count = as_integer(alphas, "alphas", 1)
        if count < 3 or count % 2 == 0 or count > MOST_ALPHAS:
            bounds = f"from 3 to {MOST_ALPHAS:,}" if count > MOST_ALPHAS else "of at least 3"
            raise UserError(f"alphas must be an odd number {bounds}, found {count}.")
        return np.arange(count) / (count - 1)
    allowed = "an odd whole number or a sequence of numbers"
    grid = as_numbers(alphas, "alphas", allowed)
    if grid.ndim != 1:
        found = shown(alphas) if grid.ndim == 0 else f"shape {grid.shape}"
        raise UserError(f"alphas must be {allowed}, found {found}.")
    check_alphas(grid)
    if 0.5 not in grid:
        raise UserError("alphas must contain 1/2.")
    return grid


def check_labels(name: str, labels: Tensor, classes: int) -> None:
    """Raise UserError if labels exceed the classes; `name` is the split's."""
    if int(labels.max()) >= classes:
        raise UserError(
            f"Split {name!r}: label {int(labels.max())} is out of range, there are {classes} classes."
        )
