"""A user's own image folder: train/CLASS/*.png and test/CLASS/*.png."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lmcbench.data.cache import CachedSplit
from lmcbench.data.dataset import Dataset
from lmcbench.data.decode import Item
from lmcbench.data.find_files import belongs, parquet_files
from lmcbench.data.parquet import ParquetSplit
from lmcbench.data.splits import Reader, open_split
from lmcbench.errors import UserError
from lmcbench.spec.datasets import is_path

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


TEST_NAMES = ("test", "val", "valid", "validation")
"""Names a held-out split goes by, the first that is there."""


def find_own(name: str, folder: Path | None) -> Path | None:
    """The path that `name` means: itself if it is written as one, else NAME or NAME.parquet in `folder`.

    Raises:
        UserError: for a path where there is nothing.
    """
    if is_path(name):
        path = Path(name).expanduser()
        if not path.exists():
            # a path in a suite's file starts at the folder that is worked in, not at the file
            place = "" if path.is_absolute() else f" in {Path.cwd()}"
            raise UserError(
                f"No data at {path}{place}. Give an image folder, a folder of parquet files or one file."
            )
        return path
    for candidate in [] if folder is None else [folder / name, folder / f"{name}.parquet"]:
        if candidate.exists():
            return candidate
    return None


def own_name(path: Path) -> str:
    """The name a user's data set goes by: the last part of its path, which says nothing of the machine."""
    return path.resolve().name.removesuffix(".parquet")


def open_own(path: Path) -> Dataset:
    """The user's data set at `path`, named by the last part of it.

    - one parquet file: every fifth image of each class, in file order, is the test split (with fewer than
      five in every class there is none);
    - a folder of parquet files: train-*.parquet, and test-*, val-* or valid*-*;
    - a folder of images: train/CLASS/*, and test/CLASS/* (or val, valid, validation).

    Raises:
        UserError: for a folder of another layout, or images and labels that cannot be read.
    """
    name = own_name(path)
    train, test, source = _readers(path)
    first = open_split(train, f"{name}, train")
    second = open_split(test, f"{name}, test", first.images.images.shape[1], len(first.classes))
    _agree(path, first, second)
    return Dataset(name, first.images, second.images, first.classes, source=source)


def _readers(path: Path) -> tuple[Reader, Reader, str]:
    if path.is_file():
        return ParquetSplit((path,), part="train"), ParquetSplit((path,), part="test"), "parquet"
    held_out = next((t for t in TEST_NAMES if (path / t).is_dir() and any((path / t).iterdir())), None)
    if (path / "train").is_dir() and held_out is not None:
        train, test = FolderSplit(path / "train"), FolderSplit(path / held_out)
        if train.names and test.names:
            return train, test, "folder"
    for split in TEST_NAMES:
        if any(belongs(p.relative_to(path), split) for p in path.rglob("*.parquet")):
            found = parquet_files(path, ("train", split))
            if found is not None:
                return ParquetSplit(found.train), ParquetSplit(found.test), "parquet"
    raise UserError(
        f"{path} is no data set: it needs train/CLASS/*.png and test/CLASS/*.png, "
        "or train-*.parquet and test-*.parquet."
    )


def _agree(path: Path, train: CachedSplit, test: CachedSplit) -> None:
    """One size and the same classes in both splits."""
    if train.classes != test.classes:
        raise UserError(
            f"{path}: the splits have different classes, {', '.join(train.classes[:5])} ... in train and "
            f"{', '.join(test.classes[:5])} ... in test."
        )
    shapes = [s.images.images.shape[1:] for s in (train, test)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{path}: images are {list(shapes[0])} in train, but {list(shapes[1])} in test.")
