"""The complete state of a network in training, which a fork copies, and its files."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lmcbench.errors import UserError
from lmcbench.results.atomic_files import partial_path, replacing
from lmcbench.untrusted import check_safetensors

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class TrainState:
    """Weights, statistics and optimizer state.

    Tensors are sorted by name, so that sums over them (the gradient's norm) have the same bits whether a
    state comes from a model or from a file.

    Attributes:
        params: trainable tensors by name; tied ones once.
        buffers: all other tensors: statistics, constants, frozen weights, non-persistent buffers.
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
        """Return a copy that shares no memory."""
        return self.map(torch.clone)

    def to(self, device: torch.device) -> TrainState:
        """Return the state on `device`."""
        return self.map(lambda t: t.to(device))

    def map(self, function: Callable[[Tensor], Tensor]) -> TrainState:
        """Return the state with `function` applied to each tensor."""

        def apply(tensors: Tensors) -> Tensors:
            return {name: function(t) for name, t in tensors.items()}

        return TrainState(
            apply(self.params), apply(self.buffers), {slot: apply(t) for slot, t in self.slots.items()}
        )

    @property
    def finite(self) -> bool:
        """Return whether every weight and statistic is finite."""
        tensors = [*self.params.values(), *self.buffers.values()]
        return all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point())


def initial_state(model: nn.Module, slot_names: tuple[str, ...]) -> TrainState:
    """Return the state of a new model, with optimizer slots of zeros."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    owned = {id(p) for p in trainable.values()}
    params = {name: p.detach().clone() for name, p in trainable.items()}
    buffers = {n: t.detach().clone() for n, t in named_tensors(model).items() if id(t) not in owned}
    slots = {slot: {n: torch.zeros_like(p) for n, p in params.items()} for slot in slot_names}
    return TrainState(params, buffers, slots)


def named_tensors(model: nn.Module) -> Tensors:
    """Return the model's own tensors under all of their names, non-persistent buffers included."""
    unsaved = dict(model.named_buffers(remove_duplicate=False))
    return {**unsaved, **model.state_dict(keep_vars=True)}


def state_dict(model: nn.Module, state: TrainState) -> Tensors:
    """Return the state in the layout of `model.state_dict()`, tied weights under all of their names."""
    own = model.state_dict(keep_vars=True)
    canonical = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    return {
        name: state.params[canonical[id(value)]] if id(value) in canonical else state.buffers[name]
        for name, value in own.items()
    }


def save_state(state: TrainState, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the state to a safetensors file atomically, with optional `metadata` (see `read_metadata`)."""
    save_tensors(flatten_state(state), path, metadata)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata that `save_state` wrote; empty if there is none or the file is corrupt."""
    try:
        with _open(path) as file:
            return file.metadata() or {}
    except SafetensorError:  # loading the weights reports the corruption
        return {}


def load_state(path: Path) -> TrainState:
    """Read the state written by `save_state`, on the CPU."""
    return unflatten_state(load_tensors(path))


def flatten_state(state: TrainState) -> Tensors:
    """Return the state as one mapping: `params/NAME`, `buffers/NAME`, `slots/SLOT/NAME`."""
    flat = {f"params/{n}": t for n, t in state.params.items()}
    flat |= {f"buffers/{n}": t for n, t in state.buffers.items()}
    return flat | {f"slots/{slot}/{n}": t for slot, ts in state.slots.items() for n, t in ts.items()}


def is_flattened(content: Mapping[Any, Any]) -> bool:
    """Return whether a file's content is a mapping of `flatten_state`: all names are in its three parts."""
    parts = {part if slash else "" for part, slash, _ in (str(name).partition("/") for name in content)}
    return "params" in parts and parts <= {"params", "buffers", "slots"}


def unflatten_state(flat: Tensors) -> TrainState:
    """Return the state from the mapping of `flatten_state`."""
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


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a safetensors file atomically; tied ones are written once per name.

    Raises:
        WriteError: as on a full disk.
    """
    whole = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    with replacing(path) as partial:
        # safetensors writes to a temporary file `.tmp...` beside the file, which remains if it is killed
        folder = partial_path(path)
        folder.mkdir()
        try:
            save_file(whole, folder / "tensors", None if metadata is None else dict(metadata))
            (folder / "tensors").rename(partial)
        except SafetensorError as error:
            if found := re.search(r"os error ([0-9]+)", str(error)):
                raise OSError(int(found[1]), os.strerror(int(found[1]))) from None
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def load_tensors(path: Path) -> Tensors:
    """Read the tensors of a safetensors file, on the CPU.

    Raises:
        SafetensorError: if it is not a regular file, or its header is damaged or exceeds the bounds of
            `lmcbench.untrusted`.
        OSError: if it cannot be opened.
    """
    with _open(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _open(path: Path) -> Any:
    """Open a safetensors file whose header is bounded."""
    try:
        check_safetensors(path)
    except UserError as error:
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
        raise SafetensorError(str(error).removeprefix(f"{path} ")) from None
    return safe_open(path, framework="pt")
