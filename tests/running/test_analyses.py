"""Further measures on probe cells: added to records later, from stored states, changing nothing else."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import lmcbench
from lmcbench.data.open_dataset import open_dataset
from lmcbench.data.selection import select_stratified
from lmcbench.errors import UserError
from lmcbench.results.record_parser import read_record
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.analyses import ANALYSES, LAYER_ALPHAS, select_analyses
from lmcbench.running.plan import plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.architectures import Architecture
from lmcbench.spec.cells import Selection, expand
from lmcbench.spec.suite_files import parse_suite
from lmcbench.train.build import build
from lmcbench.train.train_state import load_tensors

torch.set_num_threads(1)

SUITE = """
name = "small"
version = 1
description = "for tests"
shifts = ["none", "label-skew"]
forks = [0, 1, "independent"]
replicates = 2
[data]
name = "digits"
train_size = 300
test_size = 100
[protocol]
alphas = 5
calibration = 60
[recipes.short]
lr = 0.1
batch_size = 32
epochs = 3
[[architectures]]
name = "lmc_mlp"
recipe = "short"
kwargs = { width = 16, depth = 1 }
[[architectures]]
name = "lmc_resnet"
recipe = "short"
kwargs = { width = 2 }
"""
PROBE = """
[probe]
shifts = ["label-skew"]
images = 50
"""
PER_EPOCH, LENGTH = 300 // 32, 3 * (300 // 32)


def suite(probe=PROBE):
    return parse_suite((SUITE + probe).encode(), "small.toml")


def work(root, selection, measure=(), probe=PROBE):
    folder = RunFolder(root)
    plan = plan_run(expand(suite(probe), selection), folder, measure)
    return list(run_plan(plan, folder, data_dir=None, device="cpu", jobs=1))


MLP = Selection(architectures=["lmc_mlp*"], replicates=range(1))
RESNET = Selection(architectures=["lmc_resnet*"], shifts=["label-skew"], forks=["1"], replicates=range(1))


def records(root):
    return {path.stem: read_record(path) for path in sorted((root / "records").iterdir())}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    root = tmp_path_factory.mktemp("measured") / "run"
    work(root, MLP, ["all"])
    work(root, RESNET, ["all"])
    return root


def probed(root, name="lmc_mlp", fork="1"):
    [record] = [
        r
        for r in records(root).values()
        if (r.architecture.name, r.shift.name, r.fork.name) == (name, "label-skew", fork)
    ]
    return record, record.pairs[0].model_extra


def without(content: bytes, names) -> bytes:
    table = json.loads(content)
    for pair in table["pairs"]:
        for name in names:
            pair.pop(name, None)
    return (json.dumps(table, indent=1) + "\n").encode()


def test_measures_are_on_the_probe_cells_and_only_there(measured):
    for record in records(measured).values():
        held = record.pairs[0].model_extra
        assert list(held) == (list(ANALYSES) if record.shift.name == "label-skew" else [])
        skipped = {name for name, found in held.items() if "skipped" in found}
        assert skipped == ({"plane"} if record.fork.name == "independent" and held else set())
        json.dumps(held, allow_nan=False)


def test_a_measure_added_later_changes_no_other_byte(measured, tmp_path):
    one = Selection(architectures=["lmc_mlp*"], shifts=["label-skew"], forks=["1"], replicates=range(1))
    assert len(work(tmp_path / "r", one)) > 0
    [path] = (tmp_path / "r" / "records").iterdir()
    plain = path.read_bytes()
    files = {p: p.read_bytes() for p in (tmp_path / "r" / "checkpoints").iterdir()}
    work(tmp_path / "r", one, ["repair"])
    assert path.read_bytes() != plain
    assert without(path.read_bytes(), ["repair"]) == plain
    repaired = path.read_bytes()
    work(tmp_path / "r", one, ["all"])
    assert without(path.read_bytes(), [n for n in ANALYSES if n != "repair"]) == repaired
    assert {p: p.read_bytes() for p in (tmp_path / "r" / "checkpoints").iterdir()} == files
    # whichever way it came about
    assert read_record(path).pairs[0].model_dump() == probed(measured)[0].pairs[0].model_dump()
    before = path.stat().st_mtime_ns
    assert work(tmp_path / "r", one, ["all"]) == []
    assert path.stat().st_mtime_ns == before


def test_probe_cells_train_as_any_other(measured, tmp_path):
    """Keeping states on the way, and asking for more, leaves every other number as it is."""
    assert suite().digest == suite("").digest
    work(tmp_path / "r", MLP, probe="")
    assert not list((tmp_path / "r" / "checkpoints").glob("*-step*"))
    plain, rich = records(tmp_path / "r"), records(measured)
    for key, record in plain.items():
        again = json.loads(without(rich[key].to_json().encode(), ANALYSES))
        for part in ("siblings", "pairs", "ensemble", "soup", "evidence", "views_digest", "seeds"):
            assert json.loads(record.to_json())[part] == again[part]


def test_numbers_are_those_of_the_api(measured):
    record, held = probed(measured, "lmc_mlp", "independent")
    folder = RunFolder(measured)
    a, b = (load_tensors(folder.sibling(record.key, i)) for i in range(2))
    data = open_dataset("digits")
    kept = select_stratified(data.test.labels, 100)
    rows = kept[select_stratified(data.test.labels[kept], 50)]
    chosen = data.train.images[select_stratified(data.train.labels, 300)]
    counts = np.bincount(chosen.ravel(), minlength=256)
    mean = (counts * np.arange(256)).sum() / counts.sum() / 255
    std = np.sqrt((counts * (np.arange(256) / 255 - mean) ** 2).sum() / counts.sum())
    images = ((torch.tensor(data.test.images[rows]).double() / 255 - mean) / std).float()
    labels = torch.tensor(data.test.labels[rows])
    model = build(
        Architecture(name="lmc_mlp", recipe="x", kwargs={"width": 16, "depth": 1}), (1, 8, 8), 10, seed=0
    )
    aligned = lmcbench.align(model, a, b)
    curve = lmcbench.trace_path(model, a, aligned, {"test": (images, labels)}, 5)["test"]
    assert held["align"]["aligned"]["test"]["loss"] == pytest.approx(curve.loss.tolist(), rel=1e-4)
    assert held["align"]["aligned"]["test"]["error"] == curve.error.tolist()
    assert held["align"]["n"] == {"train": 50, "test": 50}
    assert held["align"]["distance"] <= held["align"]["distance_before"]
    blended = lmcbench.trace_path(model, a, b, {"test": (images, labels)}, 5)["test"]
    assert held["repair"]["blended"]["test"]["error"] == blended.error.tolist()
    # ends are bit for bit what they were
    for kind in ("repaired", "blended"):
        ends = [held["repair"][kind]["test"]["loss"][i] for i in (0, -1)]
        assert ends == pytest.approx([blended.loss[0], blended.loss[-1]], rel=1e-4)


@pytest.mark.parametrize("name", ["lmc_mlp", "lmc_resnet"])
def test_curvature_holds_together(measured, name):
    _, held = probed(measured, name)
    found = held["curvature"]
    assert (found["split"], found["n"], len(found["loss"])) == ("train", 50, 5)
    for kind in ("predicted", "predicted_with_gradients"):
        assert len(found[kind]) == 5
        assert (found[kind][0], found[kind][-1]) == (0.0, 0.0)
    assert [h["alpha"] for h in found["hessian"]] == [0.0, 0.5, 1.0]
    for h in found["hessian"]:
        assert h["top"][0] >= h["top"][1]
        assert h["residuals"][0] <= 0.02 * h["top"][0]
        assert h["probes"] == 10
        assert h["trace_standard_error"] > 0
        assert h["trace"] + 4 * h["trace_standard_error"] > h["top"][0]


@pytest.mark.parametrize("name", ["lmc_mlp", "lmc_resnet"])
def test_layers_begin_and_end_where_they_must(measured, name):
    _, held = probed(measured, name)
    found, curve = held["layers"], held["curvature"]
    a, b = curve["loss"][0], curve["loss"][-1]
    for layer in found["layers"].values():
        assert len(layer["from_a"]["loss"]) == len(layer["predicted_from_b"]) == LAYER_ALPHAS
        assert layer["from_a"]["loss"][0] == pytest.approx(a, rel=1e-5)
        assert layer["from_b"]["loss"][0] == pytest.approx(b, rel=1e-5)
    there, back = found["cumulative"]["from_input"], found["cumulative"]["from_output"]
    assert there["layers"] == back["layers"][::-1] == list(found["layers"])
    for switches in (there, back):
        assert switches["loss"][0] == pytest.approx(a, rel=1e-5)
        assert switches["loss"][-1] == pytest.approx(b, rel=1e-5)
    first = there["layers"][0]
    assert there["loss"][1] == pytest.approx(found["layers"][first]["from_a"]["loss"][-1], rel=1e-4)


@pytest.mark.parametrize(("name", "fork"), [("lmc_mlp", "0"), ("lmc_mlp", "1"), ("lmc_resnet", "1")])
def test_the_landscape_runs_from_the_fork_to_the_siblings(measured, name, fork):
    record, held = probed(measured, name, fork)
    points = held["landscape"]["points"]
    start = int(fork) * PER_EPOCH
    assert [p["step"] for p in points] == [*range(start, LENGTH, PER_EPOCH), LENGTH]
    assert [p["epoch"] for p in points] == [*range(int(fork), 4)]
    first, last = points[0], points[-1]
    assert (first["distance_ab"], first["angle"], first["length_a"]) == (0.0, None, 0.0)
    start_loss = first["curves"]["train"]["loss"]
    assert start_loss[0] == start_loss[-1]
    assert len(set(start_loss[1:-1])) == 1
    # ends are as trained, inner points recalibrated: equal without normalisation statistics
    has_statistics = name == "lmc_resnet"
    assert (start_loss[0] != start_loss[1]) == has_statistics
    geometry = record.pairs[0].geometry
    for key in ("distance_ab", "distance_a", "distance_b", "angle", "cosine"):
        assert last[key] == pytest.approx(geometry[key], rel=1e-12)
    for p in points[1:]:
        right = p["distance_a"] ** 2 + p["distance_b"] ** 2
        right -= 2 * p["distance_a"] * p["distance_b"] * p["cosine"]
        assert p["distance_ab"] ** 2 == pytest.approx(right)
        assert p["length_a"] >= p["distance_a"] * (1 - 1e-12)
    assert [p["length_b"] for p in points] == sorted(p["length_b"] for p in points)
    # every other point of the fine curve's fewer ones: 0, 1/2, 1; the fine curve has recalibrated ends
    fine, coarse = held["curvature"]["loss"], last["curves"]["train"]["loss"]
    assert coarse[5] == pytest.approx(fine[2], rel=1e-4)
    if not has_statistics:
        assert [coarse[0], coarse[-1]] == pytest.approx([fine[0], fine[-1]], rel=1e-4)


def test_independent_networks_start_apart(measured):
    _, held = probed(measured, "lmc_mlp", "independent")
    first = held["landscape"]["points"][0]
    assert first["step"] == 0
    assert first["distance_ab"] > 0
    assert (first["distance_a"], first["angle"]) == (None, None)


def test_a_plane_is_low_at_its_anchors(measured):
    _, held = probed(measured)
    plane = held["plane"]
    size = len(plane["x"])
    assert np.shape(plane["loss"]) == np.shape(plane["error"]) == (size, size)
    ends = held["curvature"]["loss"]
    for (x, y), loss in zip(plane["anchors"][1:], (ends[0], ends[-1]), strict=True):
        i = int(np.abs(np.array(plane["x"]) - x).argmin())
        j = int(np.abs(np.array(plane["y"]) - y).argmin())
        assert plane["loss"][j][i] == pytest.approx(loss, abs=0.3)


def test_reasons_where_a_measure_cannot_be_taken(measured, tmp_path):
    root = tmp_path / "r"
    shutil.copytree(measured, root)
    record, _ = probed(root)
    path = root / "records" / f"{record.key}.json"
    path.write_bytes(without(path.read_bytes(), ANALYSES))
    for snapshot in (root / "checkpoints").glob(f"{record.key}-*-step{PER_EPOCH}.safetensors"):
        snapshot.unlink()
    one = Selection(architectures=["lmc_mlp*"], shifts=["label-skew"], forks=["1"], replicates=range(1))
    work(root, one, ["landscape"])
    found = read_record(path).pairs[0].model_extra["landscape"]
    assert found == {"skipped": "The siblings' snapshots are not stored."}
    RunFolder(root).sibling(record.key, 0).unlink()
    before = path.read_bytes()
    with pytest.raises(UserError, match=f"weights of cell {record.key} are not in"):
        work(root, one, ["plane"])
    assert path.read_bytes() == before


def test_what_is_asked_for_must_exist(tmp_path):
    with pytest.raises(UserError, match=r"Unknown measure 'curvatur'\. Did you mean 'curvature'"):
        work(tmp_path / "r", MLP, ["curvatur"])
    only = Selection(architectures=["lmc_mlp*"], shifts=["none"])
    with pytest.raises(UserError, match=r"Probe cells of suite small: shifts label-skew; replicates 0 to 0"):
        work(tmp_path / "r", only, ["all"])
    with pytest.raises(UserError, match="Probe cells of suite small: none"):
        work(tmp_path / "r", MLP, ["all"], probe="")
    assert not (tmp_path / "r").exists()
    assert select_analyses(["plane", "curvature"]) == ("curvature", "plane")
    assert select_analyses(["all"]) == tuple(ANALYSES)


def test_features_along_the_line_begin_and_end_with_themselves(measured):
    _, held = probed(measured, "lmc_mlp", "independent")
    for split in ("train", "test"):
        found = held["features"]["splits"][split]
        assert found["n"] == 50
        assert (found["to_a"][0], found["to_b"][-1]) == (1.0, 1.0)
        assert found["to_a"][-1] == pytest.approx(found["siblings"], rel=1e-9)
        assert found["to_b"][0] == pytest.approx(found["siblings"], rel=1e-9)
        assert 0 < found["siblings"] < 0.999
    _, connected = probed(measured, "lmc_mlp", "1")
    assert (
        connected["features"]["splits"]["test"]["siblings"] > held["features"]["splits"]["test"]["siblings"]
    )
