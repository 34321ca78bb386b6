"""`tune` trains every setting, resumes bit for bit, and a run uses its choice."""

import json
import shlex
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from builders import toy_suite
from lmcbench.cli import app
from lmcbench.data.selection import open_suite_data, split_held_out
from lmcbench.errors import UserError
from lmcbench.results.record_parser import read_record
from lmcbench.results.tuning import read_tuning
from lmcbench.running import tune_training, workers
from lmcbench.running.tune import default_folder, plan_tuning
from lmcbench.running.tune_progress import TuneView
from lmcbench.running.tune_training import Trained, group_members, held_out_split
from lmcbench.spec.architectures import parse_architecture
from lmcbench.spec.sweep import TUNING_REPLICATES

SWEEP = {
    "batch_size": 32,
    "epochs": 2,
    "optimizers": [
        {"optimizer": "sgd", "lr": [0.2, 0.4]},
        {"optimizer": "adamw", "lr": [0.003, 1e-9, 1e30], "weight_decay": [0.01]},
    ],
}
RECIPES = {name: {"lr": 0.1, "batch_size": 32, "epochs": 2} for name in ("slow", "fast")}
SMALL = {"data": {"name": "digits", "train_size": 250, "test_size": 50}, "recipes": RECIPES, "forks": [0]}


def small(**changes):
    return toy_suite(**{"sweep": SWEEP, **SMALL, **changes})


def tune(suite, folder, arch="lmc_mlp", engine=None, jobs=1, stop=None):
    run = plan_tuning(suite, arch, folder, data_dir=None, device="cpu", engine=engine)
    for count, event in enumerate(e for e in run.run(jobs) if isinstance(e, Trained)):
        del event
        if count + 1 == stop:
            return None
    return run.conclude()


def without_cost(tuning):
    return tuning.model_dump(exclude={"cost"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, tune(small(), folder)


def test_every_setting_has_its_accuracies_and_the_file_has_the_choice(whole):
    folder, tuning = whole
    assert read_tuning(folder) == tuning
    statuses = [[one.status for one in s.trainings] for s in tuning.settings]
    assert statuses == [["ok"] * 3, ["ok"] * 3, ["ok"] * 3, ["did-not-learn"] * 3, ["diverged"] * 3]
    assert (tuning.data.trained_on, tuning.data.held_out) == (200, 50)
    assert all(0.2 < a <= 1 for s in tuning.settings[:3] for a in s.accuracies)
    assert tuning.cost.engine == "stacked"
    assert tuning.cost.train_flop > 0
    assert not (folder / "trainings").exists()


def test_members_with_different_rates_equal_trainings_of_their_own(whole, tmp_path):
    # a sweep of one learning rate is another suite with the same seeds
    alone = SWEEP | {"optimizers": [{"optimizer": "sgd", "lr": [0.4]}]}
    found = tune(small(sweep=alone), tmp_path)
    assert found.settings[0] == whole[1].settings[1]


def test_an_interrupted_tuning_resumes_with_equal_results(whole, tmp_path, monkeypatch):
    assert tune(small(), tmp_path, stop=6) is None  # the fleet of sgd is finished
    assert not (tmp_path / "tuning.json").exists()
    assert len(list((tmp_path / "trainings").iterdir())) == 6
    trained = []
    real = tune_training.advance
    monkeypatch.setattr(
        tune_training, "advance", lambda *a, **k: trained.append(a[4].optimizer) or real(*a, **k)
    )
    again = tune(small(), tmp_path)
    assert set(trained) == {"adamw"}
    assert without_cost(again) == without_cost(whole[1])
    trained.clear()
    assert tune(small(), tmp_path) == again
    assert not trained


def test_a_failed_training_is_repeated_and_the_cost_of_the_others_is_counted_once(
    whole, tmp_path, monkeypatch
):
    trained = []
    real = tune_training.advance

    def failing(*arguments, **options):
        trained.append(arguments[4].optimizer)
        if trained[-1] == "adamw":
            raise RuntimeError("no memory")
        return real(*arguments, **options)

    monkeypatch.setattr(tune_training, "advance", failing)
    costs = []
    for _ in range(2):
        trained.clear()
        found = tune(small(), tmp_path)
        costs.append(found.cost)
        statuses = [{one.status for one in s.trainings} for s in found.settings]
        assert statuses == [{"ok"}, {"ok"}, {"failed"}, {"failed"}, {"failed"}]
        assert "training failed: RuntimeError: no memory" in found.settings[2].trainings[0].reason
    assert set(trained) == {"adamw"}
    assert costs[0] == costs[1]
    trained.clear()
    monkeypatch.setattr(
        tune_training, "advance", lambda *a, **k: trained.append(a[4].optimizer) or real(*a, **k)
    )
    found = tune(small(), tmp_path)
    assert set(trained) == {"adamw"}
    assert without_cost(found) == without_cost(whole[1])
    assert found.cost.train_flop == pytest.approx(whole[1].cost.train_flop, rel=1e-12)
    assert not (tmp_path / "trainings").exists()


@pytest.mark.parametrize(("asked", "jobs"), [(1, 1), (2, 2), (9, 2)])
def test_processes_that_share_a_gpu_share_its_memory(tmp_path, monkeypatch, asked, jobs):
    tasks = []
    monkeypatch.setattr(workers, "run_in_processes", lambda given, _: iter(tasks.extend(given) or ()))
    monkeypatch.setattr(
        "lmcbench.running.tune.train_settings", lambda task, _: iter(tasks.append(task) or ())
    )
    run = plan_tuning(small(), "lmc_mlp", tmp_path, data_dir=None, device="cpu")
    assert list(run.run(asked)) == []
    assert [task.jobs for task in tasks] == [jobs] * 2
    memory = SimpleNamespace(limit=lambda budget, count: min(budget // 10, count))
    monkeypatch.setattr(tune_training, "fleet_memory", lambda *_: memory)
    monkeypatch.setattr(tune_training, "resident_bytes", lambda *_: 20)
    monkeypatch.setattr(
        tune_training, "device_budget", lambda _, resident, share: int((100 - resident) * share)
    )
    cuda = SimpleNamespace(type="cuda")
    states = [None] * 9
    assert tune_training._fitting(tasks[0], cuda, None, states, None, None) == 8 // jobs
    assert tune_training._fitting(tasks[0], SimpleNamespace(type="cpu"), None, states, None, None) is None


def test_flags_that_a_network_sets_are_set_back_before_training(tmp_path, monkeypatch):
    calls = []
    for name in ("compute_exactly", "build", "advance"):
        real = getattr(tune_training, name)
        monkeypatch.setattr(
            tune_training, name, lambda *a, real=real, name=name, **k: calls.append(name) or real(*a, **k)
        )
    tune(small(sweep=SWEEP | {"optimizers": [{"lr": [0.2]}]}), tmp_path)
    assert calls[:6] == ["compute_exactly", *["build"] * 3, "compute_exactly", "advance"]


def test_an_error_after_some_trainings_fails_the_others_only(whole, tmp_path, monkeypatch):
    suite = small(sweep=SWEEP | {"optimizers": [{"lr": [0.2]}]})
    score, scored = tune_training._score, []

    def failing(*arguments):
        scored.append(arguments)
        if len(scored) == 3:
            raise RuntimeError("no memory")
        return score(*arguments)

    monkeypatch.setattr(tune_training, "_score", failing)
    run = plan_tuning(suite, "lmc_mlp", tmp_path, data_dir=None, device="cpu")
    events = [event for event in run.run(1) if isinstance(event, Trained)]
    assert [(e.training.replicate, e.training.status) for e in events] == [
        (1000, "ok"), (1001, "ok"), (1002, "failed")
    ]  # fmt: skip
    assert run.failed.keys() == {(0, 1002)}
    assert run.remaining == [(0, 1002)]
    assert run.conclude().settings[0].trainings[:2] == whole[1].settings[0].trainings[:2]


def test_a_failed_training_ends_the_command_with_exit_code_5(tmp_path, monkeypatch):
    def failing(*arguments, **options):
        raise RuntimeError("no memory")

    monkeypatch.setattr(tune_training, "advance", failing)
    (tmp_path / "toy.toml").write_text(SUITE_TOML)
    ask = ["tune", str(tmp_path / "toy.toml"), "--arch", "lmc_mlp", "--device", "cpu", "--jobs", "1"]
    done = CliRunner().invoke(app, [*ask, "--out", str(tmp_path / "out")])
    assert done.exit_code == 5
    assert "no memory" in done.output


def test_the_reference_engine_resumes_each_training(tmp_path):
    suite = small(sweep=SWEEP | {"epochs": 1, "optimizers": [{"lr": [0.2]}]}, recipes=RECIPES)
    whole = tune(suite, tmp_path / "a", engine="reference")
    assert tune(suite, tmp_path / "b", engine="reference", stop=1) is None
    assert len(list((tmp_path / "b" / "trainings").iterdir())) == 1
    assert without_cost(tune(suite, tmp_path / "b", engine="reference")) == without_cost(whole)
    with pytest.raises(UserError, match="engine reference"):
        tune(suite, tmp_path / "b", engine="stacked")


@pytest.mark.parametrize("engine", [None, "reference"])
def test_a_damaged_training_is_repeated(whole, tmp_path, engine):
    suite = small(sweep=SWEEP | {"optimizers": [{"lr": [0.2]}]})
    tune(suite, tmp_path, engine=engine, stop=3)
    [first, *_] = sorted((tmp_path / "trainings").iterdir())
    first.write_text(first.read_text()[:-30])
    found = tune(suite, tmp_path, engine=engine)
    if engine is None:
        assert found.settings[0] == whole[1].settings[0]
    assert [one.status for one in found.settings[0].trainings] == ["ok"] * 3


def test_a_changed_suite_with_the_same_sweep_keeps_the_results(whole, tmp_path, monkeypatch):
    (tmp_path / "tuning.json").write_text((whole[0] / "tuning.json").read_text())
    monkeypatch.setattr(tune_training, "advance", None)
    changed = small(shifts=["none"])
    found = tune(changed, tmp_path)
    assert found.suite.digest == changed.digest != whole[1].suite.digest
    assert found.settings == whole[1].settings
    found.check(changed, "tuning.json")


@pytest.mark.parametrize(
    ("changes", "arch", "reason"),
    [
        ({"sweep": None}, "lmc_mlp", r"no \[sweep\]"),
        ({"sweep": SWEEP | {"epochs": 3}}, "lmc_mlp", "another sweep"),
        ({"version": 2}, "lmc_mlp", "another sweep"),
        ({}, "lmc_linear", "is the tuning of lmc_mlp"),
        ({}, "lmc_*", "matches lmc_linear, lmc_mlp"),
        ({}, "nothing*", "matches"),
        ({"sweep": SWEEP | {"batch_size": 201}}, "lmc_cnn", "fewer than one batch"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(whole, changes, arch, reason):
    with pytest.raises(UserError, match=reason):
        plan_tuning(small(**changes), arch, whole[0], data_dir=None, device="cpu")


def test_the_test_set_is_not_used_and_splits_are_stratified_and_keyed():
    labels = np.repeat(np.arange(4), 25)
    kept, held = split_held_out(labels, 0.2, 7)
    assert sorted([*kept, *held]) == list(range(100))
    assert np.bincount(labels[held]).tolist() == [5, 5, 5, 5]
    assert held.tolist() == split_held_out(labels, 0.2, 7)[1].tolist()
    assert held.tolist() != split_held_out(labels, 0.2, 8)[1].tolist()
    assert len(split_held_out(np.arange(10) % 2, 0.2, 7)[1]) == 2


def test_networks_are_trained_on_one_part_of_the_training_set_and_scored_on_the_rest(tmp_path, monkeypatch):
    trained, scored = [], {}
    make_stream, score = tune_training.make_stream, tune_training._score

    def record_stream(items, *rest):
        trained.append(np.asarray(items).tolist())
        return make_stream(items, *rest)

    def record_score(network, state, losses, per_epoch, images, split, replicate):
        def shown(items):
            scored.setdefault(replicate, []).append(items.tolist())
            return images.split(items)

        seen = SimpleNamespace(labels=images.labels, split=shown)
        return score(network, state, losses, per_epoch, seen, split, replicate)

    monkeypatch.setattr(tune_training, "make_stream", record_stream)
    monkeypatch.setattr(tune_training, "_score", record_score)
    suite = small(sweep=SWEEP | {"optimizers": [{"lr": [0.2]}]})
    tune(suite, tmp_path)
    data = open_suite_data(suite)
    splits = [held_out_split(suite, data, replicate) for replicate in TUNING_REPLICATES]
    assert [sorted(items) for items in trained] == [sorted(kept.tolist()) for kept, _ in splits]
    assert scored == {r: [held.tolist()] for r, (_, held) in zip(TUNING_REPLICATES, splits, strict=True)}
    for items, [held] in zip(trained, scored.values(), strict=True):
        assert sorted(items + held) == list(range(250))
    assert len({tuple(sorted(items)) for items in trained}) == 3


def test_fleets_share_all_but_the_learning_rate():
    settings = small().sweep.settings
    every = [(i, r) for i in range(5) for r in (1000, 1001)]
    assert group_members(settings, every, "stacked") == [tuple(every[:4]), tuple(every[4:])]
    assert group_members(settings, every, "reference") == [(m,) for m in every]


def test_the_default_folder_has_no_separators():
    path = default_folder(small(), parse_architecture("nets/my.py:net(a='x/y')", "tuned"))
    assert path.parent.as_posix() == "runs/toy-tuning"
    assert "/" not in path.name
    assert default_folder(small(), small().architectures[1]).name == "lmc_mlp"


SUITE_TOML = """
name = "toy"
version = 1
description = "small"
shifts = ["none"]
forks = [0]
replicates = 1
data = { name = "digits", train_size = 250, test_size = 50 }
recipes.mlp = { lr = 0.2, batch_size = 32, epochs = 2 }

[sweep]
batch_size = 32
epochs = 2
optimizers = [{ optimizer = "sgd", lr = [0.2, 0.4] }]

[[architectures]]
name = "lmc_mlp"
recipe = "mlp"
"""


def test_the_command_that_uses_the_choice_can_be_pasted(whole, tmp_path, capsys):
    """A network from a file is named as it was, not by its label, which has no folder."""
    folder, tuning = whole
    run = plan_tuning(small(), "lmc_mlp", folder, data_dir=None, device="cpu")
    run.whole = replace(run.whole, folder=tmp_path / "my runs")
    TuneView(run).conclude(tuning, "my suite.toml", "nets/it's.py:net")
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command == [
        *("lmcbench", "run", "my suite.toml", "--arch", "nets/it's.py:net", "--recipe", "tuned"),
        *("--tuning", str(tmp_path / "my runs" / "tuning.json")),
    ]


def test_tune_and_run_on_the_command_line(lmcbench, tmp_path, forked_workers):
    (tmp_path / "toy.toml").write_text(SUITE_TOML)
    ask = ["tune", "toy.toml", "--arch", "lmc_mlp", "--device", "cpu", "--jobs", "2", "--engine", "reference"]
    code, out, err = lmcbench(*ask)
    assert code == 0, err
    assert "Choice: sgd, lr 0." in out
    file = tmp_path / "runs/toy-tuning/lmc_mlp/tuning.json"
    tuning = read_tuning(file)
    tuned = ["run", "toy.toml", "--recipe", "tuned", "--jobs", "1", "--device", "cpu"]
    code, _, err = lmcbench(*tuned)
    assert (code, "--tuning" in err) == (2, True)
    code, _, err = lmcbench(*tuned, "--tuning", str(file))
    assert code == 0, err
    [record] = [read_record(path) for path in (tmp_path / "runs/toy/records").iterdir()]
    assert record.recipe["name"] == "tuned"
    assert record.recipe["lr"] == tuning.recipe.lr
    [copy] = (tmp_path / "runs/toy/tuning").iterdir()
    assert copy.read_text() == file.read_text()
    table = json.loads(file.read_text())
    table["suite"]["digest"] = "0" * 64
    file.write_text(json.dumps(table))
    code, _, err = lmcbench(*tuned, "--tuning", str(file))
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "digest" in err
