"""Call anybody's factory: pass classes, channels and image size under the names that it takes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

CLASSES = (
    "num_classes",
    "n_classes",
    "num_class",
    "n_class",
    "nb_classes",
    "nclasses",
    "classes",
    "num_labels",
    "n_labels",
    "num_outputs",
    "n_outputs",
    "output_dim",
    "out_dim",
    "out_features",
)
CHANNELS = (
    "in_chans",
    "in_channels",
    "input_channels",
    "num_input_channels",
    "num_channels",
    "n_channels",
    "in_ch",
    "channels",
)
SIZE = ("img_size", "image_size", "input_size", "input_resolution", "resolution")
"""Names of the number of classes, the channels and the side of an image, in order of preference."""

AMBIGUOUS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("channels", "num_channels", "n_channels"), (1, 3)),
    **dict.fromkeys(("num_outputs", "n_outputs", "output_dim", "out_dim", "out_features"), (10, 100, 1000)),
    "input_size": (28, 32, 224),
}
"""Names that also mean something else, such as a width: taken without a default, or with one of these."""


def arguments_for(
    factory: Callable[..., Any], shape: tuple[int, int, int], classes: int, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the keyword arguments for a factory, by its signature.

    Args:
        factory: a function or class that builds a network.
        shape: channels, height and width of an image.
        classes: number of classes.
        given: the user's arguments, which win.

    Returns:
        The user's arguments, and classes, channels and size under the first name of each kind that the
        signature has. A factory that takes any keyword is given `num_classes` and `in_chans`.
    """
    channels, height, width = shape
    values = (
        (CLASSES, classes),
        (CHANNELS, channels),
        (SIZE, height if height == width else (height, width)),
    )
    parameters = _parameters(factory)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    arguments: dict[str, Any] = {}
    for names, value in values:
        if set(names) & given.keys():
            continue
        name = next((n for n in names if n in parameters and _means_it(n, parameters[n])), None)
        if name is None and takes_any and names is not SIZE:
            name = names[0]
        if name is not None:
            arguments[name] = value
    return {**arguments, **given}


def call_factory(factory: Callable[..., Any], arguments: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """Call the factory; arguments that it refuses and that the user did not give are left out.

    Functions with `**kwargs` pass them on to a class, whose signature is unknown (torchvision's do).

    Raises:
        Exception: any error of the factory.
    """
    left = dict(arguments)
    while True:
        try:
            return factory(**left)
        except TypeError as error:
            refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if refused is None or refused[1] not in left or refused[1] in given:
                raise
            del left[refused[1]]


def wrapper_for(name: str) -> str:
    """Return the lines of a wrapper for a factory `where:function` that cannot be called."""
    where, _, function = name.rpartition(":")
    module = where.removesuffix(".py").replace("\\", "/").rpartition("/")[2]
    return (
        "Write a wrapper of three lines into a file, and name it as --arch FILE.py:net:\n"
        f"    from {module} import {function}\n"
        "    def net(num_classes, in_chans, img_size):\n"
        f"        return {function}(...)"
    )


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a class in C
        return {}


def _means_it(name: str, parameter: inspect.Parameter) -> bool:
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        return False
    return name not in AMBIGUOUS or parameter.default in (parameter.empty, None, *AMBIGUOUS[name])
