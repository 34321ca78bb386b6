"""The run, end to end on a small suite of real digits: resumable, repeatable, honest about failure."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import lmcbench
from lmcbench.cli.run import Engine
from lmcbench.connect.interpolation import alpha_grid
from lmcbench.data.open_dataset import open_dataset
from lmcbench.ensemble.predictions import compare_errors, compare_predictions, softmax
from lmcbench.ensemble.sub_ensembles import ensembles_by_size
from lmcbench.errors import UserError
from lmcbench.results.curves import Curve, barrier, chord_area
from lmcbench.results.frame import load_records
from lmcbench.results.record_files import read_records
from lmcbench.results.record_parser import read_record
from lmcbench.results.run_folder import RunFolder
from lmcbench.running import train_family as fleet
from lmcbench.running.family import reopen_data
from lmcbench.running.plan import Finished, Progress, Task, plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.cells import Selection, expand, families
from lmcbench.spec.recipe import ENGINES
from lmcbench.spec.suite_files import load_suite, parse_suite
from lmcbench.train.train_state import load_state, load_tensors, save_state
from submitted import cli

SUITE = """
name = "small"
version = 1
description = "for tests"
shifts = ["none", "same-half", "label-skew"]
forks = [0, 1, "independent"]
replicates = 1
{extra}
[data]
name = "digits"
train_size = 400
test_size = 100
[protocol]
alphas = 5
calibration = 100
[recipes.short]
lr = {lr}
batch_size = 64
epochs = 2
[[architectures]]
name = "lmc_mlp"
recipe = "short"
kwargs = {{ width = 16, depth = 1 }}
[[architectures]]
name = "lmc_resnet"
recipe = "short"
kwargs = {{ width = 4 }}
"""

TRAIN, TEST, BATCH = 400, 100, 64
"""Images of the two splits and of a batch."""


def suite(lr=0.1, extra=""):
    return parse_suite(SUITE.format(lr=lr, extra=extra).encode(), "small.toml")


ALL = Selection()


def work(chosen, root, selection=ALL, jobs=1, stop_after=None):
    """Run into `root`; the events."""
    folder = RunFolder(root)
    events = []
    for event in run_plan(
        plan_run(expand(chosen, selection), folder), folder, data_dir=None, device="cpu", jobs=jobs
    ):
        events.append(event)
        if stop_after is not None and sum(isinstance(e, Finished) for e in events) == stop_after:
            break
    return events


def measures(root):
    """Every record by key, less what may differ between reruns: time, memory, fleet and edits meanwhile."""
    found = {}
    for path in sorted((root / "records").glob("*.json")):
        record = json.loads(path.read_bytes())
        cost, env = record["cost"], record["env"]
        del cost["train_s"], cost["eval_s"], cost["peak_bytes"], env["fleet"], env["git"]
        found[path.stem] = record
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One run of the small suite at one go."""
    root = tmp_path_factory.mktemp("whole") / "run"
    events = work(suite(), root)
    return root, events


def test_exactly_the_announced_cells(whole):
    root, events = whole
    announced = {cell.key for cell in expand(suite())}
    assert len(announced) == 2 * 3 * 3
    assert {p.stem for p in (root / "records").iterdir()} == announced
    assert {e.record.key for e in events if isinstance(e, Finished)} == announced
    assert sum(e.cells for e in events if isinstance(e, Progress)) == pytest.approx(len(announced))


def test_everything_derived_follows_from_what_is_stored(whole):
    root, _ = whole
    for path in (root / "records").iterdir():
        record = read_record(path)
        assert record.status == "ok"
        alphas = record.protocol["alphas"]
        np.testing.assert_array_equal(alphas, alpha_grid(5))
        for pair in record.pairs:
            for split, curve in pair.curves.items():
                again = barrier(Curve(alphas, curve.loss, curve.error, curve.n))
                assert vars(again) == pair.barriers[split].model_dump()
        stored = load_file(root / record.evidence["predictions"]["path"])
        assert stored["test"].dtype == np.float16
        labels = stored["test.labels"].astype(np.int64)
        assert compare_predictions(softmax(stored["test"]), labels) == record.ensemble["test"]
        assert record.pairs[0].disagreement["test"] == record.ensemble["test"]["disagreement"]


def test_endpoints_of_the_curves_are_the_siblings(whole):
    root, _ = whole
    for path in (root / "records").iterdir():
        record = read_record(path)
        pair = record.pairs[0]
        for end, sibling in ((0, record.siblings[0]), (-1, record.siblings[1])):
            for split in ("train", "test"):
                score, curve = sibling.splits[split], pair.curves[split]
                assert (curve.error[end], curve.loss[end]) == (score.error, score.loss)
            if record.architecture.name == "lmc_resnet":
                blended = pair.curves_uncalibrated["test"]
                assert blended.loss[end] == sibling.splits["test"].loss
                again = sibling.recalibrated["test"]
                ends = pair.ends_recalibrated["test"]
                assert (ends.loss[end], ends.error[end]) == (again.loss, again.error)
                assert again.loss != sibling.splits["test"].loss
            else:
                stored = json.loads(path.read_text())
                assert "recalibrated" not in stored["siblings"][0]
                assert not {"ends_recalibrated", "curves_uncalibrated"} & stored["pairs"][0].keys()
        # K = 2: the soup is the middle of the line
        middle = pair.curves["test"]
        assert record.soup["test"].error == middle.error[2]
        assert record.soup["test"].loss == pytest.approx(middle.loss[2], rel=1e-6)


def test_views_are_splits_where_they_differ_from_the_whole(whole):
    root, _ = whole
    sizes = {}
    for path in (root / "records").iterdir():
        record = read_record(path)
        sizes[record.shift.name] = {s: c.n for s, c in record.pairs[0].curves.items()}
    assert sizes["none"] == {"train": TRAIN, "test": TEST}
    assert sizes["same-half"] == {"train": TRAIN // 2, "test": TEST}
    assert sizes["label-skew"].keys() == {"train", "train_a", "train_b", "test"}
    assert (
        sizes["label-skew"]["train_a"] + sizes["label-skew"]["train_b"]
        == sizes["label-skew"]["train"]
        == TRAIN
    )


def test_geometry_is_in_every_record(whole):
    """Oracle 15, and what the API says of the same files."""
    root, _ = whole
    folder = RunFolder(root)
    for path in (root / "records").iterdir():
        record = read_record(path)
        got = record.pairs[0].geometry
        a, b = (load_tensors(folder.sibling(record.key, i)) for i in range(2))
        parts = [got, *got["layers"].values()]
        if record.fork.name == "independent":
            assert all(
                (p["distance_a"], p["distance_b"], p["angle"], p["cosine"]) == (None,) * 4 for p in parts
            )
            expected = lmcbench.geometry(None, a, b).to_json()
        else:
            [cell] = [c for c in expand(suite()) if c.key == record.key]
            trunk = load_state(folder.trunk(families([cell])[0].key, record.fork.step))
            expected = lmcbench.geometry({**trunk.params, **trunk.buffers}, a, b).to_json()
            for p in parts:
                right = p["distance_a"] ** 2 + p["distance_b"] ** 2
                right -= 2 * p["distance_a"] * p["distance_b"] * p["cosine"]
                assert p["distance_ab"] ** 2 == pytest.approx(right)
        assert got["layers"].keys() == expected["layers"].keys()
        for name in ("distance_ab", "distance_a", "distance_b", "angle", "cosine"):
            assert got[name] == (None if expected[name] is None else pytest.approx(expected[name], rel=1e-12))


def test_what_functions_have_in_common_follows_from_the_stored_logits(whole):
    root, _ = whole
    for path in (root / "records").iterdir():
        record = read_record(path)
        content = load_file(root / "predictions" / f"{record.key}.safetensors")
        probs, labels = softmax(content["test"]), content["test.labels"]
        found = record.functions["test"]
        assert {k: v for k, v in found.items() if k != "sizes"} == compare_errors(probs, labels)
        assert found["sizes"] == ensembles_by_size(probs, labels)
        [pair] = record.pairs
        assert pair.path_ensemble["test"]["3"]["alphas"] == [0, 0.5, 1]
        curve = pair.curves["test"]
        area = chord_area(np.array(record.protocol["alphas"]), np.array(curve.error))
        assert pair.area["test"]["error"] == area


def test_gradient_noise_is_taken_at_the_fork(whole):
    root, _ = whole
    full = TRAIN
    shares = []
    for record in map(read_record, (root / "records").iterdir()):
        noise = record.noise
        if record.shift.name == "none":
            assert noise["views"] == [full, full]
        elif record.shift.name == "label-skew":
            assert sum(noise["views"]) == pytest.approx(full, abs=10)
        else:
            assert noise["views"][0] == noise["views"][1] == pytest.approx(full / 2, abs=5)
        assert noise["g"] == [lmcbench.noise_scale(0.1, n, BATCH) for n in noise["views"]]
        assert noise["g_momentum"] == pytest.approx([10 * g for g in noise["g"]], rel=1e-12)
        if record.fork.name == "independent":
            assert noise["gradient"] is None
            continue
        share = noise["gradient"]["between_share"]
        if record.shift.name == "label-skew":
            shares.append(share)
        else:
            assert share == pytest.approx(0, abs=1e-12)
            assert noise["gradient"]["union"]["n"] == 2 * min(300, noise["views"][0])
    # skewed labels pull the mean gradients apart, beyond what random halves of 300 images do
    assert len(shares) == 4
    assert np.mean(shares) > 3 / 299


def test_cost_counts_a_trunk_once(whole):
    root, _ = whole
    steps = {}
    for path in (root / "records").iterdir():
        record = read_record(path)
        steps[record.fork.name] = record.cost.train_steps
        if record.architecture.name == "lmc_mlp":
            # 64 -> 16 -> 10: products forward, for weights, and for the hidden layer's inputs
            step = 2 * BATCH * (2 * (64 * 16 + 16 * 10) + 16 * 10)
            assert record.cost.train_flop == record.cost.train_steps * step
    per_epoch, length = TRAIN // BATCH, 2 * (TRAIN // BATCH)
    assert steps == {
        "0": 2 * length,
        "1": per_epoch + 2 * (length - per_epoch),
        "independent": 2 * length,
    }


def test_finished_is_a_no_op(whole):
    root, _ = whole
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert work(suite(), root) == []
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_pieces_equal_the_whole(whole, tmp_path):
    """Stopped, resumed, extended: the same measures to the last bit."""
    root, _ = whole
    work(suite(), tmp_path / "r", Selection(architectures=["lmc_resnet"], shifts=["none"], forks=["1"]))
    some = Selection(shifts=["none", "label-skew"])
    work(suite(), tmp_path / "r", some, stop_after=3)
    assert 3 < len(list((tmp_path / "r" / "records").iterdir())) < 12
    work(suite(), tmp_path / "r", Selection(shifts=["label-skew"]))
    work(suite(), tmp_path / "r", some)
    found, expected = measures(tmp_path / "r"), measures(root)
    assert len(found) == 12
    assert found == {key: expected[key] for key in found}


@pytest.mark.parametrize(
    "start",
    ["fork", pytest.param("spawn", marks=pytest.mark.slow_tier)],  # spawned ones import torch
)
def test_processes_equal_one_process(whole, tmp_path, start, request):
    root, _ = whole
    if start == "fork":
        request.getfixturevalue("forked_workers")
    work(suite(), tmp_path / "r", Selection(shifts=["label-skew"], forks=["1", "independent"]), jobs=2)
    found, expected = measures(tmp_path / "r"), measures(root)
    assert len(found) == 2 * 2
    assert found == {key: expected[key] for key in found}


def test_a_torn_record_and_a_lost_checkpoint_are_made_again(whole, tmp_path):
    root, _ = whole
    work(suite(), tmp_path / "r", Selection(architectures=["lmc_mlp*"]))
    folder = RunFolder(tmp_path / "r")
    torn, lost = sorted(folder.records.iterdir())[:2]
    content = torn.read_bytes()
    torn.write_bytes(content[: len(content) // 2])
    lost.unlink()
    folder.sibling(lost.stem, 1).unlink()
    killed = folder.records / f".{torn.name}.7.partial"
    killed.write_bytes(content[:9])
    os.utime(killed, (0, 0))
    events = work(suite(), tmp_path / "r", Selection(architectures=["lmc_mlp*"]))
    assert not killed.exists()
    assert {e.record.key for e in events if isinstance(e, Finished)} == {torn.stem, lost.stem}
    expected = measures(root)
    assert measures(tmp_path / "r") == {k: expected[k] for k in measures(tmp_path / "r")}


def test_asking_for_more_replicates_extends(tmp_path):
    one = Selection(architectures=["lmc_mlp*"], forks=["0"], shifts=["none"])
    two = Selection(architectures=["lmc_mlp*"], forks=["0"], shifts=["none"], replicates=range(2))
    work(suite(), tmp_path / "r", one)
    work(suite(), tmp_path / "r", two)
    both = measures(tmp_path / "r")
    assert len(both) == 2
    a, b = both.values()
    assert a["seeds"] != b["seeds"]
    assert a["pairs"] != b["pairs"]


@pytest.mark.parametrize("lr", [10.0, 1000.0])
def test_a_recipe_that_fails_is_a_result(lr, tmp_path):
    work(suite(lr=lr), tmp_path / "r", Selection(shifts=["none"], forks=["0"]))
    statuses = {}
    for path in (tmp_path / "r" / "records").iterdir():
        record = read_record(path)
        statuses[record.architecture.name] = record.status
        if record.status != "ok":
            assert record.reason.startswith("sibling ")
            assert (record.pairs, record.siblings, record.ensemble, record.soup) == ([], [], None, None)
            assert (record.corrected, record.fork.trunk_accuracy) == (None, None)
            assert [sum(counts) for counts in record.training["label_counts"]] == [400, 400]
    assert statuses["lmc_mlp"] == "did-not-learn"  # its loss is far from ln 10, and finite
    frame = load_records(tmp_path / "r")
    assert (frame.groupby("key").size()[frame[frame.status != "ok"].key] == 1).all()


def test_a_folder_of_another_suite_is_refused(whole, tmp_path):
    root, _ = whole
    before = sorted(root.rglob("*"))
    with pytest.raises(
        UserError, match=r"is a run of suite small version 1 .* Choose another folder with --out"
    ):
        work(suite(lr=0.2), root)
    assert sorted(root.rglob("*")) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="exists and is not a run folder"):
        work(suite(), tmp_path / "other")


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_input_found_by_a_worker_writes_nothing(jobs, tmp_path, forked_workers):
    settings = {"kwargs": {"widht": 16}}
    unbuildable = suite(extra="").model_copy(
        update={"architectures": [a.model_copy(update=settings) for a in suite().architectures]}
    )
    with pytest.raises(UserError, match=r"cannot be built for images .*widht"):
        work(unbuildable, tmp_path / "r", jobs=jobs)
    assert not (tmp_path / "r").exists()
    if not torch.cuda.is_available():
        folder = RunFolder(tmp_path / "r")
        with pytest.raises(UserError, match="No CUDA device"):
            list(run_plan(plan_run(expand(suite()), folder), folder, data_dir=None, device="cuda", jobs=1))
        assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--jobs", "2")])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_18", "Error: Unknown architecture 'resnet_18'. Did you mean 'resnet18'"),
        ("mine.py:ned", "Error: Unknown function in mine.py 'ned'. Did you mean 'net'?"),
    ],
)
def test_a_network_that_is_not_there_is_refused_before_any_is_trained(
    lmcbench, tmp_path, name, message, options
):
    (tmp_path / "small.toml").write_text(SUITE.format(lr=0.1, extra="").replace("lmc_resnet", name))
    (tmp_path / "mine.py").write_text("def net(num_classes, in_chans):\n    raise AssertionError\n")
    code, out, err = lmcbench("run", "small.toml", *options)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_three_siblings_make_three_pairs(tmp_path):
    work(suite(extra="siblings = 3"), tmp_path / "r", Selection(architectures=["lmc_mlp*"], forks=["0"]))
    for path in (tmp_path / "r" / "records").iterdir():
        record = read_record(path)
        assert [(p.i, p.j) for p in record.pairs] == [(0, 1), (0, 2), (1, 2)]
        mean = np.mean([p.disagreement["test"] for p in record.pairs])
        assert record.ensemble["test"]["disagreement"] == pytest.approx(mean)


def test_shared_noise_on_the_same_data_gives_the_same_networks(tmp_path):
    """Oracle 1: equal seeds and data, so distance, disagreement and barriers are exactly 0."""
    late = '{ name = "same-half", noise = "shared", forks = ["30%"] }'
    one = f'shifts = [{{ name = "none", noise = "shared" }}, {late}]'
    text = SUITE.format(lr=0.1, extra="").replace('shifts = ["none", "same-half", "label-skew"]', one)
    work(parse_suite(text.encode(), "shared.toml"), tmp_path / "r", Selection(forks=["0", "30%"]))
    frame = load_records(tmp_path / "r").drop_duplicates("key")
    assert sorted(zip(frame["shift"], frame["fork"], strict=True)) == [
        *[("none[noise=shared]", "0")] * 2,
        *[("same-half[noise=shared]", "30%")] * 2,
    ]
    for path in (tmp_path / "r" / "records").iterdir():
        record = read_record(path)
        if record.fork.name == "30%":  # of 2 epochs of 6 steps, rounded down
            assert (record.fork.epoch, record.fork.step, record.fork.fraction) == (None, 3, 3 / 12)
        a, b = (load_file(tmp_path / "r" / file["path"]) for file in record.evidence["checkpoints"])
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
        pair = record.pairs[0]
        assert pair.disagreement == {"test": 0.0}
        for split, curve in pair.curves.items():
            if record.architecture.name == "lmc_resnet":  # what is left is the cost of recalibration
                ends = pair.ends_recalibrated[split]
                assert {*curve.loss[1:-1]} == {*ends.loss}
                assert {*curve.error[1:-1]} == {*ends.error}
                assert curve.loss[0] == curve.loss[-1] == record.siblings[0].splits[split].loss
                continue
            assert set(curve.loss) == {curve.loss[0]}
            assert set(curve.error) == {curve.error[0]}
            found = pair.barriers[split].model_dump(exclude={"loss_argmax", "error_argmax"})
            assert set(found.values()) == {0.0}


# --- comparators and checkpoints -----------------------------------------------------------------

PRICED = SUITE.replace(
    'forks = [0, 1, "independent"]', 'forks = [0, 1, "independent", "independent-equal-cost", "whole-budget"]'
)


@pytest.fixture(scope="module")
def priced(tmp_path_factory):
    """Every fork of the MLP, by name and shift, and the run folder."""
    root = tmp_path_factory.mktemp("priced") / "run"
    chosen = parse_suite(PRICED.format(lr=0.1, extra="").encode(), "priced.toml")
    work(chosen, root, Selection(architectures=["lmc_mlp*"]))
    records = [read_record(path) for path in (root / "records").iterdir()]
    return {(r.shift.name, r.fork.name): r for r in records}, root


def test_comparators_cost_what_siblings_of_the_latest_fork_do(priced):
    found, _ = priced
    per_epoch = TRAIN // BATCH
    steps = {name: found["label-skew", name].cost.train_steps for _, name in found}
    assert steps == {
        "0": 4 * per_epoch,
        "1": 3 * per_epoch,
        "independent": 4 * per_epoch,
        # two of 9 steps, one of 18
        "independent-equal-cost": 3 * per_epoch,
        "whole-budget": 3 * per_epoch,
    }
    for record in found.values():
        assert record.status == "ok"
        flop = found["none", "1"].cost.train_flop / found["none", "1"].cost.train_steps
        assert record.cost.train_flop == pytest.approx(flop * record.cost.train_steps)


def test_whole_budget_is_one_network_on_everything_siblings_see(priced):
    found, root = priced
    for shift, n in (("none", TRAIN), ("same-half", TRAIN // 2), ("label-skew", TRAIN)):
        record = found[shift, "whole-budget"]
        assert (len(record.siblings), record.pairs, record.ensemble, record.soup) == (1, [], None, None)
        assert (record.fork.epoch, record.fork.step, record.fork.fraction) == (None, None, None)
        assert len(record.evidence["checkpoints"]) == 1
        stored = load_file(root / record.evidence["predictions"]["path"])
        assert stored["test"].shape == (1, TEST, 10)
        wrong = stored["test"][0].argmax(-1) != stored["test.labels"]
        assert record.siblings[0].splits["test"].error == pytest.approx(wrong.mean(), abs=1.1 / TEST)
        # its view is all of it
        assert record.siblings[0].splits["view"] == record.siblings[0].splits["train"]
        assert found[shift, "1"].pairs[0].curves["train"].n == n
    frame = load_records(root)
    alone = frame[frame["fork"] == "whole-budget"]
    assert alone["i"].isna().all()
    assert set(alone["split"]) == {"train", "view", "test"}
    assert alone["error"].notna().all()


def test_comparators_leave_the_others_as_they_are(priced, whole):
    """Fleets of another length advance beside the rest, and change nothing."""
    found, _ = priced
    others = [read_record(path) for path in (whole[0] / "records").iterdir()]
    same = [r for r in others if r.architecture.name == "lmc_mlp"]
    assert len(same) == 9
    for record in same:
        assert record.pairs == found[record.shift.name, record.fork.name].pairs
    # the same initialisation and noise, on another schedule
    full, short = (found["none", name].siblings[0] for name in ("independent", "independent-equal-cost"))
    assert full.train_loss != short.train_loss


def test_tables_and_findings_show_comparators_where_they_belong(priced):
    from lmcbench.report.findings import collect_findings
    from lmcbench.report.tables import make_tables
    from lmcbench.stats.cells import Cells

    found, _ = priced
    board = make_tables(found.values())
    assert [c for c in board.connectivity.columns if c in {f for _, f in found}] == ["0", "1", "independent"]
    rows = board.ensembles[board.ensembles["shift"] == "none"].set_index("fork")
    assert list(rows.index) == ["0", "1", "independent", "independent-equal-cost", "whole-budget"]
    assert rows["cost"].tolist() == ["2.00", "1.50", "2.00", "1.50", "1.50"]
    assert rows.loc["whole-budget", "ensemble"] == "–"
    assert rows.loc["whole-budget", "member"] != "–"
    assert "yes" in rows["Pareto"].tolist()
    assert "nan" not in board.render("github").lower()
    # one replicate gives an effect, no interval and no verdict
    effects = {f.claim.name: f for f in collect_findings(Cells(found.values())).all}
    for name in ("equal-cost", "whole-budget"):
        assert (effects[name].effect.n, effects[name].contrasts) == (1, 1)  # without shift
        assert effects[name].verdict == "not testable"


def test_comparators_resume_to_the_same_bits(priced, tmp_path):
    _, root = priced
    chosen = parse_suite(PRICED.format(lr=0.1, extra="").encode(), "priced.toml")
    only = Selection(architectures=["lmc_mlp*"], shifts=["label-skew"], forks=["whole-budget"])
    work(chosen, tmp_path / "r", only)
    [again] = measures(tmp_path / "r").values()
    assert again == measures(root)[again["key"]]


def test_siblings_of_a_checkpoint_start_from_its_weights(whole, tmp_path):
    root, _ = whole
    given = next(
        r
        for r in map(read_record, (root / "records").iterdir())
        if (r.architecture.name, r.shift.name, r.fork.name) == ("lmc_mlp", "none", "0")
    )
    file = tmp_path / "mine.safetensors"
    file.write_bytes((root / given.evidence["checkpoints"][0]["path"]).read_bytes())
    fork = f"from:{file}"
    only = Selection(architectures=["lmc_mlp*"], shifts=["none", "same-half"], forks=[fork])
    work(suite(lr=1e-9), tmp_path / "r", only)
    records = [read_record(path) for path in (tmp_path / "r" / "records").iterdir()]
    assert len(records) == 2
    for record in records:
        assert record.fork.name == f"from:mine.safetensors@{record.fork.model_extra['sha256'][:8]}"
        assert record.fork.model_extra["sha256"] == given.evidence["checkpoints"][0]["sha256"]
        assert str(tmp_path) not in record.to_json()
        # no trunk: K trainings of full length
        assert record.cost.train_steps == 2 * 2 * (TRAIN // BATCH)
        # steps of this size leave the weights where they were
        for sibling in record.siblings:
            assert sibling.splits["test"].loss == pytest.approx(
                given.siblings[0].splits["test"].loss, rel=1e-4
            )
    # the key is of the content, wherever the file lies
    moved = tmp_path / "other" / "theirs.safetensors"
    moved.parent.mkdir()
    file.rename(moved)
    [one, two] = expand(suite(lr=1e-9), Selection(["lmc_mlp*"], ["none", "same-half"], [f"from:{moved}"]))
    assert {one.key, two.key} == {r.key for r in records}
    moved.write_bytes(b"\x80x")
    [other] = expand(suite(lr=1e-9), Selection(["lmc_mlp*"], ["none"], [f"from:{moved}"]))
    assert other.key not in {one.key, two.key}


def test_a_checkpoint_that_is_written_to_during_a_run_is_refused(whole, tmp_path):
    """As a training script does with its last one."""
    root, _ = whole
    given = next(
        r for r in map(read_record, sorted((root / "records").iterdir())) if r.architecture.name == "lmc_mlp"
    )
    first, second = (root / c["path"] for c in given.evidence["checkpoints"][:2])
    file = tmp_path / "last.safetensors"
    file.write_bytes(first.read_bytes())
    selection = Selection(["lmc_mlp*"], ["none"], [f"from:{file}"], range(2))
    folder = RunFolder(tmp_path / "r")
    plan = plan_run(expand(suite(), selection), folder)
    file.write_bytes(second.read_bytes())
    with pytest.raises(UserError, match=r"last.safetensors was changed since the run began \(sha256"):
        list(run_plan(plan, folder, data_dir=None, device="cpu", jobs=1))
    assert not folder.records.exists()


UNSAVED = """
import torch
from torch import nn

class Centred(nn.Module):
    def __init__(self, pixels, classes):
        super().__init__()
        self.head = nn.Linear(pixels, classes)
        self.register_buffer("mean", torch.zeros(pixels), persistent=False)

    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.mean(0))
        return self.head(x - self.mean)

def mine(num_classes, in_chans, img_size):
    return Centred(in_chans * img_size**2, num_classes)
"""


def test_what_is_measured_follows_from_the_stored_weights_alone(tmp_path):
    """Whether this process trained them or a stopped one: what training left on the network is no part."""
    (tmp_path / "mine.py").write_text(UNSAVED)
    cells = expand(
        load_suite("digits"), Selection([f"{tmp_path}/mine.py:mine"], ["none"], ["0"], range(1), "linear")
    )
    folder = RunFolder(tmp_path / "r")
    curves = []
    for _ in range(2):
        list(run_plan(plan_run(cells, folder), folder, data_dir=None, device="cpu", jobs=1))
        record = read_record(folder.record(cells[0].key))
        curves.append((record.status, record.pairs[0].curves["test"]))
        folder.record(cells[0].key).unlink()
    assert curves[0] == curves[1]
    assert curves[0][0] == "ok"


UNCOPYABLE = """
import threading
from torch import nn

def mine(num_classes, in_chans, img_size):
    network = nn.Sequential(nn.Flatten(), nn.Linear(in_chans * img_size**2, num_classes))
    network.lock = threading.Lock()
    return network
"""


def test_a_network_that_cannot_be_copied_is_a_failed_cell(tmp_path):
    (tmp_path / "mine.py").write_text(UNCOPYABLE)
    selection = Selection([f"{tmp_path}/mine.py:mine"], ["none"], ["0"], range(1), "linear")
    [cell] = expand(load_suite("digits"), selection)
    folder = RunFolder(tmp_path / "r")
    list(run_plan(plan_run([cell], folder), folder, data_dir=None, device="cpu", jobs=1))
    record = read_record(folder.record(cell.key))
    assert record.status == "failed"
    assert "training failed: TypeError: cannot pickle '_thread.lock' object" in record.reason


OWN = b"""
name = "own"
version = 1
description = "a user's own images"
forks = [0]
shifts = ["none"]
replicates = 1
data = {name = "./pets"}
recipes.fast = {lr = 0.01, batch_size = 16, epochs = 1}
architectures = [{name = "lmc_linear", recipe = "fast"}]
"""


def write_pets(folder, seed):
    rng = np.random.default_rng(seed)
    for split, n in (("train", 20), ("test", 5)):
        for label in ("cat", "dog"):
            place = folder / "pets" / split / label
            place.mkdir(parents=True, exist_ok=True)
            for i in range(n):
                pixels = rng.integers(256, size=(8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")


def test_data_of_one_name_are_opened_anew_by_each_run_and_stay_what_they_were_during_one(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("LMCBENCH_CACHE", str(tmp_path / "cache"))
    cells = expand(parse_suite(OWN, "own.toml"))
    seen = []
    for seed, name in enumerate("ab"):
        write_pets(tmp_path / name, seed)
        monkeypatch.chdir(tmp_path / name)
        folder = RunFolder(tmp_path / name / "run")
        list(run_plan(plan_run(cells, folder), folder, data_dir=None, device="cpu", jobs=1))
        record = read_record(folder.record(cells[0].key))
        assert record.data == open_dataset("./pets").identity()
        seen.append(record.data[0]["sha256"])
    assert len(set(seen)) == 2
    write_pets(tmp_path / "b", 2)
    [only] = families(cells)
    task = Task(only, RunFolder(tmp_path / "r"), {}, "cpu", data=tuple(seen))
    with pytest.raises(UserError, match=r"Data set ./pets was changed since the run began"):
        reopen_data(task)


def test_a_checkpoint_that_does_not_fit_is_refused_and_nothing_is_written(whole, tmp_path):
    root, _ = whole
    record = next(
        r for r in map(read_record, (root / "records").iterdir()) if r.architecture.name == "lmc_mlp"
    )
    file = root / record.evidence["checkpoints"][0]["path"]
    for forks, message in (
        ([f"from:{file}"], "does not fit the network"),
        ([f"from:{tmp_path}/none.safetensors"], "No such file"),
    ):
        with pytest.raises(UserError, match=message) as refused:
            work(suite(), tmp_path / "r", Selection(architectures=["lmc_resnet*"], forks=forks))
        assert refused.value.exit_code == 2
        assert not (tmp_path / "r").exists()


def test_equal_trainings_are_done_once(monkeypatch, tmp_path):
    """A control's sibling sees the half that one of the shift's sees: fork and noise are the same too."""
    trained = []
    advance = fleet.advance

    def counted(engine, model, states, *rest):
        trained.append(len(states))
        return advance(engine, model, states, *rest)

    monkeypatch.setattr(fleet, "advance", counted)
    text = SUITE.format(lr=0.1, extra="").replace('"label-skew"', '"disjoint-halves"')
    chosen = parse_suite(text.encode(), "small.toml")
    halves, mlp = ("same-half", "disjoint-halves"), ("lmc_mlp*",)
    work(chosen, tmp_path / "both", Selection(architectures=mlp, shifts=halves, forks=("0",)))
    assert max(trained) == 3
    together = measures(tmp_path / "both")
    for shift in halves:
        work(chosen, tmp_path / shift, Selection(architectures=mlp, shifts=(shift,), forks=("0",)))
        assert max(trained[-2:]) == 2
        for key, record in measures(tmp_path / shift).items():
            assert record == together[key]


def test_every_engine_can_be_asked_for():
    assert [engine.value for engine in Engine] == ["auto", *ENGINES]


def test_the_engine_that_is_asked_for_trains(tmp_path):
    """The ResNet's bits differ between engines on any CPU; those of a small MLP need not."""
    (tmp_path / "small.toml").write_text(SUITE.format(lr=0.1, extra=""))
    one = ["run", tmp_path / "small.toml", "--arch", "lmc_resnet*", "--shift", "none", "--fork", "0"]
    trained = {}
    for asked in ("auto", "stacked", "reference"):
        code, _, err = cli(*one, "--jobs", 1, "--engine", asked, "--out", tmp_path / asked)
        assert code == 0, err
        (record,) = (read_record(path) for path in (tmp_path / asked / "records").iterdir())
        trained[asked] = record.env["engine"], record.pairs, record.key
    assert [engine for engine, _, _ in trained.values()] == ["stacked", "stacked", "reference"]
    assert trained["auto"][1] == trained["stacked"][1]
    # another engine is another draw of noise of one and the same cell
    assert trained["reference"][1] != trained["stacked"][1]
    assert len({key for _, _, key in trained.values()}) == 1


def test_siblings_leave_no_trunk_of_another_engine(tmp_path):
    """Their records, and who trains them again by what these say, would take it for theirs."""
    (tmp_path / "small.toml").write_text(SUITE.format(lr=0.1, extra=""))
    one = ["run", tmp_path / "small.toml", "--arch", "lmc_mlp*", "--jobs", 1, "--out", tmp_path / "r"]
    assert cli(*one, "--shift", "none", "--fork", "1", "--engine", "reference")[0] == 0
    before = measures(tmp_path / "r")
    code, _, err = cli(*one, "--shift", "label-skew", "--fork", "1")
    assert code == 2
    assert (
        "holds the trunk of lmc_mlp(depth=1,width=16), replicate 0, trained by the reference engine on cpu; "
        "its siblings would be trained by the stacked engine on cpu. Resume with --engine reference "
        "--device cpu, or run into another folder: --out DIR"
    ) in err
    assert measures(tmp_path / "r") == before
    # neither networks from step 0 nor independent ones have anything of it
    assert cli(*one, "--shift", "none", "--fork", "0", "--fork", "independent")[0] == 0
    assert cli(*one, "--fork", "1", "--engine", "reference")[0] == 0
    engines = {(r.fork.name, r.env["engine"]) for r in read_records(tmp_path / "r")}
    assert engines == {("1", "reference"), ("0", "stacked"), ("independent", "stacked")}


def test_a_torn_trunk_that_nothing_leaves_any_more_fails_nothing(tmp_path):
    """As a power failure left it before weights were flushed to the disk."""
    work(suite(), tmp_path / "r", Selection(["lmc_mlp*"], ["none"], ["1"]))
    folder = tmp_path / "r" / "checkpoints"
    trunk = next(folder.glob("trunk-*.safetensors"))
    for content in (b"", bytes(4096)):
        (folder / f"{trunk.stem.rpartition('-')[0]}-1.safetensors").write_bytes(content)
        for record in (tmp_path / "r" / "records").iterdir():
            record.unlink()
        for training in folder.glob("*.json"):
            training.unlink()
        work(suite(), tmp_path / "r", Selection(["lmc_mlp*"], ["none"], ["1"]))
        assert [r.status for r in read_records(tmp_path / "r")] == ["ok"]


def test_a_torn_trunk_that_is_needed_is_named(tmp_path):
    work(suite(), tmp_path / "r", Selection(["lmc_mlp*"], ["none"], ["1"]))
    trunk = next((tmp_path / "r" / "checkpoints").glob("trunk-*.safetensors"))
    trunk.write_bytes(trunk.read_bytes()[:-100])
    other = Selection(["lmc_mlp*"], ["label-skew"], ["1"])
    work(suite(), tmp_path / "r", other)
    (failed,) = (r for r in read_records(tmp_path / "r") if r.status == "failed")
    assert failed.shift.name == "label-skew"
    assert f"DamagedStateError: checkpoints/{trunk.name} is damaged" in failed.reason
    assert "Remove it to train the trunk again" in failed.reason
    assert str(tmp_path) not in failed.reason
    trunk.unlink()
    work(suite(), tmp_path / "r", other)
    assert {r.status for r in read_records(tmp_path / "r")} == {"ok"}


def test_a_trunk_that_does_not_say_by_what_it_was_trained_is_taken(tmp_path):
    """Those of earlier versions."""
    chosen = {shift: Selection(["lmc_mlp*"], [shift], ["1"]) for shift in ("none", "label-skew")}
    work(suite(), tmp_path / "r", chosen["none"])
    for path in (tmp_path / "r" / "checkpoints").glob("trunk-*.safetensors"):
        save_state(load_state(path), path)
    work(suite(), tmp_path / "r", chosen["label-skew"])
    assert len(measures(tmp_path / "r")) == 2


def test_a_network_that_keeps_features_of_its_last_pass_is_run(lmcbench, tmp_path, monkeypatch):
    """Torch copies no tensor that a gradient flows through, as they are after training."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keeps.py").write_text(
        "from torch import nn\n\nclass Keeps(nn.Linear):\n    def forward(self, x):\n"
        "        self.last = super().forward(x.flatten(1))\n        return self.last\n\n"
        "def keeps(num_classes, in_chans, img_size):\n"
        "    return Keeps(in_chans * img_size**2, num_classes)\n"
    )
    asked = ["--arch", "keeps.py:keeps", "--recipe", "linear", "--fork", "0", "--replicates", "1"]
    shifts = ["--shift", "none", "--shift", "label-skew"]
    code, _, err = lmcbench("run", "digits", *asked, *shifts, "--jobs", "1", "--out", "r")
    assert (code, err) == (0, "")
    assert {read_record(path).status for path in (tmp_path / "r" / "records").iterdir()} == {"ok"}


def test_a_record_says_what_it_was_trained_on(tmp_path):
    """Cut off between training and measuring, and measured elsewhere."""
    chosen = Selection(architectures=["lmc_mlp*"], shifts=["none"], forks=["0"])
    work(suite(), tmp_path / "r", chosen)
    [record] = read_records(tmp_path / "r")
    assert (record.env["device"], record.env["trained_on"]) == ("cpu", "cpu")
    folder = RunFolder(tmp_path / "r")
    told = json.loads(folder.training(record.key).read_text())
    folder.training(record.key).write_text(json.dumps(told | {"device": "GPU"}))
    folder.record(record.key).unlink()
    work(suite(), tmp_path / "r", chosen)
    [record] = read_records(tmp_path / "r")
    assert (record.env["device"], record.env["trained_on"]) == ("cpu", "GPU")
