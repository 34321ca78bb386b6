"""Determine the trust level of a submission: claimed, rescored, re-run or reproduced."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lmcbench.errors import UserError
from lmcbench.leaderboard.submission_file import Submission
from lmcbench.results.cell_values import cell_value, shift_label
from lmcbench.results.record import Record
from lmcbench.results.record_parser import check_schema
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.gate_tests import AREA, DEFAULT_GATE, GateTest
from lmcbench.spec.suite import Suite
from lmcbench.spec.suite_files import load_suite
from lmcbench.stats.estimates import Contrast, Estimate, estimate, pool
from lmcbench.stats.instability_area import areas_of_replicates, is_ranked_cell
from lmcbench.untrusted import parse_json, read_bytes

Basis = Literal["recomputed", "re-run"]
"""How the numbers were checked that a rank is based on; an entry without any is claimed."""

TrustLevel = Literal["claimed", "rescored", "re-run", "reproduced"]
Verdict = Literal["identical", "within", "outside"]

VERIFIED_SCHEMA = "lmcbench/verified/2"
RERUN_SCHEMA = "lmcbench/rerun/2"
VERIFIED = "verified.json"

RERUN_CELLS = 5
"""Number of cells that must have been trained again, none of them outside, for the level `re-run`."""

FIRST_CHOSEN, CHOSEN = 1000, 1_000_000
"""Reproductions start at one of so many replicates from here on, where recipes are tuned too (design 3.12);
published ones are 0, 1, ..."""

ANONYMOUS = "anonymous"
"""The author of submissions without one; never counts as another, independent author."""

Count = Annotated[int, Field(ge=0)]


class Evidence(BaseModel):
    """A file of `leaderboard/results/SLUG/`, valid for one submission as it was when the file was written."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    schema_: str = Field(alias="schema")
    slug: str
    submission_sha256: str = Field(description="of submission.toml")
    records_sha256: str = Field(description="of records.jsonl.gz")
    lmcbench: str = Field(description="version that wrote it")

    def to_json(self) -> str:
        """Return the file's text."""
        table = self.model_dump(by_alias=True)
        if table.get("midpoints") is False:
            del table["midpoints"]
        return json.dumps(table, indent=1, allow_nan=False) + "\n"

    def is_of(self, submission: Submission) -> bool:
        """Return whether it was written about this submission as it is now."""
        found = self.slug, self.submission_sha256, self.records_sha256
        return found == (submission.slug, submission.sha256, submission.meta.sha256.records)


Read = TypeVar("Read", bound=Evidence)


class Verified(Evidence):
    """`verified.json`, the verifier's statement: 'lmcbench verify' found no fault in records and predictions.

    Attributes:
        predictions_sha256: of the predictions that were rescored; None if no cell has any.
        cells: records checked.
        missing: cells of the suite that the submission lacks.
        rescored: what was recomputed and is equal.
        claimed: what cannot be recomputed.
        midpoints: whether the midpoints of all cells that a rank is based on were recomputed; written if so.
    """

    level: Literal["rescored"]
    predictions_sha256: str | None
    cells: Count
    missing: Count
    rescored: list[str]
    claimed: list[str]
    midpoints: bool = False


class MeasureAgain(BaseModel):
    """One measure of a cell before and after training it again.

    Attributes:
        allowed: the largest difference that rounding explains; None: not calibrated, none is allowed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    measure: str
    submitted: float | None
    rerun: float | None
    allowed: float | None
    verdict: Verdict


class CellAgain(BaseModel):
    """One cell trained again; its verdict is the worst of its measures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    cell: str
    verdict: Verdict
    measures: list[MeasureAgain]


class Rerun(Evidence):
    """`rerun-ID.json`: cells chosen by a nonce, trained again and compared.

    Attributes:
        chosen_by: the sha256 that chose the cells together with the nonce: that of `submission.toml`, or of
            the manifest that submissions had before.
    """

    chosen_by: str
    nonce: str
    asked: Count
    calibrated: bool
    conditions: str
    cells: list[CellAgain]


def chosen_cells(
    submission_sha256: str, nonce: str, keys: Sequence[str], count: int, diverged: Collection[str] = ()
) -> list[str]:
    """Return the `count` keys that a nonce chooses; they are unknown before the nonce is announced.

    Those that `diverged` come first: nothing else confirms that they did, and they are in no mean.
    """

    def place(key: str) -> tuple[bool, str]:
        return key not in diverged, _hash(f"cells|{submission_sha256}|{nonce}|{key}")

    return sorted(keys, key=place)[:count]


def chosen_replicates(submission_sha256: str, nonce: str, count: int) -> range:
    """Return the `count` replicates, from 1000 up, that a nonce chooses for a reproduction."""
    first = FIRST_CHOSEN + int(_hash(f"replicates|{submission_sha256}|{nonce}")[:15], 16) % CHOSEN
    return range(first, first + count)


def _hash(text: str) -> str:
    return hashlib.sha256(f"lmcbench/1|{text}".encode()).hexdigest()


def rerun_file(nonce: str) -> str:
    """Return the file name of the report of a re-run."""
    return f"rerun-{_hash(f'rerun|{nonce}')[:12]}.json"


def trust_of(submission: Submission, results_dir: Path, everyone: Sequence[Submission]) -> TrustLevel:
    """Return the highest level with valid evidence under `results_dir` or in another author's submission.

    Evidence of another version of the submission does not count. Each level needs the ones before it,
    except that `reproduced` needs no re-run.

    Raises:
        UserError: if a file of evidence cannot be read.
    """
    if not is_verified(submission, results_dir):
        return "claimed"
    if any(
        reproduces(other, submission) and is_verified(other, results_dir)
        for other in everyone
        if other.slug != submission.slug
    ):
        return "reproduced"
    cells = [cell for report in read_reruns(submission, results_dir) for cell in report.cells]
    outside = any(cell.verdict == "outside" for cell in cells)
    if not outside and len({cell.key for cell in cells}) >= RERUN_CELLS:
        return "re-run"
    return "rescored"


def is_verified(submission: Submission, results_dir: Path) -> bool:
    """Return whether a verifier's statement covers the submission and its predictions as they are now."""
    return read_verified(submission, results_dir) is not None


def read_verified(submission: Submission, results_dir: Path) -> Verified | None:
    """Return the verifier's statement; None if there is none of the submission as it is now."""
    path = results_dir / submission.slug / VERIFIED
    if not path.exists():
        return None
    found = _read(path, Verified, VERIFIED_SCHEMA)
    current = found.is_of(submission) and found.predictions_sha256 == submission.meta.sha256.predictions
    return found if current else None


def basis_of(submission: Submission, results_dir: Path, suite: Suite, ranked: int) -> Basis | None:
    """Return how the midpoints of the cells that a rank is based on were checked; None: claimed.

    They were recomputed from logits, or every one of these cells was trained again and agreed.

    Args:
        submission: the submission.
        results_dir: the folder of statements.
        suite: its suite.
        ranked: the number of its measured cells that a rank is based on.
    """
    found = read_verified(submission, results_dir)
    if found is None:
        return None
    if found.midpoints:
        return "recomputed"
    cells = [cell for report in read_reruns(submission, results_dir) for cell in report.cells]
    again = {cell.key for cell in cells}
    if not 0 < ranked <= len(again) or any(cell.verdict == "outside" for cell in cells):
        return None
    based = {r.key for r in submission.records if r.status == "ok" and is_ranked_cell(r, suite)}
    return "re-run" if based <= again else None


def read_reruns(submission: Submission, results_dir: Path) -> list[Rerun]:
    """Return the reports of re-runs of the submission as it is now."""
    paths = sorted((results_dir / submission.slug).glob("rerun-*.json"))
    found = (_read(path, Rerun, RERUN_SCHEMA) for path in paths)
    return [report for report in found if report.is_of(submission)]


def _read(path: Path, model: type[Read], schema: str) -> Read:
    table = parse_json(read_bytes(path), str(path))
    try:
        check_schema(table, str(path), schema)
        return model.model_validate(table)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise UserError(f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}.") from None


# --- reproduction --------------------------------------------------------------------------------


def reproduces(other: Submission, original: Submission) -> bool:
    """Return whether `other` confirms `original`: another author, chosen replicates, intervals that overlap.

    It must be complete: leaving cells out would select what agrees, and the interval of two replicates of one
    cell overlaps with almost anything.
    """
    claim = other.meta.reproduces
    if (
        claim is None
        or not other.meta.complete
        or (claim.slug, claim.submission_sha256) != (original.slug, original.sha256)
    ):
        return False
    authors = _names(other) | _names(original)
    if _names(other) & _names(original) or ANONYMOUS in authors or not same_entry(other, original):
        return False
    replicates = sorted({r.replicate for r in other.records})
    if replicates != list(chosen_replicates(original.sha256, claim.nonce, len(replicates))):
        return False
    return all(overlap(a, b) for a, b in headline_estimates(original, other).values())


def same_entry(a: Submission, b: Submission) -> bool:
    """Return whether both are of one suite, architecture and recipe."""

    def entry(s: Submission) -> str:
        record = s.records[0]
        network = record.architecture.model_dump(include={"name", "kwargs", "adapt", "fingerprint"})
        return canonical_json([record.suite.model_dump(), network, record.recipe])

    return entry(a) == entry(b)


def _names(submission: Submission) -> set[str]:
    return {" ".join(name.split()).casefold() for name in submission.meta.authors}


def headline_estimates(a: Submission, b: Submission) -> dict[str, tuple[Estimate, Estimate]]:
    """Return, for each headline test's measure, its mean and interval over replicates in both submissions."""
    gate = _gate(a.records[0])
    return {test.measure: (_estimate(a.records, test), _estimate(b.records, test)) for test in gate}


def overlap(a: Estimate, b: Estimate) -> bool:
    """Return whether two intervals overlap; False if either has no interval."""
    if a.mean is None or b.mean is None or a.half_width is None or b.half_width is None:
        return False
    return abs(a.mean - b.mean) <= a.half_width + b.half_width


def _estimate(records: Sequence[Record], test: GateTest) -> Estimate:
    """Return mean and interval over replicates of the mean over cells that every replicate has measured."""
    tested = [record for record in records if test.covers(shift_label(record), record.fork.name)]
    if test.measure == AREA:
        return estimate(list(areas_of_replicates(tested).values()))
    found = (
        Contrast(record.replicate, (shift_label(record), record.fork.name), value)
        for record in tested
        if record.status == "ok" and (value := cell_value(record, test.measure)) is not None
    )
    return pool(found).effect


def _gate(record: Record) -> Sequence[GateTest]:
    try:
        suite = load_suite(f"{record.suite.name}-v{record.suite.version}")
    except UserError:
        return DEFAULT_GATE
    return suite.gate or DEFAULT_GATE
