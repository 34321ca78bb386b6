"""Real data for the tests that need them, and a cache apart from the user's for all."""

import pytest

from real_data import open_excerpt, open_real, session_folder


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory):
    return session_folder(tmp_path_factory)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, session_cache):
    monkeypatch.setenv("LMCBENCH_CACHE", str(session_cache))


@pytest.fixture(scope="session")
def fashion(session_cache):
    """The first images of Fashion-MNIST."""
    return open_excerpt("fashion-mnist", session_cache)


@pytest.fixture(scope="session")
def photographs(session_cache):
    """The first images of CIFAR-10, as JPEG."""
    return open_excerpt("cifar10-jpeg", session_cache)


@pytest.fixture(scope="session")
def whole_fashion(session_cache):
    return open_real("fashion-mnist", session_cache)


@pytest.fixture(scope="session")
def whole_photographs(session_cache):
    return open_real("cifar10-jpeg", session_cache)
