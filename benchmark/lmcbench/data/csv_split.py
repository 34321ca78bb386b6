"""CSV files with a header, and images that they list with their labels, as on Kaggle and in `imagefolder`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lmcbench.data.dataset import Labels, Listed, mark_every_fifth, name_domains
from lmcbench.data.decode import IMAGE_BYTES, Item, read_items
from lmcbench.data.parquet import number_labels
from lmcbench.errors import UserError, unknown
from lmcbench.spec.domains import Domains
from lmcbench.untrusted import MB, check_regular, is_regular, placeholder, read_bytes

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


SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")

FOLDERS = ("", "images", "imgs", "img", "data")
"""Folders beside the list in which images are looked for, and one of the name of the list."""


@dataclass(frozen=True)
class CsvSplit:
    """Reader of a split that a CSV file lists.

    Attributes:
        table: the list.
        names_of_split: values of its column `split` that belong to the split; empty: all rows.
        part: `test`: every fifth image of each class (of each domain); `train`: all other images; None: all
            images.
        domain: the column of domains; None: the images have none.
    """

    table: CsvTable
    names_of_split: tuple[str, ...] = ()
    part: Literal["train", "test"] | None = None
    domain: str | None = None

    @property
    def path(self) -> Path:
        """The list's file."""
        return self.table.path

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        """The rows of the split.

        Raises:
            UserError: for a list without columns of files and labels.
        """
        rows = self.table.rows
        self.table.column(FILE_COLUMNS, "files")
        self.table.column(LABEL_COLUMNS, "labels")
        if not self.names_of_split:
            return rows
        column = self.table.column(SPLIT_COLUMNS, "splits")
        return [row for row in rows if row[column].strip().lower() in self.names_of_split]

    @cached_property
    def labels(self) -> tuple[Labels, tuple[str, ...]]:
        """The labels of the rows, `[n]`, and the names of the classes in order."""
        column = self.table.column(LABEL_COLUMNS, "labels")
        texts = [row[column].strip() for row in self.rows]
        empty = next((i for i, text in enumerate(texts) if not text), None)
        if empty is not None:
            raise UserError(f"{self.path}, row {empty + 1}: the label is missing.")
        return number_labels(texts)

    @cached_property
    def kept(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """The rows that belong to the part, `[n]`."""
        if self.part is None:
            return np.ones(len(self.rows), bool)
        fifth = mark_every_fifth(self.labels[0], self.domains)
        return np.asarray(fifth == (self.part == "test"), np.bool_)

    @cached_property
    def domains(self) -> Domains | None:
        """The domains of the rows; None: they have none.

        Raises:
            UserError: if the list has no such column or a value is missing.
        """
        return None if self.domain is None else self.table.domains(self.domain, self.rows)

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The images of the split, in the order of the list.

        Raises:
            UserError: for an image that is missing, not a regular file, or outside of the list's folder.
        """
        column = self.table.column(FILE_COLUMNS, "files")
        listed = zip(self.rows, self.kept, strict=True)
        found = [self._find(row[column].strip()) for row, keep in listed if keep]
        for image in found:
            check_regular(image, limit=IMAGE_BYTES)
        return tuple(found)

    def _find(self, name: str) -> Path:
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{self.path} names {name!r}: give paths below its folder.")
        for folder in (*FOLDERS, self.path.stem):
            for suffix in ("", *SUFFIXES):
                path = self.path.parent / folder / f"{name}{suffix}"
                if is_regular(path):
                    return path
        raise UserError(f"{self.path} names {name!r}, which is not in its folder or in images/.")

    def settings(self) -> dict[str, Any]:
        """Return the label of each file, which the list gives."""
        names = self.labels[1]
        found: dict[str, Any] = {"labels_of_files": [names[i] for i in self.labels[0][self.kept].tolist()]}
        if self.domains is not None:
            found["domain"] = self.domain
            found["domains_of_files"] = self.domains.texts[self.kept].tolist()
        return found

    def listed(self, classes: int | None) -> Listed:
        """See `Reader`."""
        labels, names = self.labels
        domains = None if self.domains is None else self.domains.take(self.kept)
        return Listed(labels[self.kept], names, domains)

    def columns(self) -> list[str]:
        """Return the names of the columns, without those of files, labels and splits."""
        used = (FILE_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS)
        known = {self.table.find_column(names) for names in used}
        return [column for column in self.table.columns if column not in known]

    def load(self, classes: int | None) -> tuple[int, tuple[str, ...], Iterator[list[Item]]]:
        """See `Reader`."""
        labels, names = self.labels
        if classes is not None and classes != len(names):
            raise UserError(f"{self.path} has {len(names)} classes, but there must be {classes}.")
        return len(self.files), names, read_items(self.files, labels[self.kept].tolist())
