"""Read a user's checkpoint as the state dict of a network, without executing anything in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmcbench.errors import UserError
from lmcbench.results.checkpoint_contents import Target, choose_weights, is_converted
from lmcbench.train.checkpoint_files import read_content, shard_advice
from lmcbench.train.safe_pickle import DamagedError, StoredTensor
from lmcbench.train.train_state import Tensors, is_flattened, state_dict, unflatten_state


@dataclass(frozen=True)
class Checkpoint:
    """A network's weights from a file.

    Attributes:
        state: a state dict in the network's order and precision.
        entry: where in the file they are, as `--weights` names it; empty: at the top.
        notes: sentences for the user on what else the file has.
        from_run: whether it is a training state that a run of this package stored.
    """

    state: Tensors
    entry: str = ""
    notes: tuple[str, ...] = ()
    from_run: bool = False


def load_checkpoint(path: Path, model: nn.Module) -> Tensors:
    """Return the weights in `path` as a state dict of `model`; see `read_checkpoint`."""
    return read_checkpoint(path, model).state


def read_checkpoint(path: Path, model: nn.Module, weights: str | None = None) -> Checkpoint:
    """Return the weights in `path` as a state dict of `model`, in the model's order and precision.

    The content decides what the file is: safetensors, also in parts with an index; a file of `torch.save` of
    any version, with the weights nested in any way and any objects beside them; a folder that a trainer
    wrote; a training state of a run. Names may have the prefixes of wrappers and of the training script's
    own modules; a tied weight needs only one of its names.

    Args:
        path: the file or folder.
        model: the network, which is not changed.
        weights: the entry to read, or `ema`; None: the plain weights.

    Raises:
        UserError: if the file is missing, no checkpoint or damaged, does not fit the network, or has NaN or
            infinity.
    """
    content = read_content(path)
    if is_flattened(content):
        return Checkpoint(_converted(_from_run(path, content, model), model, path), from_run=True)
    target = Target.of(model)
    try:
        chosen = choose_weights(content, target, str(path), _is_tensor, weights)
        values = {
            name: value.read() if isinstance(value, StoredTensor) else value
            for name, value in chosen.values.items()
        }
    except DamagedError as error:
        raise UserError(f"{path} is damaged or incomplete ({error}). Copy or download it again.") from None
    except UserError as error:
        advice = shard_advice(path)
        raise UserError(f"{error}{advice}") from None if advice else error
    return Checkpoint(_converted(values, model, path), chosen.entry, chosen.notes)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor | StoredTensor)


def _from_run(path: Path, content: Mapping[str, Tensor], model: nn.Module) -> Tensors:
    """Return the weights of a training state, as a run stores it."""
    state = unflatten_state(dict(content))
    known = {n for n, p in model.named_parameters() if p.requires_grad}
    missing = sorted(known - state.params.keys())
    tied = {n for n, _ in model.named_parameters(remove_duplicate=False)} - known
    missing += sorted(model.state_dict().keys() - known - state.buffers.keys() - tied)
    if missing:
        raise UserError(
            f"{path} does not fit the network: {len(missing)} of its {len(model.state_dict())} tensors are "
            f"missing ({missing[0]!r}{', ...' if missing[1:] else ''})."
        )
    return state_dict(model, state)


def _converted(found: Mapping[str, Tensor], model: nn.Module, path: Path) -> Tensors:
    """Return the tensors in the network's precision.

    Half precision is widened, which is exact; double precision is rounded, as `load_state_dict` does it.

    Raises:
        UserError: for tensors of another kind, without values, or not finite.
    """
    own = model.state_dict()
    state = {}
    for name, value in found.items():
        dtype = own[name].dtype
        if value.shape != own[name].shape:
            shapes = f"{list(value.shape)}, the network's is {list(own[name].shape)}"
            raise UserError(f"{path} does not fit the network: {name!r} is {shapes}.")
        if value.is_meta:
            raise UserError(f"{path}: {name!r} has no values, it was saved from the meta device.")
        converts = is_converted(value.dtype, dtype)
        # counters and constants of integers differ in width between versions
        converts |= not (value.is_floating_point() or dtype.is_floating_point or value.is_complex())
        if value.dtype != dtype and not converts:
            advice = " Quantised weights cannot be averaged." if value.dtype.itemsize == 1 else ""
            raise UserError(
                f"{path} does not fit the network: {name!r} is {value.dtype}, the network's is {dtype}."
                f"{advice}"
            )
        value = value.detach().cpu().to(dtype)
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(f"{path}: {name!r} holds NaN or infinity.")
        state[name] = value
    return state
