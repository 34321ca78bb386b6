"""Build an initialised network from an architecture's name."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import sys
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from lmcbench.errors import UserError, describe, no_exit, unknown
from lmcbench.results.logits import find_logits, return_logits
from lmcbench.spec.architectures import Architecture
from lmcbench.spec.session_networks import registered
from lmcbench.train.adapt import ADAPT, AdaptationError
from lmcbench.train.factory_arguments import arguments_for, call_factory, wrapper_for
from lmcbench.train.importing import import_source
from lmcbench.train.networks import NETWORKS


class BuildError(UserError):
    """The network cannot be built for images of this size.

    Attributes:
        reason: the cause, without the name and the size.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BuildError], tuple[str, str]]:
        """Pickle with the reason, for errors that pass from a worker to the parent process."""
        return BuildError, (str(self), self.reason)


class LogitsError(UserError):
    """The network does not return logits `[n, classes]`."""


class _UnusableError(Exception):
    """A factory returned something that cannot be trained."""


def build(architecture: Architecture, shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
    """Build the network for images of `shape` (c, h, w), initialised on the CPU from `seed` alone.

    Raises:
        UserError: if the factory cannot be found or imported.
        BuildError: if the network cannot be built at this size.
        LogitsError: if it does not return logits `[n, classes]`.
    """
    channels, height, width = shape
    factory = find_factory(architecture)
    given = architecture.kwargs
    is_users = architecture.source in ("module", "file", "python")
    if is_users:
        arguments = arguments_for(factory, shape, classes, given)
        if architecture.name.startswith("torchvision."):  # its ViTs take it from their keywords
            arguments.setdefault("image_size", height)
    else:
        arguments = {"num_classes": classes, "in_chans": channels, **given}
        if _takes_image_size(architecture, factory):
            arguments.setdefault("img_size", height if height == width else (height, width))
    adaptation = None if architecture.adapt is None else ADAPT[architecture.adapt]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            with no_exit():
                if adaptation is not None:
                    arguments = adaptation.arguments(factory, arguments)
                model = call_factory(factory, arguments, given) if is_users else factory(**arguments)
                if not isinstance(model, nn.Module):
                    raise _UnusableError(f"it returned {type(model).__name__}, no torch.nn.Module")
                if adaptation is not None:
                    adaptation.change(model)
                _check_precision(model)
                with torch.no_grad():
                    out = model.eval()(torch.zeros(2, *shape))
                    if is_users and (not isinstance(out, torch.Tensor) or _returns_more(model, shape)):
                        model.register_forward_hook(return_logits)
                        out = find_logits(out)
        except Exception as error:
            size = f"{channels} x {height} x {width}"
            is_ours = isinstance(error, (AdaptationError, _UnusableError))
            needs_wrapper = isinstance(error, TypeError) or architecture.source == "module"
            reason = str(error) if is_ours else describe(error, architecture.path)
            raise BuildError(
                f"Architecture {architecture.label} cannot be built for images {size} and {classes} classes: "
                f"{reason}{_advice(architecture) if needs_wrapper else ''}",
                reason,
            ) from error
    if not isinstance(out, torch.Tensor) or out.shape != (2, classes):
        found = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise LogitsError(
            f"Architecture {architecture.label} must return logits [n, {classes}], found {found}."
            f"{_advice(architecture)}"
        )
    return model


def _check_precision(model: nn.Module) -> None:
    """Raise `_UnusableError` unless all weights are fp32; integer parameters are indices, not trained."""
    for name, weight in model.named_parameters():
        computes = weight.is_floating_point() or weight.is_complex()
        if computes and weight.dtype != torch.float32:
            raise _UnusableError(
                f"its weight {name!r} is {weight.dtype}. Return it in torch.float32, in which "
                "networks are evaluated; the recipe's precision sets that of training"
            )


def _advice(architecture: Architecture) -> str:
    """Return the wrapper to write for a user's factory; empty for other networks."""
    return f"\n{wrapper_for(architecture.name)}" if architecture.source in ("module", "file") else ""


def _returns_more(model: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether a network that returns logits in eval mode returns more in training (Inception, GoogLeNet)."""
    if not any("aux" in name.lower() for name, _ in model.named_children()):
        return False
    training = copy.deepcopy(model).train()
    return not isinstance(training(torch.zeros(2, *shape)), torch.Tensor)


def find_factory(architecture: Architecture) -> Callable[..., Any]:
    """Return the function that builds the network.

    Raises:
        UserError: if it does not exist, or its file or module cannot be imported.
    """
    if architecture.source == "lmcbench":
        return NETWORKS[architecture.name]
    if architecture.source == "timm":
        # imported here because it takes two seconds, which our own networks do not need
        import timm

        if not timm.is_model(architecture.name):
            message = str(unknown("architecture", architecture.name, [*NETWORKS, *timm.list_models()]))
            where, _, function = architecture.name.rpartition(".")
            if where and _is_module(where):
                message += f" A function or class of a module is named {where}:{function}."
            raise UserError(message)
        return lambda **kwargs: timm.create_model(architecture.name, pretrained=False, **kwargs)
    if architecture.source == "python":
        return registered(architecture.name, architecture.fingerprint)
    where, _, function = architecture.name.rpartition(":")
    module = import_source(architecture)
    factory = getattr(module, function, None)
    if isinstance(factory, nn.Module):
        raise UserError(
            f"{where}:{function} is a network that is already built. Name what builds it: a function, or "
            "its class."
        )
    if not callable(factory):
        names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise unknown(f"function in {where}", function, names)
    return cast(Callable[..., Any], factory)


def published_settings(architecture: Architecture) -> dict[str, Any] | None:
    """Return the `pretrained_cfg` of a timm network: how images were prepared for its published weights.

    None for other networks. Nothing is downloaded.
    """
    if architecture.source != "timm":
        return None
    import timm

    if not timm.is_model(architecture.name):
        return None  # building it says so
    settings = timm.get_pretrained_cfg(architecture.name, allow_unregistered=True)
    return None if settings is None else dict(settings.to_dict())


def _is_module(name: str) -> bool:
    """Whether a module of this name can be found."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _takes_image_size(architecture: Architecture, factory: Callable[..., Any]) -> bool:
    """Return whether the factory takes `img_size`: ViTs and MLPs do, most CNNs refuse it."""
    if architecture.source == "timm":
        from timm.models import model_entrypoint

        entry = model_entrypoint(architecture.name)
        # timm's entry points forward keywords; the signature of the module's network class decides
        module = sys.modules[entry.__module__]
        networks = [
            v for v in vars(module).values() if inspect.isclass(v) and v.__module__ == entry.__module__
        ]
        return any("img_size" in inspect.signature(network).parameters for network in networks) and _accepts(
            factory
        )
    return "img_size" in inspect.signature(factory).parameters


def _accepts(factory: Callable[..., Any]) -> bool:
    try:
        with torch.device("meta"):
            factory(img_size=32)
    except TypeError:
        return False
    except Exception:
        return True
    return True
