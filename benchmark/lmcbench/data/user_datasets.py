"""A user's own data set: a folder of images, parquet or Arrow files, or a list of images in a CSV file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from lmcbench.data.cache import CachedSplit, Reader, open_split
from lmcbench.data.csv_split import LABEL_COLUMNS, SPLIT_COLUMNS, CsvSplit, CsvTable
from lmcbench.data.dataset import Dataset
from lmcbench.data.decode import ColouredError, Resize
from lmcbench.data.find_files import belongs_to, find_parquet
from lmcbench.data.folder_split import FolderSplit, folders_in, images_in
from lmcbench.data.parquet import ParquetSplit
from lmcbench.data.tar_split import TarSplit
from lmcbench.errors import UserError
from lmcbench.spec.datasets import is_path
from lmcbench.spec.domains import FOLDER
from lmcbench.untrusted import check_content, printable

TRAIN_NAMES = ("train", "training", "trn", "tr")
"""Names of a training split, in any case."""

TEST_NAMES = ("test", "testing", "tst", "val", "valid", "validation", "dev", "eval", "evaluation")
"""Names of a test split, in order of preference, in any case."""

LISTS = ("metadata.csv", "labels.csv", "data.csv", "annotations.csv")
"""Lists of images in a folder."""

Found = TypeVar("Found")

OwnReader = CsvSplit | FolderSplit | ParquetSplit | TarSplit


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


ARCHIVES = (
    ".zip",
    ".gz",
    ".tgz",
    ".bz2",
    ".xz",
    ".zst",
    ".7z",
    ".rar",
    ".npz",
    ".npy",
    ".mat",
    ".h5",
    ".pkl",
)
"""Suffixes of files that hold images, but are not read."""


def user_dataset_name(path: Path) -> str:
    """Return the name of the data set at `path`: the last part, without folders of the machine."""
    return path.resolve().name.removesuffix(".parquet")


def open_user_dataset(path: Path, resize: Resize | None = None, domain: str | None = None) -> Dataset:
    """Open the user's data set at `path`, named by the last part of it.

    - folders of images: ROOT/train/CLASS/* and ROOT/test/CLASS/* (also val, validation, dev, ...), or
      ROOT/CLASS/*;
    - train-*.parquet and test-*.parquet, or one parquet file;
    - a folder of `save_to_disk` of `datasets`;
    - WebDataset shards: train-*.tar and test-*.tar, also in folders, or *.tar;
    - a CSV file with columns of files and labels: in each split's folder, train.csv and test.csv, or one for
      both, with a column `split` or without.

    Labels are numbers or text. Without a test split with labels, every fifth image of each class (of each
    domain), in file order, is the test split.

    Args:
        path: the folder or file.
        resize: how images of any size become square; None: all must have one size.
        domain: the column of domains, or "folder": each folder of classes is in a folder of a domain; None:
            the images have no domains.

    Raises:
        UserError: for a folder of another layout, or images and labels that cannot be read.
    """
    name = user_dataset_name(path)
    found = find_layout(path, domain)
    if isinstance(found.train, FolderSplit) and isinstance(found.test, FolderSplit):
        names = [part.listed(None).classes for part in (found.train, found.test)]
        _check_classes(path, *names)  # before images are decoded
    first = open_split(found.train, f"{name}, train", resize=resize)
    channels, classes = first.images.images.shape[1], len(first.classes)
    try:
        second = open_split(found.test, f"{name}, test", channels, classes, resize=resize)
    except ColouredError:  # the training images alone are grey
        first = open_split(found.train, f"{name}, train", 3, resize=resize)
        second = open_split(found.test, f"{name}, test", 3, classes, resize=resize)
    _check_agreement(path, first, second)
    notes = (*found.notes, *_nested_note(path, found, domain))
    return Dataset(name, first.images, second.images, first.classes, source=found.source, notes=notes)


@dataclass(frozen=True)
class Layout:
    """The readers of both splits, the kind of files, and sentences on parts that are not used."""

    train: Reader
    test: Reader
    source: str
    notes: tuple[str, ...] = ()


def find_layout(path: Path, domain: str | None = None) -> Layout:
    """Return the readers of the data set at `path`; no image is read. Arguments as `open_user_dataset`.

    Raises:
        UserError: for a folder of another layout.
    """
    if path.is_file():
        if path.suffix.lower() == ".csv":
            return _one_list(CsvTable(path), domain)
        if path.suffix.lower() == ".tar":
            return _shards(path.parent, [path], domain)
        if path.suffix.lower() in ARCHIVES:
            check_content(path)
            raise UserError(
                f"{path} is not a data set: a single file must be parquet, Arrow, .csv or .tar (WebDataset). "
                "Unpack the archive, and give the folder."
            )
        return replace(_halves(ParquetSplit((path,), domain=domain), "parquet", path), notes=())
    found = (
        _arrow(path, domain)
        or _split_folders(path, domain)
        or _parquet(path, domain)
        or _lists(path, domain)
        or _flat(path, domain)
        or _tar(path, domain)
    )
    if found is None:
        inside = "DOMAIN/CLASS" if domain == FOLDER else "CLASS"
        raise UserError(
            f"{path} is not a data set: it needs train/{inside}/*.png and test/{inside}/*.png, "
            f"{inside}/*.png, train-*.parquet and test-*.parquet, a folder of save_to_disk, "
            "train-*.tar and test-*.tar of WebDataset, or train.csv with columns of files and labels."
        )
    return found


def _halves(
    reader: OwnReader, source: str, path: Path, lacks: str = "test split", notes: Sequence[str] = ()
) -> Layout:
    """Return the layout of images in `path` without a test split."""
    of_each = "class" if reader.domain is None else "class of each domain"
    note = f"{path} has no {lacks}: every fifth image of each {of_each} is the test set."
    return Layout(replace(reader, part="train"), replace(reader, part="test"), source, (*notes, note))


def _first(names: Sequence[str], table: Mapping[str, Found]) -> Found | None:
    """Return what a table has under the first of `names` under which it has something."""
    return next((table[name] for name in names if table.get(name)), None)


def _children(path: Path) -> dict[str, Path]:
    """Return the folders in `path` by their names in lower case."""
    return {p.name.lower(): p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")}


def _labelled(folder: Path, domain: str | None) -> CsvSplit | FolderSplit | None:
    """Return the reader of a split's folder; None if its images have no labels."""
    nested = _classes_in(folder, domain) if domain == FOLDER else None
    for name in LISTS:
        table = CsvTable(folder / name)
        has_labels = table.path.is_file() and table.find_column(LABEL_COLUMNS) is not None
        if has_labels and (nested is None or domain in table.columns):
            return CsvSplit(table, domain=domain)
    return nested or _classes_in(folder, domain)


def _classes_in(folder: Path, domain: str | None) -> FolderSplit | None:
    """Return the reader of folders of classes; None if there is none with images."""
    table = None
    if domain not in (None, FOLDER):
        tables = (CsvTable(place / name) for place in (folder, folder.parent) for name in LISTS)
        table = next((t for t in tables if t.path.is_file() and domain in t.columns), None)
    found = FolderSplit(folder, domain=domain, table=table)
    return found if any(map(_has_images, found.class_folders)) else None


def _has_images(folder: Path) -> bool:
    return bool(images_in(folder))


def _split_folders(path: Path, domain: str | None) -> Layout | None:
    """Return the layout ROOT/train, ROOT/test; a test split without labels is passed over."""
    children = _children(path)
    train = _first(TRAIN_NAMES, children)
    reader = None if train is None else _labelled(train, domain)
    if reader is None:
        return None
    notes: list[str] = []
    chosen: Reader | None = None
    for folder in (children[name] for name in TEST_NAMES if name in children):
        test = _labelled(folder, domain)
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
    return _halves(reader, source, path, "test set with labels", notes)


def _parquet(path: Path, domain: str | None) -> Layout | None:
    for split in TEST_NAMES:
        if any(belongs_to(p.relative_to(path), split) for p in path.rglob("*.parquet")):
            found = find_parquet(path, ("train", split))
            if found is not None:
                train, test = (ParquetSplit(files, domain=domain) for files in (found.train, found.test))
                return Layout(train, test, "parquet")
    return None


def _arrow(path: Path, domain: str | None) -> Layout | None:
    """Return the layout of `DatasetDict.save_to_disk` or `Dataset.save_to_disk`."""
    if (path / "dataset_dict.json").is_file():
        children = _children(path)
        files = {name: tuple(sorted(folder.glob("*.arrow"))) for name, folder in children.items()}
        train = _first(TRAIN_NAMES, files)
        if train is None:
            raise UserError(f"{path} has no split 'train'. It has {', '.join(children)}.")
        test = _first(TEST_NAMES, files)
        if test is not None:
            return Layout(ParquetSplit(train, domain=domain), ParquetSplit(test, domain=domain), "arrow")
    elif (path / "state.json").is_file():
        train = tuple(sorted(path.glob("*.arrow")))
    else:
        return None
    return _halves(ParquetSplit(train, domain=domain), "arrow", path)


def _tar(path: Path, domain: str | None) -> Layout | None:
    """Return the layout of WebDataset shards."""
    files = sorted(path.rglob("*.tar"))
    return _shards(path, files, domain) if files else None


def _shards(path: Path, files: Sequence[Path], domain: str | None) -> Layout:
    if domain is not None:
        raise UserError(f"{path} has WebDataset shards, whose images have no domains (domain = {domain!r}).")
    parts = {
        split: tuple(file for file in files if belongs_to(Path(str(file.relative_to(path)).lower()), split))
        for split in (*TRAIN_NAMES, *TEST_NAMES)
    }
    train, test = _first(TRAIN_NAMES, parts), _first(TEST_NAMES, parts)
    if train is not None and test is not None:
        return Layout(TarSplit(train), TarSplit(test), "webdataset")
    return _halves(TarSplit(train or tuple(files)), "webdataset", path)


def _lists(path: Path, domain: str | None) -> Layout | None:
    """Return the layout of lists in ROOT: train.csv and test.csv, or one list."""
    lists = {p.stem.lower(): CsvTable(p) for p in sorted(path.glob("*.csv"))}
    train = _first(TRAIN_NAMES, lists)
    if train is not None and train.find_column(LABEL_COLUMNS) is not None:
        tests = [lists[name] for name in TEST_NAMES if name in lists]
        labelled = [test for test in tests if test.find_column(LABEL_COLUMNS) is not None]
        notes = [f"{test.path} has no labels and is not used." for test in tests if test not in labelled]
        if labelled:
            test = CsvSplit(labelled[0], domain=domain)
            return Layout(CsvSplit(train, domain=domain), test, "csv", tuple(notes))
        found = _one_list(train, domain)
        return Layout(found.train, found.test, "csv", (*notes, *found.notes))
    one = next((path / name for name in LISTS if (path / name).is_file()), None)
    if one is None:
        return None
    table = CsvTable(one)
    if table.find_column(LABEL_COLUMNS) is None and _classes_in(path, domain) is not None:
        return None
    return _one_list(table, domain)


def _one_list(table: CsvTable, domain: str | None) -> Layout:
    column = table.find_column(SPLIT_COLUMNS)
    if column is not None:
        found = {row[column].strip().lower() for row in table.rows}
        train = tuple(name for name in TRAIN_NAMES if name in found)
        test = next((name for name in TEST_NAMES if name in found), None)
        if train and test is not None:
            of_test = CsvSplit(table, (test,), domain=domain)
            return Layout(CsvSplit(table, train, domain=domain), of_test, "csv")
    return _halves(CsvSplit(table, domain=domain), "csv", table.path)


def _flat(path: Path, domain: str | None) -> Layout | None:
    """Return the layout ROOT/CLASS/* or ROOT/DOMAIN/CLASS/*."""
    if {name.lower() for name in folders_in(path)} & {*TRAIN_NAMES, *TEST_NAMES}:
        return None
    found = _classes_in(path, domain)
    if found is None or sum(map(_has_images, found.class_folders)) < 2:
        return None
    return _halves(found, "folder", path)


def looks_nested(reader: FolderSplit) -> bool:
    """Return whether folders that were taken for classes have the same folders inside, as domains have."""
    inner = [folders_in(folder) for folder in reader.class_folders]
    times = Counter(name for names in inner for name in names)
    common = {name for name, n in times.items() if n > 1}
    return len(common) > 1 and all(common & set(names) for names in inner)


def _nested_note(path: Path, found: Layout, domain: str | None) -> list[str]:
    """Return a note if folders that were taken for classes look like domains with the same classes."""
    if domain is not None or not isinstance(found.train, FolderSplit) or not looks_nested(found.train):
        return []
    return [
        f"{path}: the folders {', '.join(found.train.names[:3])} were taken for classes. If they are domains "
        f'with folders of classes, set domain = "{FOLDER}" under [data] of a suite, or --domain {FOLDER}.'
    ]


def _check_agreement(path: Path, train: CachedSplit, test: CachedSplit) -> None:
    """Raise if the splits differ in classes or image size."""
    _check_classes(path, train.classes, test.classes)
    shapes = [s.images.images.shape[1:] for s in (train, test)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{path}: images are {list(shapes[0])} in train, but {list(shapes[1])} in test.")


def _check_classes(path: Path, train: Sequence[str], test: Sequence[str]) -> None:
    if tuple(train) == tuple(test):
        return
    parts = [
        f"{split} alone has {', '.join(map(printable, lacking[:5]))}{', ...' if len(lacking) > 5 else ''}"
        for split, lacking in (
            ("train", [name for name in train if name not in test]),
            ("test", [name for name in test if name not in train]),
        )
        if lacking
    ]
    raise UserError(
        f"{path}: the splits have different classes: {'; '.join(parts) or 'their orders differ'}."
    )
