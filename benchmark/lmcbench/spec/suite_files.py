"""Suites by name: find their TOML file, read and validate it, and explain faults."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from pydantic import BaseModel, ValidationError

from lmcbench.errors import UserError, reading, unknown
from lmcbench.spec.architectures import Architecture
from lmcbench.spec.gate_tests import GateTest
from lmcbench.spec.recipe import Recipe
from lmcbench.spec.suite import DataSpec, Probe, Protocol, ShiftSpec, Suite


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


def load_suite(name: str) -> Suite:
    """Load a published suite by name (`digits`, or `digits-v2` for one version), or from a `.toml` path.

    Raises:
        UserError: if it does not exist or is not a valid suite.
    """
    return parse_suite(*read_suite(name))


def read_suite(name: str) -> tuple[bytes, str]:
    """Return the content of a suite's file and its name for messages; `name` is as for `load_suite`.

    Raises:
        UserError: if it does not exist or cannot be read.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UserError(
                f"No suite file {name}. Give a path, or a published name (see 'lmcbench suites')."
            )
        with reading(name):
            return path.read_bytes(), name
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
    try:
        table = tomllib.loads(content.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{origin} is not TOML: {error}.") from None
    try:
        return Suite.model_validate(table)
    except ValidationError as error:
        raise UserError(explain(error, origin, Suite)) from None


def explain(error: ValidationError, origin: str, model: type[BaseModel]) -> str:
    """Return a pydantic error as one line for each fault: file, key, fault, value found."""
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            lines.append(f"{origin}: {key}: unknown key. {_suggest_key(fault['loc'], model)}".rstrip())
        elif fault["type"] == "missing":
            lines.append(f"{origin}: {key}: required key is missing.")
        elif fault["type"] in ("model_type", "dict_type"):
            lines.append(f"{origin}: {key}: must be a table, found {fault['input']!r}.")
        else:
            message = fault["msg"].removeprefix("Value error, ").rstrip(".")
            found = fault["input"]
            scalar = isinstance(found, (str, int, float, bool))
            shown = f" (found {found!r})" if scalar and repr(found) not in message else ""
            end = "" if message.endswith("?") and not shown else "."
            lines.append(f"{origin}: {f'{key}: ' if key else ''}{message}{shown}{end}")
    return "\n".join(lines)


_TABLES: dict[str, type[BaseModel]] = {
    "recipes": Recipe,
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
