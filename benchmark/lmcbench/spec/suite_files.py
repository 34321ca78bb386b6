"""Suites found by name and read from TOML: text in, a validated suite out, or what is wrong with it."""

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
    """The suites that ship with the package: name -> file, the newest version of each name."""
    newest: dict[str, tuple[int, Traversable]] = {}
    for stem, version, file in _suite_files():
        name = stem.removesuffix(f"-v{version}")
        if name not in newest or newest[name][0] < version:
            newest[name] = version, file
    return {name: newest[name][1] for name in sorted(newest)}


def _suite_files() -> Iterator[tuple[str, int, Traversable]]:
    """The files `NAME-vVERSION.toml` that ship with the package: stem, version, file."""
    for file in files("lmcbench.suites").iterdir():
        match = re.fullmatch(r"(.+-v([1-9][0-9]*))\.toml", file.name)
        if match is not None:
            yield match[1], int(match[2]), file


def load_suite(name: str) -> Suite:
    """A published suite by name (`digits`, or `digits-v1` for a certain version), or a `.toml` path.

    Raises:
        UserError: where there is none, or the file is not a valid suite.
    """
    return parse_suite(*read_suite(name))


def read_suite(name: str) -> tuple[bytes, str]:
    """The file of a suite that is named as for `load_suite`, as it stands, and what errors call it.

    Raises:
        UserError: where there is none, or it cannot be read.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"No suite file {name}. Give a published name (see 'lmcbench suites') or a path.")
        with reading(name):
            return path.read_bytes(), name
    published = published_suites()
    versioned = {stem: file for stem, _, file in _suite_files()}
    if name not in published and name not in versioned:
        raise unknown("suite", name, versioned if re.search(r"-v\d+$", name) else published)
    file = published[name] if name in published else versioned[name]
    return file.read_bytes(), file.name


def published_suite(name: str, version: int, digest: str) -> Suite | None:
    """The definition of a suite, where it ships with this version under that name, version and digest."""
    try:
        found = load_suite(f"{name}-v{version}")
    except UserError:
        return None
    return found if found.digest == digest else None


def command_name(name: str, version: int, digest: str) -> str:
    """How a command names a suite that is published, an older version by its number too; else: its file."""
    if published_suite(name, version, digest) is None:
        return "FILE.toml"
    return name if load_suite(name).version == version else f"{name}-v{version}"


def how_to_have_others(suite: Suite) -> str:
    """What to do for a shift, fork or recipe that `suite` lacks: they make up its digest."""
    name = command_name(suite.name, suite.version, suite.digest)
    begin = "copy its file" if name == "FILE.toml" else f"lmcbench suites {name} --toml > mine.toml"
    return f"With another it is another suite: {begin}, change it there with its name, and run that file."


def parse_suite(content: bytes, origin: str) -> Suite:
    """A suite from TOML text; `origin` names the file in errors.

    Raises:
        UserError: naming the file and, for each fault, the key.
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
    """A pydantic error as lines a person can act on: file, key, what is wrong, what was found."""
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            lines.append(f"{origin}: {key}: unknown key. {_near_key(fault['loc'], model)}".rstrip())
        elif fault["type"] == "missing":
            lines.append(f"{origin}: {key}: this key is missing.")
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


def _near_key(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """A did-you-mean for an unknown key, from the table that it stands in."""
    holder = _TABLES.get(str(location[0]), model) if len(location) > 1 else model
    return str(unknown("key", str(location[-1]), holder.model_fields)).partition(". ")[2]
