"""Make tasks independent of the driver's working folder and environment, for other machines."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from lmcbench.results.run_folder import RunFolder
from lmcbench.running.plan import Task
from lmcbench.spec.architectures import Architecture
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
