"""Families in parts, interrupted and on another device: the bits of a family that is run at once."""

import json
import signal

import pytest

from lmcbench.errors import UserError
from lmcbench.results.events import attempts
from lmcbench.results.run_folder import RunFolder
from lmcbench.running import place, train_family
from lmcbench.running.attempt import Attempt, Interrupted, attempt, interrupt_once
from lmcbench.running.drive import FamiliesLostError
from lmcbench.running.plan import Conditions, plan_run
from lmcbench.running.run import expand_views, run_plan
from lmcbench.running.units import fill
from lmcbench.spec.cells import expand, families
from lmcbench.spec.suite_files import parse_suite

SUITE = """
name = "small"
version = 1
description = "for tests"
shifts = ["none", "disjoint-halves"]
forks = [1, "independent"]
replicates = 1
[data]
name = "digits"
train_size = 300
test_size = 60
[protocol]
alphas = 3
calibration = 40
train_eval = 60
[recipes.short]
lr = 0.05
batch_size = 50
epochs = 2
[[architectures]]
name = "lmc_linear"
recipe = "short"
"""
CELLS = expand(parse_suite(SUITE.encode(), "small.toml"))


def run(root, engine="reference", **options):
    folder = RunFolder(root)
    plan = plan_run(CELLS, folder)
    options = {"device": "cpu", "jobs": 1, "conditions": Conditions(engine)} | options
    return list(run_plan(plan, folder, data_dir=None, **options))


def measures(root):
    """Every record by key, less time, memory and fleet."""
    found = {}
    for path in (root / "records").glob("*.json"):
        record = json.loads(path.read_bytes())
        del record["cost"]["train_s"], record["cost"]["eval_s"], record["cost"]["peak_bytes"]
        del record["env"]["fleet"], record["env"]["git"]
        found[path.stem] = record
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole") / "r"
    run(root)
    found = measures(root)
    assert len(found) == 4
    return found


def in_parts(monkeypatch):
    monkeypatch.setattr(place, "whole_families", lambda tasks: fill(tasks, 99, 300))


def test_parts_have_the_bits_of_the_whole_family_and_train_no_step_twice(whole, tmp_path, monkeypatch):
    steps, advance = [], train_family.advance

    def counting(engine, model, states, feed, recipe, lengths, seeds, first, last, limit):
        steps.append((last - first) * len(states))
        return advance(engine, model, states, feed, recipe, lengths, seeds, first, last, limit)

    monkeypatch.setattr(train_family, "advance", counting)
    run(tmp_path / "whole")
    whole_steps = sum(steps)
    steps.clear()
    in_parts(monkeypatch)
    run(tmp_path / "r")
    assert measures(tmp_path / "r") == whole
    assert len(attempts(RunFolder(tmp_path / "r"))) == 1 + 4
    # six steps to the fork, then all siblings: a run of the whole family takes as many
    assert sum(steps) == whole_steps
    assert not list((tmp_path / "r" / "checkpoints").glob("interim-*"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, Interrupted])
def test_an_interruption_stores_what_is_trained(whole, tmp_path, monkeypatch, error):
    """Although the interval of checkpoints, ten minutes, has not passed."""
    advance, calls = train_family.advance, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise error(signal.SIGTERM) if error is Interrupted else error
        return advance(*arguments)

    monkeypatch.setattr(train_family, "advance", interrupted)
    with pytest.raises(error):
        run(tmp_path / "r")
    assert list((tmp_path / "r" / "checkpoints").glob("interim-*"))
    [log] = attempts(RunFolder(tmp_path / "r"))
    assert [event["event"] for event in log.events][-2:] == ["interrupted", "cancelled"]
    monkeypatch.setattr(train_family, "advance", advance)
    run(tmp_path / "r")
    assert measures(tmp_path / "r") == whole


def test_a_trunk_of_another_model_of_gpu_is_not_continued(tmp_path, monkeypatch):
    """The attempt fails, and may succeed elsewhere; it is a loss, not a user's error."""
    folder = RunFolder(tmp_path / "r")
    monkeypatch.setattr(train_family, "device_name", lambda device: "GPU A")
    in_parts(monkeypatch)
    run(folder.root)
    for path in (folder.root / "records").iterdir():
        path.unlink()
    for path in (folder.root / "checkpoints").glob("*-[01].safetensors"):
        if not path.name.startswith("trunk"):
            path.unlink()
    monkeypatch.undo()
    monkeypatch.setattr(train_family, "device_name", lambda device: "GPU B")
    with pytest.raises(FamiliesLostError, match="trained on GPU A; its siblings would be trained on GPU B"):
        run(folder.root, retries=1)
    logs = attempts(folder, families(CELLS)[0].key)
    assert [log.end["event"] for log in logs] == ["failed", "failed"]


def test_an_attempt_on_changed_data_is_refused(tmp_path, monkeypatch):
    """As on a node with other data."""
    from lmcbench.data.selection import open_suite_data
    from lmcbench.results.events import create_attempt
    from lmcbench.running.other_machines import Expected
    from lmcbench.running.plan import Task

    folder = RunFolder(tmp_path)
    dataset = open_suite_data(CELLS[0].suite, None)
    views = expand_views(families(CELLS), dataset)
    task = Task(families(CELLS)[0], folder, views[0], "cpu", data=("0" * 64, "1" * 64))
    log = create_attempt(folder, task.family.key, token="t")
    outcome = attempt(Attempt(task, log, Expected.here("t")))
    assert (outcome.kind, outcome.exit_code) == ("refused", 2)
    assert outcome.reason.startswith("Node ")
    assert "digits was changed since the run began" in outcome.reason


def test_a_signal_is_heeded_once(monkeypatch):
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        with pytest.raises(Interrupted, match="140") as found:
            interrupt_once(signal.SIGUSR2, None)
        assert found.value.signum == signal.SIGUSR2
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def test_impossible_jobs_are_refused_by_slurm_place(tmp_path):
    with pytest.raises(UserError, match="Limit the jobs at once"):
        place.parse_place("slurm").prepare([], None, "cpu", 2)
