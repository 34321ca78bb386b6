"""A user's checkpoint file in, a state dict out; nothing in the file is ever executed."""

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
    """The weights in `path` as a state dict of `model`, in its order; half precision becomes its own.

    A safetensors file of plain tensors or of a whole training state (as a run stores its trunk), or a
    file of `torch.save`, read with `weights_only`: a state dict, alone or under one of
    `STATE_DICT_KEYS`. In both names may have the prefixes of data parallel training and torch.compile, and a
    tied weight may stand under one of its names alone.

    Raises:
        UserError: naming the file, where it is absent, unreadable, holds anything but tensors, NaN or
            infinity, or does not fit the network.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown kind of file {path.suffix!r}. Allowed: {', '.join(SUFFIXES)}.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty: was its writing interrupted? Save the weights again.")
    own = model.state_dict()
    found = _unpickled(path, own) if path.suffix in PICKLED else _safetensors(path, model)
    found = {name: _widened(value, own.get(name)) for name, value in _with_tied(found, model).items()}
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


def _safetensors(path: Path, model: nn.Module) -> Tensors:
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


def _unpickled(path: Path, own: Mapping[str, Tensor]) -> Tensors:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what matters is refused below
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is not read: it holds more than tensors (code, or whole objects); loading that would "
            "execute it. Save the state dict alone: torch.save(model.state_dict(), FILE)."
        ) from None
    except Exception as error:  # torch fails in many ways on what is not its own
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


def _with_tied(found: Tensors, model: nn.Module) -> Tensors:
    """Tied weights under each of their names: safetensors' `save_model` keeps one of them."""
    names: dict[int, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        names.setdefault(id(value), []).append(name)
    tied = {
        name: found[kept] for group in names.values() for kept in group if kept in found for name in group
    }
    return tied | found


def _widened(value: Tensor, own: Tensor | None) -> Tensor:
    """Half precision as the network's wider type, which is exact; anything else stays, to be refused."""
    narrow = value.dtype in (torch.float16, torch.bfloat16)
    wide = own is not None and own.dtype in (torch.float32, torch.float64)
    return value.to(own.dtype) if own is not None and narrow and wide else value.detach()
