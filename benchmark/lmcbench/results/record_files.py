"""Records in files: find and read those of a folder, and many in one compressed file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lmcbench.errors import UserError, counted
from lmcbench.results.atomic_files import compress
from lmcbench.results.cell_values import architecture_label, shift_label
from lmcbench.results.record import Record
from lmcbench.results.record_parser import NewerSchemaError, parse_record, read_record
from lmcbench.results.run_folder import RunFolder, read_header
from lmcbench.spec.canonical import canonical_json
from lmcbench.untrusted import MB, decompress, read_bytes, show_bytes

RECORDS = "records.jsonl.gz"
"""Name of a file of many records."""

ENDING = ".jsonl.gz"
"""How the name of every such file ends."""

MAX_RECORDS = 5000
RECORD_BYTES = 2 * MB
RECORDS_BYTES = 100 * MB
"""Limits of the records after decompression: one line, and all of them."""


def encode_records(tables: Iterable[Mapping[str, Any]]) -> bytes:
    """Return records, as parsed JSON, as one gzip file: one canonical JSON a line, sorted by key.

    Equal records give equal bytes.
    """
    lines = [canonical_json(table) for table in sorted(tables, key=lambda t: str(t["key"]))]
    return compress("".join(f"{line}\n" for line in lines).encode())


def split_records(content: bytes, origin: str = RECORDS) -> list[bytes]:
    """Return the lines of a records file, of which each is the JSON of one cell.

    Raises:
        UserError: naming `origin`, if it is not gzip, is cut short, or exceeds a limit.
    """
    text = decompress(content, origin, limit=RECORDS_BYTES)
    if not text:
        raise UserError(f"{origin} contains no record.")
    if text.count(b"\n") > MAX_RECORDS:
        raise UserError(f"{origin} contains more than {MAX_RECORDS:,} records.")
    lines = text.removesuffix(b"\n").split(b"\n")
    for i, line in enumerate(lines, 1):
        if len(line) > RECORD_BYTES:
            raise UserError(
                f"{origin} line {i} has {show_bytes(len(line))}; at most "
                f"{show_bytes(RECORD_BYTES)} are allowed."
            )
    return lines


def find_records(path: Path) -> list[Path]:
    """Return the record files of a run folder or a folder of records, or one record file, sorted by name.

    Raises:
        UserError: if there are none.
    """
    if path.exists() and not path.is_dir():
        return [path]
    if not path.exists():
        raise UserError(f"{path} does not exist. Give a run folder, as written by 'lmcbench run'.")
    folder = path / "records" if (path / "records").is_dir() else path
    found = sorted(f for f in folder.glob("*.json") if f.name != "run.json" and not f.name.startswith("."))
    if not found:
        hint = " or one of its submissions" if (path / "submissions").is_dir() else ""
        raise UserError(f"No records in {folder}. Give a run folder, as written by 'lmcbench run'{hint}.")
    return found


def read_records(path: Path) -> list[Record]:
    """Read the records that `find_records` returns and check that their labels are unique.

    `path` may also be a file `records.jsonl.gz` of many records.

    A failed cell is skipped if another record has the same labels: the network's file was corrected and run
    again.

    Raises:
        UserError: as `scan_records`, or if a record cannot be read; the message names the damaged records.
    """
    records, damaged = scan_records(path)
    if damaged:
        raise UserError(describe_damage(path, damaged))
    return records


def scan_records(path: Path) -> tuple[list[Record], list[UserError]]:
    """Read records as `read_records` and return them with the error of each record that cannot be read.

    Raises:
        UserError: if there are none, none can be read, two files contain the same cell, a file or the folder
            has a newer schema, or different networks have the same label, so that tables would average over
            them.
    """
    header = RunFolder(path).header
    if header.exists():
        read_header(header)
    records, damaged = [], []
    for read in _readers(path):
        try:
            records.append(read())
        except NewerSchemaError:
            raise
        except UserError as error:
            damaged.append(error)
    if not records:
        raise UserError(describe_damage(path, damaged))
    return _distinct(path, records), damaged


def _readers(path: Path) -> Iterator[Callable[[], Record]]:
    """Yield a function for each record that reads it."""
    if path.name.endswith(ENDING) and path.is_file():
        for i, line in enumerate(split_records(read_bytes(path), str(path)), 1):
            yield partial(parse_record, line, f"{path}, record {i}")
    else:
        for file in find_records(path):
            yield partial(read_record, file)


SHOWN_RECORDS = 10
"""Most damaged records that a message names."""


def describe_damage(path: Path, damaged: Sequence[UserError]) -> str:
    """Return a message that names the first `SHOWN_RECORDS` damaged records of a folder, one a line."""
    if len(damaged) == 1:
        return str(damaged[0])
    lines = [f"{counted(len(damaged), 'record')} of {path} cannot be read:"]
    lines += [f"  {error}" for error in damaged[:SHOWN_RECORDS]]
    if len(damaged) > SHOWN_RECORDS:
        lines.append(f"  and {len(damaged) - SHOWN_RECORDS:,} more.")
    return "\n".join(lines)


def _distinct(path: Path, records: list[Record]) -> list[Record]:
    """Return the records without failed cells that were run again; raise if labels are not unique."""
    by_labels: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        by_labels.setdefault(_labels(record), []).append(record)
    dropped = set()
    for group in by_labels.values():
        finished = [record for record in group if record.status != "failed"]
        if len({record.key for record in finished}) > 1:
            raise _ambiguous_labels(path, finished)
        if len(finished) > 1:
            raise UserError(f"{path} has record {finished[0].key} in {len(finished)} files. Keep one.")
        kept = finished or group[-1:]
        dropped |= {id(record) for record in group if all(record is not k for k in kept)}
    return [record for record in records if id(record) not in dropped]


def _labels(record: Record) -> tuple[object, ...]:
    """Return everything by which tables distinguish records."""
    suite = (record.suite.name, record.suite.version, record.suite.digest)
    network = (architecture_label(record), record.recipe["name"])
    return *suite, *network, shift_label(record), record.fork.name, record.replicate


def _ambiguous_labels(path: Path, records: list[Record]) -> UserError:
    one = records[0]
    label = architecture_label(one)
    prints = list(dict.fromkeys(record.architecture.fingerprint for record in records))
    what = f"networks, fingerprints {' and '.join(prints)}," if len(prints) > 1 else "cells"
    keys = " and ".join(record.key for record in records)
    return UserError(
        f"{path} has different {what} with the same label {label} and recipe {one.recipe['name']}, so tables "
        f"would average over them (records {keys}: {shift_label(one)}, fork {one.fork.name}, replicate "
        f"{one.replicate}). Use a separate run folder for each: lmcbench run ... --out DIR."
    )
