"""Shifted test sets in a run: measured on their own images and labels, recorded, submitted, verified."""

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from data.images import write_cifar10
from lmcbench.ensemble.predictions import softmax
from lmcbench.errors import UserError
from lmcbench.leaderboard.summary import summarize
from lmcbench.results.frame import load_records
from lmcbench.results.record_parser import read_record
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.plan import Finished, plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.cells import Selection, expand
from lmcbench.spec.suite_files import parse_suite
from lmcbench.submission.verify import verify
from submitted import cli, correct_hashes, edit_logits, edit_record, read_logits

SUITE = """
name = "shifted"
version = 1
description = "two shifted test sets beside a transform"
shifts = ["none"]
forks = [0, 1, "independent"]
replicates = 1
evaluations = ["gaussian_noise-3", "cifar10-c:fog-2", "cifar10.1:v6"]

[data]
name = "cifar10"

[recipes.mild]
lr = 0.02
batch_size = 8
epochs = 3

[protocol]
alphas = 5
calibration = 10

[probe]
shifts = ["none"]
images = 12

[[architectures]]
name = "lmc_linear"
recipe = "mild"
"""
SIZES = {"test": 40, "test:gaussian_noise-3": 40, "test:cifar10-c:fog-2": 15, "test:cifar10.1:v6": 23}
LABELS = "test:cifar10.1:v6.labels"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny CIFAR-10, tiny shifted sets of it, a suite, a finished run and its submission."""
    root = tmp_path_factory.mktemp("shifted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("LMCBENCH_CACHE", str(root / "cache"))
        patch.setenv("LMCBENCH_DATA", str(root / "data"))
        pixels, labels = write_cifar10(root / "data" / "cifar10")["test"]
        images = pixels.transpose(0, 2, 3, 1)
        (root / "data" / "cifar10.1").mkdir()
        # other images and another order of labels than the test set's
        np.save(root / "data" / "cifar10.1" / "cifar10.1_v6_data.npy", images[:23][::-1])
        np.save(
            root / "data" / "cifar10.1" / "cifar10.1_v6_labels.npy", np.array(labels[:23][::-1], np.int32)
        )
        (root / "data" / "CIFAR-10-C").mkdir()
        fog = np.concatenate([np.clip(images[:15] // 2 + 20 * s, 0, 255) for s in range(5)])
        np.save(root / "data" / "CIFAR-10-C" / "fog.npy", fog.astype(np.uint8))
        np.save(root / "data" / "CIFAR-10-C" / "labels.npy", np.tile(labels[:15], 5).astype(np.uint8))
        (root / "suite.toml").write_text(SUITE)
        (root / "leaderboard" / "submissions").mkdir(parents=True)
        run = ("run", "suite.toml", "--out", "run", "--device", "cpu", "--jobs", "1", "--measure", "features")
        code, _, err = cli(*run)
        assert code == 0, err
        submit = ("submit", "run", "--suite", "suite.toml", "--name", "tiny", "--author", "A")
        code, _, err = cli(*submit)
        assert code == 0, err
    return root


@pytest.fixture
def folder(place, tmp_path):
    """A copy of the submission, to be forged."""
    return shutil.copytree(place / "leaderboard" / "submissions" / "tiny", tmp_path / "tiny")


def faults(place, folder):
    correct_hashes(folder)
    return "\n".join(map(str, verify(folder, place / "suite.toml").faults))


def stored(root):
    """Every record of a run with its stored predictions."""
    for path in sorted((root / "run" / "records").iterdir()):
        yield (
            json.loads(path.read_bytes()),
            load_file(root / "run" / "predictions" / f"{path.stem}.safetensors"),
        )


def test_every_number_is_of_the_sets_own_images_and_labels(place):
    own = np.load(place / "data" / "cifar10.1" / "cifar10.1_v6_labels.npy")
    for record, tensors in stored(place):
        assert record["status"] == "ok"
        assert {e["split"]: (e["name"], e["n"]) for e in record["data"][2:]} == {
            "test:cifar10-c:fog-2": ("cifar10-c", 15),
            "test:cifar10.1:v6": ("cifar10.1", 23),
        }
        assert tensors[LABELS].tolist() == own.tolist()
        assert "test:gaussian_noise-3.labels" not in tensors
        [pair] = record["pairs"]
        for split, n in SIZES.items():
            labels = tensors.get(f"{split}.labels", tensors["test.labels"])
            logits = tensors[split]
            assert logits.shape == (2, n, 10)
            wrong = (logits.argmax(-1) != labels).mean(-1)
            assert [s["splits"][split]["error"] for s in record["siblings"]] == pytest.approx(wrong)
            curve = pair["curves"][split]
            assert curve["n"] == n
            assert [curve["error"][0], curve["error"][-1]] == pytest.approx(wrong)
            right = (softmax(logits).mean(0).argmax(-1) == labels).mean()
            assert record["ensemble"][split]["ensemble_accuracy"] == pytest.approx(right)
            assert record["functions"][split]["sizes"]["2"]["accuracy"] == pytest.approx(right)
            middle = pair["path_ensemble"][split]["3"]
            assert middle["accuracy_mean"] == pytest.approx(1 - np.mean(curve["error"][::2]))
            assert split in record["soup"]
            assert pair["features"]["splits"][split]["n"] == 12


def test_it_verifies_and_says_what_stays_a_claim(place, folder):
    found = verify(folder, place / "suite.toml")
    assert found.faults == []
    assert "that the labels of test:cifar10.1:v6 are the data set's (the same in all cells)" in found.claimed


def test_a_changed_label_of_that_split_is_refused(place, folder):
    first = min(read_logits(folder))

    def turn(tensors):
        tensors[LABELS][3] = (tensors[LABELS][3] + 1) % 10

    edit_logits(folder, first, turn)
    said = faults(place, folder)
    assert f"predictions.safetensors#{first}: {LABELS}: are not those of the other cells" in said
    assert "ensemble.test:cifar10.1:v6.nll_mean: found" in said
    assert "test:fog" not in said
    assert "ensemble.test.nll" not in said


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.pop(), "data: must have one entry of split 'test:cifar10.1:v6' with its number"),
        (lambda data: data[3].pop("n"), "data.3.n: Field required"),
        (
            lambda data: data[3].update(n=40),
            "curves.test:cifar10.1:v6.n: found 23, the test set has 40 images",
        ),
        (lambda data: data[3].update(n=40), 'data.test:cifar10.1:v6: found [{"n":40,"name":"cifar10.1",'),
        (lambda data: data[3].update(name="cifar10"), "found 'cifar10', the suite's is 'cifar10.1'"),
        (lambda data: data.append(data[3]), "data: two entries are of the same split"),
    ],
)
def test_a_record_without_the_sets_entry_or_with_another_is_refused(place, folder, edit, message):
    edit_record(folder, min(read_logits(folder)), lambda table: edit(table["data"]))
    assert message in faults(place, folder)


def test_missing_labels_are_refused(place, folder):
    first = min(read_logits(folder))
    edit_logits(folder, first, lambda tensors: tensors.pop(LABELS))
    assert f"needs a tensor '{LABELS}' of int16 [23]" in faults(place, folder)


def test_a_pinned_set_of_other_bytes_is_refused(place, folder):
    pinned = place / "pinned.toml"
    pin = '[data]\nshifted_sha256 = {"cifar10.1:v6" = "' + "0" * 64 + '"}\n'
    pinned.write_text(SUITE.replace("[data]\n", pin))
    said = "\n".join(map(str, verify(folder, pinned).faults))
    assert "data.test:cifar10.1:v6.sha256: found" in said


def test_a_run_without_the_set_says_where_it_looked_and_writes_nothing(place, tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("cifar10", "CIFAR-10-C"):
        (data / name).symlink_to(place / "data" / name)
    monkeypatch.setenv("LMCBENCH_CACHE", str(place / "cache"))
    suite, out = place / "suite.toml", tmp_path / "run"
    code, _, said = cli("run", suite, "--out", out, "--data-dir", data, "--device", "cpu", "--jobs", "1")
    assert code == 2
    assert f"cifar10.1 was not found. Looked in {data / 'cifar10.1'}, " in said
    assert "github.com/modestyachts/CIFAR-10.1" in said
    assert not out.exists()


def test_a_set_that_is_written_to_during_a_run_is_refused_by_the_next_family(place, tmp_path, monkeypatch):
    """Records say what it held when the run began; its images are read again for every family."""
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(place / "data", data)
    monkeypatch.setenv("LMCBENCH_CACHE", str(place / "cache"))
    suite = parse_suite((place / "suite.toml").read_bytes(), "suite.toml")
    cells = expand(suite, Selection(forks=["independent"], replicates=range(2)))
    folder, fog = RunFolder(out), data / "CIFAR-10-C" / "fog.npy"
    events = run_plan(plan_run(cells, folder), folder, data_dir=data, device="cpu", jobs=1)
    kept = [next(event.record.key for event in events if isinstance(event, Finished))]
    array = np.load(fog, mmap_mode="r+")
    array[:] = 255 - array
    array.flush()
    os.utime(fog, ns=(1, 1))
    with pytest.raises(UserError, match=r"fog\.npy was changed since the run began"):
        list(events)
    assert [path.stem for path in folder.records.iterdir()] == kept
    with pytest.raises(UserError, match=r"run on other data: split test:cifar10-c:fog-2"):
        list(run_plan(plan_run(cells, folder), folder, data_dir=data, device="cpu", jobs=1))


def test_the_suite_shows_where_they_are(place, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = cli("suites", place / "suite.toml", "--data-dir", place / "data")
    assert code == 0
    [line] = [line for line in out.splitlines() if line.startswith("shifted test set cifar10.1 ")]
    assert line.endswith(f" found in {place / 'data' / 'cifar10.1'}")


def test_reports_tables_and_summaries_show_it_like_any_other_evaluation_shift(place):
    code, _, _ = cli("report", place / "run")
    assert code == 0
    text = (place / "run" / "report.md").read_text()
    assert "cifar10 test (40 images), cifar10-c:fog-2 (15 images), cifar10.1:v6 (23 images)" in text
    rows = load_records(place / "run")
    assert rows[rows["split"] == "test:cifar10.1:v6"]["n"].unique().tolist() == [23]
    found = summarize("tiny", "0" * 64, map(read_record, (place / "run" / "records").iterdir()))
    assert found.evaluations == sorted(SIZES.keys() - {"test"})
    assert found.shifts["none"].place("1").worth["test:cifar10.1:v6"].member[0] is not None
