"""A CSV file with a header: columns with one of several usual names, and domains of its rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lmcbench.data.listed import name_domains
from lmcbench.errors import UserError, unknown
from lmcbench.spec.domains import Domains
from lmcbench.untrusted import MB, placeholder, read_bytes

CSV_BYTES = 256 * MB
"""Largest list of images."""

FILE_COLUMNS = (
    "file_name",
    "filename",
    "file",
    "filepath",
    "path",
    "image_path",
    "image",
    "image_id",
    "id",
)
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "target", "category", "diagnosis", "y")
SPLIT_COLUMNS = ("split", "set", "subset", "partition")


@dataclass(frozen=True)
class CsvTable:
    """A CSV file, which is parsed once, on first use."""

    path: Path

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        """The rows: column -> text.

        Raises:
            UserError: for an unreadable file, or text that is not UTF-8.
        """
        try:
            content = read_bytes(self.path, limit=CSV_BYTES)
            if found := placeholder(content[:512]):
                raise UserError(f"{self.path} {found}.")
            text = content.decode("utf-8-sig")
            return [{k: v or "" for k, v in row.items() if k} for row in csv.DictReader(io.StringIO(text))]
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{self.path} is not a CSV file: {error}.") from None

    @property
    def columns(self) -> list[str]:
        """Names of the columns. An empty table has none."""
        return list(next(iter(self.rows), {}))

    def find_column(self, names: tuple[str, ...]) -> str | None:
        """Return the first column with one of the names, in any case; None if there is none."""
        columns = {column.strip().lower(): column for column in self.columns}
        return next((columns[name] for name in names if name in columns), None)

    def column(self, names: tuple[str, ...], what: str) -> str:
        """Return the column that `find_column` finds.

        Raises:
            UserError: if there is none; `what` says what it should have.
        """
        found = self.find_column(names)
        if found is None:
            raise UserError(
                f"{self.path} has no column of {what}: {', '.join(names)}. "
                f"Its columns: {', '.join(self.columns)}."
            )
        return found

    def domains(self, column: str, rows: Sequence[dict[str, str]]) -> Domains:
        """Return the domains of some of the rows.

        Raises:
            UserError: if the column does not exist or has missing values.
        """
        if rows and column not in rows[0]:
            raise UserError(f"{self.path}: {unknown('column of domains', column, rows[0])}")
        texts = [row[column].strip() for row in rows]
        empty = next((i for i, text in enumerate(texts) if not text), None)
        if empty is not None:
            raise UserError(f"{self.path}, row {empty + 1}: the domain is missing (column {column!r}).")
        return name_domains(texts)
