"""What a run needs on other machines: tasks with absolute paths, and the same folder, code and versions."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from lmcbench.errors import UserError
from lmcbench.results.events import EventReader
from lmcbench.results.provenance import source_revision, versions
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.plan import Task
from lmcbench.spec.architectures import Architecture
from lmcbench.spec.canonical import digest, digest_bytes
from lmcbench.spec.cells import Cell

FORWARDED = ("LMCBENCH_", "HF_", "HUGGINGFACE_", "XDG_CACHE_HOME")
"""Beginnings of the names of environment variables that say where data is."""

PATHS = ("_DATA", "_CACHE", "_HOME")
"""Ends of the names of those that contain a path."""


def portable_environment() -> dict[str, str]:
    """Return the environment variables that attempts on other machines need, with absolute paths.

    Access tokens are not among them: jobs are stored in the run folder.
    """
    found = {}
    for name, value in os.environ.items():
        if name.startswith(FORWARDED) and "TOKEN" not in name and value:
            found[name] = str(Path(value).expanduser().absolute()) if name.endswith(PATHS) else value
    return found


def portable(task: Task) -> Task:
    """Return the task with absolute paths of the run folder, data, a user's network and checkpoints."""
    family = task.family
    architecture = _absolute(family.architecture)
    return replace(
        task,
        folder=RunFolder(task.folder.root.absolute()),
        data_dir=None if task.data_dir is None else task.data_dir.expanduser().absolute(),
        family=replace(
            family,
            architecture=architecture,
            cells=tuple(_portable_cell(cell, architecture) for cell in family.cells),
        ),
    )


def _absolute(architecture: Architecture) -> Architecture:
    path = architecture.path
    if path is None or path.is_absolute():
        return architecture
    fingerprint = architecture.fingerprint  # of the file as it is now
    moved = architecture.model_copy(
        update={"name": f"{path.absolute()}:{architecture.name.rpartition(':')[2]}"}
    )
    moved.__dict__["fingerprint"] = fingerprint
    return moved


def _portable_cell(cell: Cell, architecture: Architecture) -> Cell:
    fork, key = cell.fork, cell.key
    if fork.checkpoint is not None:
        sha256 = fork.sha256
        fork = replace(fork, checkpoint=fork.checkpoint.absolute())
        fork.__dict__["sha256"] = sha256
    moved = replace(cell, architecture=architecture, fork=fork)
    moved.__dict__["key"] = key
    return moved


VISIBLE_S = 60.0
"""Seconds that a file may take to appear on another machine: network file systems cache folders."""


@dataclass(frozen=True)
class Expected:
    """The driver's machine.

    Attributes:
        versions: of Python and of packages that change numbers.
        code: hash of lmcbench's source files.
        commit: of its checkout, if it is one.
        token: first event of the attempt's file; only the same folder has it.
    """

    versions: Mapping[str, str | None]
    code: str
    commit: str | None
    token: str

    @classmethod
    def here(cls, token: str) -> Expected:
        """Return what other machines must have in common with this one."""
        return cls(versions(), code_digest(), _commit(), token)


@cache
def code_digest() -> str:
    """Return a hash of lmcbench's Python files, 16 hex digits."""
    root = Path(__file__).resolve().parents[1]
    files = sorted(path for path in root.rglob("*.py") if path.is_file())
    return digest({str(path.relative_to(root)): digest_bytes(path.read_bytes()) for path in files})[:16]


def check_node(expected: Expected, log: Path) -> None:
    """Check that this machine sees the run folder and has the same code and versions.

    The data's hashes are compared when the data set is opened.

    Args:
        expected: of the driver's machine.
        log: the attempt's event file, which the driver created.

    Raises:
        UserError: naming the node, what it has and what is expected.
    """
    found = _token(log)
    waited = time.monotonic() + VISIBLE_S
    while found is None and time.monotonic() < waited:
        time.sleep(1)
        found = _token(log)
    if found != expected.token:
        what = "another folder of that name" if found is not None else "no such run"
        raise UserError(
            f"it has {what} at {log.parent.parent}. Use a run folder (--out) on a file system that all nodes "
            "share, under the same path."
        )
    mine = versions()
    for package, wanted in expected.versions.items():
        if mine.get(package) != wanted:
            raise UserError(
                f"it has {package} {mine.get(package)}, and this run uses {wanted}. Install the same "
                "versions on all nodes; numbers depend on them."
            )
    if code_digest() != expected.code:
        raise UserError(
            f"its source files of lmcbench differ from the driver's (here commit {_commit()}, driver commit "
            f"{expected.commit}; uncommitted edits count). "
            "Install the same version on all nodes."
        )


def _token(log: Path) -> str | None:
    events = EventReader(log).new()
    return None if not events else str(events[0].get("token"))


def _commit() -> str | None:
    revision = source_revision()
    return None if revision is None else str(revision.get("commit"))[:12]
