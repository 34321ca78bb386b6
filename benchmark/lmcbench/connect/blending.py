"""State dicts of one network: check, blend, stack, average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lmcbench.connect.arguments import as_state
from lmcbench.errors import UserError
from lmcbench.results.checkpoint_contents import COUNTER
from lmcbench.results.curves import blend
from lmcbench.values import as_number

State = Mapping[str, Tensor]
Stack = dict[str, Tensor]
"""S states stacked along a new first axis: name -> `[S, ...]`."""

STATISTICS = ("running_mean", "running_var")

MAX_BYTES = 256 * 2**20
"""Memory for the states of a path: all 21 of a network of three million weights, five of ResNet-18."""


def interpolate(state_a: State, state_b: State, alpha: float) -> dict[str, Tensor]:
    """Return the state at `alpha` on the straight line from A to B: (1 - alpha) A + alpha B.

    The linear path of Frankle et al. (2020, arXiv 1912.05671, section 2). It is computed as A + alpha (B - A)
    below 1/2 and B - (1 - alpha) (B - A) from there on, so that both ends are exact. Every floating tensor is
    blended, running means and variances included. Other tensors must be equal in A and B, except BatchNorm's
    counters, which are A's below 1/2 and B's from there on.

    Args:
        state_a: state dict at alpha 0, also nested under `state_dict`, `model_state_dict` or `model`.
        state_b: state dict at alpha 1.
        alpha: position on the line, in [0, 1]; beyond it running variances could become negative.

    Returns:
        A state dict on A's device that shares no memory with the arguments.

    Raises:
        UserError: if an argument is not a state dict, if the states belong to different networks or contain
            non-finite values (the message names the tensor), or if alpha is outside [0, 1].

    Examples:
        >>> import torch
        >>> interpolate({"weight": torch.zeros(2)}, {"weight": torch.ones(2)}, 0.25)
        {'weight': tensor([0.2500, 0.2500])}
    """
    state_a, state_b = as_state(state_a, "state_a"), as_state(state_b, "state_b")
    check_pair(state_a, state_b)
    alpha = as_number(alpha, "interpolate: alpha", least=0, most=1)
    return {name: value[0] for name, value in blend_stack(state_a, state_b, [alpha]).items()}


def blend_stack(state_a: State, state_b: State, alphas: Sequence[float]) -> Stack:
    """Return the states at `alphas`, stacked, on A's device; `check_pair` must have been called."""
    there = {name: state_b[name].to(a.device) for name, a in state_a.items()}
    return {name: torch.stack([_at(a, there[name], x) for x in alphas]) for name, a in state_a.items()}


def _at(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    if a.is_floating_point() or a.is_complex():
        blended: Tensor = blend(a.detach(), b.detach(), alpha)
        return blended
    return a if alpha < 0.5 else b


def check_pair(state_a: State, state_b: State, names: tuple[str, str] = ("A", "B")) -> None:
    """Check that two states are finite and of one network; `names` are the states' names in errors.

    Raises:
        UserError: naming the first invalid tensor.
    """
    missing = [*(state_a.keys() - state_b.keys()), *(state_b.keys() - state_a.keys())]
    if missing:
        raise UserError(
            f"The states are of different networks: {sorted(missing)[0]!r} is in one of them only."
        )
    for name, a in state_a.items():
        b = state_b[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            found = f"{tuple(a.shape)} {a.dtype} and {tuple(b.shape)} {b.dtype}"
            raise UserError(f"The states are of different networks: {name!r} is {found}.")
        if a.is_floating_point() or a.is_complex():
            for which, value in zip(names, (a, b), strict=True):
                if not torch.isfinite(value).all():
                    raise UserError(f"State {which}: {name!r} holds NaN or infinity.")
        elif name.rpartition(".")[2] != COUNTER and not torch.equal(a, b.to(a.device)):
            raise UserError(f"{name!r} is {a.dtype}, cannot be blended, and differs between the states.")


def check_matches_model(model: nn.Module, state: State) -> None:
    """Check names, shapes and dtypes of a state against `model`.

    Raises:
        UserError: naming the first tensor that is missing, unexpected, or of another shape or dtype.
    """
    own = model.state_dict()
    for name in sorted(own.keys() | state.keys()):
        if name not in state:
            raise UserError(f"The state does not fit the network: {name!r} is missing.")
        if name not in own:
            raise UserError(f"The state does not fit the network, which has no {name!r}.")
        if own[name].shape != state[name].shape:
            found = f"{tuple(state[name].shape)}, the network's is {tuple(own[name].shape)}"
            raise UserError(f"The state does not fit the network: {name!r} is {found}.")
        if own[name].dtype != state[name].dtype:
            found = f"{state[name].dtype}, the network's is {own[name].dtype}"
            raise UserError(f"The state does not fit the network: {name!r} is {found}.")


def weight_names(state: State) -> list[str]:
    """Return the names of all floating tensors except running means and variances, in the state's order.

    Raises:
        UserError: for complex weights, which distances and derivatives do not support.
    """
    for name, value in state.items():
        if value.is_complex():
            raise UserError(
                f"{name!r} is {value.dtype}; distances and derivatives support real weights only."
            )
    return [
        name
        for name, value in state.items()
        if value.is_floating_point() and name.rpartition(".")[2] not in STATISTICS
    ]


def layer_of(name: str) -> str:
    """Return the name of the module that owns a tensor; a tensor of the root is its own layer."""
    return name.rpartition(".")[0] or name


def stack(states: Sequence[State]) -> Stack:
    """Stack states of one network, on the first one's device."""
    return {
        name: torch.stack([state[name].detach().to(first.device) for state in states])
        for name, first in states[0].items()
    }


def unstack(stacked: Stack) -> list[dict[str, Tensor]]:
    """Return the states of a stack, as views."""
    size = len(next(iter(stacked.values())))
    return [{name: value[i] for name, value in stacked.items()} for i in range(size)]


def states_per_chunk(state: State) -> int:
    """Return how many states like this one fit into `MAX_BYTES`, at least one."""
    size = sum(value.numel() * value.element_size() for value in state.values())
    return max(1, MAX_BYTES // max(1, size))


def average(states: Sequence[State], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """Return the average of the states (model soup; Wortsman et al., 2022, arXiv 2203.05482).

    Two states of equal weight are blended at 1/2, as on the line between them; others are averaged in double
    precision. Tensors that are not floating are the last state's. The caller checks states and weights.

    Args:
        states: at least one, of one network.
        weights: one number of at least 0 per state, not all 0; None: equal.

    Returns:
        A state dict on the first state's device that shares no memory with the states.
    """
    shares = [1.0] * len(states) if weights is None else [float(weight) for weight in weights]
    if len(states) == 2 and shares[0] == shares[1]:
        return interpolate(states[0], states[1], 0.5)
    return {name: _mean([state[name] for state in states], shares) for name in states[0]}


def _mean(values: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Return the weighted mean of tensors of one type, or the last one if they are not floating."""
    first, last = values[0], values[-1]
    if not (first.is_floating_point() or first.is_complex()):
        return last.detach().to(first.device).clone()
    wide = torch.complex128 if first.is_complex() else torch.float64
    total = torch.zeros_like(first, dtype=wide)
    for value, share in zip(values, shares, strict=True):
        total += share * value.detach().to(first.device, wide)
    return (total / sum(shares)).to(first.dtype)
