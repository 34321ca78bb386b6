"""The real data sets that some tests need, decoded once for all test processes of a session."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from lmcbench.data.dataset import Dataset
from lmcbench.data.sources import open_dataset
from lmcbench.errors import UserError

# read once, before tests set the variable themselves
REAL = Path(os.environ.get("LMCBENCH_DATA") or Path(__file__).parents[2] / "shared" / "data")


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the processes of a test session share."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "real-data"
    folder.mkdir(exist_ok=True)
    return folder


def open_real(name: str, cache: Path) -> Dataset:
    """Open a real data set with `cache`, or skip the test."""
    if not REAL.is_dir():
        pytest.skip(f"no real data: {REAL} does not exist (set LMCBENCH_DATA)")
    with pytest.MonkeyPatch.context() as patch, (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        patch.setenv("LMCBENCH_CACHE", str(cache))
        try:
            return open_dataset(name, REAL)
        except UserError as error:
            pytest.skip(f"no real data: {error}")
