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


def real_data() -> Path:
    """LMCBENCH_DATA, else shared/data beside the repository."""
    given = os.environ.get("LMCBENCH_DATA")
    folder = Path(given) if given else Path(__file__).parents[2].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist (set LMCBENCH_DATA)")
    return folder


def open_or_skip(name, session_cache):
    folder = real_data()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMCBENCH_CACHE", str(session_cache))
        try:
            return open_dataset(name, folder)
        except UserError as error:
            pytest.skip(f"no real data: {error}")


@pytest.fixture(scope="session")
def fashion(session_cache):
    return open_or_skip("fashion-mnist", session_cache)


@pytest.fixture(scope="session")
def photographs(session_cache):
    return open_or_skip("cifar10-jpeg", session_cache)
