"""An architecture's name in, an initialised network out."""

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
        reason: what was raised, without the name and the size.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BuildError], tuple[str, str]]:
        """As it passes from a worker process to the one that says it."""
        return BuildError, (str(self), self.reason)


class LogitsError(UserError):
    """The network returns something other than logits `[n, classes]`."""


class _UnusableError(Exception):
    """What a factory returned is no network that can be trained."""


def build(architecture: Architecture, shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
    """The network for images of `shape` (c, h, w), initialised on the CPU from `seed` alone.

    Raises:
        UserError: where it cannot be found or imported.
        BuildError: where it cannot be built at this size.
        LogitsError: where it does not give logits `[n, classes]`.
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
                # integers are indices and the like, which nobody trains
                computes = weight.is_floating_point() or weight.is_complex()
                if computes and weight.dtype != torch.float32:
                    raise _UnusableError(
                        f"its weight {name!r} is {weight.dtype}. Return it in torch.float32, in which "
                        "networks are evaluated; a recipe's precision says in what they are trained"
                    )
            with torch.no_grad():
                out = model.eval()(torch.zeros(2, *shape))
        except Exception as error:
            size = f"{channels} x {height} x {width}"
            said = isinstance(error, (AdaptationError, _UnusableError))
            reason = str(error) if said else describe(error, architecture.path)
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
    """The function that builds the network, called by nobody yet.

    Raises:
        UserError: where there is none of that name, or its file or module cannot be imported.
    """
    if architecture.source == "lmcbench":
        return NETWORKS[architecture.name]
    if architecture.source == "timm":
        # Here and not above: it takes two seconds, which our own networks do without.
        import timm

        if not timm.is_model(architecture.name):
            raise unknown("architecture", architecture.name, [*NETWORKS, *timm.list_models()])
        return lambda **kwargs: timm.create_model(architecture.name, pretrained=False, **kwargs)
    where, _, function = architecture.name.rpartition(":")
    module = import_source(architecture)
    factory = getattr(module, function, None)
    if isinstance(factory, nn.Module):
        raise UserError(
            f"{where}:{function} is a network already, with weights of its own. Name what makes one: "
            "a function, or its class."
        )
    if not callable(factory):
        names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise unknown(f"function in {where}", function, names)
    return cast(Callable[..., Any], factory)


def _takes_image_size(architecture: Architecture, factory: Callable[..., Any]) -> bool:
    """Whether the network must be told the image size: ViTs and MLPs must, most CNNs refuse to be."""
    if architecture.source == "timm":
        from timm.models import model_entrypoint

        entry = model_entrypoint(architecture.name)
        # an entry point of timm only passes keywords on; its module's network class says what it takes
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
