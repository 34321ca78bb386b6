"""Parse records, and check the schema of files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lmcbench.errors import UserError, counted, printable
from lmcbench.results.record import SCHEMA, Record
from lmcbench.results.record_types import KEY_PATTERN, list_faults
from lmcbench.untrusted import parse_json, read_bytes

MOST_KEYS = 60_000
"""Most keys of a record, in all of its objects together. One with all analyses has about 10,000."""

SHOWN_FAULTS = 20
"""Most faults of one record that are named."""


class InvalidRecordError(UserError):
    """A record with fields that are missing, of the wrong type or out of bounds.

    Attributes:
        origin: the name of the file.
        key: of the record, if it has a valid one.
        faults: field and message of the first `SHOWN_FAULTS` faults.
        count: the number of faults.
    """

    def __init__(self, origin: str, key: str | None, faults: Sequence[tuple[str, str]], count: int) -> None:
        more = f" (and {counted(count - 1, 'more fault')})" if count > 1 else ""
        super().__init__(f"{origin} is not a valid record: {': '.join(filter(None, faults[0]))}{more}.")
        self.origin, self.key, self.faults, self.count = origin, key, faults, count

    def __reduce__(self) -> tuple[type[InvalidRecordError], tuple[Any, ...]]:
        return type(self), (self.origin, self.key, self.faults, self.count)


class NewerSchemaError(UserError):
    """A file has a schema that needs a newer version of lmcbench."""


def check_schema(table: object, origin: str, schema: str = SCHEMA) -> None:
    """Raise `UserError` if `table` is not of `schema`, or `NewerSchemaError` if it is of a newer one.

    Older ones are not read: their measurements mean something else.
    """
    found = table.get("schema") if isinstance(table, dict) else None
    stem, _, version = schema.rpartition("/")
    if not isinstance(found, str) or not found.startswith(f"{stem}/"):
        raise UserError(f"{origin} is not a {stem} file: its schema is {printable(repr(found))}.")
    number = found.rpartition("/")[2]
    # a number of many digits is a later one, too
    if not re.fullmatch(r"[0-9]{1,9}", number) or int(number) > int(version):
        raise NewerSchemaError(
            f"{origin} has schema {printable(found)}; this lmcbench reads up to {schema}. "
            "Upgrade: pip install -U lmcbench."
        )
    if int(number) < int(version):
        raise UserError(
            f"{origin} has schema {printable(found)} of an earlier version; this lmcbench reads {schema}. "
            "Run again into another folder: --out DIR."
        )


def parse_record(content: bytes | str, origin: str) -> Record:
    """Parse and validate the record of a cell.

    Args:
        content: JSON.
        origin: name of the file in messages.

    Raises:
        InvalidRecordError: if fields are missing, of the wrong type or out of bounds.
        NewerSchemaError: if it is of a newer schema.
        UserError: if it is not valid JSON, or does not match the schema of a record.
    """
    table = parse_json(content, origin, most_keys=MOST_KEYS)
    check_schema(table, origin)
    try:
        return Record.model_validate(table, strict=True)
    except ValidationError as error:
        key = table.get("key")
        known = isinstance(key, str) and re.fullmatch(KEY_PATTERN, key)
        raise InvalidRecordError(
            origin, key if known else None, list_faults(error, SHOWN_FAULTS), error.error_count()
        ) from None


def read_record(path: Path) -> Record:
    """Read the record in a file.

    Raises:
        UserError: if the file cannot be read, or as in `parse_record`.
    """
    return parse_record(read_bytes(path), str(path))
