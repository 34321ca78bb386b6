"""The list that `lmcbench data` shows: every data set and shifted test set, and where it was found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lmcbench.data.find_files import data_folder
from lmcbench.data.open_dataset import find_source, how_to_get_source
from lmcbench.data.shifted_sets import SHAPE, find_shifted, how_to_get
from lmcbench.data.sources import SOURCES
from lmcbench.data.user_datasets import find_user_dataset
from lmcbench.errors import UserError
from lmcbench.spec.evaluation_shifts import SHIFTED


@dataclass(frozen=True)
class Listing:
    """One data set.

    Attributes:
        name: as suites name it.
        summary: what it is, in a line.
        licence: as its authors state it.
        classes: number of classes.
        shape: channels, height, width.
        sizes: images of the training and the test split.
        bytes: size of its files on disk, None if they are missing.
        found: its folder or package, None if it is missing.
        hint: what to do if it is missing.
    """

    name: str
    summary: str
    licence: str
    classes: int
    shape: tuple[int, int, int]
    sizes: tuple[int, int]
    bytes: int | None
    found: str | None
    hint: str | None


def list_datasets(data_dir: Path | None = None) -> list[Listing]:
    """Return every data set of the table, in its order; nothing is decoded or downloaded.

    Raises:
        UserError: if the data folder does not exist.
    """
    folder = data_folder(data_dir)
    return [_listing(name, folder) for name in SOURCES]


def list_shifted(data_dir: Path | None = None) -> list[Listing]:
    """Return every shifted test set likewise; it has no training split.

    Raises:
        UserError: if the data folder does not exist.
    """
    folder = data_folder(data_dir)
    return [_shifted_listing(name, folder) for name in SHIFTED]


def describe_location(name: str, data_dir: Path | None = None) -> str:
    """Return one line on where `name` was found or how to get it: a data set, shifted set or user's path.

    Raises:
        UserError: if the data folder does not exist.
    """
    folder = data_folder(data_dir)
    if name not in SHIFTED and name not in SOURCES:
        own = find_user_dataset(name, folder)
        return f"found in {own}" if own is not None else "not found, and not in the table of 'lmcbench data'"
    listing = _shifted_listing(name, folder) if name in SHIFTED else _listing(name, folder)
    return f"found in {listing.found}" if listing.found is not None else f"not found. {listing.hint}"


def _listing(name: str, folder: Path | None) -> Listing:
    source = SOURCES[name]
    size: int | None = None
    place = "scikit-learn" if source.load is not None else None
    hint: str | None = None
    if source.load is None:
        try:
            found, refused = find_source(name, folder)
        except UserError as error:
            found, refused = None, [str(error)]
        if found is not None:
            place = str(found.folder)
            size = sum(f.stat().st_size for f in (*found.train, *found.test))
        else:
            hint = " ".join([*refused, how_to_get_source(name)])
    return Listing(
        name, source.summary, source.licence, source.classes, source.shape, source.sizes, size, place, hint
    )


def _shifted_listing(name: str, folder: Path | None) -> Listing:
    entry, found = SHIFTED[name], find_shifted(name, folder)
    return Listing(
        name,
        f"{entry.summary}; an evaluation shift of {' and '.join(entry.bases)}",
        entry.licence,
        entry.classes,
        SHAPE,
        (0, max(entry.sizes.values())),
        None if found is None else sum(f.stat().st_size for f in found.glob("*.npy")),
        None if found is None else str(found),
        how_to_get(name) if found is None else None,
    )
