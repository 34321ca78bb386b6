"""Networks of the running Python session: factories given to `lmcbench.run` that no file defines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lmcbench.errors import UserError, printable

PREFIX = "python:"
"""Prefix of their names; what follows is the name of the function or class."""

_FACTORIES: dict[tuple[str, str], Callable[..., Any]] = {}
_LATEST: dict[str, str] = {}


def register(name: str, fingerprint: str, factory: Callable[..., Any]) -> None:
    """Make a factory known under its name; a later one of the same name replaces it for new runs."""
    _FACTORIES[name, fingerprint] = factory
    _LATEST[name] = fingerprint


def latest_fingerprint(name: str) -> str:
    """Return the fingerprint of the latest factory of this name.

    Raises:
        UserError: if this session has none.
    """
    if name not in _LATEST:
        raise UserError(
            f"Network {printable(name)} was defined in a Python session, given to lmcbench.run, and is not "
            f"known here. Put it into a file and name it FILE.py:{printable(name.removeprefix(PREFIX))}."
        )
    return _LATEST[name]


def registered(name: str, fingerprint: str) -> Callable[..., Any]:
    """Return the factory with this name and fingerprint; raises `UserError` if this session has none."""
    latest_fingerprint(name)
    return _FACTORIES[name, fingerprint]
