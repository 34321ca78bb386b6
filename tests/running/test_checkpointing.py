"""A family cut off anywhere goes on from there: the same bits, and no step trained twice."""

import json
import os
from types import SimpleNamespace

import pytest
import torch

from lmcbench.results.run_folder import RunFolder
from lmcbench.running import checkpointing as interim
from lmcbench.running import train_family as family
from lmcbench.running import train_family as fleet
from lmcbench.running.plan import Conditions, Progress, plan_run
from lmcbench.running.run import run_plan
from lmcbench.running.siblings import Sibling
from lmcbench.spec.canonical import digest_bytes
from lmcbench.spec.cells import Selection, expand
from lmcbench.spec.suite_files import parse_suite
from lmcbench.train.train_state import TrainState

SUITE = """
name = "small"
version = 1
description = "for tests"
shifts = ["label-skew"]
forks = [0.5, 1.5, "independent"]
replicates = 1
[data]
name = "digits"
train_size = 128
test_size = 50
[protocol]
alphas = 3
calibration = 40
train_eval = 40
[probe]
shifts = ["label-skew"]
replicates = 1
[recipes.short]
lr = 0.05
optimizer = "adamw"
batch_size = 32
epochs = 2
[[architectures]]
name = "lmc_resnet"
recipe = "short"
kwargs = { width = 2, blocks = 1, stem_stride = 2 }
"""
ALL = Selection()


def run(root, engine=None, stop_after=None, selection=ALL, text=SUITE):
    """Run the suite into `root`, or until so many pieces of training are done."""
    folder = RunFolder(root)
    plan = plan_run(expand(parse_suite(text.encode(), "small.toml"), selection), folder)
    work = run_plan(plan, folder, data_dir=None, device="cpu", jobs=1, conditions=Conditions(engine))
    pieces = 0
    for event in work:
        pieces += isinstance(event, Progress)
        if pieces == stop_after:
            work.close()
            break


def measures(root):
    """Every record by key, less time, memory and fleet; digests of siblings on their way."""
    found = {}
    for path in (root / "records").glob("*.json"):
        record = json.loads(path.read_bytes())
        del record["cost"]["train_s"], record["cost"]["eval_s"], record["cost"]["peak_bytes"]
        del record["env"]["fleet"]
        found[path.stem] = record
    for path in (root / "checkpoints").glob("*-step*.safetensors"):
        found[path.stem] = digest_bytes(path.read_bytes())
    return found


def interims(root):
    return sorted(path.name for path in (root / "checkpoints").glob("*interim-*"))


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Store after every piece."""
    monkeypatch.setattr(interim, "INTERVAL", -1.0)
    monkeypatch.setattr(interim, "SHARE", float("inf"))


@pytest.fixture
def steps(monkeypatch):
    """Network steps that were trained, call by call."""
    trained, advance = [], fleet.advance

    def counting(engine, model, states, feed, recipe, lengths, seeds, first, last, limit):
        trained.append((last - first) * len(states))
        return advance(engine, model, states, feed, recipe, lengths, seeds, first, last, limit)

    monkeypatch.setattr(fleet, "advance", counting)
    return trained


@pytest.fixture(scope="module", params=["stacked", "reference"])
def whole(request, tmp_path_factory):
    """An engine, and the measures of a run by it that nothing cut off."""
    root = tmp_path_factory.mktemp("whole") / "run"
    run(root, request.param)
    assert len(list((root / "records").iterdir())) == 3
    return request.param, measures(root)


@pytest.mark.parametrize("pieces", [1, 2])
def test_cut_off_anywhere_nothing_is_lost(whole, pieces, steps, tmp_path):
    engine, expected = whole
    run(tmp_path / "cut", engine, pieces)
    first = sum(steps)
    assert interims(tmp_path / "cut")
    run(tmp_path / "cut", engine)
    assert measures(tmp_path / "cut") == expected
    assert interims(tmp_path / "cut") == []
    # 4 steps an epoch: the trunk to 1.5, two siblings each from 0.5 and 1.5 to 2, two independent ones
    assert 0 < first < sum(steps) == 6 + 2 * 6 + 2 * 2 + 2 * 8


def test_cut_off_again_and_again(whole, steps, tmp_path):
    engine, expected = whole
    while len(list((tmp_path / "cut" / "checkpoints").glob("*.json"))) < 3:
        run(tmp_path / "cut", engine, 2)
    run(tmp_path / "cut", engine)
    assert measures(tmp_path / "cut") == expected


def test_what_another_engine_left_is_not_taken_up(whole, steps, tmp_path):
    engine, expected = whole
    other = {"stacked": "reference", "reference": "stacked"}[engine]
    independent = Selection(forks=["independent"])  # a trunk's states at forks are taken up whoever made them
    run(tmp_path / "cut", other, 2, independent)
    before = sum(steps)
    run(tmp_path / "cut", engine, selection=independent)
    found = measures(tmp_path / "cut")
    assert found == {key: expected[key] for key in found}
    assert before > 0
    assert interims(tmp_path / "cut") == []  # what nobody will take up is not left behind


def test_a_torn_file_and_a_lost_one_are_trained_again(whole, tmp_path):
    engine, expected = whole
    # to the first fork the trunk and two independent networks: together, or one after the other
    run(tmp_path / "cut", engine, {"stacked": 1, "reference": 4}[engine])
    names = interims(tmp_path / "cut")
    torn, lost, trunk = names[0], names[1], names[-1]
    assert "trunk" in trunk
    for name in (torn, trunk):
        path = tmp_path / "cut" / "checkpoints" / name
        os.truncate(path, path.stat().st_size // 2)
    (tmp_path / "cut" / "checkpoints" / lost).unlink()
    run(tmp_path / "cut", engine)
    assert measures(tmp_path / "cut") == expected


def test_a_trunk_that_is_past_a_fork_asked_for_later_begins_anew(whole, tmp_path):
    engine, expected = whole
    run(tmp_path / "cut", engine, 1, Selection(forks=["1.5"]))
    assert [name.split("-")[-1] for name in interims(tmp_path / "cut")] == ["trunk.safetensors"]
    run(tmp_path / "cut", engine)
    assert measures(tmp_path / "cut") == expected


def test_nothing_is_stored_before_its_time_or_on_a_full_disk(whole, monkeypatch, tmp_path):
    engine, expected = whole
    monkeypatch.setattr(interim, "INTERVAL", 600.0)
    stored, save = [], interim.save_tensors

    def recorded(tensors, path):
        stored.append(path.name)
        return save(tensors, path)

    monkeypatch.setattr(interim, "save_tensors", recorded)
    run(tmp_path / "soon", engine)
    assert not [name for name in stored if "interim-" in name]
    monkeypatch.setattr(interim, "INTERVAL", -1.0)

    def full(tensors, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(interim, "save_tensors", full)
    run(tmp_path / "full", engine)
    assert measures(tmp_path / "full") == expected


def test_storing_takes_its_share_of_the_time_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr(interim, "INTERVAL", 10.0)
    monkeypatch.setattr(interim, "SHARE", 0.1)
    now = [0.0]
    kept = interim.TrainingCheckpoints(RunFolder(tmp_path), "family", "how", clock=lambda: now[0])
    kept.took = 5.0
    now[0] = 49.0
    kept.store([])
    assert kept.last == 0.0
    now[0] = 50.0
    kept.store([])
    assert kept.last == 50.0


def test_short_trainings_may_end_before_a_late_fork(tmp_path):
    """Nobody trains between the end of the cheaper comparators and a fork whose trunk is there already."""
    late = SUITE.replace('[0.5, 1.5, "independent"]', '[1.8, "independent-equal-cost"]')
    run(tmp_path / "r", text=late)
    expected = measures(tmp_path / "r")
    folder = RunFolder(tmp_path / "r")
    for key in [path.stem for path in folder.records.iterdir()]:
        folder.record(key).unlink()
        folder.training(key).unlink()
    run(tmp_path / "r", text=late)
    assert measures(tmp_path / "r") == expected


@pytest.mark.parametrize("changed", ["data", "device", "network"])
def test_what_else_changes_a_network_is_in_the_name_of_its_file(changed, tmp_path):
    """Data that no suite pins, the kind of device, and code beside a user's network are in no key."""
    how = family._conditions("reference", bench())
    assert family._conditions("reference", bench()) == how
    assert family._conditions("reference", bench(changed)) != how


def bench(changed=None):
    return SimpleNamespace(
        device=torch.device("meta" if changed == "device" else "cpu"),
        dataset=SimpleNamespace(train=SimpleNamespace(sha256="b" if changed == "data" else "a")),
        model=torch.nn.Linear(2, 3 if changed == "network" else 2),
    )


SHARED = SUITE.replace(
    'shifts = ["label-skew"]\nforks', 'shifts = ["same-half", "disjoint-halves"]\nforks'
).replace('shifts = ["label-skew"]\nreplicates', 'shifts = ["disjoint-halves"]\nreplicates')
SHARED = SHARED.replace('[0.5, 1.5, "independent"]', "[0.5]")


def test_states_on_the_way_are_kept_for_a_cell_that_is_asked_for_later(tmp_path):
    """The control's first sibling is the shift's too, and was past states that only the shift keeps."""
    run(tmp_path / "whole", "reference", text=SHARED)
    run(tmp_path / "cut", "reference", 3, Selection(shifts=["same-half"]), SHARED)
    assert interims(tmp_path / "cut")
    run(tmp_path / "cut", "reference", text=SHARED)
    assert measures(tmp_path / "cut") == measures(tmp_path / "whole")


def test_a_trunk_taken_up_twice_keeps_its_time_and_losses(tmp_path):
    """It was stored from its beginning, is at a later fork since, and is stored again from there."""
    member = Sibling("trunk", 0, 40, 40, None, 0, None)
    member.state = TrainState({"w": torch.ones(2)}, {}, {})
    member.losses, member.at, member.seconds = [torch.arange(30.0)], 30, 30.0
    kept = interim.TrainingCheckpoints(RunFolder(tmp_path), "family", "how")
    kept.store([member])
    for at in (30, 36):
        again = Sibling("trunk", 20, 40, 40, None, 0, None)
        kept.resume(again, 40)
        assert again.at == at
        assert again.seconds == pytest.approx(at - 20)
        assert torch.equal(torch.cat(again.losses), torch.arange(20.0, at))
        again.losses.append(torch.arange(30.0, 36.0))
        again.at, again.seconds = 36, again.seconds + 6
        kept.store([again])


def test_storing_leaves_room_for_what_training_leaves(tmp_path, monkeypatch):
    """A network kept on its way must not take the room that was found for its weights."""
    member = Sibling("m", 0, 40, 40, None, 0, None, TrainState({"w": torch.ones(250)}, {}, {}))
    member.losses, member.at = [torch.zeros(1)], 1
    kept = interim.TrainingCheckpoints(RunFolder(tmp_path), "family", "how", reserve=5000)
    monkeypatch.setattr(interim.shutil, "disk_usage", lambda path: SimpleNamespace(free=6000))
    kept.store([member])
    assert interims(tmp_path) == []
    monkeypatch.setattr(interim.shutil, "disk_usage", lambda path: SimpleNamespace(free=6100))
    kept.store([member])
    assert len(interims(tmp_path)) == 1
