import json
import platform
import subprocess
from importlib.metadata import version

import pytest

from lmcbench.results import provenance


@pytest.fixture
def fresh():
    """Both answers are kept for the process: forget them before and after."""
    for kept in (provenance.versions, provenance.source_revision):
        kept.cache_clear()
    yield
    for kept in (provenance.versions, provenance.source_revision):
        kept.cache_clear()


def test_versions_are_the_installed_ones():
    found = provenance.versions()
    assert list(found) == ["python", *provenance.PACKAGES]
    assert found["python"] == platform.python_version()
    assert found["numpy"] == version("numpy")


@pytest.mark.usefixtures("fresh")
def test_a_package_that_is_not_installed_is_null(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package-here"))
    assert provenance.versions()["no-such-package-here"] is None


def git(folder, *arguments):
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *who, "-C", str(folder), *arguments], check=True, capture_output=True)


@pytest.mark.usefixtures("fresh")
def test_the_revision_is_of_the_checkout_that_holds_the_package(tmp_path, monkeypatch):
    module = tmp_path / "provenance.py"
    module.write_text("x = 1\n")
    monkeypatch.setattr(provenance, "__file__", str(module))
    assert provenance.source_revision() is None  # no repository

    provenance.source_revision.cache_clear()
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "first")
    assert provenance.source_revision() is None  # somebody else's repository around an installed package

    provenance.source_revision.cache_clear()
    git(tmp_path, "add", "provenance.py")
    git(tmp_path, "commit", "-q", "-m", "second")
    found = provenance.source_revision()
    head = subprocess.run(
        ["git", "-C", tmp_path, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert found == {"commit": head.stdout.strip(), "dirty": False}

    provenance.source_revision.cache_clear()
    module.write_text("x = 2\n")
    assert provenance.source_revision() == {"commit": head.stdout.strip(), "dirty": True}


@pytest.mark.usefixtures("fresh")
def test_without_git_the_revision_is_unknown(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.source_revision() is None


def test_nothing_names_a_path_of_the_machine():
    assert "/" not in json.dumps([provenance.versions(), provenance.source_revision()])


def test_peak_memory_is_in_bytes_and_never_falls():
    before = provenance.peak_resident_bytes()
    held = bytearray(64 * 2**20)
    after = provenance.peak_resident_bytes()
    del held
    assert 2**20 < before <= after < 2**40
    assert provenance.peak_resident_bytes() >= after
