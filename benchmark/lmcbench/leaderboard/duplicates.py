"""Submissions of the very same records, which would stand in the tables twice."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from lmcbench.errors import UserError
from lmcbench.leaderboard.manifest import MANIFEST, parse_manifest
from lmcbench.leaderboard.submission_file import Submission


def find_twin(records: Collection[str], submissions: Path, slug: str) -> str | None:
    """The submission that has exactly the records of `slug`; None where none has.

    One with more or fewer is none: a run that was extended is a submission of its own.

    Args:
        records: sha256 of each record file of `slug`.
        submissions: the leaderboard's folder of submissions; what cannot be read there is passed over.
        slug: the submission itself, whether it is there already or not.
    """
    for path in sorted(submissions.glob(f"[!.]*/{MANIFEST}")):
        if path.parent.name == slug:
            continue
        try:
            files = parse_manifest(path.read_bytes(), str(path))
        except (OSError, UserError):
            continue
        if {entry.sha256 for name, entry in files.items() if _is_record(name)} == set(records):
            return path.parent.name
    return None


def refuse_twins(submissions: Iterable[Submission]) -> None:
    """Refuse two of `submissions` that have the very same records.

    Raises:
        UserError: naming both.
    """
    seen: dict[frozenset[str], Submission] = {}
    for one in submissions:
        records = frozenset(entry.sha256 for name, entry in one.files.items() if _is_record(name))
        if (other := seen.setdefault(records, one)) is not one:
            raise UserError(
                f"{other.folder} and {one.folder} have the very same records, and would stand in the "
                "tables twice. Keep one of them."
            )


def _is_record(name: str) -> bool:
    return name.startswith("records/")
