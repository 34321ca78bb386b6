"""Read a leaderboard's submissions and their summaries; a stored summary is used while it is up to date."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

from lmcbench.errors import UserError
from lmcbench.leaderboard.submission_file import (
    Submission,
    check_slug,
    read_meta,
    read_submission,
    refuse_duplicates,
)
from lmcbench.leaderboard.summary import Summary, read_summary, summarize
from lmcbench.leaderboard.trust import Basis, TrustLevel, basis_of, trust_of
from lmcbench.results.record import Record
from lmcbench.spec.suite_files import published_suite
from lmcbench.stats.instability_area import headline_shifts, is_headline_fork
from lmcbench.untrusted import read_bytes

SUBMISSIONS, RESULTS, SUMMARY = "submissions", "results", "summary.json"
GUIDE = "SUBMITTING.md"


@dataclass(frozen=True)
class Row:
    """A submission, its trust level, and its summary.

    `known`: the stored summary is up to date. `basis`: how what its rank is based on was checked.
    """

    submission: Submission
    trust: TrustLevel
    entry: Summary
    known: bool
    basis: Basis | None


class LazyRecords(Sequence[Record]):
    """The records of a submission, read at the first access: most pages need none of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _records(self) -> list[Record]:
        return list(read_submission(self._folder).records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        return self._records[index]

    def __len__(self) -> int:
        return len(self._records)


def read_rows(board: Path, *, afresh: bool = False) -> list[Row]:
    """Return every submission of a leaderboard with its summary, sorted by slug.

    Args:
        board: the leaderboard's folder.
        afresh: recompute every summary from its records.

    Raises:
        UserError: if `board` is no leaderboard, a submission in it is not sound, or two have the same
            records.
    """
    found = list(_read(board, afresh))
    everyone = [submission for submission, _, _ in found]
    refuse_duplicates(everyone)
    results = board / RESULTS
    return [
        Row(s, trust_of(s, results, everyone), entry, known, _basis(s, entry, results))
        for s, entry, known in found
    ]


def _basis(submission: Submission, entry: Summary, results: Path) -> Basis | None:
    named = entry.suite
    suite = published_suite(named.name, named.version, named.digest)
    if suite is None:
        return None
    shifts = headline_shifts(suite)
    ranked = sum(p.count("ok") for s, p in entry.places if s in shifts and is_headline_fork(p.fork, p.share))
    return basis_of(submission, results, suite, ranked)


def is_leaderboard(board: Path) -> bool:
    """Return whether a folder is a leaderboard: it has submissions, or a clone's files about them.

    Git keeps no empty folder, so that a clone of a leaderboard without an entry has no `submissions`.
    """
    return (board / SUBMISSIONS).is_dir() or (board / GUIDE).is_file()


def summary_path(board: Path, slug: str) -> Path:
    """Return the path of a submission's summary."""
    return board / RESULTS / slug / SUMMARY


def _read(board: Path, afresh: bool) -> Iterator[tuple[Submission, Summary, bool]]:
    """Yield one submission after another, so that only the records of one are in memory."""
    root = board / SUBMISSIONS
    if not is_leaderboard(board):
        raise UserError(
            f"{board} is no leaderboard: it has no folder '{SUBMISSIONS}'. Go to the repository's root, "
            "or name another with --leaderboard DIR. For one run: lmcbench leaderboard RUN."
        )
    listed = list(root.iterdir()) if root.is_dir() else []
    for folder in sorted(p for p in listed if p.is_dir() and not p.name.startswith(".")):
        if folder.is_symlink():
            raise UserError(f"{folder} is a link, so tables would show its target twice. Remove it.")
        check_slug(folder.name)
        head = _head(folder)
        entry = None if afresh else _known(summary_path(board, folder.name), head)
        known = entry is not None
        if entry is None:
            whole = read_submission(folder)
            try:
                entry = summarize(folder.name, whole.sha256, whole.records)
            except UserError:
                raise
            except (LookupError, TypeError, ValueError) as error:
                # rendering does not verify first, and extra keys of a record may have any value
                raise UserError(
                    f"{folder} contains records that cannot be summarized ({type(error).__name__}: "
                    f"{error}). Find out what is wrong: lmcbench verify {folder}"
                ) from None
        yield head, entry, known


def _head(folder: Path) -> Submission:
    """Return the submission by its `submission.toml` alone; its records are read when one is needed."""
    meta, sha256 = read_meta(folder)
    return Submission(folder.name, folder, meta, LazyRecords(folder), sha256, sources={})


def _known(path: Path, head: Submission) -> Summary | None:
    """Return the stored summary; None if it is missing, damaged, or of another version of the submission."""
    try:
        entry = read_summary(read_bytes(path))
    except UserError:
        return None
    if entry is None or (entry.slug, entry.submission_sha256) != (head.slug, head.sha256):
        return None
    return entry
