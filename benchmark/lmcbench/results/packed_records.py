"""Many records in one compressed file of JSON lines: in submissions, and as committed results of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lmcbench.errors import UserError
from lmcbench.results.atomic_files import compress
from lmcbench.spec.canonical import canonical_json
from lmcbench.untrusted import MB, decompress, show_bytes

RECORDS = "records.jsonl.gz"
"""Name of the file."""

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
