"""A user's own data set: a folder of images, a folder of parquet files, or one parquet file.

Image folders are read here rather than by the `imagefolder` builder of `datasets`, which names a class by the
last folder of a path, so that `cat/2024/1.png` becomes class 2024, and skips a class without images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lmcbench.data.cache import CachedSplit, Reader, open_split
from lmcbench.data.dataset import Dataset
from lmcbench.data.decode import Item
from lmcbench.data.find_files import belongs_to, find_parquet
from lmcbench.data.parquet import BATCH, ParquetSplit
from lmcbench.errors import UserError
from lmcbench.spec.datasets import is_path
from lmcbench.untrusted import check_regular, read_bytes

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")

IMAGE_BYTES = 128 * 2**20
"""Largest file of one image."""

TEST_NAMES = ("test", "val", "valid", "validation")
"""Names of a test split, in order of preference."""


@dataclass(frozen=True)
class FolderSplit:
    """Reader of a folder with one folder of images per class; label i is the i-th class name, sorted."""

    folder: Path

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The class names: the sub-folders that are not hidden, sorted."""
        folders = (p.name for p in self.folder.iterdir() if p.is_dir())
        return tuple(sorted(name for name in folders if not name.startswith(".")))

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """All images, class by class, sorted by path; hidden files and folders are ignored.

        Raises:
            UserError: for a class without images, and for an image that is not a regular file or too large.
        """
        found: list[Path] = []
        for name in self.names:
            images = sorted(
                p
                for p in (self.folder / name).rglob("*")
                if p.suffix.lower() in SUFFIXES
                and not any(part.startswith(".") for part in p.relative_to(self.folder).parts)
            )
            if not images:
                raise UserError(f"{self.folder / name} is a class without images ({', '.join(SUFFIXES)}).")
            for image in images:
                check_regular(image, limit=IMAGE_BYTES)
            found += images
        return tuple(found)

    def settings(self) -> dict[str, Any]:
        """Return the class of each file, which is given by its folder and not by its content."""
        return {"classes_of_files": [f.relative_to(self.folder).parts[0] for f in self.files]}

    def load(self, classes: int | None) -> tuple[int, tuple[str, ...], Iterator[list[Item]]]:
        """See `Reader`.

        Raises:
            UserError: if there are not `classes` classes.
        """
        if classes is not None and classes != len(self.names):
            raise UserError(f"{self.folder} has {len(self.names)} classes, but there must be {classes}.")
        return len(self.files), self.names, self._items()

    def _items(self) -> Iterator[list[Item]]:
        labels = {name: i for i, name in enumerate(self.names)}
        for start in range(0, len(self.files), BATCH):
            items = []
            for file in self.files[start : start + BATCH]:
                data = read_bytes(file, limit=IMAGE_BYTES)
                items.append(Item(file, None, data, labels[file.relative_to(self.folder).parts[0]]))
            yield items


def find_user_dataset(name: str, folder: Path | None) -> Path | None:
    """Return the path that `name` means: a path itself, else NAME or NAME.parquet in `folder`, or None.

    Raises:
        UserError: for a path that does not exist.
    """
    if is_path(name):
        path = Path(name).expanduser()
        if not path.exists():
            # paths in a suite file are relative to the working folder, not to the file
            place = "" if path.is_absolute() else f" in {Path.cwd()}"
            raise UserError(
                f"No data at {path}{place}. Give an image folder, a folder of parquet files or one file."
            )
        return path
    candidates = [] if folder is None or not name else [folder / name, folder / f"{name}.parquet"]
    return next((path for path in candidates if path.exists()), None)


def user_dataset_name(path: Path) -> str:
    """Return the name of the data set at `path`: the last part, without folders of the machine."""
    return path.resolve().name.removesuffix(".parquet")


def open_user_dataset(path: Path) -> Dataset:
    """Open the user's data set at `path`, named by the last part of it.

    - one parquet file: every fifth image of each class, in file order, is the test split (there is none if
      all classes have fewer than five images);
    - a folder of parquet files: train-*.parquet, and test-*, val-* or valid*-*;
    - a folder of images: train/CLASS/*, and test/CLASS/* (or val, valid, validation).

    Raises:
        UserError: for a folder of another layout, or images and labels that cannot be read.
    """
    name = user_dataset_name(path)
    train, test, source = _readers(path)
    first = open_split(train, f"{name}, train")
    second = open_split(test, f"{name}, test", first.images.images.shape[1], len(first.classes))
    _check_agreement(path, first, second)
    return Dataset(name, first.images, second.images, first.classes, source=source)


def _readers(path: Path) -> tuple[Reader, Reader, str]:
    if path.is_file():
        return ParquetSplit((path,), part="train"), ParquetSplit((path,), part="test"), "parquet"
    test_name = next((t for t in TEST_NAMES if (path / t).is_dir() and any((path / t).iterdir())), None)
    if (path / "train").is_dir() and test_name is not None:
        train, test = FolderSplit(path / "train"), FolderSplit(path / test_name)
        if train.names and test.names:
            return train, test, "folder"
    for split in TEST_NAMES:
        if any(belongs_to(p.relative_to(path), split) for p in path.rglob("*.parquet")):
            found = find_parquet(path, ("train", split))
            if found is not None:
                return ParquetSplit(found.train), ParquetSplit(found.test), "parquet"
    raise UserError(
        f"{path} is no data set: it needs train/CLASS/*.png and test/CLASS/*.png, "
        "or train-*.parquet and test-*.parquet."
    )


def _check_agreement(path: Path, train: CachedSplit, test: CachedSplit) -> None:
    """Raise if the splits differ in classes or image size."""
    if train.classes != test.classes:
        raise UserError(
            f"{path}: the splits have different classes, {', '.join(train.classes[:5])} ... in train and "
            f"{', '.join(test.classes[:5])} ... in test."
        )
    shapes = [s.images.images.shape[1:] for s in (train, test)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{path}: images are {list(shapes[0])} in train, but {list(shapes[1])} in test.")
