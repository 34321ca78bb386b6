"""Import a user's source file, exactly in the version of its fingerprint."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, cast

from lmcbench.errors import UserError, describe, no_exit
from lmcbench.spec.architectures import Architecture, fingerprint_of, source_file

_FINGERPRINTS: dict[str, str] = {}
"""Module -> fingerprint of its file at the time of import."""


def import_source(architecture: Architecture) -> Any:
    """Import the module of a user's factory, by its name or from its file.

    Raises:
        UserError: if it cannot be imported, or was edited since its fingerprint was taken.
    """
    return _from_module(architecture) if architecture.path is None else _from_file(architecture)


def _from_module(architecture: Architecture) -> Any:
    where = architecture.name.rpartition(":")[0]
    fingerprint = architecture.fingerprint  # raises if there is no such module
    if where not in sys.modules:
        try:
            with no_exit():
                spec = importlib.util.find_spec(where)  # imports its parent packages, which may import it
        except Exception as error:
            raise UserError(f"Module {where} cannot be imported: {describe(error)}") from error
        if where in sys.modules:
            path = source_file(architecture.name)
            _check_unedited(path, path.read_bytes(), fingerprint)
        elif spec is not None and type(spec.loader) is SourceFileLoader:
            assert spec.origin is not None
            spec.loader = _CurrentSourceLoader(where, spec.origin, fingerprint)
            _FINGERPRINTS[where] = fingerprint
            return _imported(architecture, spec, f"Module {where}")
    if _FINGERPRINTS.setdefault(where, fingerprint) != fingerprint:
        raise UserError(
            f"Module {where} was edited since it was imported (fingerprint {_FINGERPRINTS[where]}, now "
            f"{fingerprint}). Restart Python."
        )
    try:
        with no_exit():
            return importlib.import_module(where)
    except Exception as error:
        raise UserError(f"Module {where} cannot be imported: {describe(error)}") from error


def _from_file(architecture: Architecture) -> Any:
    path = architecture.path
    assert path is not None
    name = f"lmcbench_user_{architecture.fingerprint}"
    if name in sys.modules:
        return sys.modules[name]
    loader = _CurrentSourceLoader(name, str(path), architecture.fingerprint)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    return _imported(architecture, spec, str(path))


def _imported(architecture: Architecture, spec: ModuleSpec, what: str) -> Any:
    """Execute the module of `spec`; `what` names it in errors."""
    path = architecture.path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with no_exit():
            cast(Loader, spec.loader).exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        _FINGERPRINTS.pop(spec.name, None)
        if isinstance(error, _EditedError):
            raise
        hint = ""
        if path is not None and isinstance(error, ModuleNotFoundError) and error.name is not None:
            beside = path.parent / error.name.partition(".")[0]
            if beside.is_dir() or beside.with_suffix(".py").is_file():
                hint = f" A network is one file: put what it needs of {beside.name} into {path.name}."
        raise UserError(f"{what} cannot be imported: {describe(error, path)}{hint}") from error
    # a package has its modules as attributes, which find_spec alone does not set
    package, _, own = spec.name.rpartition(".")
    if package:
        setattr(sys.modules[package], own, sys.modules[spec.name])
    return sys.modules[spec.name]


class _EditedError(UserError):
    """The file was edited since its fingerprint was taken."""


def _check_unedited(path: str | Path, source: bytes, fingerprint: str) -> None:
    """Raise _EditedError if the source does not have the fingerprint."""
    if (found := fingerprint_of(source)) != fingerprint:
        raise _EditedError(
            f"{path} was edited since the run was started (fingerprint {fingerprint}, now {found}). Run "
            "again, into another folder if this one has cells of that network: --out DIR"
        )


class _CurrentSourceLoader(SourceFileLoader):
    """Load a file's current source instead of Python's compiled copy, and leave no compiled copy.

    Python takes a compiled copy as valid if size and second of modification are equal. After an edit within
    that second, the old network would be trained under the fingerprint of the new one.

    Args:
        fullname: name of the module.
        path: path of its file.
        fingerprint: fingerprint that the source must have.
    """

    def __init__(self, fullname: str, path: str, fingerprint: str) -> None:
        super().__init__(fullname, path)
        self.fingerprint = fingerprint

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path)
        _check_unedited(self.path, source, self.fingerprint)
        return self.source_to_code(source, self.path)
