"""Check a submission as a whole: its network and recipe, its replicates and cells, and what cells share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from lmcbench.errors import UserError, counted
from lmcbench.leaderboard.files import META, Fault, place_of
from lmcbench.leaderboard.submission_file import Meta
from lmcbench.leaderboard.trust import FIRST_CHOSEN, chosen_replicates
from lmcbench.results.cell_values import architecture_label
from lmcbench.results.cell_values import cell_text as record_text
from lmcbench.results.record import Record
from lmcbench.spec.architectures import Architecture, make_architecture
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.cells import Cell
from lmcbench.spec.suite import Suite

_FACTORY = re.compile(r"([A-Za-z_][\w.-]*):([A-Za-z_]\w*)")

_LOADS_WEIGHTS = ("pretrained", "checkpoint_path")
"""Arguments by which factories of timm and of many others start from trained weights."""

UNDISCLOSED = "none"
"""The value of `pretraining` and `extra_data` where there was none."""


@dataclass(frozen=True)
class Entry:
    """One architecture with one recipe of a suite, as `submission.toml` and the source file define it.

    Attributes:
        identity: of the architecture, as keys contain it.
    """

    suite: Suite
    architecture: Architecture
    identity: dict[str, Any]

    def cells(self, replicates: Iterable[int]) -> list[Cell]:
        """Return every cell of the suite for this entry, on `replicates`."""
        return [
            Cell(self.suite, self.architecture, shift, fork, replicate)
            for replicate in replicates
            for shift, fork in self.suite.conditions
        ]

    def key(self, cell: Cell) -> str:
        """Return the key of a cell, without importing anything."""
        return cell.key_of(self.identity)


def make_entry(
    suite: Suite, meta: Meta, sample: Record, sources: Mapping[str, bytes]
) -> tuple[Entry | None, list[Fault]]:
    """Return the entry that all records must belong to, None if it cannot be determined, and faults.

    Args:
        suite: the suite.
        meta: the content of `submission.toml`.
        sample: any record of the submission.
        sources: the contents of `source/FILE.py`, by path.
    """
    claimed, faults = sample.architecture, []

    def fault(file: str, field: str, message: str) -> None:
        faults.append(Fault(file, field, f"{message}."))

    try:
        architecture = make_architecture(claimed.name, meta.recipe, claimed.kwargs, claimed.adapt)
    except UserError as error:
        return None, [Fault(place_of(sample.key), "architecture", str(error))]
    source, label = meta.architecture.source, architecture_label(sample)
    if architecture.source != source:
        fault(META, "architecture.source", f"found {source}, {claimed.name} is {architecture.source}")
    if label != meta.architecture.label:
        found = f"found {meta.architecture.label!r}, the records are of {label!r}"
        fault(META, "architecture.label", found)
    if meta.recipe not in suite.recipes:
        fault(META, "recipe", f"found {meta.recipe!r}, the suite has {', '.join(suite.recipes)}")
        return None, faults
    loaded = [name for name in _LOADS_WEIGHTS if claimed.kwargs.get(name)]
    if loaded and meta.pretraining == UNDISCLOSED:
        asked = f"but the network is asked for {' and '.join(loaded)}"
        fault(META, "pretraining", f"found {meta.pretraining!r}, {asked}")
    wanted = f"source/{PurePosixPath(claimed.name.rpartition(':')[0]).name}"
    if architecture.source in ("lmcbench", "timm"):
        fingerprint = architecture.fingerprint
    elif architecture.source == "python" or _FACTORY.fullmatch(claimed.name) is None:
        fault(place_of(sample.key), "architecture.name", f"{claimed.name!r} is no module:function")
        return None, faults
    else:
        fingerprint = (meta.architecture.sha256 or "")[:16]
        if architecture.source == "file" and wanted not in sources:
            fault(wanted, "", f"is missing; it defines {claimed.name}")
    for name in sources:
        if architecture.source != "file" or name != wanted:
            fault(name, "", f"is not the source of {claimed.name}")
    identity = {"name": claimed.name, "kwargs": claimed.kwargs, "fingerprint": fingerprint}
    if claimed.adapt is not None:
        identity["adapt"] = claimed.adapt
    return Entry(suite, architecture, identity), faults


# --- completeness --------------------------------------------------------------------------------


def replicates_of(suite: Suite, meta: Meta, records: Sequence[Record]) -> tuple[range, list[Fault]]:
    """Return the replicates that a submission must cover, and a fault for each other one.

    They are all from 0 to the last one submitted, and at least as many as the suite has: a replicate that is
    left out in between counts as missing, so that nobody selects. A reproduction covers those that its nonce
    chose.
    """
    found = {r.replicate for r in records}
    if meta.reproduces is None:
        published = [r for r in found if r < FIRST_CHOSEN]
        allowed, which = range(max(suite.replicates, 1 + max(published, default=0))), "published ones"
    else:
        count = max(suite.replicates, len(found))
        allowed = chosen_replicates(meta.reproduces.submission_sha256, meta.reproduces.nonce, count)
        which = f"those that nonce {meta.reproduces.nonce!r} chose"
    faults = []
    for replicate in sorted(found - set(allowed)):
        tuning = replicate >= FIRST_CHOSEN and meta.reproduces is None
        hint = " (from 1000 up they are for tuning and reproductions)" if tuning else ""
        file = next(place_of(r.key) for r in records if r.replicate == replicate)
        message = f"found {replicate}{hint}; {which} are {allowed.start} to {allowed.stop - 1}."
        faults.append(Fault(file, "replicate", message))
    return allowed, faults


def missing_cells(entry: Entry, replicates: range, records: Iterable[Record]) -> list[str]:
    """Return the cells of the suite without a record, in words."""
    present = {record.key for record in records}
    return [
        f"{cell.shift.label}, fork {cell.fork.name}, replicate {cell.replicate}"
        for cell in entry.cells(replicates)
        if entry.key(cell) not in present
    ]


def completeness_faults(meta: Meta, records: int, missing: Sequence[str]) -> list[Fault]:
    """Compare the number of records, and whether cells are missing, with `submission.toml`."""
    faults = []
    if meta.cells != records:
        message = f"found {meta.cells}, must be {records}, the number of records."
        faults.append(Fault(META, "cells", message))
    if meta.complete != (not missing):
        shown = "; ".join(missing[:5]) + ("; ..." if len(missing) > 5 else "")
        what = f"these cells of the suite are missing: {shown}" if missing else "no cell is missing"
        message = f"found {str(meta.complete).lower()}, but {what}."
        faults.append(Fault(META, "complete", message))
    return faults


# --- what cells share ----------------------------------------------------------------------------


def agreement_faults(records: Mapping[str, Record]) -> list[Fault]:
    """Return a fault for each record that differs from most in what all cells of an entry share.

    These are the data, the network's size and FLOPs of a step; and the views of a shift and replicate.

    Args:
        records: by file, all of one suite, architecture and recipe.
    """
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for file, record in records.items():
        shared = {("architecture.params", ""): str(record.architecture.params)}
        for split in {str(entry.get("split")) for entry in record.data}:
            entries = [entry for entry in record.data if str(entry.get("split")) == split]
            shared[f"data.{split}", ""] = canonical_json(entries)
        if record.cost is not None and record.cost.train_steps > 0:
            step = record.cost.train_flop / record.cost.train_steps
            shared["cost.train_flop", ""] = f"{step:.9g} in a step"
        where = canonical_json([record.shift.model_dump(), record.replicate])
        shared["views_digest", where] = str(record.views_digest)
        for name, value in shared.items():
            groups.setdefault(name, {})[file] = value
    faults = []
    for (field, _), values in groups.items():
        usual = Counter(values.values()).most_common()[0][0]
        faults += [
            Fault(file, field, f"found {value[:80]}; other cells have {usual[:80]}.")
            for file, value in values.items()
            if value != usual
        ]
    return faults


def provenance_notes(records: Sequence[Record]) -> list[str]:
    """Return what a reviewer should know of how the records were made, and is not a fault."""
    notes = []
    changed = sum(bool((r.env.get("git") or {}).get("dirty")) for r in records)
    if changed:
        notes.append(f"Made by a checkout with changes: {changed} of {counted(len(records), 'record')}.")
    for status, words in (("diverged", "diverged"), ("did-not-learn", "did not learn")):
        cells = sorted(record_text(r) for r in records if r.status == status)
        if cells:
            notes.append(
                f"{len(cells)} of {counted(len(records), 'cell')} {words}, which counts as a result and "
                f"is in no mean; --rerun takes them first: {'; '.join(cells)}."
            )
    return notes
