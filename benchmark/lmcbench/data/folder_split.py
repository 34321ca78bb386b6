"""Images in folders of classes, or in folders of domains with folders of classes.

Image folders are read here rather than by the `imagefolder` builder of `datasets`, which names a class by the
last folder of a path, so that `cat/2024/1.png` becomes class 2024, and skips a class without images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lmcbench.data.csv_split import FILE_COLUMNS, SUFFIXES, CsvTable
from lmcbench.data.dataset import Labels, Listed, mark_every_fifth, name_domains
from lmcbench.data.decode import IMAGE_BYTES, Item, read_items
from lmcbench.errors import UserError
from lmcbench.spec.domains import FOLDER, Domains
from lmcbench.untrusted import check_regular


@dataclass(frozen=True)
class FolderSplit:
    """Reader of a folder with one folder of images per class; label i is the i-th class name, sorted.

    Attributes:
        folder: has `CLASS/*`, or `DOMAIN/CLASS/*` if `domain` is "folder".
        part: `test`: every fifth image of each class (of each domain); `train`: all other images; None: all
            images.
        domain: "folder", or the column of domains in `table`; None: the images have no domains.
        table: a CSV file with a column of files, relative to its folder, and the column of domains.
    """

    folder: Path
    part: Literal["train", "test"] | None = None
    domain: str | None = None
    table: CsvTable | None = None

    @property
    def _depth(self) -> int:
        """The number of folders above that of a class."""
        return 1 if self.domain == FOLDER else 0

    @cached_property
    def _groups(self) -> tuple[Path, ...]:
        """The folders that have folders of classes."""
        if self._depth == 0:
            return (self.folder,)
        return tuple(self.folder / name for name in folders_in(self.folder))

    @property
    def class_folders(self) -> list[Path]:
        """The folders of classes, of all domains."""
        return [group / name for group in self._groups for name in folders_in(group)]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The class names: the folders that are not hidden, of all domains, sorted."""
        return tuple(sorted({name for group in self._groups for name in folders_in(group)}))

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The images of the part: by domain, by class, sorted by path; hidden ones are ignored.

        Raises:
            UserError: for a class without images, and for an image that is not a regular file or too large.
        """
        found: list[Path] = []
        for group in self._groups:
            for name in self.names:
                images = images_in(group / name)
                # a class that one domain lacks is reported with the counts of all domains
                if not images and self._depth == 0:
                    raise UserError(f"{group / name} is a class without images ({', '.join(SUFFIXES)}).")
                for image in images:
                    check_regular(image, limit=IMAGE_BYTES)
                found += images
        if empty := set(self.names) - {self._class(image) for image in found}:
            raise UserError(
                f"{self.folder}: class {min(empty)} has no images in any domain ({', '.join(SUFFIXES)})."
            )
        if self.part is None:
            return tuple(found)
        fifth = mark_every_fifth(self._labels(found), self._domains(found)) == (self.part == "test")
        return tuple(image for image, keep in zip(found, fifth, strict=True) if keep)

    def settings(self) -> dict[str, Any]:
        """Return the class and domain of each file, which are given by its folder and not by its content."""
        found: dict[str, Any] = {"classes_of_files": [self._class(file) for file in self.files]}
        domains = self._domains(self.files)
        if domains is not None:
            found |= {"domain": self.domain, "domains_of_files": domains.texts.tolist()}
        return found

    def listed(self, classes: int | None) -> Listed:
        """See `Reader`."""
        return Listed(self._labels(self.files), self.names, self._domains(self.files))

    def columns(self) -> list[str]:
        """Return the names of the columns of the table beside the images, without that of files."""
        if self.table is None:
            return []
        return [name for name in self.table.columns if name != self.table.find_column(FILE_COLUMNS)]

    def load(self, classes: int | None) -> tuple[int, tuple[str, ...], Iterator[list[Item]]]:
        """See `Reader`.

        Raises:
            UserError: if there are not `classes` classes.
        """
        if classes is not None and classes != len(self.names):
            raise UserError(f"{self.folder} has {len(self.names)} classes, but there must be {classes}.")
        return len(self.files), self.names, read_items(self.files, self._labels(self.files).tolist())

    def _class(self, file: Path) -> str:
        return file.relative_to(self.folder).parts[self._depth]

    def _labels(self, files: list[Path] | tuple[Path, ...]) -> Labels:
        numbers = {name: i for i, name in enumerate(self.names)}
        return np.array([numbers[self._class(file)] for file in files], np.int64)

    def _domains(self, files: list[Path] | tuple[Path, ...]) -> Domains | None:
        if self.domain is None:
            return None
        if self.domain == FOLDER:
            return name_domains([file.relative_to(self.folder).parts[0] for file in files])
        if self.table is None:
            raise UserError(
                f"{self.folder} has folders of images, without a column {self.domain!r}. For folders "
                f'DOMAIN/CLASS set domain = "{FOLDER}", or add a metadata.csv with the columns file_name and '
                f"{self.domain}."
            )
        column = self.table.column(FILE_COLUMNS, "files")
        rows = self.table.rows
        texts = self.table.domains(self.domain, rows).texts.tolist()
        of_file = {Path(row[column].strip()): text for row, text in zip(rows, texts, strict=True)}
        places = [file.relative_to(self.table.path.parent) for file in files]
        lost = next((place for place in places if place not in of_file), None)
        if lost is not None:
            raise UserError(f"{self.table.path} does not list {lost}, which needs a {self.domain}.")
        return name_domains([of_file[place] for place in places])


def folders_in(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in `folder` that are not hidden, sorted."""
    names = (p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else ()
    return tuple(sorted(name for name in names if not name.startswith((".", "__"))))


def images_in(folder: Path) -> list[Path]:
    """Return the images below `folder`, sorted by path; hidden files and folders are ignored."""
    return sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )
