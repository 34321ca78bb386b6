"""Read a user's checkpoint file as a state dict, without executing anything in the file."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lmcbench.errors import UserError
from lmcbench.results.checkpoint_contents import STATE_DICT_KEYS, unwrap_state_dict
from lmcbench.train.train_state import Tensors, load_state, load_tensors, state_dict

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (".safetensors", *PICKLED)


def load_checkpoint(path: Path, model: nn.Module) -> Tensors:
    """Return the weights in `path` as a state dict of `model`, in the model's order and precision.

    The file is a safetensors file of weights or of a complete training state, or a file of `torch.save` (read
    with `weights_only`) of a state dict, also nested under one of `STATE_DICT_KEYS`. Names may have the
    prefixes of data parallel training and torch.compile; a tied weight needs only one of its names.

    Raises:
        UserError: if the file is missing, unreadable, has anything but tensors, NaN or infinity, or does not
            fit the network.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown kind of file {path.suffix!r}. Allowed: {', '.join(SUFFIXES)}.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty, perhaps because writing was interrupted. Save the weights again.")
    own = model.state_dict()
    found = _read_pickle(path, own) if path.suffix in PICKLED else _read_safetensors(path, model)
    found = {name: _widen(value, own.get(name)) for name, value in _fill_tied(found, model).items()}
    for name in own.keys() | found.keys():
        if name not in found:
            raise UserError(f"{path} does not fit the network: {name!r} is missing.")
        if name not in own:
            raise UserError(f"{path} does not fit the network, which has no {name!r}.")
        if own[name].shape != found[name].shape:
            shapes = f"{tuple(found[name].shape)}, the network's is {tuple(own[name].shape)}"
            raise UserError(f"{path} does not fit the network: {name!r} is {shapes}.")
        if own[name].dtype != found[name].dtype:
            types = f"{found[name].dtype}, the network's is {own[name].dtype}"
            raise UserError(f"{path} does not fit the network: {name!r} is {types}.")
        if found[name].is_meta:
            raise UserError(f"{path}: {name!r} has no values, it was saved from the meta device.")
        if found[name].is_floating_point() and not bool(torch.isfinite(found[name]).all()):
            raise UserError(f"{path}: {name!r} holds NaN or infinity.")
    return {name: found[name] for name in own}


def _read_safetensors(path: Path, model: nn.Module) -> Tensors:
    try:
        tensors = load_tensors(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no safetensors file: {error}.") from None
    if any(name.startswith("params/") for name in tensors):
        state = load_state(path)
        missing = [n for n, p in model.named_parameters() if p.requires_grad and n not in state.params]
        if missing:
            raise UserError(f"{path} does not fit the network: {missing[0]!r} is missing.")
        known = {n for n, p in model.named_parameters() if p.requires_grad}
        others = model.state_dict().keys() - known - state.buffers.keys()
        tied = {n for n, _ in model.named_parameters(remove_duplicate=False)} - known
        if others - tied:
            raise UserError(f"{path} does not fit the network: {min(others - tied)!r} is missing.")
        return state_dict(model, state)
    return dict(unwrap_state_dict(tensors, model.state_dict()))


def _read_pickle(path: Path, own: Mapping[str, Tensor]) -> Tensors:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is not read: it holds more than tensors (code, or whole objects); loading that would "
            "execute it. Save the state dict alone: torch.save(model.state_dict(), FILE)."
        ) from None
    except Exception as error:  # torch raises many kinds of errors on foreign files
        what = str(error).partition("\n")[0]
        raise UserError(f"{path} is no file of torch.save: {type(error).__name__}: {what}") from None
    if isinstance(content, Mapping):
        content = unwrap_state_dict(content, own)
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{path} holds no state dict: {name!r} is a {type(value).__name__}, not a tensor. "
                f"Weights may also stand under {', '.join(STATE_DICT_KEYS)}."
            )
    return dict(content)


def _fill_tied(found: Tensors, model: nn.Module) -> Tensors:
    """Add tied weights under all of their names; safetensors' `save_model` keeps only one."""
    names: dict[int, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        names.setdefault(id(value), []).append(name)
    tied = {
        name: found[kept] for group in names.values() for kept in group if kept in found for name in group
    }
    return tied | found


def _widen(value: Tensor, own: Tensor | None) -> Tensor:
    """Convert half precision to the network's wider type, which is exact; leave other types to be refused."""
    narrow = value.dtype in (torch.float16, torch.bfloat16)
    wide = own is not None and own.dtype in (torch.float32, torch.float64)
    return value.to(own.dtype) if own is not None and narrow and wide else value.detach()
