"""Real data for the tests that need them, and a cache of their own for all."""

import os
from pathlib import Path

import pytest

from lmcbench.data.sources import open_dataset
from lmcbench.errors import UserError


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, session_cache):
    monkeypatch.setenv("LMCBENCH_CACHE", str(session_cache))


# Read once, before tests set the variable for their own ends.
REAL = Path(os.environ.get("LMCBENCH_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


def open_or_skip(name, session_cache):
    if not REAL.is_dir():
        pytest.skip(f"no real data: {REAL} does not exist (set LMCBENCH_DATA)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMCBENCH_CACHE", str(session_cache))
        try:
            return open_dataset(name, REAL)
        except UserError as error:
            pytest.skip(f"no real data: {error}")


@pytest.fixture(scope="session")
def fashion(session_cache):
    return open_or_skip("fashion-mnist", session_cache)


@pytest.fixture(scope="session")
def photographs(session_cache):
    return open_or_skip("cifar10-jpeg", session_cache)
