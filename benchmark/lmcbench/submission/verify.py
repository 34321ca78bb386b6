"""Check a submission without executing anything of it: report every fault, and what remains a claim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from lmcbench.errors import UserError, counted
from lmcbench.leaderboard.files import META, PREDICTIONS, Fault, parse_records, place_of, read_files
from lmcbench.leaderboard.ranking_table import rank_notes
from lmcbench.leaderboard.submission_file import (
    Meta,
    Submission,
    check_slug,
    find_duplicate,
    hash_faults,
    parse_meta,
    source_files,
)
from lmcbench.leaderboard.summary_cache import SUBMISSIONS
from lmcbench.leaderboard.trust import VERIFIED_SCHEMA, Verified
from lmcbench.results.cell_values import architecture_label
from lmcbench.results.record import Record
from lmcbench.results.record_files import RECORDS
from lmcbench.results.record_parser import InvalidRecordError, NewerSchemaError
from lmcbench.results.tuning import TUNING
from lmcbench.spec.canonical import digest_bytes
from lmcbench.spec.datasets import pins_of
from lmcbench.spec.suite import Suite
from lmcbench.spec.suite_files import load_suite
from lmcbench.stats.instability_area import is_ranked_cell
from lmcbench.submission.check_measures import record_faults
from lmcbench.submission.check_protocol import find_cell
from lmcbench.submission.claimed import CLAIMED, OWN_SIZE, PREDICTIONS_CLAIMED, SIZE
from lmcbench.submission.entry import (
    agreement_faults,
    completeness_faults,
    make_entry,
    missing_cells,
    provenance_notes,
    replicates_of,
)
from lmcbench.submission.predictions_file import read_predictions
from lmcbench.submission.rescoring import Rescoring
from lmcbench.submission.tuned import CLAIMED_SWEEP, hash_fault, tuned_suite, tuning_faults


@dataclass(frozen=True)
class Verification:
    """The result of a verification.

    Attributes:
        submission_sha256: of `submission.toml`.
        records_sha256: of the records file.
        predictions_sha256: of the predictions that were rescored; None where there are none.
        level: `rescored`, or `claimed` if predictions belong to the submission and were not given.
        cells: records checked.
        missing: cells of the suite without a record, in words.
        rescored: what was recomputed and is equal.
        claimed: what cannot be recomputed from what is stored.
        notes: what a reviewer should see and is not a fault.
        midpoints: whether the midpoints of all cells that a rank is based on were recomputed.
        newer: whether a file needs a later version of lmcbench.
    """

    slug: str
    submission_sha256: str
    records_sha256: str
    predictions_sha256: str | None
    level: Literal["claimed", "rescored"]
    cells: int
    missing: list[str]
    faults: list[Fault]
    rescored: list[str]
    claimed: list[str]
    notes: list[str]
    midpoints: bool = False
    newer: bool = False

    @property
    def sound(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def as_json(self) -> dict[str, Any]:
        """Return one JSON document."""
        table = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "newer"}
        return table | {"sound": self.sound, "faults": [fault._asdict() for fault in self.faults]}

    def statement(self) -> Verified:
        """Return the verifier's statement, by which the leaderboard shows `rescored`.

        Raises:
            UserError: if the predictions were not given.
        """
        if self.level != "rescored":
            raise UserError(
                f"The predictions of {self.slug} were not checked, so there is nothing to state. "
                "Give them with --predictions FILE."
            )
        return Verified(
            schema=VERIFIED_SCHEMA,
            slug=self.slug,
            submission_sha256=self.submission_sha256,
            records_sha256=self.records_sha256,
            predictions_sha256=self.predictions_sha256,
            lmcbench=version("lmcbench"),
            level="rescored",
            cells=self.cells,
            missing=len(self.missing),
            rescored=self.rescored,
            claimed=self.claimed,
            midpoints=self.midpoints,
        )


def verify(
    folder: Path,
    suite_file: Path | None = None,
    slug: str | None = None,
    predictions: Path | None = None,
) -> Verification:
    """Check the submission in `folder`, from the names of its files to each number.

    Args:
        folder: the submission.
        suite_file: the suite's file, if it is not a published one.
        slug: the submission's name, if it is not the folder's, as while it is being written.
        predictions: the file of logits; default: that in `folder`, if it is there.

    Raises:
        UserError: if there is no submission to check.
    """
    try:
        if not folder.is_dir() or folder.is_symlink():
            raise UserError(f"There is no folder {folder}. Give a submission: leaderboard/submissions/SLUG.")
        if not any(folder.iterdir()):
            raise UserError(f"{folder} is empty. Write submissions with 'lmcbench submit'.")
        if (folder / "run.json").exists():
            raise UserError(
                f"{folder} is a run, not a submission. Make one of it: lmcbench submit {folder} --name SLUG"
            )
        if not any((folder / name).exists() for name in (META, RECORDS)):
            raise UserError(
                f"{folder} is no submission: it has none of its files. Give leaderboard/submissions/SLUG."
            )
        name = slug if slug is not None else folder.resolve().name
        return _Verifier(folder, suite_file, name, predictions).verify()
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read: {error.strerror}.") from None


class _Verifier:
    """The steps of a verification; each adds to the faults and leaves what the next one needs."""

    def __init__(self, folder: Path, suite_file: Path | None, slug: str, predictions: Path | None) -> None:
        self.folder, self.suite_file, self.slug = folder, suite_file, slug
        self.predictions: bytes | None = None if predictions is None else read_predictions(predictions)
        self.faults: list[Fault] = []
        self.newer = False
        self.missing: list[str] = []
        self.rescored: list[str] = []
        self.claimed: list[str] = []
        self.notes: list[str] = []
        self.midpoints = False
        self.records: dict[str, Record] = {}

    def verify(self) -> Verification:
        try:
            check_slug(self.slug)
        except UserError as error:
            self.fault(".", "", str(error))
        contents, faults = read_files(self.folder)
        self.faults += faults
        meta = self.read_meta(contents)
        self.read_records(contents)
        if meta is not None:
            self.faults += hash_faults(meta, contents)
            self.read_predictions(meta)
        self.check_duplicates(contents)
        suite = self.find_suite(meta) if meta is not None else None
        if meta is not None and suite is not None and self.records:
            self.check_cells(meta, suite, contents)
        needed = meta is None or meta.sha256.predictions is not None
        return Verification(
            slug=self.slug,
            submission_sha256=digest_bytes(contents.get(META, b"")),
            records_sha256=digest_bytes(contents.get(RECORDS, b"")),
            predictions_sha256=None if self.predictions is None else digest_bytes(self.predictions),
            level="claimed" if needed and self.predictions is None else "rescored",
            cells=len(self.records),
            missing=self.missing,
            faults=list(dict.fromkeys(self.faults)),
            rescored=self.rescored,
            claimed=self.claimed,
            notes=self.notes,
            midpoints=self.midpoints,
            newer=self.newer,
        )

    def fault(self, file: str, field: str, message: str) -> None:
        self.faults.append(Fault(file, field, message))

    def refuse(self, file: str, error: UserError) -> None:
        """Add a reader's message, which begins with the file's name."""
        self.newer |= isinstance(error, NewerSchemaError)
        if isinstance(error, InvalidRecordError):
            place = f"{file} ({error.key})" if error.key is not None else file
            for field, message in error.faults:
                self.fault(place, field, f"{message}.")
            if (more := error.count - len(error.faults)) > 0:
                self.fault(place, "", f"has {counted(more, 'more fault')}.")
            return
        for line in str(error).splitlines():
            self.fault(file, "", line.removeprefix(file).removeprefix(":").strip())

    def read_meta(self, contents: Mapping[str, bytes]) -> Meta | None:
        try:
            return parse_meta(contents[META], META) if META in contents else None
        except UserError as error:
            self.refuse(META, error)
            return None

    def read_records(self, contents: Mapping[str, bytes]) -> None:
        if RECORDS not in contents:
            return
        records, errors = parse_records(contents[RECORDS], RECORDS)
        for place, error in errors:
            self.refuse(place, error)
        self.records = {place_of(record.key): record for record in records}

    def read_predictions(self, meta: Meta) -> None:
        """Read the predictions from the folder, unless they were given, and compare their sha256."""
        if self.predictions is None and (self.folder / PREDICTIONS).is_file():
            if any(fault.file == PREDICTIONS for fault in self.faults):
                return
            self.predictions = read_predictions(self.folder / PREDICTIONS)
        if self.predictions is not None and meta.sha256.predictions != digest_bytes(self.predictions):
            found = digest_bytes(self.predictions)[:16]
            self.fault(
                META,
                "sha256.predictions",
                f"found {str(meta.sha256.predictions)[:16]}, the predictions have {found}.",
            )

    def check_duplicates(self, contents: Mapping[str, bytes]) -> None:
        submissions = self.folder.resolve().parent
        if submissions.name != SUBMISSIONS or RECORDS not in contents:
            return
        if other := find_duplicate(digest_bytes(contents[RECORDS]), submissions, self.slug):
            self.fault(RECORDS, "", f"has the same records as submission {other}; keep one of them.")

    def find_suite(self, meta: Meta) -> Suite | None:
        named = f"{meta.suite.name}-v{meta.suite.version}"
        try:
            suite = load_suite(named if self.suite_file is None else str(self.suite_file))
        except UserError as error:
            if self.suite_file is not None:
                raise
            self.fault(
                META,
                "suite",
                f"{error} For a suite of your own give --suite FILE.toml; such a submission is only checked.",
            )
            return None
        if self.suite_file is not None:
            self.notes.append("The suite is not a published one; such a submission is not merged.")
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
        suite, tuning, faults = tuned_suite(suite, meta, contents.get(TUNING))
        self.faults += hash_fault(meta) + faults
        label = meta.architecture.label
        sample = next((r for r in records if architecture_label(r) == label), records[0])
        entry, faults = make_entry(suite, meta, sample, source_files(contents))
        self.faults += faults
        if entry is None:
            return
        train = next((part.get("sha256") for part in sample.data if part.get("split") == "train"), None)
        self.faults += tuning_faults(tuning, entry.identity, label, train)
        pins = pins_of(suite.data, published=self.suite_file is None)
        replicates, faults = replicates_of(suite, meta, records)
        self.faults += faults
        for name, record in self.records.items():
            cell, faults = find_cell(record, name, entry)
            self.faults += faults
            if cell is not None:
                self.faults += record_faults(record, name, cell, pins)
        self.missing = missing_cells(entry, replicates, records)
        self.faults += completeness_faults(meta, len(records), self.missing)
        self.faults += agreement_faults(self.records)
        own = entry.architecture.source in ("file", "module")
        self.claimed += [OWN_SIZE if own and words == SIZE else words for words in CLAIMED]
        if tuning is not None:
            self.claimed.append(CLAIMED_SWEEP)
        self.rescored.append(
            f"barriers of {counted(sum(len(r.pairs) for r in records), 'pair')} from their curves"
        )
        if self.predictions is not None:
            rescoring = Rescoring(self.predictions, pins)
            rescoring.check(self.records)
            self.faults += rescoring.faults
            self.rescored += rescoring.rescored
            self.claimed += rescoring.claimed
            ranked = [r.key for r in records if r.status == "ok" and is_ranked_cell(r, suite)]
            self.midpoints = bool(ranked) and rescoring.midpoints.issuperset(ranked)
        elif any(r.status == "ok" for r in records):
            if meta.sha256.predictions is None:
                self.fault(META, "sha256.predictions", "is missing; measured cells have predictions.")
            self.claimed += PREDICTIONS_CLAIMED
        self.notes += provenance_notes(records)
        if meta.reproduces is None:
            self.notes += rank_notes(records)


def suite_of(submission: Submission, suite_file: Path | None = None) -> Suite:
    """Return the suite of a verified submission, with its tuned recipe if it has one."""
    found = submission.meta.suite
    suite = load_suite(f"{found.name}-v{found.version}" if suite_file is None else str(suite_file))
    return tuned_suite(suite, submission.meta, submission.tuning)[0]
