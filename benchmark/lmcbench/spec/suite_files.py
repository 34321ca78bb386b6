"""Suites by name: find their TOML file, read and validate it, and explain faults."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from pydantic import BaseModel, ValidationError

from lmcbench.errors import UserError, unknown
from lmcbench.spec.architectures import Architecture
from lmcbench.spec.gate_tests import GateTest
from lmcbench.spec.recipe import Recipe
from lmcbench.spec.suite import Suite
from lmcbench.spec.suite_tables import DataSpec, Probe, Protocol, ShiftSpec
from lmcbench.spec.sweep import Sweep
from lmcbench.untrusted import TOML_BYTES, parse_toml, printable, read_bytes
from lmcbench.values import as_path

FAULTS = 10
"""Faults of one file that a message lists."""


def published_suites() -> dict[str, Traversable]:
    """Return the packaged suites: name -> file of its newest version."""
    newest: dict[str, tuple[int, Traversable]] = {}
    for stem, version, file in _suite_files():
        name = stem.removesuffix(f"-v{version}")
        if name not in newest or newest[name][0] < version:
            newest[name] = version, file
    return {name: newest[name][1] for name in sorted(newest)}


def _suite_files() -> Iterator[tuple[str, int, Traversable]]:
    """Yield stem, version and file of every packaged `NAME-vVERSION.toml`."""
    for file in files("lmcbench.suites").iterdir():
        match = re.fullmatch(r"(.+-v([1-9][0-9]*))\.toml", file.name)
        if match is not None:
            yield match[1], int(match[2]), file


def load_suite(name: str | os.PathLike[str]) -> Suite:
    """Load a published suite by name (`digits`, or `digits-v3` for one version), or from a `.toml` path.

    Raises:
        UserError: if it does not exist or is not a valid suite, or a published one has a user's shift.
    """
    name = name if isinstance(name, str) else str(as_path(name, "suite"))
    suite = parse_suite(*read_suite(name))
    own = [spec.shift.name for spec in suite.shifts if spec.shift.source is not None]
    if own and not name.endswith(".toml"):
        raise UserError(
            f"Suite {name} has the shift {own[0]} of a user's file. Published suites, and submissions to "
            "them, have the shifts of 'lmcbench shifts' alone."
        )
    return suite


def read_suite(name: str) -> tuple[bytes, str]:
    """Return the content of a suite's file and its name for messages; `name` is as for `load_suite`.

    Raises:
        UserError: if it does not exist or cannot be read.
    """
    if name.endswith(".toml"):
        if not os.path.lexists(name):
            raise UserError(
                f"No suite file {printable(name)}. Give a path, or a published name (see 'lmcbench suites')."
            )
        return read_bytes(Path(name), limit=TOML_BYTES), name
    published = published_suites()
    versioned = {stem: file for stem, _, file in _suite_files()}
    if name not in published and name not in versioned:
        raise unknown("suite", name, versioned if re.search(r"-v\d+$", name) else published)
    file = published[name] if name in published else versioned[name]
    return file.read_bytes(), file.name


def published_suite(name: str, version: int, digest: str) -> Suite | None:
    """Return the packaged suite with this name, version and digest, or None."""
    try:
        suite = load_suite(f"{name}-v{version}")
    except UserError:
        return None
    return suite if suite.digest == digest else None


def command_name(name: str, version: int, digest: str) -> str:
    """Return the argument for commands: the suite's name, with `-vN` for an older version, or `FILE.toml`."""
    if published_suite(name, version, digest) is None:
        return "FILE.toml"
    return name if load_suite(name).version == version else f"{name}-v{version}"


def explain_new_suite(suite: Suite) -> str:
    """Explain how to run a shift, fork or recipe that the suite does not have."""
    name = command_name(suite.name, suite.version, suite.digest)
    begin = "copy its file" if name == "FILE.toml" else f"lmcbench suites {name} --toml > mine.toml"
    return f"Changing it creates a new suite: {begin}, change it and its name there, and run that file."


def parse_suite(content: bytes, origin: str) -> Suite:
    """Parse and validate a suite.

    Args:
        content: TOML text.
        origin: name of the file in messages.

    Raises:
        UserError: naming the file and the key of each fault.
    """
    table = parse_toml(content, origin)
    try:
        return Suite.model_validate(table)
    except ValidationError as error:
        raise UserError(explain(error, origin, Suite)) from None


def explain(error: ValidationError, origin: str, model: type[BaseModel]) -> str:
    """Return a pydantic error as one line for each of the first faults: file, key, fault, value found."""
    lines = []
    faults = error.errors(include_url=False)
    for fault in faults[:FAULTS]:
        key = ".".join(printable(str(part), 60) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            lines.append(f"{origin}: {key}: unknown key. {_suggest_key(fault['loc'], model)}".rstrip())
        elif fault["type"] == "missing":
            lines.append(f"{origin}: {key}: required key is missing.")
        elif fault["type"] in ("model_type", "dict_type"):
            lines.append(f"{origin}: {key}: must be a table, found {printable(repr(fault['input']))}.")
        else:
            message = printable(fault["msg"].removeprefix("Value error, ").rstrip("."), 600)
            found = printable(repr(fault["input"]), 100)
            scalar = isinstance(fault["input"], (str, int, float, bool))
            shown = f" (found {found})" if scalar and found not in message else ""
            end = "" if message.endswith("?") and not shown else "."
            lines.append(f"{origin}: {f'{key}: ' if key else ''}{message}{shown}{end}")
    if len(faults) > FAULTS:
        lines.append(f"{origin}: {len(faults) - FAULTS} more faults.")
    return "\n".join(lines)


_TABLES: dict[str, type[BaseModel]] = {
    "recipes": Recipe,
    "sweep": Sweep,
    "architectures": Architecture,
    "data": DataSpec,
    "protocol": Protocol,
    "probe": Probe,
    "shifts": ShiftSpec,
    "gate": GateTest,
}


def _suggest_key(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """Suggest a known key of the same table for an unknown one."""
    holder = _TABLES.get(str(location[0]), model) if len(location) > 1 else model
    return str(unknown("key", str(location[-1]), holder.model_fields)).partition(". ")[2]
