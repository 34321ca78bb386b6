"""What the command line says about data: found where, missing, and what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from lmcbench.data.sources import SOURCES
from lmcbench.spec.evaluation_shifts import SHIFTED


@pytest.fixture
def lmcbench(tmp_path):
    """The command line in an empty folder, with caches of its own and no network."""

    def run(*arguments, **environment):
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("LMCBENCH_", "HF_", "XDG_"))}
        own = {"LMCBENCH_CACHE": tmp_path / "cache", "HF_HOME": tmp_path / "hub", "HF_HUB_OFFLINE": "1"}
        (tmp_path / "work").mkdir(exist_ok=True)
        return subprocess.run(
            [sys.executable, "-m", "lmcbench", *arguments],
            cwd=tmp_path / "work",
            env=keep | {k: str(v) for k, v in (own | environment).items()},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture
def folder(tmp_path):
    """A data folder with a whole, tiny Fashion-MNIST in the hub's layout."""
    from data.images import encode, pictures, write_parquet

    place = tmp_path / "sets" / "fashion_mnist"
    for split, n in (("train", 40), ("test", 20)):
        data = [encode(p) for p in pictures(n, (1, 28, 28))]
        labels = [i % 10 for i in range(n)]
        write_parquet(
            place / f"{split}-00000-of-00001.parquet", data, labels, image="image", names=list("abcdefghij")
        )
    return place


def test_every_data_set_with_what_to_do_about_it(lmcbench, folder):
    done = lmcbench("data", "--data-dir", str(folder.parent), "--json")
    listed = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert list(listed) == [*SOURCES, *SHIFTED]
    assert listed["digits"]["found"] == "scikit-learn"
    fashion = listed["fashion-mnist"]
    assert (fashion["found"], fashion["hint"]) == (str(folder), None)
    assert fashion["bytes"] == sum(f.stat().st_size for f in folder.iterdir())
    assert listed["cifar10"]["found"] is None
    assert "lmcbench data fetch cifar10" in listed["cifar10"]["hint"]
    assert all((e["found"] is None) == (e["hint"] is not None) for e in listed.values())
    text = lmcbench("data", LMCBENCH_DATA=folder.parent).stdout
    assert str(folder) in text
    assert "lmcbench data fetch cifar10" in text
    assert "lmcbench data fetch fashion-mnist" not in text


def test_suites_and_doctor_say_where_the_data_are(lmcbench, folder):
    assert "found in scikit-learn" in lmcbench("suites", "digits").stdout
    data = json.loads(lmcbench("doctor", "--json", LMCBENCH_DATA=folder.parent).stdout)["data"]
    assert data["fashion-mnist"]["found"] == str(folder)
    assert data["svhn"]["found"] is None
    said = lmcbench("data", "--data-dir", "nowhere")
    assert (said.returncode, said.stdout) == (2, "")
    assert "The data folder nowhere does not exist" in said.stderr


def test_fetching(lmcbench):
    assert "digits is here: 1,442 training and 355 test images" in lmcbench("data", "fetch", "digits").stdout
    unknown = lmcbench("data", "fetch", "cifar")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "Unknown data set 'cifar'. Did you mean 'cifar10'" in unknown.stderr
    alone = lmcbench("data", "fetch", "cifar10-jpeg")
    assert alone.returncode == 2
    assert "It is not on the hub" in alone.stderr
    offline = lmcbench("data", "fetch", "cifar10")
    assert offline.returncode == 2
    assert "could not be fetched" in offline.stderr
    assert "Traceback" not in offline.stderr


def test_a_run_without_its_data_says_where_it_looked_and_writes_nothing(lmcbench, folder, tmp_path):
    done = lmcbench("run", "cifar10-shift", "--data-dir", str(folder.parent))
    assert done.returncode == 2
    assert "Data set cifar10 was not found. Looked for parquet files in " in done.stderr
    for place in (folder.parent / "cifar10", tmp_path / "hub"):
        assert str(place) in done.stderr
    assert "lmcbench data fetch cifar10" in done.stderr
    assert "--data-dir or LMCBENCH_DATA" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "work").iterdir()) == []
