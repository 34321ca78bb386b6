"""What callers hand over, checked and made into what the measures work on; refusals name the argument."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lmcbench.errors import UserError
from lmcbench.results.checkpoint_contents import STATE_DICT_KEYS, unwrap_state_dict

Split = tuple[Tensor, Tensor]
"""Images `[n, c, h, w]` floating and labels `[n]` int64."""


def as_state(given: object, argument: str, model: nn.Module | None = None) -> Mapping[str, Tensor]:
    """A state dict: names to tensors, alone or under one of `STATE_DICT_KEYS` as training scripts save it.

    With the `model` of the state, names lose the prefixes of data parallel training and torch.compile
    where it has none.

    Raises:
        UserError: naming the argument, for a network, and whatever holds anything but tensors with values.
    """
    if isinstance(given, nn.Module):
        raise UserError(
            f"{argument} is a network ({type(given).__name__}), not its weights: give its state_dict()."
        )
    if not isinstance(given, Mapping) or not given:
        found = "an empty one" if isinstance(given, Mapping) else _kind(given)
        raise UserError(f"{argument} must be a state dict (names to tensors), found {found}.")
    state = unwrap_state_dict(given, None if model is None else model.state_dict())
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{argument} is no state dict: {name!r} is {_kind(value)}, not a tensor. "
                f"Weights may also stand under {', '.join(STATE_DICT_KEYS)}."
            )
        if is_lazy(value):
            raise UserError(f"{argument}: {name!r} has no values yet: run the network on a batch first.")
        if value.is_meta:
            raise UserError(f"{argument}: {name!r} has no values, it is on the meta device.")
    return {name: _differentiable(value) for name, value in state.items()}


def as_model(given: object) -> nn.Module:
    """A network; that of data parallel training or torch.compile is the one inside.

    Raises:
        UserError: for anything else, such as its state dict, a network whose layers are lazy still, and
            TorchScript, whose weights nothing can take the place of.
    """
    if not isinstance(given, nn.Module):
        raise UserError(f"model must be an nn.Module, found {_kind(given)}.")
    while isinstance(inner := getattr(given, _inside(given), None), nn.Module):
        given = inner
    if any(isinstance(module, torch.jit.ScriptModule) for module in given.modules()):
        raise UserError("model is TorchScript, at least in part: give the network that it was made of.")
    for name, value in (*given.named_parameters(), *given.named_buffers()):
        if is_lazy(value):
            raise UserError(f"model: {name!r} has no values yet: run the network on a batch first.")
    return given


def _inside(model: nn.Module) -> str:
    """The attribute under which a wrapper holds its network."""
    parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    return "module" if parallel else "_orig_mod"


def as_split(name: str, given: object) -> Split:
    """Images and labels of the split `name`: tensors or NumPy arrays, labels of any integer type.

    Raises:
        UserError: naming the split, where it cannot be measured.
    """
    given = _pair(name, given)
    images = as_images(given[0], f"Split {name!r}: images")
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
    """Inputs and targets `[n, ...]` of the split `name`, for a loss that says itself what it takes.

    Raises:
        UserError: naming the split, where they are not two tensors of one length.
    """
    inputs, targets = _pair(name, given)
    inputs, targets = _tensor(inputs, f"Split {name!r}: images"), _tensor(targets, f"Split {name!r}: labels")
    if not 0 < len(inputs) == len(targets):
        raise UserError(f"Split {name!r} has {len(inputs)} images and {len(targets)} labels.")
    return inputs, targets


def as_splits(given: object) -> dict[str, Split]:
    """Splits by name.

    Raises:
        UserError: for anything but a mapping, an empty one, and a split that cannot be measured.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"splits must be a dict, name -> (images, labels), found {_kind(given)}.")
    if not given:
        raise UserError("No splits to measure on.")
    return {name: as_split(name, split) for name, split in given.items()}


def as_images(given: object, what: str) -> Tensor:
    """Images `[n, c, h, w]`, a floating tensor or NumPy array; `what` they are, for errors.

    Raises:
        UserError: for pixels that are not floating, since nothing says how the network expects them,
            and for NaN.
    """
    images = _tensor(given, what)
    if not images.is_floating_point():
        raise UserError(
            f"{what} must be floating, found {images.dtype}: scale and normalise them as in training."
        )
    if images.ndim < 2:
        raise UserError(f"{what} must be [n, c, h, w], found {list(images.shape)}.")
    if not images.is_meta and not torch.isfinite(images).all():
        raise UserError(f"{what} hold NaN or infinity.")
    return images


def as_calibration(given: object) -> Tensor | None:
    """Images to take statistics on; None: no statistics are taken.

    Raises:
        UserError: as `as_images`, and for a pair of images and labels.
    """
    if given is None:
        return None
    if isinstance(given, tuple | list):
        raise UserError("calibration must be images alone, without labels, found a sequence.")
    return as_images(given, "calibration: images")


def as_device(given: str | torch.device) -> torch.device:
    """A device that torch can compute on here.

    Raises:
        UserError: for an unknown name, and a device that is not there.
    """
    try:
        device = torch.device(given)
    except (RuntimeError, TypeError):
        raise UserError(f"device {given!r} is unknown. Known: cpu, cuda, cuda:0, cuda:1, ...") from None
    if device.type == "meta":
        raise UserError(
            "device 'meta' holds no values to compute with. Known: cpu, cuda, cuda:0, cuda:1, ..."
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"device {str(device)!r} is not there: torch finds none on this machine.") from None
    return device


def as_integer(given: object, argument: str, least: int) -> int:
    """A whole number of at least `least`, of any integer type.

    Raises:
        UserError: naming the argument.
    """
    try:
        number = operator.index(given)  # type: ignore[arg-type]  # what has none raises
    except TypeError:
        raise UserError(f"{argument} must be a whole number, found {given!r}.") from None
    if isinstance(given, bool) or number < least:
        raise UserError(f"{argument} must be a whole number of at least {least}, found {given!r}.")
    return number


def _pair(name: str, given: object) -> tuple[object, object]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        found = f"{len(given)} of them" if isinstance(given, tuple | list) else _kind(given)
        raise UserError(f"Split {name!r} must be a pair (images, labels), found {found}.")
    return given[0], given[1]


def _tensor(given: object, what: str) -> Tensor:
    if isinstance(given, Tensor):
        return _differentiable(given.detach())
    if not isinstance(given, np.ndarray):
        raise UserError(f"{what} must be a tensor or a NumPy array, found {_kind(given)}.")
    try:
        return torch.from_numpy(_native(given))
    except TypeError:
        raise UserError(f"{what} must be numbers, found an array of {given.dtype}.") from None


def _differentiable(value: Tensor) -> Tensor:
    """The tensor, or a copy of one made in inference mode, which autograd does not take."""
    return value.clone() if value.is_inference() else value


def _native(array: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    """The array as torch takes it: this machine's byte order, contiguous, writeable; copied where it must."""
    return np.require(array, array.dtype.newbyteorder("="), ["C", "W"])


def _kind(given: object) -> str:
    return "None" if given is None else f"a {type(given).__name__}"
