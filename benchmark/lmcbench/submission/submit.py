"""Make a submission of a run: one verified folder, written as a whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcbench.errors import UserError
from lmcbench.leaderboard.files import META, PREDICTIONS
from lmcbench.leaderboard.submission_file import (
    SUBMISSION_SCHEMA,
    Hashes,
    Meta,
    Reproduction,
    check_slug,
    find_duplicate,
    read_submission,
)
from lmcbench.leaderboard.summary_cache import is_leaderboard
from lmcbench.results.atomic_files import WriteError, partial_path, remove_orphans, write_atomic
from lmcbench.results.cell_values import architecture_label
from lmcbench.results.cell_values import cell_text as record_text
from lmcbench.results.record import Record
from lmcbench.results.record_files import RECORDS, encode_records, find_records, read_records
from lmcbench.results.run_folder import RunFolder
from lmcbench.results.tuning import TUNING
from lmcbench.spec.canonical import digest_bytes
from lmcbench.spec.suite import Suite
from lmcbench.submission.eligibility import (
    check_measured,
    choose_network,
    network_source,
    no_cell_error,
    suite_of,
    tuning_file,
)
from lmcbench.submission.entry import make_entry, missing_cells, replicates_of
from lmcbench.submission.predictions_file import pack_predictions
from lmcbench.submission.tuned import tuned_suite
from lmcbench.submission.verify import Verification, verify
from lmcbench.untrusted import parse_json, read_bytes


@dataclass(frozen=True)
class Declaration:
    """What the submitter declares.

    Attributes:
        reproduces: slug of the reproduced submission, and the nonce that chose the replicates.
    """

    title: str | None
    authors: Sequence[str]
    licence: str
    pretraining: str
    extra_data: str
    notes: str
    reproduces: tuple[str, str] | None = None


@dataclass(frozen=True)
class Submitted:
    """A submission that was written.

    Attributes:
        bytes: of all files.
        missing: cells of the suite without a record, in words.
        left_out: records of the run that are not cells of the submission, in words.
        reduced: what was left out of the logits, in words.
        founded: whether a new leaderboard was started with it.
    """

    folder: Path
    meta: Meta
    bytes: int
    missing: list[str]
    left_out: list[str]
    reduced: str | None
    verification: Verification
    founded: bool = False


def submit(
    run: Path,
    slug: str,
    declared: Declaration,
    leaderboard: Path,
    *,
    found: bool = False,
    arch: str | None = None,
    source: Path | None = None,
    suite_file: Path | None = None,
) -> Submitted:
    """Write `leaderboard/submissions/SLUG/` from the run in `run`.

    Args:
        run: a run folder; nothing in it is changed.
        slug: the submission's name.
        declared: what is not in the records.
        leaderboard: the folder with `submissions/`.
        found: start a leaderboard there if `leaderboard` does not exist.
        arch: label or name (glob) of the architecture, if the run has several.
        source: the file of a `file.py:function` network, if it was moved.
        suite_file: the suite's file, if it is not a published one.

    Raises:
        UserError: if the run cannot be submitted, or the folder not be written; nothing is left behind.
    """
    check_slug(slug)
    target = leaderboard / "submissions" / slug
    suite = suite_of(run, suite_file)
    find_records(run)
    founded = found and not (leaderboard.exists() or leaderboard.is_symlink())
    _check_target(leaderboard, target, founded)
    records = choose_network(read_records(run), arch)
    check_measured(records, run)
    reproduction = _reproduction(leaderboard, declared)
    sources, sha256 = network_source(records[0], arch, source)
    meta = _meta(declared, suite, records, sha256, reproduction)
    tuning = tuning_file(RunFolder(run), records[0])
    suite, _, faults = tuned_suite(suite, meta, tuning)
    if faults:
        raise UserError("\n".join(map(str, faults)))
    entry, faults = make_entry(suite, meta, records[0], sources)
    if entry is None or faults:
        raise UserError("\n".join(map(str, faults)))
    replicates, _ = replicates_of(suite, meta, records)
    cells = {entry.key(cell) for cell in entry.cells(replicates)}
    kept = [record for record in records if record.key in cells]
    left_out = [record_text(record) for record in records if record.key not in cells]
    if not kept:
        raise no_cell_error(run, suite, records, replicates)
    missing = missing_cells(entry, replicates, kept)
    folder = RunFolder(run)
    content = encode_records(_tables(kept, folder))
    _check_new(digest_bytes(content), run, target)
    predictions, reduced = pack_predictions(kept, folder)
    hashes = Hashes(
        records=digest_bytes(content),
        predictions=None if predictions is None else digest_bytes(predictions),
        tuning=None if tuning is None else digest_bytes(tuning),
    )
    meta = meta.model_copy(update={"cells": len(kept), "complete": not missing, "sha256": hashes})
    contents = sources | {RECORDS: content, META: meta.to_toml().encode()}
    if predictions is not None:
        contents[PREDICTIONS] = predictions
    if tuning is not None:
        contents[TUNING] = tuning
    verified = _put(contents, target, suite_file)
    return Submitted(
        target, meta, sum(map(len, contents.values())), missing, left_out, reduced, verified, founded
    )


def _check_target(leaderboard: Path, target: Path, founded: bool) -> None:
    if founded:
        if not os.access(leaderboard.resolve().parent, os.W_OK):
            raise UserError(
                f"{leaderboard} cannot be created: the folder is read-only. Name one with --leaderboard DIR."
            )
        return
    if not is_leaderboard(leaderboard):
        raise UserError(
            f"{leaderboard} is no leaderboard: it has no folder 'submissions'. Go to the root of a clone of "
            "lmcbench's repository, or name the folder with --leaderboard DIR."
        )
    if target.exists() or target.is_symlink():
        raise UserError(f"{target} exists already and is kept. Choose another --name, or remove it.")
    place = target.parent if target.parent.exists() else leaderboard  # `submissions` is created below
    if not os.access(place, os.W_OK):
        raise UserError(f"{place} is read-only. Name a folder you can write with --leaderboard DIR.")


def _reproduction(leaderboard: Path, declared: Declaration) -> Reproduction | None:
    if declared.reproduces is None:
        return None
    slug, nonce = declared.reproduces
    check_slug(slug)
    original = read_submission(leaderboard / "submissions" / slug)
    return Reproduction(slug=slug, submission_sha256=original.sha256, nonce=nonce)


def _meta(
    declared: Declaration,
    suite: Suite,
    records: Sequence[Record],
    sha256: str | None,
    reproduction: Reproduction | None,
) -> Meta:
    """Return `submission.toml` for these records; `sha256` is that of the network's file."""
    one = records[0]
    label = architecture_label(one)
    return Meta.model_validate(
        {
            "schema": SUBMISSION_SCHEMA,
            "title": declared.title if declared.title is not None else f"{label} on {suite.name}",
            "authors": tuple(declared.authors),
            "licence": declared.licence,
            "recipe": one.recipe["name"],
            "pretraining": declared.pretraining,
            "extra_data": declared.extra_data,
            "notes": declared.notes,
            "cells": len(records),
            "complete": False,
            "suite": one.suite.model_dump(),
            "architecture": {"label": label, "source": one.architecture.source, "sha256": sha256},
            "sha256": {"records": "0" * 64},
            "reproduces": reproduction,
        }
    )


def _tables(records: Iterable[Record], folder: RunFolder) -> Iterator[dict[str, Any]]:
    """Yield the records as the run wrote them, parsed."""
    for record in records:
        path = folder.record(record.key)
        yield parse_json(read_bytes(path), str(path))


def _check_new(records_sha256: str, run: Path, target: Path) -> None:
    """Refuse records that have been submitted already, before the slow verification."""
    if other := find_duplicate(records_sha256, target.parent, target.name):
        raise UserError(
            f"{target.parent / other} has the same records as {run}. A merged submission is never edited; "
            "remove one that is not merged yet. A run with more replicates is a submission of its own."
        )


def _put(contents: Mapping[str, bytes], target: Path, suite_file: Path | None) -> Verification:
    """Write all files to a hidden folder, verify it, and rename it to `target` if it has no fault."""
    partial = partial_path(target)
    remove_orphans(target.parent)
    began = [folder for folder in (target.parent, target.parent.parent) if not folder.exists()]
    try:
        for name, content in contents.items():
            write_atomic(partial / name, content)
        found = verify(partial, suite_file, slug=target.name)
        if found.faults:
            shown = "\n".join(f"  {fault}" for fault in found.faults[:20])
            more = f"\n  and {len(found.faults) - 20} more" if len(found.faults) > 20 else ""
            raise UserError(
                f"The run does not verify, so nothing was written:\n{shown}{more}\n"
                "Records and predictions are written by 'lmcbench run' and must not be edited."
            )
        partial.rename(target)
    except (OSError, WriteError) as error:
        raise UserError(
            f"{target} cannot be written: {error.strerror or error}. Nothing was left there; "
            "the run is as it was."
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in began:
            with suppress(OSError):  # not empty after success
                folder.rmdir()
    return found
