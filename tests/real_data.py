"""Real data for tests: whole data sets, or the first images of each split; decoded once a session."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmcbench.data.cache import file_hashes
from lmcbench.data.dataset import Dataset
from lmcbench.data.open_dataset import open_dataset
from lmcbench.data.sources import SOURCES
from lmcbench.errors import UserError

EXCERPT = {"train": 1000, "test": 300}
"""Images of each split that `write_excerpt` copies."""

# read once, before tests set the variable themselves
REAL = Path(os.environ.get("LMCBENCH_DATA") or Path(__file__).parents[2] / "shared" / "data")


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the processes of a test session share."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "real-data"
    folder.mkdir(exist_ok=True)
    return folder


def write_excerpt(name: str, shared: Path, patch: pytest.MonkeyPatch) -> Path:
    """Return a data folder with the first images of a real data set, or skip the test.

    Args:
        name: of a data set that is found as `REAL/FOLDER/SPLIT-*.parquet`.
        shared: the folder of `session_folder`.
        patch: where the files' sha256 are part of the source, it expects the excerpt's.
    """
    folder = {"fashion-mnist": "fashion_mnist", "cifar10-jpeg": "cifar10"}[name]
    files = [f"{folder}/{split}-00000-of-00001.parquet" for split in EXCERPT]
    if not all((REAL / file).is_file() for file in files):
        pytest.skip(f"no real data: {REAL / folder} is missing (set LMCBENCH_DATA)")
    data = shared / "excerpt"
    with _locked(shared, name):
        for file, rows in zip(files, EXCERPT.values(), strict=True):
            if not (data / file).exists():
                (data / folder).mkdir(parents=True, exist_ok=True)
                pq.write_table(
                    pa.Table.from_batches([next(pq.ParquetFile(REAL / file).iter_batches(rows))]), data / file
                )
    if (source := SOURCES[name]).sha256 is not None:
        hashes = dict(zip(EXCERPT, file_hashes([data / file for file in files]), strict=True))
        patch.setitem(SOURCES, name, replace(source, sha256=hashes))
    return data


def open_excerpt(name: str, shared: Path) -> Dataset:
    """Open the excerpt of a real data set with its cache in `shared`, or skip the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMCBENCH_CACHE", str(shared))
        data = write_excerpt(name, shared, patch)
        with _locked(shared, name):
            return open_dataset(name, data)


def open_real(name: str, shared: Path) -> Dataset:
    """Open a whole real data set with its cache in `shared`, or skip the test."""
    if not REAL.is_dir():
        pytest.skip(f"no real data: {REAL} does not exist (set LMCBENCH_DATA)")
    with pytest.MonkeyPatch.context() as patch, _locked(shared, name):
        patch.setenv("LMCBENCH_CACHE", str(shared))
        try:
            return open_dataset(name, REAL)
        except UserError as error:
            pytest.skip(f"no real data: {error}")


@contextlib.contextmanager
def _locked(shared: Path, name: str) -> Iterator[None]:
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
