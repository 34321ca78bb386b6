"""Check a submission without running anything of it: every fault at once, and what stays a claim."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcbench.board.entry import (
    Entry,
    cell_text,
    identity_faults,
    make_entry,
    missing_cells,
    replicates_of,
)
from lmcbench.board.manifest import MANIFEST, META, Fault, check_manifest, list_files
from lmcbench.board.soundness import soundness_faults
from lmcbench.board.submission import Meta, Submission, check_slug, parse_meta, read_submission
from lmcbench.board.trust import VERIFIED_SCHEMA, Verified, chosen_replicates
from lmcbench.errors import UserError
from lmcbench.rescoring import rescore
from lmcbench.results.labels import architecture_label
from lmcbench.results.record import NewerSchemaError, Record, parse_record
from lmcbench.spec.canonical import canonical_json, digest_bytes
from lmcbench.spec.pins import pins_of
from lmcbench.spec.suite import Suite, load_suite

CLAIMED = (
    "the curves themselves, siblings' training errors, the soups and the geometry (they need the weights)",
    "seconds, memory, versions and device",
)


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        cells: records checked.
        missing: cells of the suite without a record, in words.
        rescored: what was recomputed and is equal.
        claimed: what cannot be recomputed from what is stored.
        notes: what a reviewer should see and that is no fault.
        newer: whether a file needs a later version of lmcbench.
    """

    slug: str
    manifest_sha256: str
    cells: int
    missing: list[str]
    faults: list[Fault]
    rescored: list[str]
    claimed: list[str]
    notes: list[str]
    newer: bool = False

    @property
    def sound(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def as_json(self) -> dict[str, Any]:
        """One JSON document."""
        return {
            "slug": self.slug,
            "manifest_sha256": self.manifest_sha256,
            "sound": self.sound,
            "cells": self.cells,
            "missing": self.missing,
            "faults": [fault.model_dump() for fault in self.faults],
            "rescored": self.rescored,
            "claimed": self.claimed,
            "notes": self.notes,
        }

    def evidence(self) -> Verified:
        """The file that lets the leaderboard show `rescored`."""
        from importlib.metadata import version

        return Verified(
            schema=VERIFIED_SCHEMA,
            slug=self.slug,
            manifest_sha256=self.manifest_sha256,
            lmcbench=version("lmcbench"),
            cells=self.cells,
            missing=len(self.missing),
            rescored=self.rescored,
            claimed=self.claimed,
        )


def verify(folder: Path, suite_file: Path | None = None, slug: str | None = None) -> Verification:
    """Check the submission in `folder`, from its files' names down to each number.

    Args:
        folder: the submission.
        suite_file: the suite's file where it is not a published one.
        slug: its name where the folder's is another, as while it is being written.

    Raises:
        UserError: where there is no submission to check.
    """
    try:
        return _checked(folder, suite_file, slug if slug is not None else folder.resolve().name)
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read: {error.strerror}.") from None


def _checked(folder: Path, suite_file: Path | None, slug: str) -> Verification:
    if not folder.is_dir() or folder.is_symlink():
        raise UserError(f"There is no folder {folder}. Give a submission: leaderboard/submissions/SLUG.")
    if not any(folder.iterdir()):
        raise UserError(f"{folder} is empty. Write submissions with 'lmcbench submit'.")
    if (folder / "run.json").exists():
        raise UserError(
            f"{folder} is a run, not a submission. Make one of it: lmcbench submit {folder} --name SLUG"
        )
    if not any((folder / name).exists() for name in (META, MANIFEST, "records")):
        raise UserError(
            f"{folder} is no submission: it has none of its files. Give leaderboard/submissions/SLUG."
        )
    return _Verifier(folder, suite_file, slug).verify()


class _Verifier:
    """The steps of a verification; each one adds to the faults and leaves what the next one needs."""

    def __init__(self, folder: Path, suite_file: Path | None, slug: str) -> None:
        self.folder, self.suite_file, self.slug = folder, suite_file, slug
        self.faults: list[Fault] = []
        self.newer = False
        self.missing: list[str] = []
        self.rescored: list[str] = []
        self.claimed: list[str] = []
        self.notes: list[str] = []
        self.records: dict[str, Record] = {}

    def verify(self) -> Verification:
        try:
            check_slug(self.slug)
        except UserError as error:
            self.fault(".", "", str(error))
        sizes, faults = list_files(self.folder)
        contents, changed, newer = check_manifest(self.folder, sizes)
        self.faults += [*faults, *changed]
        for refused in newer:
            self.refuse(MANIFEST, refused)
        meta = self.read_meta(contents)
        self.read_records(contents)
        suite = self.find_suite(meta) if meta is not None else None
        if meta is not None and suite is not None and self.records:
            self.check_cells(meta, suite, contents)
        return Verification(
            slug=self.slug,
            manifest_sha256=digest_bytes(contents.get(MANIFEST, b"")),
            cells=len(self.records),
            missing=self.missing,
            faults=list(dict.fromkeys(self.faults)),
            rescored=self.rescored,
            claimed=self.claimed,
            notes=self.notes,
            newer=self.newer,
        )

    def fault(self, file: str, field: str, message: str) -> None:
        self.faults.append(Fault(file=file, field=field, message=message))

    def refuse(self, file: str, error: UserError) -> None:
        """A message that already begins with the file's name, as readers write them."""
        self.newer |= isinstance(error, NewerSchemaError)
        for line in str(error).splitlines():
            self.fault(file, "", line.removeprefix(file).removeprefix(":").strip())

    def read_meta(self, contents: Mapping[str, bytes]) -> Meta | None:
        if META not in contents:
            self.fault(META, "", "is missing.")
            return None
        try:
            return parse_meta(contents[META], META)
        except UserError as error:
            self.refuse(META, error)
            return None

    def read_records(self, contents: Mapping[str, bytes]) -> None:
        for name in sorted(contents):
            if not name.startswith("records/"):
                continue
            try:
                record = parse_record(contents[name], name)
            except UserError as error:
                self.refuse(name, error)
                continue
            if name != f"records/{record.key}.json":
                self.fault(name, "key", f"found {record.key}, which is not the file's name.")
            self.records[name] = record
        if not any(name.startswith("records/") for name in contents):
            self.fault("records", "", "holds no record.")

    def find_suite(self, meta: Meta) -> Suite | None:
        named = f"{meta.suite.name}-v{meta.suite.version}"
        try:
            suite = load_suite(named if self.suite_file is None else str(self.suite_file))
        except UserError as error:
            if self.suite_file is not None:
                raise
            self.fault(META, "suite", f"{error} A suite of your own: --suite FILE.toml, to check it only.")
            return None
        if self.suite_file is not None:
            self.notes.append("The suite is no published one; such a submission is not merged.")
        if meta.suite.model_dump() != suite.identity():
            self.fault(
                META,
                "suite",
                f"found {named} with digest {meta.suite.digest[:12]}; {suite.name}-v{suite.version} has "
                f"{suite.digest[:12]}. A published suite never changes: the run is of an edited one.",
            )
        return suite

    def check_cells(self, meta: Meta, suite: Suite, contents: Mapping[str, bytes]) -> None:
        records = list(self.records.values())
        sources = {name: content for name, content in contents.items() if name.startswith("source/")}
        label = meta.architecture.label
        sample = next((r for r in records if architecture_label(r) == label), records[0])
        entry, faults = make_entry(suite, meta, sample, sources)
        self.faults += faults
        if entry is None:
            return
        pins = pins_of(suite.data)
        replicates, faults = replicates_of(suite, meta, records)
        self.faults += faults
        for name, record in self.records.items():
            cell, faults = identity_faults(record, name, entry)
            self.faults += faults
            if cell is not None:
                self.faults += soundness_faults(record, name, cell, pins)
        self.check_complete(meta, entry, replicates)
        self.check_shared()
        rescored = rescore(self.records, contents, pins)
        self.faults += rescored.faults
        self.rescored += rescored.rescored
        self.claimed += [*CLAIMED, *rescored.claimed]
        self.note_provenance()

    def check_complete(self, meta: Meta, entry: Entry, replicates: range) -> None:
        records = list(self.records.values())
        if meta.cells != len(records):
            self.fault(META, "cells", f"found {meta.cells}, there are {len(records)} records.")
        self.missing = [cell_text(cell) for cell in missing_cells(entry, replicates, records)]
        if meta.complete != (not self.missing):
            shown = "; ".join(self.missing[:5]) + ("; ..." if len(self.missing) > 5 else "")
            what = f"these cells of the suite are missing: {shown}" if self.missing else "no cell is missing"
            self.fault(META, "complete", f"found {str(meta.complete).lower()}, but {what}.")

    def check_shared(self) -> None:
        """What the cells of one entry have in common: data, the network's size, FLOPs of a step, views."""
        groups: list[tuple[str, dict[str, str]]] = [
            *(
                (f"data.{split}", {f: _data_of(r, split) for f, r in self.records.items()})
                for split in sorted({str(e.get("split")) for r in self.records.values() for e in r.data})
            ),
            ("architecture.params", {f: str(r.architecture.params) for f, r in self.records.items()}),
            (
                "cost.train_flop",
                {
                    f: f"{r.cost.train_flop / r.cost.train_steps:.9g} in a step"
                    for f, r in self.records.items()
                    if r.cost is not None and r.cost.train_steps > 0
                },
            ),
        ]
        by_view: dict[str, dict[str, str]] = {}
        for file, record in self.records.items():
            where = canonical_json([record.shift.model_dump(), record.replicate])
            by_view.setdefault(where, {})[file] = str(record.views_digest)
        groups += [("views_digest", values) for values in by_view.values()]
        for field, values in groups:
            counts = Counter(values.values()).most_common()
            if len(counts) < 2:
                continue
            usual = counts[0][0]
            for file, value in values.items():
                if value != usual:
                    self.fault(file, field, f"found {_short(value)}; other cells have {_short(usual)}.")

    def note_provenance(self) -> None:
        records: Sequence[Record] = list(self.records.values())
        changed = sum(bool((r.env.get("git") or {}).get("dirty")) for r in records)
        if changed:
            self.notes.append(f"{changed} of {len(records)} records were made by a checkout with changes.")
        diverged = sum(r.status == "diverged" for r in records)
        if diverged:
            self.notes.append(f"{diverged} of {len(records)} cells diverged; they count as results.")


def _data_of(record: Record, split: str) -> str:
    """What a record says of a split of its data."""
    return canonical_json([entry for entry in record.data if str(entry.get("split")) == split])


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."


def suite_of(submission: Submission, suite_file: Path | None = None) -> Suite:
    """The suite of a verified submission."""
    held = submission.meta.suite
    return load_suite(f"{held.name}-v{held.version}" if suite_file is None else str(suite_file))


def reproduction(folder: Path, found: Verification, nonce: str, count: int) -> list[str]:
    """The commands by which another author repeats a submission on replicates that `nonce` chooses."""
    submission = read_submission(folder)
    meta, network = submission.meta, submission.records[0].architecture
    chosen = chosen_replicates(found.manifest_sha256, nonce, count)
    name = network.name
    if meta.architecture.source == "file":
        name = f"{(folder / 'source').as_posix()}/{network.name}"
    if network.kwargs or network.adapt is not None:
        # the command line gives an unlisted network no arguments: the suite lists it under its label
        name = meta.architecture.label
    out = f"runs/{found.slug}-again"
    run = (
        f"lmcbench run {meta.suite.name} --arch {shlex.quote(name)} --recipe {meta.recipe} "
        f"--replicates {chosen.start}:{chosen.stop} --out {out}"
    )
    submit = (
        f"lmcbench submit {out} --name {found.slug}-again --author 'YOUR NAME' --reproduces {found.slug} "
        f"--nonce {shlex.quote(nonce)}"
    )
    return [
        run,
        submit + (f" --source {name.rpartition(':')[0]}" if meta.architecture.source == "file" else ""),
    ]


def explain(found: Verification) -> str:
    """What was found, for a person."""
    lines = []
    if found.faults:
        count = len(found.faults)
        lines.append(f"{found.slug}: refused, {count} fault{'s' if count > 1 else ''}:")
        lines += [f"  {fault}" for fault in found.faults]
        return "\n".join(lines) + "\n"
    lines.append(f"{found.slug}: sound, {found.cells} cells.")
    if found.missing:
        shown = "; ".join(found.missing[:3]) + ("; ..." if len(found.missing) > 3 else "")
        lines.append(f"Not ranked: {len(found.missing)} cells of the suite are missing: {shown}")
    for title, items in (("Rescored", found.rescored), ("Claimed", found.claimed), ("Note", found.notes)):
        lines += [f"{title}: {item}" for item in items]
    return "\n".join(lines) + "\n"
