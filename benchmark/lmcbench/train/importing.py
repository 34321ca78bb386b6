"""A user's source imported as it stands: the bytes that its fingerprint was taken of, and no others."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, cast

from lmcbench.errors import UserError, describe
from lmcbench.spec.architectures import Architecture, fingerprint_of, source_file

_IMPORTED: dict[str, str] = {}
"""Module -> fingerprint of its file when it was imported here."""


def import_source(architecture: Architecture) -> Any:
    """The module that a user's factory is in, by its name or from its file.

    Raises:
        UserError: where it cannot be imported, or was edited since its fingerprint was taken.
    """
    return _from_module(architecture) if architecture.path is None else _from_file(architecture)


def _from_module(architecture: Architecture) -> Any:
    where = architecture.name.rpartition(":")[0]
    fingerprint = architecture.fingerprint  # says what is missing, where there is no such module
    if where not in sys.modules:
        try:
            spec = importlib.util.find_spec(where)  # imports its packages, which may import it themselves
        except (Exception, SystemExit) as error:
            raise UserError(f"Module {where} cannot be imported: {describe(error)}") from error
        if where in sys.modules:
            path = source_file(architecture.name)
            _check_unedited(path, path.read_bytes(), fingerprint)
        elif spec is not None and type(spec.loader) is SourceFileLoader:
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


def _check_unedited(path: str | Path, source: bytes, fingerprint: str) -> None:
    """Refuse a file that holds something else than what `fingerprint` was taken of."""
    if (found := fingerprint_of(source)) != fingerprint:
        raise _EditedError(
            f"{path} was edited since it was asked for (fingerprint {fingerprint}, now "
            f"{found}). Run again, into another folder if this one has cells of it: --out DIR"
        )


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
        _check_unedited(self.path, source, self.fingerprint)
        return self.source_to_code(source, self.path)
