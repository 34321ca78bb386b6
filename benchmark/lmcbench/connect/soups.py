"""Averages of several states of one network, and their normalisation statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor, nn

from lmcbench.connect.arguments import CalibrationLike, as_model, as_state
from lmcbench.connect.blending import State, average, check_matches_model, check_pair, unstack
from lmcbench.connect.network import Network
from lmcbench.errors import UserError, counted
from lmcbench.values import as_integer, as_list, as_numbers, shown


def soup(states: Sequence[State], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """Return the average of the states of one network: a model soup (Wortsman et al., 2022).

    Every floating tensor is averaged in double precision (two states of equal weight as their midpoint in
    `interpolate`), running means and variances included: use `recalibrate` for networks with BatchNorm. Other
    tensors must be equal in all states, except BatchNorm's counters, which are the last state's.

    Args:
        states: state dicts, also nested in a checkpoint.
        weights: one number of at least 0 per state, not all 0, divided by their sum; None: equal.

    Returns:
        A state dict on the first state's device that shares no memory with the arguments.

    Raises:
        UserError: for no states, states of different networks, or other weights.

    Examples:
        >>> import torch
        >>> soup([{"w": torch.zeros(2)}, {"w": torch.ones(2)}], weights=[1, 3])
        {'w': tensor([0.7500, 0.7500])}
    """
    given = [
        as_state(state, f"states[{i}]") for i, state in enumerate(as_list(states, "states", "state dicts"))
    ]
    if not given:
        raise UserError("soup needs at least one state.")
    for i, state in enumerate(given):
        check_pair(given[0], state, ("states[0]", f"states[{i}]"))
    if weights is None:
        return average(given)
    allowed = "one finite number of at least 0 per state, not all 0"
    shares = as_numbers(weights, "weights", allowed)
    if (
        shares.shape != (len(given),)
        or not np.isfinite(shares).all()
        or (shares < 0).any()
        or not shares.sum()
    ):
        raise UserError(f"weights must be {allowed}: {counted(len(given), 'state')}, found {shown(weights)}.")
    return average(given, (shares / shares.sum()).tolist())


def recalibrate(
    model: nn.Module, state: State, images: CalibrationLike, batches: int = 1
) -> dict[str, Tensor]:
    """Return the state with BatchNorm's running statistics taken from `images`.

    The reset of Jordan et al. (2023, REPAIR, arXiv 2211.08403, section 3). Means and unbiased variances are
    those of the layers' inputs on the images, pooled over the batches; they are exact for one batch. Networks
    without running statistics keep their state.

    Args:
        model: the network; not modified.
        state: its state dict, also nested in a checkpoint.
        images: floating images `[n, c, h, w]`, or a `DataLoader` or `Dataset` of them.
        batches: number of equal batches that the images are split into.

    Raises:
        UserError: if the state does not fit the model, or for fewer than two images per batch.

    Examples:
        >>> import torch
        >>> model = torch.nn.BatchNorm2d(1)
        >>> images = torch.arange(8.0).view(2, 1, 2, 2)
        >>> state = recalibrate(torch.nn.Sequential(model, torch.nn.Flatten()), {
        ...     f"0.{name}": value for name, value in model.state_dict().items()}, images)
        >>> state["0.running_mean"], state["0.running_var"]
        (tensor([3.5000]), tensor([6.]))
    """
    count = as_integer(batches, "batches", 1)
    model = as_model(model)
    checked = as_state(state, "state", model)
    check_matches_model(model, checked)
    network = Network(model)
    calibration = network.calibration(checked, images)
    if calibration is None:
        raise UserError("images are missing: pass a tensor [n, c, h, w] or a DataLoader.")
    (found,) = unstack(network.recalibrate(network.prepare([checked]), calibration, count))
    return {name: found[name].clone() for name in checked}


def greedy_soup(accuracies: Sequence[float], accuracy_of: Callable[[Sequence[int]], float]) -> list[int]:
    """Return the members of the greedy soup, in the order in which they enter.

    Recipe 1 of Wortsman et al. (2022, arXiv 2203.05482).

    States are tried in order of falling accuracy on held-out images. One stays in the soup if the average
    with it is at least as accurate as the soup without it.

    Args:
        accuracies: of each state alone, on held-out images.
        accuracy_of: members -> accuracy of their average, on the same images.

    Examples:
        >>> greedy_soup([0.7, 0.9, 0.8], lambda members: {(1, 2): 0.85, (1, 0): 0.9}[tuple(members)])
        [1, 0]
    """
    order = sorted(range(len(accuracies)), key=lambda i: (-accuracies[i], i))
    members, best = [order[0]], accuracies[order[0]]
    for i in order[1:]:
        accuracy = accuracy_of([*members, i])
        if accuracy >= best:
            members, best = [*members, i], accuracy
    return members
