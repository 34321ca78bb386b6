"""Check a submission without running anything of it: every fault at once, and what stays a claim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcbench.errors import UserError
from lmcbench.leaderboard.check_consistency import (
    agreement_faults,
    completeness_faults,
    provenance_notes,
)
from lmcbench.leaderboard.duplicates import find_twin
from lmcbench.leaderboard.entry import (
    cell_text,
    identity_faults,
    make_entry,
    missing_cells,
    replicates_of,
)
from lmcbench.leaderboard.manifest import MANIFEST, META, Fault, check_manifest, list_files
from lmcbench.leaderboard.ranking_table import rank_notes
from lmcbench.leaderboard.submission_file import Meta, Submission, check_slug, parse_meta
from lmcbench.leaderboard.summary_cache import SUBMISSIONS
from lmcbench.leaderboard.trust import VERIFIED_SCHEMA, Verified
from lmcbench.leaderboard.validate_record import soundness_faults
from lmcbench.results.cell_values import architecture_label
from lmcbench.results.record import NewerSchemaError, Record, parse_record
from lmcbench.spec.canonical import digest_bytes
from lmcbench.spec.datasets import pins_of
from lmcbench.spec.suite import Suite
from lmcbench.spec.suite_files import load_suite
from lmcbench.submission.rescoring import form_faults, rescore

CLAIMED = (
    "the curves themselves, as blended too, siblings' training errors, the soups and the geometry (they need "
    "the weights)",
    "the gradient noise at the fork, and the sizes of views that noise scales follow from (they need the "
    "data)",
    "ensembles of points on the path, but for their members' mean accuracy and loss",
    "further measures (--measure)",
    "seconds, memory, versions and device",
)

SIZE = "the network's number of weights, and its FLOPs of a step beyond the floor that follows from it"
OWN_SIZE = (
    "the network's number of weights and its FLOPs of a step, which have no floor in a network of the "
    "author's own (they are the same in all cells)"
)
"""What cannot be told without building the network, which would run submitted code."""


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
        self.check_twins(contents)
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

    def check_twins(self, contents: Mapping[str, bytes]) -> None:
        submissions = self.folder.resolve().parent
        if submissions.name != SUBMISSIONS:
            return
        hashes = {digest_bytes(contents[name]) for name in self.records}
        if hashes and (twin := find_twin(hashes, submissions, self.slug)) is not None:
            self.fault("records", "", f"are the very same as those of submission {twin}; keep one of them.")

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
        pins = pins_of(suite.data, published=self.suite_file is None)
        replicates, faults = replicates_of(suite, meta, records)
        self.faults += faults
        for name, record in self.records.items():
            cell, faults = identity_faults(record, name, entry)
            self.faults += faults
            if cell is not None:
                self.faults += soundness_faults(record, name, cell, pins)
                self.faults += form_faults(record, name, cell, pins)
        self.missing = [cell_text(cell) for cell in missing_cells(entry, replicates, records)]
        self.faults += completeness_faults(meta, len(records), self.missing)
        self.faults += agreement_faults(self.records)
        rescored = rescore(self.records, contents, pins)
        self.faults += rescored.faults
        self.rescored += rescored.rescored
        size = OWN_SIZE if entry.architecture.source in ("file", "module") else SIZE
        self.claimed += [*CLAIMED, size, *rescored.claimed]
        self.notes += provenance_notes(records)
        if meta.reproduces is None:
            self.notes += rank_notes(records)


def suite_of(submission: Submission, suite_file: Path | None = None) -> Suite:
    """The suite of a verified submission."""
    held = submission.meta.suite
    return load_suite(f"{held.name}-v{held.version}" if suite_file is None else str(suite_file))
