"""A leaderboard's submissions in, their summaries out; what was derived before is kept by manifest hash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import overload

from lmcbench.errors import UserError
from lmcbench.leaderboard.duplicates import refuse_twins
from lmcbench.leaderboard.manifest import MANIFEST, META, parse_manifest
from lmcbench.leaderboard.submission_file import Submission, check_slug, parse_meta, read_submission
from lmcbench.leaderboard.summary import Summary, read_summary, summarize
from lmcbench.leaderboard.trust import TrustLevel, trust_of
from lmcbench.results.record import Record
from lmcbench.spec.canonical import digest_bytes

SUBMISSIONS, RESULTS, SUMMARY = "submissions", "results", "summary.json"


@dataclass(frozen=True)
class Row:
    """A submission, how far it is trusted, and its entry.

    `known` says that the entry was derived before and is on disk.
    """

    submission: Submission
    trust: TrustLevel
    entry: Summary
    known: bool


class LazyRecords(Sequence[Record]):
    """The records of a submission, read when one is asked for: most pages need none of them."""

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
    """Every submission of a leaderboard with its entry, sorted by slug.

    Args:
        board: the leaderboard's folder.
        afresh: derive every entry from its records, whatever was derived before.

    Raises:
        UserError: where `board` is no leaderboard, a submission in it is not sound, or two have the very same
            records.
    """
    found = list(_read(board, afresh))
    everyone = [submission for submission, _, _ in found]
    refuse_twins(everyone)
    return [Row(s, trust_of(s, board / RESULTS, everyone), entry, known) for s, entry, known in found]


def summary_path(board: Path, slug: str) -> Path:
    """Where the summary of a submission lies."""
    return board / RESULTS / slug / SUMMARY


def _read(board: Path, afresh: bool) -> Iterator[tuple[Submission, Summary, bool]]:
    """One submission after another, so that the records of one alone are in memory."""
    root = board / SUBMISSIONS
    if not root.is_dir():
        raise UserError(
            f"{board} is no leaderboard: it has no folder '{SUBMISSIONS}'. Go to the repository's root, "
            "or name another with --leaderboard DIR. For one run: lmcbench leaderboard RUN."
        )
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if folder.is_symlink():
            raise UserError(
                f"{folder} is a link: what it leads to would stand in the tables twice. Remove it."
            )
        check_slug(folder.name)
        head = None if afresh else _head(folder)
        entry = None if head is None else _known(summary_path(board, folder.name), head)
        known = entry is not None
        if head is None or entry is None:
            whole = read_submission(folder)
            try:
                entry = summarize(folder.name, whole.manifest_sha256, whole.records)
            except UserError:
                raise
            except (LookupError, TypeError, ValueError) as error:
                # nobody is made to verify before they render, and extra keys may hold anything
                raise UserError(
                    f"{folder} holds records that nothing can be derived of ({type(error).__name__}: "
                    f"{error}). See what is wrong with them: lmcbench verify {folder}"
                ) from None
            head = replace(whole, records=LazyRecords(folder))
        yield head, entry, known


def _head(folder: Path) -> Submission | None:
    """The submission by its manifest and what is said of it; None for what must be read whole."""
    try:
        manifest, meta = ((folder / name).read_bytes() for name in (MANIFEST, META))
        files = parse_manifest(manifest, str(folder / MANIFEST))
    except (OSError, UserError):
        return None
    if META not in files or files[META].sha256 != digest_bytes(meta):
        return None
    return Submission(
        slug=folder.name,
        folder=folder,
        meta=parse_meta(meta, str(folder / META)),
        records=LazyRecords(folder),
        manifest_sha256=digest_bytes(manifest),
        files=files,
    )


def _known(path: Path, head: Submission) -> Summary | None:
    """What was derived from this very manifest before; None where it was not, or is damaged."""
    try:
        entry = read_summary(path.read_bytes())
    except OSError:
        return None
    if entry is None or (entry.slug, entry.manifest) != (head.slug, head.manifest_sha256):
        return None
    return entry
