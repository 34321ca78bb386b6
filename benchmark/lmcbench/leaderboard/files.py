"""The files of a submission: which names are allowed, how large they may be, and how they are read."""

from __future__ import annotations

import os
import re
import stat
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from lmcbench.errors import LINE_LENGTH, UserError, printable
from lmcbench.results.record import Record
from lmcbench.results.record_files import RECORDS, split_records
from lmcbench.results.record_parser import parse_record
from lmcbench.results.tuning import TUNING, TUNING_BYTES
from lmcbench.untrusted import MB, read_bytes, show_bytes

META = "submission.toml"
PREDICTIONS = "predictions.safetensors"

PREDICTION_BYTES = 25 * MB
"""All logits of a submission together: GitHub lets a pull request attach files of up to 25 MB."""

META_BYTES = 64_000
KINDS = {
    re.compile(re.escape(META)): META_BYTES,
    re.compile(re.escape(RECORDS)): 25 * MB,
    re.compile(re.escape(PREDICTIONS)): PREDICTION_BYTES,
    re.compile(re.escape(TUNING)): TUNING_BYTES,
    re.compile(r"source/[A-Za-z0-9_][A-Za-z0-9_-]*\.py"): 256_000,
}
"""Every file a submission may contain, by its path in it, and its largest size in bytes."""

MAX_FILES = 20

_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".npy", ".npz", ".joblib")
_STATEMENT = re.compile(r"verified\.json|rerun-[^/]*\.json|summary\.json")


class Fault(NamedTuple):
    """One fault of a submission.

    Attributes:
        file: path inside the submission; `records.jsonl.gz#KEY` is the record of one cell, and
            `records.jsonl.gz, record 12 (KEY)` a record that cannot be read, with its number from 1.
        field: place inside the file, empty for the file as a whole.
        message: what was found and what is expected.
    """

    file: str
    field: str
    message: str

    def __str__(self) -> str:
        field = f"{printable(self.field)}: " if self.field else ""
        # the text quotes the submission, which must neither control a terminal nor add lines to the report
        return f"{printable(self.file)}: {field}{printable(self.message, LINE_LENGTH)}"


def place_of(key: str, file: str = RECORDS) -> str:
    """Return the place of a cell in a file of all cells, as faults name it."""
    return f"{file}#{key}"


def list_files(folder: Path) -> tuple[dict[str, int], list[Fault]]:
    """Return the sizes of the files that may be read, by path, and a fault for every other entry.

    Nothing is opened and no link is followed: a file that is too large is refused before it is read.
    """
    sizes: dict[str, int] = {}
    faults: list[Fault] = []
    pending = [folder]
    while pending:
        for entry in sorted(os.scandir(pending.pop()), key=lambda e: e.name):
            name = Path(entry.path).relative_to(folder).as_posix()
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) and name == "source":
                pending.append(Path(entry.path))
            elif message := _refusal(name, status):
                shown = name.encode("unicode_escape").decode()
                faults.append(Fault(shown, "", f"{message}."))
            else:
                sizes[name] = status.st_size
    if len(sizes) > MAX_FILES:
        faults.append(Fault(".", "", f"has {len(sizes):,} files; at most {MAX_FILES} are allowed."))
    return sizes, faults


def _refusal(name: str, status: os.stat_result) -> str | None:
    if stat.S_ISLNK(status.st_mode):
        return "is a link; a submission contains the files themselves"
    if stat.S_ISDIR(status.st_mode):
        return "is a folder; a submission has only the folder source"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    limit = next((limit for kind, limit in KINDS.items() if kind.fullmatch(name)), None)
    if limit is None:
        if name.lower().endswith(_PICKLES):
            return "may be a pickle, which executes code when it is loaded; logits are stored as safetensors"
        if _STATEMENT.fullmatch(name):
            return "is a verifier's statement; only the maintainers write it, under leaderboard/results/"
        allowed = f"{META}, {RECORDS}, {PREDICTIONS}, {TUNING}, source/FILE.py"
        return f"is not a file of a submission; allowed are {allowed}"
    if status.st_size > limit:
        return f"has {show_bytes(status.st_size)}; at most {show_bytes(limit)} are allowed"
    return None


def read_file(folder: Path, name: str, size: int) -> bytes:
    """Return the content of a listed file.

    Raises:
        UserError: if the file cannot be read, has become a link out of the folder, or has another size than
            `size` by now.
    """
    content = read_bytes(folder / name, limit=size, within=folder)
    if len(content) != size:
        raise UserError(f"{folder / name} changed while it was read.")
    return content


def read_files(folder: Path) -> tuple[dict[str, bytes], list[Fault]]:
    """Return the contents of all allowed files but the predictions, by path, and the faults found."""
    sizes, faults = list_files(folder)
    contents: dict[str, bytes] = {}
    for name in list(sizes)[:MAX_FILES]:
        if name == PREDICTIONS:
            continue
        try:
            contents[name] = read_file(folder, name, sizes[name])
        except UserError as error:
            faults.append(Fault(name, "", str(error)))
    for name in (META, RECORDS):
        if name not in contents and not any(fault.file == name for fault in faults):
            faults.append(Fault(name, "", "is missing. Write submissions with 'lmcbench submit'."))
    return contents, faults


# --- records -------------------------------------------------------------------------------------


def parse_records(content: bytes, origin: str) -> tuple[list[Record], list[tuple[str, UserError]]]:
    """Return the records of a records file that can be parsed, and place and error of everything else."""
    try:
        lines = split_records(content, origin)
    except UserError as error:
        return [], [(origin, error)]
    records: list[Record] = []
    errors: list[tuple[str, UserError]] = []
    for i, line in enumerate(lines, 1):
        place = f"{origin}, record {i}"
        try:
            records.append(parse_record(line, place))
        except UserError as error:
            errors.append((place, error))
    for before, after in pairwise(records):
        if before.key >= after.key:
            place = place_of(after.key, origin)
            what = "is there twice" if before.key == after.key else "is not in order of keys"
            errors.append((place, UserError(f"{place} {what}.")))
    return records, errors
