"""Name a factory that was given as a Python object, and fingerprint it by its source and initial weights."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from lmcbench.errors import UserError, printable
from lmcbench.spec.architectures import Architecture, fingerprint_of, make_architecture, source_file
from lmcbench.spec.session_networks import PREFIX, register
from lmcbench.train.build import build


def session_network(
    factory: Callable[..., Any], recipe: str, shape: tuple[int, int, int], classes: int
) -> Architecture:
    """Return the architecture of a factory; keyword arguments of a `functools.partial` become its own.

    A function or class that a module has under its name is `MODULE:NAME`, as on the command line. Any other
    is `python:NAME`: known in this process only, with a fingerprint of its source, the sources of what it
    uses from the same place, and its initial weights for images of this shape.

    Args:
        factory: takes classes, channels and image size under the names that its signature has.
        recipe: name of the recipe.
        shape: channels, height and width of an image.
        classes: number of classes.

    Raises:
        UserError: if it is a network that is already built, has no readable source or cannot be built.
    """
    settings: dict[str, Any] = {}
    while isinstance(factory, functools.partial) and not factory.args:
        settings = {**factory.keywords, **settings}
        factory = factory.func
    if isinstance(factory, nn.Module):
        raise UserError(
            f"The network {type(factory).__name__} is already built. Give what builds it, because every "
            "replicate has its own initial weights: its class, or a function f(num_classes, in_chans)."
        )
    name = _importable_name(factory)
    if name is not None:
        return make_architecture(name, recipe, settings, None)
    called = getattr(factory, "__name__", type(factory).__name__).strip("<>")
    name = f"{PREFIX}{called}"
    sources = _sources(factory, called)
    register(name, fingerprint_of(sources), factory)
    untrained = build(make_architecture(name, recipe, settings, None), shape, classes, seed=0)
    weights = b"".join(
        f"{key} {value.dtype} {tuple(value.shape)}".encode() + value.detach().cpu().numpy().tobytes()
        for key, value in sorted(untrained.state_dict().items())
    )
    register(name, fingerprint_of(sources + weights), factory)
    architecture = make_architecture(name, recipe, settings, None)
    assert architecture.fingerprint  # it keeps this one when another factory of this name is registered
    return architecture


def _importable_name(factory: Callable[..., Any]) -> str | None:
    """Return `MODULE:NAME` if importing the module gives this very object, else None."""
    module, name = getattr(factory, "__module__", None), getattr(factory, "__qualname__", "")
    if (
        module in (None, "__main__", "builtins")
        or getattr(sys.modules.get(module), name, None) is not factory
    ):
        return None
    try:
        source_file(f"{module}:{name}")
    except UserError:
        return None
    return f"{module}:{name}"


def _sources(factory: Callable[..., Any], name: str) -> bytes:
    """Return the source of a factory, and of the functions and classes of the same place that it uses.

    A class is the source of its functions: Python does not find that of a whole class of a notebook.
    """
    is_code = isinstance(factory, FunctionType) or inspect.isclass(factory)
    remaining: list[Any] = [factory if is_code else type(factory)]
    place, found = remaining[0].__module__, dict[str, str]()
    while remaining:
        part = remaining.pop()
        if part.__qualname__ in found:
            continue
        functions = [part] if isinstance(part, FunctionType) else list(_functions(part))
        try:
            found[part.__qualname__] = "".join(map(inspect.getsource, functions))
        except (OSError, TypeError):
            raise UserError(
                f"The source of network {printable(name)} cannot be read. Put it into a file and name it "
                f"'FILE.py:{printable(name)}'."
            ) from None
        used = [value for function in functions for value in _used(function)]
        used += part.__bases__ if inspect.isclass(part) else ()
        remaining += [value for value in used if getattr(value, "__module__", None) == place]
    return "\n".join(f"# {key}\n{text}" for key, text in sorted(found.items())).encode()


def _functions(owner: type) -> Iterator[FunctionType]:
    """Yield the functions of a class in order, unwrapping properties and decorated methods."""
    for value in vars(owner).values():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if isinstance(function, FunctionType):
            yield function


def _used(function: FunctionType) -> Iterator[Any]:
    """Yield the functions and classes that a function names."""
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        if isinstance(value, FunctionType) or inspect.isclass(value):
            yield value


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names in a function's code, and in the code of functions within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
