"""A user's own data set: a folder of images, parquet or Arrow files, or a list of images in a CSV file.

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

from lmcbench.data.cache import CachedSplit, Reader, open_split
from lmcbench.data.csv_split import (
    IMAGE_BYTES,
    LABEL_COLUMNS,
    SPLIT_COLUMNS,
    SUFFIXES,
    CsvSplit,
    find_column,
    read_rows,
)
from lmcbench.data.dataset import Dataset, mark_every_fifth
from lmcbench.data.decode import ColouredError, Item, Resize
from lmcbench.data.find_files import belongs_to, find_parquet
from lmcbench.data.parquet import BATCH, ParquetSplit
from lmcbench.errors import UserError
from lmcbench.spec.datasets import is_path
from lmcbench.untrusted import check_regular, read_bytes

TRAIN_NAMES = ("train", "training", "trn", "tr")
"""Names of a training split, in any case."""

TEST_NAMES = ("test", "testing", "tst", "val", "valid", "validation", "dev", "eval", "evaluation")
"""Names of a test split, in order of preference, in any case."""

LISTS = ("metadata.csv", "labels.csv", "data.csv", "annotations.csv")
"""Lists of images in a folder."""

FIFTH = "every fifth image of each class is the test set"


@dataclass(frozen=True)
class FolderSplit:
    """Reader of a folder with one folder of images per class; label i is the i-th class name, sorted."""

    folder: Path
    part: Literal["train", "test"] | None = None
    """`test`: every fifth image of each class; `train`: all other images; None: all images."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The class names: the sub-folders that are not hidden, sorted."""
        folders = (p.name for p in self.folder.iterdir() if p.is_dir())
        return tuple(sorted(name for name in folders if not name.startswith((".", "__"))))

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The images, class by class, sorted by path; hidden files and folders are ignored.

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
            if self.part is not None:
                fifth = mark_every_fifth(np.zeros(len(images), np.int64)) == (self.part == "test")
                images = [image for image, keep in zip(images, fifth, strict=True) if keep]
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


def open_user_dataset(path: Path, resize: Resize | None = None) -> Dataset:
    """Open the user's data set at `path`, named by the last part of it.

    - folders of images: ROOT/train/CLASS/* and ROOT/test/CLASS/* (also val, validation, dev, ...), or
      ROOT/CLASS/*;
    - train-*.parquet and test-*.parquet, or one parquet file;
    - a folder of `save_to_disk` of `datasets`;
    - a CSV file with columns of files and labels: in each split's folder, train.csv and test.csv, or one for
      both, with a column `split` or without.

    Labels are numbers or text. Without a test split with labels, every fifth image of each class, in file
    order, is the test split.

    Args:
        path: the folder or file.
        resize: how images of any size become square; None: all must have one size.

    Raises:
        UserError: for a folder of another layout, or images and labels that cannot be read.
    """
    name = user_dataset_name(path)
    found = _find_layout(path)
    first = open_split(found.train, f"{name}, train", resize=resize)
    channels, classes = first.images.images.shape[1], len(first.classes)
    try:
        second = open_split(found.test, f"{name}, test", channels, classes, resize=resize)
    except ColouredError:  # the training images alone are grey
        first = open_split(found.train, f"{name}, train", 3, resize=resize)
        second = open_split(found.test, f"{name}, test", 3, classes, resize=resize)
    _check_agreement(path, first, second)
    return Dataset(name, first.images, second.images, first.classes, source=found.source, notes=found.notes)


@dataclass(frozen=True)
class Layout:
    """The readers of both splits, the kind of files, and sentences on parts that are not used."""

    train: Reader
    test: Reader
    source: str
    notes: tuple[str, ...] = ()


def _find_layout(path: Path) -> Layout:
    if path.is_file():
        if path.suffix.lower() == ".csv":
            return _one_list(path)
        return Layout(ParquetSplit((path,), part="train"), ParquetSplit((path,), part="test"), "parquet")
    found = _arrow(path) or _split_folders(path) or _parquet(path) or _lists(path) or _flat(path)
    if found is None:
        raise UserError(
            f"{path} is not a data set: it needs train/CLASS/*.png and test/CLASS/*.png, CLASS/*.png, "
            "train-*.parquet and test-*.parquet, a folder of save_to_disk, or train.csv with columns of "
            "files and labels."
        )
    return found


def _children(path: Path) -> dict[str, Path]:
    """Return the folders in `path` by their names in lower case."""
    return {p.name.lower(): p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")}


def _labelled(folder: Path) -> Reader | None:
    """Return the reader of a split's folder; None if its images have no labels."""
    for name in LISTS:
        if (folder / name).is_file() and find_column(folder / name, LABEL_COLUMNS) is not None:
            return CsvSplit(folder / name)
    classes = FolderSplit(folder)
    return classes if any(_has_images(folder / name) for name in classes.names) else None


def _has_images(folder: Path) -> bool:
    return any(p.suffix.lower() in SUFFIXES for p in folder.rglob("*"))


def _split_folders(path: Path) -> Layout | None:
    """Return the layout ROOT/train, ROOT/test; a test split without labels is passed over."""
    children = _children(path)
    train = next((children[name] for name in TRAIN_NAMES if name in children), None)
    reader = None if train is None else _labelled(train)
    if train is None or reader is None:
        return None
    notes: list[str] = []
    chosen: Reader | None = None
    for folder in (children[name] for name in TEST_NAMES if name in children):
        test = _labelled(folder)
        if test is None:
            if any(folder.iterdir()):
                notes.append(f"{folder} has no folder per class: its images have no labels and are not used.")
        elif chosen is None:
            chosen = test
            if notes:
                notes.append(f"The test set is {folder}.")
        else:
            notes.append(f"{folder} is not used.")
    source = "csv" if isinstance(reader, CsvSplit) else "folder"
    if chosen is not None:
        return Layout(reader, chosen, source, tuple(notes))
    notes.append(f"{path} has no test set with labels: {FIFTH}.")
    if isinstance(reader, CsvSplit):
        return Layout(
            CsvSplit(reader.path, part="train"), CsvSplit(reader.path, part="test"), source, tuple(notes)
        )
    return Layout(FolderSplit(train, "train"), FolderSplit(train, "test"), source, tuple(notes))


def _parquet(path: Path) -> Layout | None:
    for split in TEST_NAMES:
        if any(belongs_to(p.relative_to(path), split) for p in path.rglob("*.parquet")):
            found = find_parquet(path, ("train", split))
            if found is not None:
                return Layout(ParquetSplit(found.train), ParquetSplit(found.test), "parquet")
    return None


def _arrow(path: Path) -> Layout | None:
    """Return the layout of `DatasetDict.save_to_disk` or `Dataset.save_to_disk`."""
    if (path / "dataset_dict.json").is_file():
        children = _children(path)
        files = {name: tuple(sorted(folder.glob("*.arrow"))) for name, folder in children.items()}
        train = next((files[name] for name in TRAIN_NAMES if files.get(name)), None)
        if train is None:
            raise UserError(f"{path} has no split 'train'. It has {', '.join(children)}.")
        test = next((files[name] for name in TEST_NAMES if files.get(name)), None)
        if test is not None:
            return Layout(ParquetSplit(train), ParquetSplit(test), "arrow")
    elif (path / "state.json").is_file():
        train = tuple(sorted(path.glob("*.arrow")))
    else:
        return None
    note = f"{path} has no test split: {FIFTH}."
    return Layout(ParquetSplit(train, part="train"), ParquetSplit(train, part="test"), "arrow", (note,))


def _lists(path: Path) -> Layout | None:
    """Return the layout of lists in ROOT: train.csv and test.csv, or one list."""
    lists = {p.stem.lower(): p for p in sorted(path.glob("*.csv"))}
    train = next((lists[name] for name in TRAIN_NAMES if name in lists), None)
    if train is not None and find_column(train, LABEL_COLUMNS) is not None:
        tests = [lists[name] for name in TEST_NAMES if name in lists]
        labelled = [test for test in tests if find_column(test, LABEL_COLUMNS) is not None]
        notes = [f"{test} has no labels and is not used." for test in tests if test not in labelled]
        if labelled:
            return Layout(CsvSplit(train), CsvSplit(labelled[0]), "csv", tuple(notes))
        found = _one_list(train)
        return Layout(found.train, found.test, "csv", (*notes, *found.notes))
    one = next((path / name for name in LISTS if (path / name).is_file()), None)
    return None if one is None else _one_list(one)


def _one_list(path: Path) -> Layout:
    column = find_column(path, SPLIT_COLUMNS)
    if column is not None:
        found = {row[column].strip().lower() for row in read_rows(path)}
        train = tuple(name for name in TRAIN_NAMES if name in found)
        test = next((name for name in TEST_NAMES if name in found), None)
        if train and test is not None:
            return Layout(CsvSplit(path, train), CsvSplit(path, (test,)), "csv")
    note = f"{path} has no test split: {FIFTH}."
    return Layout(CsvSplit(path, part="train"), CsvSplit(path, part="test"), "csv", (note,))


def _flat(path: Path) -> Layout | None:
    """Return the layout ROOT/CLASS/*."""
    names = FolderSplit(path).names
    if {name.lower() for name in names} & {*TRAIN_NAMES, *TEST_NAMES}:
        return None
    if sum(_has_images(path / name) for name in names) < 2:
        return None
    note = f"{path} has no test split: {FIFTH}."
    return Layout(FolderSplit(path, "train"), FolderSplit(path, "test"), "folder", (note,))


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
