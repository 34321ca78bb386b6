"""`lmcbench.run`: the command line's run from Python, with networks that no file defines."""

import functools
import json
import multiprocessing.spawn
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import lmcbench
from lmcbench.running.from_python import _replicates
from lmcbench.running.workers import _script_hidden
from lmcbench.spec.architectures import Architecture
from lmcbench.train.networks import NETWORKS
from lmcbench.train.session_network import session_network

SUITE = """
name = "small"
version = 1
description = "for tests"
shifts = ["none"]
forks = [0]
replicates = 2
[data]
name = "digits"
train_size = 480
test_size = 100
[protocol]
alphas = 3
calibration = 50
train_eval = 50
[recipes.short]
lr = 0.5
batch_size = 64
epochs = 1
[[architectures]]
name = "lmc_linear"
recipe = "short"
"""


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "small.toml").write_text(SUITE, encoding="utf-8")
    return tmp_path / "small.toml"


class Scaled(nn.Module):
    def __init__(self, num_classes, in_chans, img_size, scale=1.0):
        super().__init__()
        self.flat, self.head = nn.Flatten(), nn.Linear(in_chans * img_size**2, num_classes)
        self.scale = scale

    def forward(self, x):
        return self.scale * self.head(self.flat(x))


def from_here(num_classes, in_chans, img_size):
    return Scaled(num_classes, in_chans, img_size)


def as_in_a_notebook(source, name="net"):
    """Return an object that was defined as in a notebook: its module is __main__, its source is kept."""
    import linecache

    file = f"<cell {len(linecache.cache)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    scope = {"__name__": "__main__", "nn": nn}
    exec(compile(source, file, "exec"), scope)
    return scope[name]


CELL = """
class Net(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))
    def forward(self, x):
        return self.body(x)
def net(num_classes, width=8):
    return Net(num_classes, width)
"""


# --- the function --------------------------------------------------------------------------------


def table(folder):
    """Return the lines of a run's table, without the one that names the command."""
    lines = (folder / "leaderboard.md").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if "Run by: " not in line]


def test_the_table_is_that_of_the_command_line(suite, tmp_path, lmcbench):
    from lmcbench import load_records, run

    frame = run(suite, out=tmp_path / "mine", device="cpu", jobs=1, progress=False)
    code, out, err = lmcbench("run", suite, "--out", tmp_path / "theirs", "--device", "cpu", "--jobs", 1)
    assert code == 0, err
    pd.testing.assert_frame_equal(frame, load_records(tmp_path / "mine"))
    measured = [c for c in frame.columns if not c.endswith("_s")]
    pd.testing.assert_frame_equal(frame[measured], load_records(tmp_path / "theirs")[measured])
    mine, theirs = (table(tmp_path / name) for name in ("mine", "theirs"))
    assert mine == theirs
    # either resumes what the other began
    code, out, _ = lmcbench("run", suite, "--out", tmp_path / "mine")
    assert code == 0
    assert "2 are finished already, 0 to do" in out


def test_a_temporary_folder_is_removed_and_threads_are_restored(suite, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        frame = lmcbench.run(lmcbench.load_suite(str(suite)), replicates=range(1, 2), progress=False, jobs=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(frame["replicate"]) == {1}
    assert list((tmp_path / "temporary").iterdir()) == []


def test_progress_goes_to_standard_error_only(suite, capsys):
    lmcbench.run(suite, replicates=1, jobs=1)
    out, err = capsys.readouterr()
    assert out == ""
    assert "1 of 1 cell" in err
    lmcbench.run(suite, replicates=1, jobs=1, progress=False)
    assert capsys.readouterr() == ("", "")


def test_workers_do_not_run_the_script_again(monkeypatch):
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__file__", "/somewhere/script.py", raising=False)
    monkeypatch.setattr(main, "__spec__", None)
    assert "init_main_from_path" in multiprocessing.spawn.get_preparation_data("worker")
    with _script_hidden():
        told = multiprocessing.spawn.get_preparation_data("worker")
    assert not {"init_main_from_path", "init_main_from_name"} & set(told)
    assert main.__file__ == "/somewhere/script.py"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, range(3)),
        (np.int64(3), range(3)),
        ("1:3", range(1, 3)),
        (range(2, 4), range(2, 4)),
        (None, None),
    ],
)
def test_replicates_are_a_number_a_range_or_text(value, expected):
    assert _replicates(value) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "tpu"}, "Unknown device 'tpu'"),
        ({"on": "moon"}, "Unknown place 'moon'"),
        ({"on": "ray", "out": None}, "Unknown place|needs a run folder"),
        ({"jobs": 0}, "jobs must be a whole number of at least 1, found 0"),
        ({"replicates": range(0)}, "replicates must be a number, a range"),
        ({"replicates": [0, 2]}, "replicates must be a number, a range"),
        ({"architectures": 3}, "found int"),
        ({"architectures": from_here}, "recipe='short'"),
        ({"architectures": Scaled(10, 1, 8), "recipe": "short"}, "Scaled is already built"),
        ({"architectures": "nothing"}, "To run an architecture that suite small does not list"),
        ({"forks": "7"}, "Suite small has no fork 7"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(suite, tmp_path, arguments, message):
    with pytest.raises(lmcbench.UserError, match=message):
        lmcbench.run(suite, **{"out": tmp_path / "out", "progress": False} | arguments)
    assert not (tmp_path / "out").exists()


# --- networks of the session ---------------------------------------------------------------------


def named(factory, recipe="short"):
    return session_network(factory, recipe, (1, 8, 8), 10)


def test_what_a_module_has_is_named_as_on_the_command_line():
    function = NETWORKS["lmc_mlp"]
    found = named(functools.partial(function, width=16))
    assert found.name == f"{function.__module__}:{function.__qualname__}"
    assert found.kwargs == {"width": 16}
    assert found.source == "module"


def test_a_network_of_a_notebook_is_identified_by_source_and_initial_weights():
    first = named(as_in_a_notebook(CELL))
    assert (first.name, first.label, first.source) == ("python:net", "python:net", "python")
    assert named(as_in_a_notebook(CELL)).fingerprint == first.fingerprint
    other = CELL.replace("self.body(x)", "2 * self.body(x)")  # in a class that the function uses
    other_weights = CELL.replace("width=8", "width=9")
    fingerprints = {named(as_in_a_notebook(cell)).fingerprint for cell in (CELL, other, other_weights)}
    assert len(fingerprints) == 3
    assert named(functools.partial(as_in_a_notebook(CELL), width=4)).label == "python:net(width=4)"
    # an architecture keeps its fingerprint when its name is given to another network, and as a copy
    assert first.model_copy(update={"recipe": "other"}).fingerprint == first.fingerprint
    assert first.identity()["fingerprint"] == first.fingerprint


def test_initial_weights_are_part_of_the_fingerprint():
    scope = CELL.replace("Net(num_classes, width)", "Net(num_classes, WIDTH)")
    net = as_in_a_notebook(scope)
    found = []
    for net.__globals__["WIDTH"] in (8, 9):
        found.append(named(net).fingerprint)
    assert found[0] != found[1]


def test_a_network_without_source_is_refused():
    scope = {"nn": nn, "__name__": "__main__"}
    exec("def net(num_classes):\n    return nn.Linear(64, num_classes)", scope)
    with pytest.raises(lmcbench.UserError, match=r"source of network net cannot be read.*'FILE.py:net'"):
        named(scope["net"])


def test_several_processes_and_two_networks_of_one_name_are_refused(suite):
    pair = [as_in_a_notebook(CELL), as_in_a_notebook(CELL.replace("width=8", "width=9"))]
    with pytest.raises(lmcbench.UserError, match="not with jobs=2"):
        lmcbench.run(suite, architectures=pair[0], recipe="short", progress=False, jobs=2)
    with pytest.raises(lmcbench.UserError, match="Two different networks are called python:net"):
        lmcbench.run(suite, architectures=pair, recipe="short", progress=False)


def test_a_network_of_a_notebook_runs_resumes_and_is_not_submitted(suite, tmp_path, lmcbench):
    from lmcbench import UserError, run

    given = {"recipe": "short", "out": tmp_path / "runs", "replicates": 1, "progress": False}
    frame = run(suite, architectures=as_in_a_notebook(CELL), **given)
    [record] = [json.loads(p.read_text()) for p in (tmp_path / "runs" / "records").iterdir()]
    assert record["status"] == "ok"
    assert record["architecture"]["source"] == "python"
    assert set(frame["architecture"]) == {"python:net"}
    again = run(suite, architectures=as_in_a_notebook(CELL), **given)
    pd.testing.assert_frame_equal(again, frame)
    # an edited network would be averaged with the one before
    edited = as_in_a_notebook(CELL.replace("width=8", "width=9"))
    with pytest.raises(UserError, match="an earlier version of python:net"):
        run(suite, architectures=edited, **given)
    code, _, err = lmcbench("submit", tmp_path / "runs", "--name", "mine", "--suite", suite)
    assert code == 2
    assert "cannot be submitted" in err
    assert "FILE.py:net" in err


def test_another_process_does_not_know_it(lmcbench):
    code, _, err = lmcbench("run", "digits", "--arch", "python:elsewhere", "--recipe", "mlp")
    assert code == 2
    assert "was defined in a Python session" in err
    assert Architecture(name="python:elsewhere", recipe="mlp").source == "python"
