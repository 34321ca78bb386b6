"""Find, download and open the data sets that suites name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from lmcbench.data.cache import file_hashes, open_split
from lmcbench.data.dataset import Dataset, ImageSet, Listed
from lmcbench.data.decode import Resize
from lmcbench.data.find_files import SplitFiles, data_folder, download, find_parquet
from lmcbench.data.parquet import ParquetSplit, default_names
from lmcbench.data.shifted_sets import how_to_get
from lmcbench.data.sources import SOURCES, Source
from lmcbench.data.user_datasets import find_layout, find_user_dataset, open_user_dataset, user_dataset_name
from lmcbench.errors import UserError, unknown
from lmcbench.spec.evaluation_shifts import SHIFTED


def open_dataset(
    name: str, data_dir: Path | None = None, resize: Resize | None = None, domain: str | None = None
) -> Dataset:
    """Open the data set `name`; nothing is downloaded.

    A data set of the table is looked for in the data folder (`data_dir`, else LMCBENCH_DATA), then in the
    hub's cache. Any other name means a user's data set: a path, or a folder or parquet file in the data
    folder. `resize` makes images of any size square; it is for the user's data sets and those of the table
    whose images have many sizes. `domain` is the column of domains, or "folder" for folders DOMAIN/CLASS.

    Raises:
        UserError: for an unknown name, or data that are missing or unreadable.
    """
    folder = data_folder(data_dir)
    if name not in SOURCES:
        return open_user_dataset(_find_own(name, folder), resize, domain)
    source = SOURCES[name]
    if resize is not None and not source.resizable:
        raise UserError(f"Images of {name} have their published size; image_size is for your own data sets.")
    if domain is not None and not source.domains:
        having = ", ".join(n for n, s in SOURCES.items() if s.domains)
        raise UserError(f"Data set {name} has no domains. These have: {having}; and your own data may.")
    if source.load is not None:
        return source.load()
    return _open_found(name, _find_or_explain(name, folder), resize, domain)


def list_splits(
    name: str, data_dir: Path | None = None, domain: str | None = None
) -> tuple[Listed, Listed, list[str]]:
    """Return labels and domains of the training and the test split, and the columns that may be domains.

    No image is read. Arguments as `open_dataset`.

    Raises:
        UserError: as `open_dataset`; for a set of the table that has no files.
    """
    folder = data_folder(data_dir)
    if name not in SOURCES:
        layout = find_layout(_find_own(name, folder), domain)
        train, test, classes = layout.train, layout.test, None
    elif not SOURCES[name].domains:
        raise UserError(f"Data set {name} has no domains.")
    else:
        train, test = _readers(SOURCES[name], _find_or_explain(name, folder), domain)
        classes = SOURCES[name].classes
    first = train.listed(classes)
    return first, test.listed(len(first.classes)), train.columns()


def _find_or_explain(name: str, folder: Path | None) -> SplitFiles:
    """Return the files of a data set of the table; raises `UserError` if there are none."""
    found, refused = find_source(name, folder)
    if found is None:
        places = ", ".join(map(str, _places(name, folder)))
        looked = f"Looked for parquet files in {places}." if places else ""
        parts = [f"Data set {name} was not found.", looked, *refused, how_to_get_source(name)]
        raise UserError(" ".join(filter(None, parts)))
    return found


def fetch_dataset(name: str) -> Dataset:
    """Download `name` at its pinned revision, decode it into the cache and open it.

    Raises:
        UserError: for an unknown name, a set that is not on the hub, or if the hub cannot be reached.
    """
    if name in SHIFTED:
        raise UserError(f"{name} is not on the hub. {how_to_get(name)}")
    if name not in SOURCES:
        raise unknown("data set", name, SOURCES)
    source = SOURCES[name]
    if source.load is not None:
        return source.load()
    if source.hub is None:
        raise UserError(f"Data set {name} cannot be fetched. {how_to_get_source(name)}")
    try:
        found = find_parquet(source.hub.snapshot, source.splits, source.hub.config)
    except UserError:  # an interrupted download: complete it
        found = None
    files = found or download(source.hub, source.splits)
    if source.resizable:  # decoded when a suite says which size
        train, test = (reader.listed(source.classes) for reader in _readers(source, files, None))
        return replace(without_images(name, train, test), source=f"hub:{source.hub.repo}")
    return _open_found(name, files)


def without_images(name: str, train: Listed, test: Listed) -> Dataset:
    """Return a data set with the labels and domains of two splits. Its images are single black pixels.

    Raises:
        UserError: if the splits have different classes.
    """
    if train.classes != test.classes:
        raise UserError(f"Data set {name}: the splits have different classes.")
    splits = [
        ImageSet(np.zeros((len(split.labels), 1, 1, 1), np.uint8), split.labels, domains=split.domains)
        for split in (train, test)
    ]
    return Dataset(name, splits[0], splits[1], train.classes)


def find_source(name: str, folder: Path | None) -> tuple[SplitFiles | None, list[str]]:
    """Find the files of a data set of the table.

    Returns:
        The files (None: not found), and for each place with unsuitable files the reason, as a sentence.
    """
    source = SOURCES[name]
    refused: list[str] = []
    for place in _places(name, folder):
        try:
            found = find_parquet(place, source.splits, None if source.hub is None else source.hub.config)
        except UserError as error:
            if source.hub is None or place != source.hub.snapshot:
                raise
            refused.append(str(error))  # an interrupted download, which `fetch_dataset` completes
            continue
        if found is None:
            continue
        hashes = [*file_hashes(found.train), *file_hashes(found.test)]
        others = [n for n, s in SOURCES.items() if n != name and set(s.sha256.values()) & set(hashes)]
        if others:
            refused.append(f"{place} holds {others[0]}: {SOURCES[others[0]].summary}.")
        elif source.sha256 and list(source.sha256.values()) != hashes:
            refused.append(f"{place} holds other files (by sha256).")
        else:
            return found, refused
    return None, refused


def how_to_get_source(name: str) -> str:
    """Return the sentence that says how to obtain a missing data set of the table."""
    source = SOURCES[name]
    train, test = source.splits
    files = " and ".join(f"{split}-*.parquet" for split in dict.fromkeys((train, test)))
    put = f"put {files} into DIR/{name.replace('-', '_')}"
    if source.hub is not None:
        way = f"Run 'lmcbench data fetch {name}' where the Hugging Face hub can be reached, or {put}"
    else:
        way = f"It is not on the hub: {put}, with the sha256 that the table of sources has,"
    return f"{way} and pass DIR as --data-dir or LMCBENCH_DATA."


def _places(name: str, folder: Path | None) -> list[Path]:
    """Return the folders that may contain the data set: the user's, then the hub's cache."""
    hub = SOURCES[name].hub
    places = [] if folder is None else [folder / n for n in _folder_names(name)]
    return places if hub is None else [*places, hub.snapshot]


def _folder_names(name: str) -> list[str]:
    """Return the names that its folder may have: in the table, on the hub, and in the hub's cache."""
    source = SOURCES[name]
    names = [name, name.replace("-", "_"), *source.folders]
    if source.hub is not None:
        names += [source.hub.repo, source.hub.repo.partition("/")[2], source.hub.cache_name]
    return list(dict.fromkeys(names))


def _readers(source: Source, found: SplitFiles, domain: str | None) -> tuple[ParquetSplit, ParquetSplit]:
    """Return the readers of the training and the test split."""
    if source.splits[0] == source.splits[1]:
        every = ParquetSplit(found.train, source.image, source.label, domain=domain)
        return replace(every, part="train"), replace(every, part="test")
    train, test = (
        ParquetSplit(files, source.image, source.label, domain=domain) for files in (found.train, found.test)
    )
    return train, test


def _open_found(
    name: str, found: SplitFiles, resize: Resize | None = None, domain: str | None = None
) -> Dataset:
    source = SOURCES[name]
    channels = source.shape[0] or None
    train, test = (
        open_split(reader, f"{name}, {split}", channels, source.classes, source.lossless, resize)
        for reader, split in zip(_readers(source, found, domain), ("train", "test"), strict=True)
    )
    if train.classes != test.classes and default_names(source.classes) not in (train.classes, test.classes):
        raise UserError(f"{found.folder}: the classes of {name} have other names in train than in test.")
    hub = source.hub if source.hub is not None and found.folder == source.hub.snapshot else None
    return Dataset(
        name,
        train.images,
        test.images,
        train.classes,
        source="parquet" if hub is None else f"hub:{hub.repo}",
        revision=None if hub is None else hub.revision,
    )


def _find_own(name: str, folder: Path | None) -> Path:
    """Return the path of a user's data set.

    A folder with the name of a published data set is rejected, because its results would be mistaken for
    results on the published one.
    """
    path = find_user_dataset(name, folder)
    if path is None:
        refusal = unknown("data set", name, SOURCES)
        if name and Path(name).exists():
            raise UserError(
                f"Unknown data set {name!r}. For the folder or file of this name, write ./{name}."
            )
        raise UserError(f"{refusal} Your own data set is named by its path, such as ./{Path(name).name}.")
    for published in SOURCES:
        if user_dataset_name(path) in _folder_names(published):
            raise UserError(
                f"{path} has the name of a published data set. For that one, use the name {published!r} and "
                "pass the folder above it as --data-dir; for your own, rename the folder."
            )
    return path
