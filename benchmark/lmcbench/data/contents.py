"""What a data set contains by domain and class, read without its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lmcbench.data.dataset import Dataset, Listed
from lmcbench.data.find_files import data_folder
from lmcbench.data.folder_split import FolderSplit
from lmcbench.data.open_dataset import list_splits, without_images
from lmcbench.data.selection import select
from lmcbench.data.sources import SOURCES
from lmcbench.data.user_datasets import find_layout, find_user_dataset, looks_nested
from lmcbench.spec.domains import FOLDER
from lmcbench.spec.suite import Suite

USUAL = (
    *("domain", "domains", "environment", "env", "hospital", "center", "centre", "site", "clinic"),
    *("style", "camera", "scanner", "device", "location", "writer_id", "writer", "group"),
)
"""Names of columns that are taken for domains in a listing, in any case."""


@dataclass(frozen=True)
class Contents:
    """A data set without its images.

    Attributes:
        name: as it was asked for.
        train: its training split.
        test: its test split.
        domain: the column of domains, or "folder"; None: no domains.
        columns: names of the columns that may be domains.
        notes: sentences on the splits.
    """

    name: str
    train: Listed
    test: Listed
    domain: str | None
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_contents(name: str, data_dir: Path | None = None, domain: str | None = None) -> Contents:
    """Return the contents of a data set, given as a path or as the name of a known set with domains.

    Args:
        name: as suites name it.
        data_dir: the user's data folder.
        domain: the column of domains, or "folder"; None: folders of domains that have the same classes, else
            the first column with a usual name.

    Raises:
        UserError: for an unknown name, data that are missing, or a missing column.
    """
    chosen = domain or usual_domain(name, data_dir)
    train, test, columns = list_splits(name, data_dir, chosen)
    notes: tuple[str, ...] = ()
    if name not in SOURCES:
        path = find_user_dataset(name, data_folder(data_dir))
        notes = () if path is None else find_layout(path, chosen).notes
    return Contents(name, train, test, chosen, tuple(columns), notes)


def usual_domain(name: str, data_dir: Path | None = None) -> str | None:
    """Return what most likely are the domains of a data set; None if nothing is."""
    if name in SOURCES:
        return next(iter(SOURCES[name].domains), None)
    path = find_user_dataset(name, data_folder(data_dir))
    if path is None:
        return None  # the refusal comes when it is opened
    reader = find_layout(path).train
    if isinstance(reader, FolderSplit) and looks_nested(reader):
        return FOLDER
    columns = {column.lower(): column for column in reader.columns()}
    return next((columns[usual] for usual in USUAL if usual in columns), None)


def select_without_images(suite: Suite, data_dir: Path | None = None) -> Dataset:
    """Return the splits and tests by domain of a suite, as `open_suite_data`, with empty images.

    Raises:
        UserError: if the data are missing or lack what the suite names.
    """
    spec = suite.data
    train, test, _ = list_splits(spec.name, data_dir, spec.domain)
    whole = without_images(spec.name, train, test)
    unpinned = spec.model_copy(update={"train_sha256": None, "test_sha256": None, "shifted_sha256": {}})
    return select(whole, unpinned, suite.evaluations)
