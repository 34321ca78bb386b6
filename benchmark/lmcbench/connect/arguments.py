"""Validate the arguments of the public functions; every error names the argument."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy as is_uninitialised
from torch.utils.data import DataLoader, Dataset

from lmcbench.connect.loaders import Images, LoaderImages, is_lazy, is_loader, whole
from lmcbench.errors import UserError
from lmcbench.results.checkpoint_contents import (
    STATE_DICT_KEYS,
    Target,
    choose_weights,
    is_converted,
    unwrap_state_dict,
)
from lmcbench.values import shown

Split = tuple[Tensor, Tensor]
"""Floating images `[n, c, h, w]` and int64 labels `[n]`."""

LazySplit = tuple[Images, Tensor]
"""The same, of images that may be created on demand."""

SplitLike = LazySplit | DataLoader[Any] | Dataset[Any]
"""What the public functions take as a split: a pair of arrays too."""

CalibrationLike = Images | SplitLike
"""What the public functions take as images for recalibration: alone, or a split whose labels are not used."""


def as_state(given: object, argument: str, model: nn.Module | None = None) -> Mapping[str, Tensor]:
    """Return a state dict (name -> tensor), also if it is nested in a checkpoint.

    Given its `model`, the weights are those of the checkpoint that fit the network, as `lmcbench measure`
    finds them: nested in any way, under the names of wrappers, and with other values beside them. Half
    precision is widened to the network's, double precision rounded.

    Raises:
        UserError: for a network, or values other than tensors with values; given a model, if nothing fits it.
    """
    if isinstance(given, nn.Module):
        raise UserError(
            f"{argument} is a network ({type(given).__name__}), not its weights: pass its state_dict()."
        )
    if not isinstance(given, Mapping) or not given:
        found = "an empty one" if isinstance(given, Mapping) else _kind(given)
        raise UserError(f"{argument} must be a state dict (names to tensors), found {found}.")
    target = None if model is None else Target.of(model)
    if target is None:
        state = unwrap_state_dict(given)
    elif given.keys() == target.own.keys():
        state = given
    else:
        state = choose_weights(given, target, argument, lambda value: isinstance(value, Tensor)).values
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{argument} is not a state dict: {shown(name)} is {_kind(value)}, not a tensor. "
                f"A state dict may be nested under {', '.join(STATE_DICT_KEYS[:3])}."
            )
        if is_uninitialised(value):
            raise UserError(f"{argument}: {name!r} has no values yet: run the network on a batch first.")
        if value.is_meta:
            raise UserError(f"{argument}: {name!r} has no values, it is on the meta device.")
        if value.layout is not torch.strided or value.is_quantized:
            kind = "quantised" if value.is_quantized else str(value.layout)
            raise UserError(f"{argument}: {name!r} must be a dense tensor of numbers, found {kind}.")
    state = {name: _differentiable(value) for name, value in state.items()}
    if target is None:
        return state
    return {name: _in_precision_of(value, target.own[name]) for name, value in state.items()}


def _in_precision_of(value: Tensor, own: Tensor) -> Tensor:
    """Convert floating weights to a network's single or double precision; keep the other types."""
    return value.to(own.dtype) if is_converted(value.dtype, own.dtype) else value


def as_model(given: object) -> nn.Module:
    """Return a network, without the wrappers of data parallel training and torch.compile.

    Raises:
        UserError: for anything else, uninitialised lazy layers, and TorchScript, whose weights cannot be
            exchanged.
    """
    if not isinstance(given, nn.Module):
        raise UserError(f"model must be an nn.Module, found {_kind(given)}.")
    while isinstance(inner := getattr(given, _inside(given), None), nn.Module):
        given = inner
    if any(isinstance(module, torch.jit.ScriptModule) for module in given.modules()):
        raise UserError("model is TorchScript, at least in part: pass the network that it was made from.")
    for name, value in (*given.named_parameters(), *given.named_buffers()):
        if is_uninitialised(value):
            raise UserError(f"model: {name!r} has no values yet: run the network on a batch first.")
    return given


def _inside(model: nn.Module) -> str:
    """Return the attribute of a wrapper that holds the network."""
    parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    return "module" if parallel else "_orig_mod"


def as_split(name: str, given: object) -> Split:
    """Return images and int64 labels of the split `name`, all of them in memory; see `as_lazy_split`."""
    images, labels = as_lazy_split(name, given)
    return whole(images), labels


def as_lazy_split(name: str, given: object) -> LazySplit:
    """Return images and int64 labels of the split `name`.

    Args:
        name: for messages.
        given: a pair of images and labels, tensors or NumPy arrays; a `DataLoader` or a `Dataset` of such
            pairs, in a fixed order; or a pair of images created on demand and labels.

    Raises:
        UserError: if the split is invalid.
    """
    if is_loader(given):
        loaded = LoaderImages(given, f"Split {name!r}")
        if loaded.labels is None:
            raise UserError(f"Split {name!r} has no labels: its items must be pairs (image, label).")
        given = loaded, loaded.labels
    given = _pair(name, given)
    images = given[0] if is_lazy(given[0]) else as_images(given[0], f"Split {name!r}: images")
    labels = _tensor(given[1], f"Split {name!r}: labels")
    if len(images) == 0:
        raise UserError(f"Split {name!r} is empty.")
    if labels.ndim != 1 or len(labels) != len(images):
        raise UserError(
            f"Split {name!r}: {len(images)} images need labels [{len(images)}], found {tuple(labels.shape)}."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UserError(f"Split {name!r}: labels must be integers, found {labels.dtype}.")
    labels = labels.long()
    if int(labels.min()) < 0:
        raise UserError(f"Split {name!r}: label {int(labels.min())} is out of range.")
    return images, labels


def as_examples(name: str, given: object) -> Split:
    """Return inputs and targets `[n, ...]` of the split `name`, for a loss with its own requirements.

    Raises:
        UserError: unless they are two tensors of one length.
    """
    inputs, targets = _pair(name, given)
    inputs, targets = _tensor(inputs, f"Split {name!r}: images"), _tensor(targets, f"Split {name!r}: labels")
    if not 0 < len(inputs) == len(targets):
        raise UserError(f"Split {name!r} has {len(inputs)} images and {len(targets)} labels.")
    return inputs, targets


def as_splits(given: object) -> dict[str, LazySplit]:
    """Return splits by name.

    Raises:
        UserError: for anything but a mapping, no splits, or an invalid split.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"splits must be a dict, name -> (images, labels), found {_kind(given)}.")
    if not given:
        raise UserError("No splits to measure on.")
    return {name: as_lazy_split(name, split) for name, split in given.items()}


def as_images(given: object, what: str) -> Tensor:
    """Return floating images `[n, c, h, w]` from a tensor or NumPy array; `what` names them in errors.

    Raises:
        UserError: for integer pixels, whose normalisation is unknown, and for NaN.
    """
    images = _tensor(given, what)
    if not images.is_floating_point():
        raise UserError(
            f"{what} must be floating, found {images.dtype}: scale and normalise them as for training."
        )
    if images.ndim < 2:
        raise UserError(f"{what} must be [n, c, h, w], found {list(images.shape)}.")
    if not images.is_meta and not torch.isfinite(images).all():
        raise UserError(f"{what} hold NaN or infinity.")
    return images


def as_calibration(given: object) -> Images | None:
    """Return images for recalibration, alone or those of a split; None: no recalibration.

    Raises:
        UserError: as `as_images`; for a pair, as `as_lazy_split`.
    """
    if given is None:
        return None
    if is_loader(given):
        return LoaderImages(given, "calibration")
    if is_lazy(given):
        return given
    if isinstance(given, tuple | list):
        return as_lazy_split("calibration", given)[0]
    return as_images(given, "calibration: images")


def as_device(given: str | torch.device) -> torch.device:
    """Return a device that torch can compute on.

    Raises:
        UserError: for an unknown name or a missing device.
    """
    try:
        device = torch.device(given)
    except (RuntimeError, TypeError, ValueError):
        raise UserError(f"device {shown(given)} is unknown. Known: cpu, cuda, cuda:0, cuda:1, ...") from None
    if device.type == "meta":
        raise UserError(
            "device 'meta' holds no values to compute with. Known: cpu, cuda, cuda:0, cuda:1, ..."
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(
            f"device {str(device)!r} is missing on this machine. Use cpu, or a device that torch lists."
        ) from None
    return device


def _pair(name: str, given: object) -> tuple[object, object]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        found = f"{len(given)} items" if isinstance(given, tuple | list) else _kind(given)
        raise UserError(f"Split {name!r} must be a pair (images, labels), found {found}.")
    return given[0], given[1]


def _tensor(given: object, what: str) -> Tensor:
    if isinstance(given, Tensor):
        if given.layout is not torch.strided:
            raise UserError(f"{what} must be dense, found {given.layout}: pass its to_dense().")
        return _differentiable(given.detach())
    if np.ma.is_masked(given):
        raise UserError(f"{what} must be an array without a mask: drop the masked values.")
    if not isinstance(given, np.ndarray):
        raise UserError(f"{what} must be a tensor or a NumPy array, found {_kind(given)}.")
    try:
        # torch requires native byte order, contiguous and writeable arrays
        return torch.from_numpy(np.require(given, given.dtype.newbyteorder("="), ["C", "W"]))
    except TypeError:
        raise UserError(f"{what} must be numbers, found an array of {given.dtype}.") from None


def _differentiable(value: Tensor) -> Tensor:
    """Copy a tensor made in inference mode, which autograd would refuse."""
    return value.clone() if value.is_inference() else value


def _kind(given: object) -> str:
    return "None" if given is None else f"a {type(given).__name__}"
