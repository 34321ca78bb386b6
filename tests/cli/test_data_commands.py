"""What the command line says about data: where they were found, what is missing, and what to do."""

from __future__ import annotations

import json
import os

import pytest

from data.images import encode, pictures, write_parquet
from lmcbench.data.sources import SOURCES
from lmcbench.spec.evaluation_shifts import SHIFTED


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """An empty working folder and empty caches."""
    for name in [n for n in os.environ if n.startswith(("LMCBENCH_", "HF_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LMCBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def folder(tmp_path):
    """A data folder with a whole, tiny Fashion-MNIST in the hub's layout."""
    place = tmp_path / "sets" / "fashion_mnist"
    for split, n in (("train", 40), ("test", 20)):
        data = [encode(p) for p in pictures(n, (1, 28, 28))]
        labels = [i % 10 for i in range(n)]
        write_parquet(
            place / f"{split}-00000-of-00001.parquet", data, labels, image="image", names=list("abcdefghij")
        )
    return place


def test_every_data_set_with_what_to_do_about_it(lmcbench, folder, monkeypatch):
    _, out, _ = lmcbench("data", "--data-dir", folder.parent, "--json")
    listed = {entry["name"]: entry for entry in json.loads(out)}
    assert list(listed) == [*SOURCES, *SHIFTED]
    assert listed["digits"]["found"] == "scikit-learn"
    fashion = listed["fashion-mnist"]
    assert (fashion["found"], fashion["hint"]) == (str(folder), None)
    assert fashion["bytes"] == sum(f.stat().st_size for f in folder.iterdir())
    assert listed["cifar10"]["found"] is None
    assert "lmcbench data fetch cifar10" in listed["cifar10"]["hint"]
    assert all((e["found"] is None) == (e["hint"] is not None) for e in listed.values())
    monkeypatch.setenv("LMCBENCH_DATA", str(folder.parent))
    text = lmcbench("data")[1]
    assert str(folder) in text
    assert "lmcbench data fetch cifar10" in text
    assert "lmcbench data fetch fashion-mnist" not in text


def test_suites_and_doctor_say_where_the_data_are(lmcbench, folder, monkeypatch):
    assert "found in scikit-learn" in lmcbench("suites", "digits")[1]
    code, out, err = lmcbench("data", "--data-dir", "nowhere")
    assert (code, out) == (2, "")
    assert "The data folder nowhere does not exist" in err
    monkeypatch.setenv("LMCBENCH_DATA", str(folder.parent))
    data = json.loads(lmcbench("doctor", "--json")[1])["data"]
    assert data["fashion-mnist"]["found"] == str(folder)
    assert data["svhn"]["found"] is None


def test_fetching(lmcbench):
    assert "digits is here: 1,442 training and 355 test images" in lmcbench("data", "fetch", "digits")[1]
    code, out, err = lmcbench("data", "fetch", "cifar")
    assert (code, out) == (2, "")
    assert "Unknown data set 'cifar'. Did you mean 'cifar10'" in err
    code, _, err = lmcbench("data", "fetch", "cifar10-jpeg")
    assert code == 2
    assert "It is not on the hub" in err


def test_a_hub_out_of_reach_is_one_message(lmcbench, monkeypatch):
    # `datasets` has read HF_HUB_OFFLINE already if another test imported it
    import datasets

    def unreachable(*arguments, **options):
        raise ConnectionError("Couldn't reach the hub.\nAttempt 1 of 5")

    monkeypatch.setattr(datasets, "load_dataset_builder", unreachable)
    code, out, err = lmcbench("data", "fetch", "cifar10")
    assert (code, out) == (2, "")
    assert "uoft-cs/cifar10 at revision 0b271498 could not be fetched: Couldn't reach the hub." in err
    assert len(err.splitlines()) == 1


def test_a_run_without_its_data_says_where_it_looked_and_writes_nothing(lmcbench, folder, tmp_path):
    before = sorted(tmp_path.iterdir())
    code, _, err = lmcbench("run", "cifar10-shift", "--data-dir", folder.parent)
    assert code == 2
    assert "Data set cifar10 was not found. Looked for parquet files in " in err
    for place in (folder.parent / "cifar10", tmp_path / "hub"):
        assert str(place) in err
    assert "lmcbench data fetch cifar10" in err
    assert "--data-dir or LMCBENCH_DATA" in err
    assert "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before
