"""An architecture's name in, an initialised network out."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType
from typing import Any, cast

import torch
from torch import nn

from lmcbench.errors import UserError, describe, unknown
from lmcbench.spec.architectures import Architecture, fingerprint_of
from lmcbench.train.adapt import ADAPT, AdaptationError
from lmcbench.train.networks import NETWORKS


class UnfitError(UserError):
    """The network cannot be built for images of this size.

    Attributes:
        reason: what was raised, without the name and the size.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnfitError], tuple[str, str]]:
        """As it passes from a worker process to the one that says it."""
        return UnfitError, (str(self), self.reason)


class LogitsError(UserError):
    """The network returns something other than logits `[n, classes]`."""


class _UnusableError(Exception):
    """What a factory returned is no network that can be trained."""


def build(architecture: Architecture, shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
    """The network for images of `shape` (c, h, w), initialised on the CPU from `seed` alone.

    Raises:
        UserError: where it cannot be found or imported.
        UnfitError: where it cannot be built at this size.
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
                if weight.dtype != torch.float32:
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
            raise UnfitError(
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
    module = _from_module(architecture) if architecture.path is None else _from_file(architecture)
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


_IMPORTED: dict[str, str] = {}
"""Module -> fingerprint of its file when it was imported here."""


def _from_module(architecture: Architecture) -> Any:
    where = architecture.name.rpartition(":")[0]
    fingerprint = architecture.fingerprint  # says what is missing, where there is no such module
    if where not in sys.modules:
        spec = importlib.util.find_spec(where)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            assert spec.origin is not None
            spec.loader = _AsItStands(where, spec.origin, fingerprint)
            _IMPORTED[where] = fingerprint
            return _imported(architecture, spec, f"Module {where}")
    if _IMPORTED.setdefault(where, fingerprint) != fingerprint:
        raise UserError(
            f"Module {where} was edited since it was imported (fingerprint {_IMPORTED[where]}, now "
            f"{fingerprint}). Start Python anew."
        )
    try:
        return importlib.import_module(where)
    except (Exception, SystemExit) as error:
        raise UserError(f"Module {where} cannot be imported: {describe(error)}") from error


def _from_file(architecture: Architecture) -> Any:
    path = architecture.path
    assert path is not None
    name = f"lmcbench_user_{architecture.fingerprint}"
    if name in sys.modules:
        return sys.modules[name]
    loader = _AsItStands(name, str(path), architecture.fingerprint)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    return _imported(architecture, spec, str(path))


def _imported(architecture: Architecture, spec: ModuleSpec, what: str) -> Any:
    """The module of `spec`, whose loader is ours; `what` it is, for errors."""
    path = architecture.path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        cast(Loader, spec.loader).exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        _IMPORTED.pop(spec.name, None)
        if isinstance(error, _EditedError):
            raise
        hint = ""
        if path is not None and isinstance(error, ModuleNotFoundError) and error.name is not None:
            beside = path.parent / error.name.partition(".")[0]
            if beside.is_dir() or beside.with_suffix(".py").is_file():
                hint = f" A network is one file: put what it needs of {beside.name} into {path.name}."
        raise UserError(f"{what} cannot be imported: {describe(error, path)}{hint}") from error
    # a package has its modules as attributes
    package, _, own = spec.name.rpartition(".")
    if package:
        setattr(sys.modules[package], own, sys.modules[spec.name])
    return sys.modules[spec.name]


class _EditedError(UserError):
    """A network's file is another than when its fingerprint was taken."""


class _AsItStands(SourceFileLoader):
    """Loads a file as it is now, where Python would take its compiled copy (and leave one beside it).

    That copy passes for the file's where both have one size and one second of modification: after a
    script edits the file, the network of before would be trained under the fingerprint of the new one.

    Args:
        fullname: of the module.
        path: of its file.
        fingerprint: of what is to be loaded; a run of many hours goes on with nothing else.
    """

    def __init__(self, fullname: str, path: str, fingerprint: str) -> None:
        super().__init__(fullname, path)
        self.fingerprint = fingerprint

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path)
        if (found := fingerprint_of(source)) != self.fingerprint:
            raise _EditedError(
                f"{self.path} was edited since it was asked for (fingerprint {self.fingerprint}, now "
                f"{found}). Run again, into another folder if this one has cells of it: --out DIR"
            )
        return self.source_to_code(source, self.path)


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
