"""What a report or table was made from: commands, suite, citation and versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcbench.errors import UserError
from lmcbench.output import escape_markdown
from lmcbench.results.provenance import command_line, without_folders
from lmcbench.results.record import Record
from lmcbench.results.run_folder import RunFolder, read_header
from lmcbench.spec.suite_files import published_suite

SHOWN = ("lmcbench", "python", "torch", "timm", "numpy")
"""Packages whose versions are listed."""


@dataclass(frozen=True)
class Provenance:
    """Where numbers come from.

    Attributes:
        command: that wrote the report or table; of absolute paths the name alone.
        runs: commands of the run that made the records, as far as the run folder names them; likewise.
        suite: name, version and digest.
        citation: of the suite and its data; empty for a user's own without one.
        versions: of the packages that the records were made with.
    """

    command: str
    runs: tuple[str, ...]
    suite: str
    citation: str
    versions: str

    @property
    def facts(self) -> dict[str, str]:
        """Labels and texts of the known fields."""
        found = {
            "Written by": self.command,
            "Run by": "; ".join(self.runs),
            "Suite": self.suite,
            "Cite": self.citation,
            "Versions": self.versions,
        }
        return {name: text for name, text in found.items() if text}

    def markdown(self) -> str:
        """Return the facts as a section of Markdown."""
        listed = "\n".join(f"- {name}: {escape_markdown(text)}" for name, text in self.facts.items())
        return f"## How this was made\n\n{listed}\n"


def provenance_of(
    records: Sequence[Record], folder: Path | None = None, command: str | None = None
) -> Provenance:
    """Return the provenance of the records of one suite.

    Args:
        records: at least one.
        folder: the run folder, whose `run.json` names the commands.
        command: that writes the report or table; default: this process's.
    """
    one = records[0]
    suite = published_suite(one.suite.name, one.suite.version, one.suite.digest)
    return Provenance(
        without_folders(command_line() if command is None else command),
        _runs(folder),
        f"{one.suite.name} version {one.suite.version}, digest {one.suite.digest}",
        suite.citation if suite is not None else "",
        versions_text(record.env.get("versions") or {} for record in records),
    )


def versions_text(found: Iterable[Mapping[str, Any]]) -> str:
    """Return the versions of several environments as `torch 2.15.0, timm 1.0.31`; of one, all."""
    listed: dict[str, set[str]] = {}
    for table in found:
        for name in SHOWN:
            if table.get(name):
                listed.setdefault(name, set()).add(str(table[name]))
    return ", ".join(f"{name} {' and '.join(sorted(listed[name]))}" for name in SHOWN if name in listed)


def _runs(folder: Path | None) -> tuple[str, ...]:
    header = None if folder is None else RunFolder(folder).header
    if header is None or not header.is_file():
        return ()
    try:
        made = read_header(header).get("made")
    except UserError:
        return ()
    commands = made.get("commands") if isinstance(made, dict) else None
    return tuple(without_folders(str(command)) for command in commands) if isinstance(commands, list) else ()
