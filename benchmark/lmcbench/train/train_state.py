"""The whole state of a network in training: what a fork copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lmcbench.results.run_folder import replacing

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class TrainState:
    """Weights, statistics and optimizer state; the position in training is the step it is kept at.

    Tensors are kept sorted by name, so that sums over them (the gradient's norm) are the same bits
    whether a state comes from a model or from a file.

    Attributes:
        params: trainable tensors by name (tied ones once).
        buffers: all other tensors: statistics, constants, frozen weights, and what layers keep
            without saving it, which a fork copies too.
        slots: optimizer state by slot name, then parameter name.
    """

    params: Tensors
    buffers: Tensors
    slots: dict[str, Tensors]

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", dict(sorted(self.params.items())))
        object.__setattr__(self, "buffers", dict(sorted(self.buffers.items())))
        slots = {slot: dict(sorted(tensors.items())) for slot, tensors in sorted(self.slots.items())}
        object.__setattr__(self, "slots", slots)

    def copy(self) -> TrainState:
        """A state that shares no memory with this one."""
        return self.map(torch.clone)

    def to(self, device: torch.device) -> TrainState:
        """The state on `device`."""
        return self.map(lambda t: t.to(device))

    def map(self, function: Callable[[Tensor], Tensor]) -> TrainState:
        """The state with `function` applied to each tensor."""

        def apply(tensors: Tensors) -> Tensors:
            return {name: function(t) for name, t in tensors.items()}

        return TrainState(
            apply(self.params), apply(self.buffers), {slot: apply(t) for slot, t in self.slots.items()}
        )

    @property
    def finite(self) -> bool:
        """Whether every weight and statistic is finite."""
        tensors = [*self.params.values(), *self.buffers.values()]
        return all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point())


def initial_state(model: nn.Module, slot_names: tuple[str, ...]) -> TrainState:
    """The state of a fresh model, its optimizer slots zero."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    owned = {id(p) for p in trainable.values()}
    params = {name: p.detach().clone() for name, p in trainable.items()}
    buffers = {n: t.detach().clone() for n, t in holders(model).items() if id(t) not in owned}
    slots = {slot: {n: torch.zeros_like(p) for n, p in params.items()} for slot in slot_names}
    return TrainState(params, buffers, slots)


def holders(model: nn.Module) -> Tensors:
    """Every tensor of the model itself under each of its names: the state dict's, and unsaved buffers."""
    unsaved = dict(model.named_buffers(remove_duplicate=False))
    return {**unsaved, **model.state_dict(keep_vars=True)}


def state_dict(model: nn.Module, state: TrainState) -> Tensors:
    """The state as `model.state_dict()` lays it out, tied weights under each of their names."""
    own = model.state_dict(keep_vars=True)
    canonical = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    return {
        name: state.params[canonical[id(value)]] if id(value) in canonical else state.buffers[name]
        for name, value in own.items()
    }


def save_state(state: TrainState, path: Path, about: Mapping[str, str] | None = None) -> None:
    """Write the whole state to `path` (safetensors), in place of what was there, atomically.

    `about` says how it came about; `read_metadata` reads it again.
    """
    save_tensors(flatten_state(state), path, about)


def read_metadata(path: Path) -> dict[str, str]:
    """What `save_state` was told of the state; empty where it was told nothing, or the file is torn."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError:  # who needs the weights finds out
        return {}


def load_state(path: Path) -> TrainState:
    """The state written by `save_state`, on the CPU."""
    return unflatten_state(load_tensors(path))


def flatten_state(state: TrainState) -> Tensors:
    """The whole state as one mapping: `params/NAME`, `buffers/NAME`, `slots/SLOT/NAME`."""
    flat = {f"params/{n}": t for n, t in state.params.items()}
    flat |= {f"buffers/{n}": t for n, t in state.buffers.items()}
    return flat | {f"slots/{slot}/{n}": t for slot, ts in state.slots.items() for n, t in ts.items()}


def unflatten_state(flat: Tensors) -> TrainState:
    """The state that `flatten_state` laid out."""
    params: Tensors = {}
    buffers: Tensors = {}
    slots: dict[str, Tensors] = {}
    for key, tensor in flat.items():
        part, _, name = key.partition("/")
        if part == "slots":
            slot, _, name = name.partition("/")
            slots.setdefault(slot, {})[name] = tensor
        else:
            (params if part == "params" else buffers)[name] = tensor
    return TrainState(params, buffers, slots)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, about: Mapping[str, str] | None = None) -> None:
    """Write tensors to a safetensors file, atomically; tied ones are written out each."""
    whole = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    with replacing(path) as partial:
        save_file(whole, partial, None if about is None else dict(about))


def load_tensors(path: Path) -> Tensors:
    """The tensors of a safetensors file, on the CPU."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
