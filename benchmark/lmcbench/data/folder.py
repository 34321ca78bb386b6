"""A user's own image folder: train/CLASS/*.png and test/CLASS/*.png."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lmcbench.data.decode import Item
from lmcbench.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
BATCH = 1000
"""Images decoded at a time."""


@dataclass(frozen=True)
class FolderSplit:
    """The reader of a folder that holds one folder of images for each class, labels in name order."""

    folder: Path

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The classes: the sub-folders, sorted by name."""
        return tuple(
            sorted(p.name for p in self.folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        )

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """All images, class by class, sorted by path.

        Raises:
            UserError: for a class without images.
        """
        found: list[Path] = []
        for name in self.names:
            paths = (self.folder / name).rglob("*")
            images = sorted(p for p in paths if p.suffix.lower() in SUFFIXES and not self._hidden(p))
            if not images:
                raise UserError(f"{self.folder / name} is a class without images ({', '.join(SUFFIXES)}).")
            found += images
        return tuple(found)

    def _hidden(self, path: Path) -> bool:
        """Whether a file or a folder above it is hidden: what programs keep there is none of the images."""
        return any(part.startswith(".") for part in path.relative_to(self.folder).parts)

    def settings(self) -> dict[str, Any]:
        """The class of each file, which its content does not tell."""
        return {"classes_of_files": [f.relative_to(self.folder).parts[0] for f in self.files]}

    def load(self, classes: int | None) -> tuple[int, tuple[str, ...], Iterator[list[Item]]]:
        """See `Reader`.

        Raises:
            UserError: where the number of classes is another than `classes`.
        """
        if classes is not None and classes != len(self.names):
            raise UserError(f"{self.folder} has {len(self.names)} classes, but there must be {classes}.")
        return len(self.files), self.names, self._items()

    def _items(self) -> Iterator[list[Item]]:
        labels = {name: i for i, name in enumerate(self.names)}
        for start in range(0, len(self.files), BATCH):
            yield [
                Item(file, None, _read(file), labels[file.relative_to(self.folder).parts[0]])
                for file in self.files[start : start + BATCH]
            ]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None
