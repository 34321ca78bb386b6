"""What a submission's cells must be: identity, seeds, keys and completeness, derived from its suite."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from lmcbench.errors import UserError
from lmcbench.leaderboard.files import META, Fault, place_of
from lmcbench.leaderboard.submission_file import Meta
from lmcbench.leaderboard.trust import FIRST_CHOSEN, chosen_replicates
from lmcbench.results.cell_values import architecture_label
from lmcbench.results.record import Record
from lmcbench.spec.architectures import Architecture, make_architecture
from lmcbench.spec.cells import Cell
from lmcbench.spec.forks import Fork
from lmcbench.spec.recipe import Recipe
from lmcbench.spec.seeds import Seeds
from lmcbench.spec.shifts import Shift
from lmcbench.spec.suite import Suite

_FACTORY = re.compile(r"([A-Za-z_][\w.-]*):([A-Za-z_]\w*)")

_LOADS_WEIGHTS = ("pretrained", "checkpoint_path")
"""Arguments of timm's factories, and of many others, that begin with trained weights."""

UNDISCLOSED = "none"
"""What is said of pretraining and extra data where there was none."""


@dataclass(frozen=True)
class Entry:
    """One architecture with one recipe of a suite, as `submission.toml` and its source file say.

    Attributes:
        identity: of the architecture, as keys hold it.
    """

    suite: Suite
    architecture: Architecture
    identity: dict[str, Any]

    def cells(self, replicates: Iterable[int]) -> list[Cell]:
        """Every cell of the suite for this entry, on `replicates`."""
        return [
            Cell(self.suite, self.architecture, shift, fork, replicate)
            for replicate in replicates
            for shift, fork in self.suite.conditions
        ]

    def key(self, cell: Cell) -> str:
        """The key of one of them, found without importing anything."""
        return cell.key_of(self.identity)


def make_entry(
    suite: Suite, meta: Meta, sample: Record, sources: dict[str, bytes]
) -> tuple[Entry | None, list[Fault]]:
    """The entry that `sample` and all other records must be of; None where that cannot be told.

    Args:
        suite: the suite.
        meta: what is said of the submission.
        sample: any of its records.
        sources: its files `source/FILE.py`, path -> content.
    """
    claimed, place = sample.architecture, place_of(sample.key)
    try:
        architecture = make_architecture(claimed.name, meta.recipe, claimed.kwargs, claimed.adapt)
    except UserError as error:
        return None, [Fault(file=place, field="architecture", message=str(error))]
    faults = []
    if architecture.source != meta.architecture.source:
        faults.append(
            _meta(
                "architecture.source",
                f"found {meta.architecture.source}, {claimed.name} is {architecture.source}",
            )
        )
    label = architecture_label(sample)
    if label != meta.architecture.label:
        faults.append(
            _meta("architecture.label", f"found {meta.architecture.label!r}, the records are of {label!r}")
        )
    if meta.recipe not in suite.recipes:
        known = ", ".join(suite.recipes)
        return None, [*faults, _meta("recipe", f"found {meta.recipe!r}, the suite has {known}")]
    loaded = [name for name in _LOADS_WEIGHTS if claimed.kwargs.get(name)]
    if loaded and meta.pretraining == UNDISCLOSED:
        found = f"found {meta.pretraining!r}, but the network is asked for {' and '.join(loaded)}"
        faults.append(_meta("pretraining", found))
    fingerprint = claimed.fingerprint
    if architecture.source in ("lmcbench", "timm"):
        fingerprint = architecture.fingerprint
        if sources:
            faults.append(
                _meta(
                    "architecture.source", f"{claimed.name} needs no source file, found {', '.join(sources)}"
                )
            )
    else:
        if _FACTORY.fullmatch(claimed.name) is None:
            return None, [
                *faults,
                Fault(
                    file=place, field="architecture.name", message=f"{claimed.name!r} is no module:function."
                ),
            ]
        sha256 = meta.architecture.sha256 or ""
        fingerprint = sha256[:16]
        if architecture.source == "file":
            faults += _source_faults(claimed.name, sources)
    identity = {"name": claimed.name, "kwargs": claimed.kwargs, "fingerprint": fingerprint}
    if claimed.adapt is not None:
        identity["adapt"] = claimed.adapt
    return Entry(suite, architecture, identity), faults


def _source_faults(name: str, sources: dict[str, bytes]) -> list[Fault]:
    path = f"source/{PurePosixPath(name.rpartition(':')[0]).name}"
    faults = [
        Fault(file=other, field="", message=f"is not the source of {name}.")
        for other in sources
        if other != path
    ]
    if path not in sources:
        faults.append(Fault(file=path, field="", message=f"is missing; it defines {name}."))
    return faults


def _meta(field: str, message: str) -> Fault:
    return Fault(file=META, field=field, message=f"{message}.")


def identity_faults(record: Record, file: str, entry: Entry) -> tuple[Cell | None, list[Fault]]:
    """The cell that a record is of, None if it is none of the suite's, and where it contradicts that."""
    suite, faults = entry.suite, []

    def differs(field: str, found: object, expected: object) -> None:
        if found != expected:
            faults.append(
                Fault(file=file, field=field, message=f"found {_shown(found)}, must be {_shown(expected)}.")
            )

    differs("suite", record.suite.model_dump(include={"name", "version", "digest"}), suite.identity())
    network = record.architecture.model_dump(include={"name", "kwargs", "adapt", "fingerprint"})
    differs("architecture", network, {"adapt": None, **entry.identity})
    differs("architecture.source", record.architecture.source, entry.architecture.source)
    name = entry.architecture.recipe
    settings = {key: value for key, value in record.recipe.items() if key != "name"}
    differs("recipe.name", record.recipe["name"], name)
    try:
        recipe = Recipe.model_validate(settings)
        for key, value in suite.recipes[name]:
            differs(f"recipe.{key}", getattr(recipe, key), value)
    except ValidationError as error:
        for wrong in error.errors(include_url=False):
            key = ".".join(map(str, ("recipe", *wrong["loc"])))
            faults.append(Fault(file=file, field=key, message=f"{wrong['msg']}."))
    shift = _shift(record, suite)
    if shift is None:
        known = ", ".join(spec.shift.label for spec in suite.shifts)
        shown = _shown(record.shift.model_dump())
        faults.append(Fault(file=file, field="shift", message=f"found {shown}, the suite has {known}."))
    fork = next((f for f in suite.fork_list if f.name == record.fork.name), None)
    if fork is None:
        known = ", ".join(f.name for f in suite.fork_list)
        faults.append(
            Fault(file=file, field="fork.name", message=f"found {record.fork.name!r}, the suite has {known}.")
        )
    seeds = Seeds.of(suite.name, suite.version, record.replicate, suite.siblings)._asdict()
    for role, expected in seeds.items():
        found = record.seeds.get(role)
        if found != (list(expected) if isinstance(expected, tuple) else expected):
            faults.append(
                Fault(
                    file=file,
                    field=f"seeds.{role}",
                    message=f"not as derived from the suite and replicate {record.replicate}.",
                )
            )
    if shift is None or fork is None:
        return None, faults
    under = [s.label for s, f in suite.conditions if f == fork]
    if shift.label not in under:
        message = f"found {fork.name!r} under {shift.label}, the suite has it under {', '.join(under)}."
        return None, [*faults, Fault(file=file, field="fork.name", message=message)]
    cell = Cell(suite, entry.architecture, shift, fork, record.replicate)
    differs("key", record.key, entry.key(cell))
    differs("protocol.alphas", record.protocol.get("alphas"), suite.protocol.grid)
    return cell, faults


def _shift(record: Record, suite: Suite) -> Shift | None:
    found = record.shift.model_dump(include={"name", "params", "noise"})
    return next((s.shift for s in suite.shifts if s.shift.identity() == found), None)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


def fork_of(cell: Cell, n: int) -> dict[str, Any]:
    """Epoch, step and fraction of a cell's fork on `n` training images, as records have them."""
    fork: Fork = cell.fork
    if fork.epoch is None:
        return {"epoch": None, "step": None, "fraction": None}
    step = fork.step(cell.recipe.steps_per_epoch(n))
    return {"epoch": fork.epoch, "step": step, "fraction": step / cell.length(n)}


# --- completeness --------------------------------------------------------------------------------


def replicates_of(suite: Suite, meta: Meta, records: Sequence[Record]) -> tuple[range, list[Fault]]:
    """The replicates a submission is about, and a fault for each other one that it holds.

    From 0 up to the last one published, the suite's number at least: one between that is left out counts as
    missing, so that nobody picks. A reproduction is about those that its nonce chose.
    """
    published = {r.replicate for r in records if r.replicate < FIRST_CHOSEN}
    allowed = range(max(suite.replicates, 1 + max(published, default=0)))
    if meta.reproduces is not None:
        count = max(suite.replicates, len({r.replicate for r in records}))
        allowed = chosen_replicates(meta.reproduces.submission_sha256, meta.reproduces.nonce, count)
    faults = []
    for replicate in sorted({r.replicate for r in records} - set(allowed)):
        why = (
            "published ones"
            if meta.reproduces is None
            else f"those that nonce {meta.reproduces.nonce!r} chose"
        )
        tuning = replicate >= FIRST_CHOSEN and meta.reproduces is None
        hint = " (from 1000 up they are for tuning and reproductions)" if tuning else ""
        file = next(place_of(r.key) for r in records if r.replicate == replicate)
        message = f"found {replicate}{hint}; {why} are {allowed.start} to {allowed.stop - 1}."
        faults.append(Fault(file=file, field="replicate", message=message))
    return allowed, faults


def missing_cells(entry: Entry, replicates: range, records: Iterable[Record]) -> list[Cell]:
    """Cells of the suite without a record."""
    present = {record.key for record in records}
    return [cell for cell in entry.cells(replicates) if entry.key(cell) not in present]


def cell_text(cell: Cell) -> str:
    """A cell in words, beside others of its entry."""
    return f"{cell.shift.label}, fork {cell.fork.name}, replicate {cell.replicate}"
