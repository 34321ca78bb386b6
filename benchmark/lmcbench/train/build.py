"""Build an initialised network from an architecture's name."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from lmcbench.errors import UserError, describe, unknown
from lmcbench.spec.architectures import Architecture
from lmcbench.train.adapt import ADAPT, AdaptationError
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
    arguments: dict[str, Any] = {"num_classes": classes, "in_chans": channels, **architecture.kwargs}
    if _takes_image_size(architecture, factory):
        arguments.setdefault("img_size", height if height == width else (height, width))
    adaptation = None if architecture.adapt is None else ADAPT[architecture.adapt]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            if adaptation is not None:
                arguments = adaptation.arguments(factory, arguments)
            model = factory(**arguments)
            if not isinstance(model, nn.Module):
                raise _UnusableError(f"it returned {type(model).__name__}, no torch.nn.Module")
            if adaptation is not None:
                adaptation.change(model)
            for name, weight in model.named_parameters():
                # integer parameters are indices, which are not trained
                computes = weight.is_floating_point() or weight.is_complex()
                if computes and weight.dtype != torch.float32:
                    raise _UnusableError(
                        f"its weight {name!r} is {weight.dtype}. Return it in torch.float32, in which "
                        "networks are evaluated; the recipe's precision sets that of training"
                    )
            with torch.no_grad():
                out = model.eval()(torch.zeros(2, *shape))
        except Exception as error:
            size = f"{channels} x {height} x {width}"
            is_ours = isinstance(error, (AdaptationError, _UnusableError))
            reason = str(error) if is_ours else describe(error, architecture.path)
            raise BuildError(
                f"Architecture {architecture.label} cannot be built for images {size} and {classes} classes: "
                f"{reason}",
                reason,
            ) from error
    if not isinstance(out, torch.Tensor) or out.shape != (2, classes):
        found = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise LogitsError(
            f"Architecture {architecture.label} must return logits [n, {classes}], found {found}."
        )
    return model


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
            raise unknown("architecture", architecture.name, [*NETWORKS, *timm.list_models()])
        return lambda **kwargs: timm.create_model(architecture.name, pretrained=False, **kwargs)
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
