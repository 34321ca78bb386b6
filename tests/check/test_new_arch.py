"""`lmcbench new-arch`: its network is ready and learns; a refused name writes nothing."""

from __future__ import annotations

import ast
import shlex

import numpy as np
import pytest
import torch

from lmcbench.check.check import Readiness, Target, run_checks
from lmcbench.check.new_network import RECIPE, next_commands, write_network
from lmcbench.check.trial import Size
from lmcbench.data.batches import DeviceImages, Feed, make_stream
from lmcbench.data.open_dataset import open_dataset
from lmcbench.errors import UserError
from lmcbench.leaderboard.submission_file import check_slug
from lmcbench.spec.architectures import Architecture
from lmcbench.spec.cells import Selection, expand
from lmcbench.spec.suite_files import load_suite
from lmcbench.train.build import build
from lmcbench.train.engines import advance
from lmcbench.train.optimizer import slot_names
from lmcbench.train.train_state import initial_state

torch.set_num_threads(1)


def test_the_file_is_short_and_its_network_is_ready(tmp_path):
    path = write_network("my_net", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["my_net.py"]
    text = path.read_text()
    assert len(text.splitlines()) <= 40
    assert [n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)] == ["my_net"]
    for size in (Size((1, 8, 8), 10), Size((3, 16, 16), 100)):
        readiness = Readiness(Architecture(name=f"{path}:my_net", recipe="none"), Target(size))
        assert [f.found for f in run_checks(readiness) if f.status != "passed"] == []


def test_its_network_reaches_a_good_accuracy_on_digits(tmp_path):
    """A third of the suite's training suffices for 95 %; the floor for a rank is 90 %."""

    path = write_network("net", tmp_path)
    data, suite = open_dataset("digits"), load_suite("digits")
    recipe = suite.recipes[RECIPE].model_copy(update={"epochs": 3})
    model = build(Architecture(name=f"{path}:net", recipe=RECIPE), data.shape, 10, 0)
    everything = np.arange(len(data.train))
    train, test = (
        DeviceImages(split.images, split.labels, data.statistics, torch.device("cpu"))
        for split in (data.train, data.test)
    )
    feed = Feed(train, [make_stream(everything, everything, "own", 0, 0, recipe.batch_size)], ())
    length = recipe.length(len(everything))
    advance(
        "reference", model, [initial_state(model, slot_names(recipe))], feed, recipe, [length], [0], 0, length
    )
    images, labels = test.split()
    with torch.no_grad():
        accuracy = float((model.eval()(images.whole()).argmax(1) == labels).double().mean())
    assert accuracy > 0.95


@pytest.mark.parametrize(("name", "slug"), [("My_net", "my-net"), ("größe", "grosse"), ("网络", "my-net")])
def test_the_next_commands_fit_the_file(tmp_path, monkeypatch, name, slug):
    monkeypatch.chdir(tmp_path)
    write_network(name, tmp_path)
    checked, run, submit = (shlex.split(command) for command in next_commands(name))
    assert checked == ["lmcbench", "check", f"{name}.py:{name}"]
    asked = dict(zip(run[3::2], run[4::2], strict=True))
    cells = expand(load_suite(run[2]), Selection([asked["--arch"]], recipe=asked["--recipe"]))
    assert {cell.architecture.label for cell in cells} == {f"{name}.py:{name}"}
    assert submit[:4] == ["lmcbench", "submit", "runs/digits", "--name"]
    assert submit[4] == slug


@pytest.mark.parametrize(
    ("name", "slug"), [("a__b", "a-b"), ("größe_2", "grosse-2"), ("_", "my-net"), ("_ß_", "ss")]
)
def test_any_functions_name_gives_a_submissions(name, slug):
    assert next_commands(name)[-1].endswith(f" --name {slug}")
    check_slug(slug)


@pytest.mark.parametrize("name", ["3d", "my-net", "class", "", "../net", "a.b", "net.py"])
def test_names_that_no_function_can_have_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"cannot name a function\. Use letters, digits and underscores"):
        write_network(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["torch", "numpy", "json", "lmcbench", "sys"])
def test_names_of_modules_are_refused(tmp_path, name):
    with pytest.raises(
        UserError, match=f"{name}.py would hide the module '{name}'.* another name: my_{name}"
    ):
        write_network(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "net.py").write_text("mine")
    (tmp_path / "link.py").symlink_to(tmp_path / "nowhere")
    for name in ("net", "link"):
        with pytest.raises(UserError, match=f"{name}.py already exists"):
            write_network(name, tmp_path)
    assert (tmp_path / "net.py").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.py", "net.py"]


def test_a_folder_that_is_read_only_or_full_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match=r"net\.py cannot be written: the folder is read-only"):
        write_network("net", tmp_path)
    monkeypatch.undo()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"net\.py cannot be written: No space left on device"):
        write_network("net", tmp_path)
    assert list(tmp_path.iterdir()) == []
