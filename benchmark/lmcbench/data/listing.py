"""What `lmcbench data` shows: every data set and shifted test set of the tables, and whether it is here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lmcbench.data.find_files import data_folder
from lmcbench.data.shifted_sets import SHAPE, find_shifted, how_to_get
from lmcbench.data.sources import SOURCES, find
from lmcbench.data.user_datasets import find_own
from lmcbench.errors import UserError
from lmcbench.spec.evaluation_shifts import SHIFTED


@dataclass(frozen=True)
class Listing:
    """One data set.

    Attributes:
        name: as suites call it.
        summary: what it is, in a line.
        licence: as its authors state it.
        classes: how many.
        shape: channels, height, width.
        sizes: images of the training and the test split.
        bytes: size of its files on the disk, None where they are not here.
        found: the folder or package it comes from, None where it is not here.
        hint: what to do, where it is not here.
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
    """Every data set of the table, in its order; nothing is decoded or downloaded.

    Raises:
        UserError: where the data folder does not exist.
    """
    folder = data_folder(data_dir)
    return [_listing(name, folder) for name in SOURCES]


def list_shifted(data_dir: Path | None = None) -> list[Listing]:
    """Every shifted test set likewise; its only split is a test split.

    Raises:
        UserError: where the data folder does not exist.
    """
    folder = data_folder(data_dir)
    return [_shifted_listing(name, folder) for name in SHIFTED]


def describe_location(name: str, data_dir: Path | None = None) -> str:
    """Where the data set or shifted test set `name` was found, or what to do, in a line; also a user's own.

    Raises:
        UserError: where the data folder does not exist.
    """
    folder = data_folder(data_dir)
    if name in SHIFTED:
        return _where(_shifted_listing(name, folder))
    if name not in SOURCES:
        own = find_own(name, folder)
        return f"found in {own}" if own is not None else "not here, and not in the table of 'lmcbench data'"
    return _where(_listing(name, folder))


def _where(listing: Listing) -> str:
    return f"found in {listing.found}" if listing.found is not None else f"not here. {listing.hint}"


def _listing(name: str, folder: Path | None) -> Listing:
    source = SOURCES[name]
    size: int | None = None
    place: str | None = None
    hint: str | None = None
    if source.embedded is not None:
        place = "scikit-learn"
    else:
        try:
            found, refused = find(name, folder)
        except UserError as error:
            found, refused = None, [str(error)]
        if found is not None:
            place = str(found.folder)
            size = sum(f.stat().st_size for f in (*found.train, *found.test))
        elif source.hub is not None:
            hint = " ".join([*refused, f"Run 'lmcbench data fetch {name}', or name a folder by --data-dir."])
        else:
            put = f"Put its parquet files into DIR/{name.replace('-', '_')} and name DIR by --data-dir."
            hint = " ".join([*refused, put])
    return Listing(
        name, source.summary, source.licence, source.classes, source.shape, source.sizes, size, place, hint
    )


def _shifted_listing(name: str, folder: Path | None) -> Listing:
    entry, found = SHIFTED[name], find_shifted(name, folder)
    summary = f"{entry.summary}; an evaluation shift of {' and '.join(entry.bases)}"
    return Listing(
        name,
        summary,
        entry.licence,
        entry.classes,
        SHAPE,
        (0, max(entry.sizes.values())),
        None if found is None else sum(f.stat().st_size for f in found.glob("*.npy")),
        None if found is None else str(found),
        how_to_get(name) if found is None else None,
    )
