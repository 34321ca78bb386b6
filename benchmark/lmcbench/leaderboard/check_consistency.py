"""Do the records of a submission agree with each other, and with what is said of them?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lmcbench.errors import counted
from lmcbench.leaderboard.files import META, Fault
from lmcbench.leaderboard.submission_file import Meta
from lmcbench.results.cell_values import cell_text
from lmcbench.results.record import Record
from lmcbench.spec.canonical import canonical_json


def completeness_faults(meta: Meta, records: int, missing: Sequence[str]) -> list[Fault]:
    """Whether as many cells are there as is said.

    Args:
        meta: what is said.
        records: how many there are.
        missing: cells of the suite without a record, in words.
    """
    faults = []
    if meta.cells != records:
        faults.append(_fault(META, "cells", f"found {meta.cells}, must be {records}, the number of records."))
    if meta.complete != (not missing):
        shown = "; ".join(missing[:5]) + ("; ..." if len(missing) > 5 else "")
        what = f"these cells of the suite are missing: {shown}" if missing else "no cell is missing"
        faults.append(_fault(META, "complete", f"found {str(meta.complete).lower()}, but {what}."))
    return faults


def agreement_faults(records: Mapping[str, Record]) -> list[Fault]:
    """What the cells of one entry have in common: data, the network's size, FLOPs of a step, views.

    Args:
        records: file -> its record, all of one suite, architecture and recipe.
    """
    groups: list[tuple[str, dict[str, str]]] = [
        *(
            (f"data.{split}", {f: _data_of(r, split) for f, r in records.items()})
            for split in sorted({str(e.get("split")) for r in records.values() for e in r.data})
        ),
        ("architecture.params", {f: str(r.architecture.params) for f, r in records.items()}),
        (
            "cost.train_flop",
            {
                f: f"{r.cost.train_flop / r.cost.train_steps:.9g} in a step"
                for f, r in records.items()
                if r.cost is not None and r.cost.train_steps > 0
            },
        ),
    ]
    by_view: dict[str, dict[str, str]] = {}
    for file, record in records.items():
        where = canonical_json([record.shift.model_dump(), record.replicate])
        by_view.setdefault(where, {})[file] = str(record.views_digest)
    groups += [("views_digest", values) for values in by_view.values()]
    return [fault for field, values in groups for fault in _unusual(field, values)]


def provenance_notes(records: Sequence[Record]) -> list[str]:
    """What a reviewer should see of how the records came about, and that is no fault."""
    notes = []
    changed = sum(bool((r.env.get("git") or {}).get("dirty")) for r in records)
    if changed:
        notes.append(f"Made by a checkout with changes: {changed} of {counted(len(records), 'record')}.")
    diverged = [r for r in records if r.status == "diverged"]
    if diverged:
        called = "; ".join(sorted(cell_text(record) for record in diverged))
        notes.append(
            f"{len(diverged)} of {counted(len(records), 'cell')} diverged, which counts as a result and "
            f"is in no mean; --rerun takes them first: {called}."
        )
    return notes


def _unusual(field: str, values: Mapping[str, str]) -> list[Fault]:
    """The files whose value is not the most common one."""
    if not values:
        return []
    usual = Counter(values.values()).most_common()[0][0]
    return [
        _fault(file, field, f"found {_short(value)}; other cells have {_short(usual)}.")
        for file, value in values.items()
        if value != usual
    ]


def _fault(file: str, field: str, message: str) -> Fault:
    return Fault(file=file, field=field, message=message)


def _data_of(record: Record, split: str) -> str:
    """What a record says of a split of its data."""
    return canonical_json([entry for entry in record.data if str(entry.get("split")) == split])


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."
