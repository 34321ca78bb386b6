"""Real images, offline: a reduced cell of each suite's data is trained and measured."""

from __future__ import annotations

import json

import pytest

from lmcbench.results.record_parser import read_record
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.plan import plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.canonical import digest
from lmcbench.spec.cells import expand
from lmcbench.spec.suite_files import parse_suite
from real_data import session_folder, write_excerpt

SUITE = """
name = "reduced"
version = 1
description = "for tests"
shifts = [{shifts}]
forks = [0]
replicates = 1
evaluations = ["translate-2"]
[data]
name = "{data}"
train_size = 300
test_size = 100
[protocol]
alphas = 5
calibration = 50
train_eval = 60
[recipes.short]
lr = 0.1
batch_size = 25
epochs = {epochs}
augmentation = [{augmentation}]
[[architectures]]
name = "{architecture}"
recipe = "short"
kwargs = {{ {kwargs} }}
"""


@pytest.fixture
def cache(tmp_path_factory):
    return session_folder(tmp_path_factory)


def measured(tmp_path, monkeypatch, cache, **settings):
    """Return the records of a reduced suite by shift; skip the test if the data are missing."""
    monkeypatch.setenv("LMCBENCH_CACHE", str(cache))
    data = write_excerpt(settings["data"], cache, monkeypatch)
    suite = parse_suite(SUITE.format(**settings).encode(), "reduced.toml")
    folder = RunFolder(tmp_path / "run")
    list(run_plan(plan_run(expand(suite), folder), folder, data_dir=data, device="cpu", jobs=1))
    records = [read_record(path) for path in folder.records.iterdir()]
    return {record.shift.name: record for record in records}


def test_fashion(tmp_path, monkeypatch, cache):
    records = measured(
        tmp_path,
        monkeypatch,
        cache,
        data="fashion-mnist",
        shifts='"none", "label-skew", "rotation"',
        augmentation='"shift1"',
        architecture="lmc_lenet",
        kwargs="norm = true",
        epochs=2,
    )
    assert records.keys() == {"none", "label-skew", "rotation"}
    for record in records.values():
        assert (record.status, record.reason) == ("ok", None)
        # ten classes: far better than chance after two epochs
        assert record.siblings[0].splits["view"].error < 0.6
        assert [(d["split"], d["n"]) for d in record.data] == [("train", 300), ("test", 100)]
        curves = record.pairs[0].curves
        assert {"train", "test", "test:translate-2"} <= curves.keys()
        assert (curves["train"].n, curves["test"].n) == (60, 100)
        assert record.protocol["train_eval"]["n"] == 60
    none, skew, turned = (records[name] for name in ("none", "label-skew", "rotation"))
    # one part of the images, whichever of them each sibling sees
    assert none.protocol["train_eval"] == skew.protocol["train_eval"]
    assert len(none.protocol["train_eval"]["items"]) == len(digest([]))
    assert none.protocol["train_eval"] != turned.protocol["train_eval"]
    curves = skew.pairs[0].curves
    assert curves["train_a"].n + curves["train_b"].n == 60
    assert curves["train"].loss[2] * 60 == pytest.approx(
        curves["train_a"].loss[2] * curves["train_a"].n + curves["train_b"].loss[2] * curves["train_b"].n
    )
    assert turned.pairs[0].curves.keys() >= {"test_a", "test_b"}


@pytest.mark.slow_tier
def test_cifar10_as_jpeg_is_never_called_cifar10(tmp_path, monkeypatch, cache):
    records = measured(
        tmp_path,
        monkeypatch,
        cache,
        data="cifar10-jpeg",
        shifts='"channels"',
        augmentation='"flip"',
        architecture="lmc_resnet",
        kwargs="width = 4",
        epochs=16,
    )
    [record] = records.values()
    assert (record.status, record.reason) == ("ok", None)
    assert {d["name"] for d in record.data} == {"cifar10-jpeg"}
    # ten classes: a loss well under ln 10, though each sibling sees one colour channel of 300 images
    assert max(sibling.train_loss for sibling in record.siblings) < 2.1
    assert record.pairs[0].curves_uncalibrated is not None
    text = json.dumps(record.model_dump(mode="json"))
    assert str(cache) not in text
    assert str(tmp_path) not in text
