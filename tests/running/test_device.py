"""What is computed on a device is computed wholly there: held on a pretended one."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import lmcbench
from fleets import KINDS, RECIPE, fresh, train
from lmcbench.connect.blending import average
from lmcbench.connect.gradient_noise import gradient_noise
from lmcbench.data.batches import DeviceImages, Feed, make_stream
from lmcbench.data.dataset import KEEP
from lmcbench.doctor import examine
from lmcbench.measure.checkpoints import Request, measure
from lmcbench.results.record_parser import read_record
from lmcbench.results.run_folder import RunFolder
from lmcbench.running import analyses as probe
from lmcbench.running.plan import Conditions, plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.cells import expand
from lmcbench.spec.suite_files import parse_suite
from lmcbench.train.train_state import load_tensors
from pretended import pretended_cuda

torch.set_num_threads(1)


def _holds_apart() -> bool:
    """Whether this torch lets a device be pretended: the labels are kept by parts of it that may change."""
    try:
        with pretended_cuda():
            there = torch.arange(3.0).to("cuda")
            stacked = torch.func.vmap(lambda x: x * x.sum())(there.repeat(2, 1))
            return there.device.type == stacked.device.type == "cuda" and stacked.cpu().device.type == "cpu"
    except Exception:
        return False


pytestmark = pytest.mark.skipif(not _holds_apart(), reason="this torch does not let a device be pretended")


@pytest.mark.parametrize(
    "mistake",
    [
        lambda there, here: there + here,
        lambda there, here: here[there.long()],
        lambda there, here: torch.cat([there, here]),
        lambda there, here: there.index_select(0, here.long()),
        lambda there, here: torch.func.vmap(lambda x, y: x * y)(there, here),
        lambda there, here: torch.func.grad(lambda x: (x * here).sum())(there),
        lambda there, here: there.numpy(),
        lambda there, here: np.asarray(there),
        lambda there, here: nn.Linear(3, 1)(there),
    ],
)
def test_the_pretended_device_sees_mistakes(mistake):
    with pretended_cuda():
        there, here = torch.arange(3.0).to("cuda"), torch.arange(3.0)
        with pytest.raises((RuntimeError, TypeError), match=r"same device|to numpy"):
            mistake(there, here)


NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, classes)
        self.drop = nn.Dropout(0.3)
    def forward(self, x):
        return self.head(self.drop(self.norm(self.body(x.flatten(1))).relu()))
def net(num_classes, in_chans):
    return Net(num_classes)
"""
SUITE = """
name = "small"
version = 1
description = "for tests"
shifts = ["label-skew", "rotation"]
forks = [1]
replicates = 1
evaluations = ["gaussian_noise-5"]
[data]
name = "digits"
train_size = 64
test_size = 20
[protocol]
alphas = 3
calibration = 30
[probe]
shifts = ["label-skew"]
images = 10
[recipes.sgd]
lr = 0.2
batch_size = 16
epochs = 5
augmentation = ["shift1"]
weight_decay = 0.001
label_smoothing = 0.1
clip_norm = 1.0
nesterov = true
[recipes.adamw]
optimizer = "adamw"
lr = 0.02
weight_decay = 0.05
batch_size = 16
epochs = 5
precision = "bf16"
[[architectures]]
name = "NETWORK"
recipe = "RECIPE"
KWARGS
"""
RUNS = {
    "dropout, one after another": ("net.py:net", "sgd", "", "reference", ["all"]),
    "convolutions and BatchNorm, stacked": ("lmc_resnet", "sgd", "kwargs = { width = 2 }", "stacked", []),
    "AdamW in bf16, stacked": ("lmc_mlp", "adamw", "kwargs = { width = 8, depth = 1 }", "stacked", ["all"]),
}
SLOW = {"convolutions and BatchNorm, stacked"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow_tier if case in SLOW else ()) for case in RUNS]
)
def test_a_run_there_is_the_run_here(case, tmp_path, monkeypatch):
    """Weights and every measure."""
    for constant, value in (("STEPS", 3), ("PROBES", 2), ("PLANE_SIZE", 3), ("EPOCH_ALPHAS", 3)):
        monkeypatch.setattr(probe, constant, value)
    name, recipe, kwargs, engine, measures = RUNS[case]
    (tmp_path / "net.py").write_text(NET)
    text = SUITE.replace("NETWORK", name.replace("net.py", str(tmp_path / "net.py")))
    text = text.replace("RECIPE", recipe).replace("KWARGS", kwargs)
    cells = expand(parse_suite(text.encode(), "small.toml"))

    def run(device):
        folder = RunFolder(tmp_path / device)
        plan = plan_run(cells, folder, measures)
        list(run_plan(plan, folder, data_dir=None, device=device, jobs=1, conditions=Conditions(engine)))
        return folder

    here = run("cpu")
    with pretended_cuda():
        there = run("cuda")
    for cell in cells:
        a, b = (read_record(folder.record(cell.key)) for folder in (here, there))
        assert (a.status, b.status, b.reason) == ("ok", "ok", None)
        assert b.env["engine"] == engine
        assert (b.env["device"], b.env["trained_on"]) == ("Pretended", "Pretended")
        assert b.env["flags"] == {
            "deterministic": True, "tf32": False, "cudnn_benchmark": False, "cudnn_deterministic": True,
            "threads": 1
        }  # fmt: skip
        for i in range(2):
            ours, theirs = (load_tensors(folder.sibling(cell.key, i)) for folder in (here, there))
            if engine == "reference":  # stacked, a lone trunk is run twice over here and once there
                assert all(torch.equal(t, theirs[n]) for n, t in ours.items())
            torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)
        assert "skipped" not in json.dumps(b.noise)
        ours, theirs = (json.loads(record.to_json()) for record in (a, b))
        for part in ("siblings", "pairs", "ensemble", "soup", "functions", "noise"):
            assert_near(ours[part], theirs[part], part)


CARELESS = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(64, classes)
        torch.backends.fp32_precision = "tf32"
    def forward(self, x):
        if torch.get_deterministic_debug_mode() == 2:
            raise RuntimeError("this_backward_cuda does not have a deterministic implementation")
        if len(x) > 4 and torch.backends.cudnn.conv.fp32_precision == "tf32":
            raise RuntimeError("rounded to TF32")
        return self.head(x.flatten(1))
def net(num_classes, in_chans):
    return Net(num_classes)
"""


def careless_records(folder, source):
    """Records of a run on the simulated device, of a network in a user's file."""
    path = folder / "net.py"
    path.write_text(source)
    text = SUITE.replace("NETWORK", f"{path}:net").replace("RECIPE", "sgd").replace("KWARGS", "")
    text = text.replace('shifts = ["label-skew", "rotation"]', 'shifts = ["label-skew"]')
    cells = expand(parse_suite(text.encode(), "small.toml"))
    run = RunFolder(folder / "run")
    with pretended_cuda():
        list(run_plan(plan_run(cells, run), run, data_dir=None, device="cuda", jobs=1))
    return [read_record(run.record(cell.key)) for cell in cells]


def test_flags_that_a_module_sets_are_set_back_and_operators_without_order_are_recorded(tmp_path):
    for record in careless_records(tmp_path, CARELESS):
        assert (record.status, record.reason) == ("ok", None)
        assert (record.env["flags"]["tf32"], record.env["flags"]["deterministic"]) == (False, False)


def test_a_network_that_cannot_be_stacked_says_so_in_its_record(tmp_path):
    branch = "        if self.head.bias.sum() > 1e9: return 0\n        return"
    for record in careless_records(tmp_path, NET.replace("        return", branch)):
        assert record.status == "ok"
        assert "control flow" in record.env["not_stacked"]


def assert_near(a, b, where):
    """Equal but for rounding: stacked passes sum in another order."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key, value in a.items():
            assert_near(value, b[key], f"{where}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_near(x, y, f"{where}/{i}")
    elif isinstance(a, float):
        assert math.isclose(a, b, rel_tol=2e-3, abs_tol=2e-4), (where, a, b)
    else:
        assert a == b, where


def test_measure_there_is_measure_here(tmp_path):
    """Two checkpoints of a user's; fp32 means fp32 there as in a run."""
    paths = [tmp_path / f"{i}.safetensors" for i in range(2)]
    _, states, _ = fresh("batchnorm resnet", [0, 1])
    for state, path in zip(states, paths, strict=True):
        save_file(state.params | state.buffers, path)
    request = Request(
        tuple(paths), "lmc_resnet", "digits", KINDS["batchnorm resnet"][1], images=20, calibration=20,
        measures=("repair", "align", "features"), alphas=3,
    )  # fmt: skip
    here = measure(request, None, "cpu")
    with pretended_cuda():
        torch.backends.cudnn.allow_tf32 = True  # torch's own default
        there = measure(request, None, "cuda")
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.deterministic
    assert_near(here, there, "measure")


@pytest.mark.parametrize("where", ["everything", "A", "B", "fork", "model", "images", "labels"])
def test_the_api_takes_each_argument_from_any_device(where):
    torch.manual_seed(0)
    model, *others = (
        nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
        for _ in range(4)
    )
    a, b, fork = (other.state_dict() for other in others)
    images, labels = torch.randn(12, 1, 4, 4), torch.randint(4, (12,))

    def found(model, a, b, fork, images, labels):
        split, views = (images, labels), [torch.arange(8).to(labels.device), torch.arange(4, 12)]
        curve = lmcbench.trace_path(model, a, b, {"test": split}, 3, images)["test"]
        return {
            "curve": curve.loss.tolist(),
            "predicted": lmcbench.predict_barrier(model, a, b, split, 3, True, images).tolist(),
            "layers": [c.loss.tolist() for c in lmcbench.layerwise(model, a, b, split, 3, images).values()],
            "plane": lmcbench.plane(model, fork, a, b, split, 2, images).loss.tolist(),
            "geometry": lmcbench.geometry(fork, a, b).to_json(),
            "noise": gradient_noise(model, fork, split, views, images).to_json(),
            "states": [
                float(t.double().sum())
                for state in (
                    lmcbench.interpolate(a, b, 0.25),
                    lmcbench.align(model, a, b),
                    average([a, b, fork]),
                )
                for t in state.values()
            ],
        }

    here = found(model, a, b, fork, images, labels)
    with pretended_cuda():

        def moved(name, given):
            if where not in (name, "everything"):
                return given
            return (
                {n: t.to("cuda") for n, t in given.items()} if isinstance(given, dict) else given.to("cuda")
            )

        there = found(
            moved("model", model),
            *(moved(name, state) for name, state in (("A", a), ("B", b), ("fork", fork))),
            moved("images", images),
            moved("labels", labels),
        )
    assert_near(here, there, where)


class Watching(nn.Module):
    """Notes how products and convolutions round while it runs."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 4)
        self.seen = set()

    def forward(self, x):
        self.seen.add((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return self.linear(x.flatten(1))

    def __deepcopy__(self, memo):
        twin = Watching()
        twin.seen = self.seen
        return twin


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_fp32_means_fp32_in_the_api_and_the_callers_settings_stand(device):
    model = Watching()
    states = [Watching().state_dict() for _ in range(2)]
    split = torch.randn(6, 1, 4, 4), torch.arange(6) % 4
    asked = ("medium", True)
    with pretended_cuda():
        torch.set_float32_matmul_precision(asked[0])
        torch.backends.cudnn.allow_tf32 = asked[1]
        try:
            lmcbench.trace_path(model, *states, {"test": split}, 3, device=device)
            after = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        finally:
            torch.set_float32_matmul_precision("highest")
    assert model.seen == {asked if device == "cpu" else ("highest", False)}
    assert after == asked


def colours(device):
    """Three members' batches of a pool with filled channels, and their feed."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    statistics = np.full(3, 0.5), np.full(3, 0.25)
    fills = np.array([[KEEP] * 3, [7, KEEP, 9]], dtype=np.int16)
    pool = DeviceImages(
        *(pixels, rng.integers(0, 10, 80), statistics, torch.device(device)),
        *(np.arange(80) % 40, fills, np.arange(80) % 2),
    )
    everything = np.arange(80)
    return Feed(
        pool, [make_stream(everything, everything, "own", i, i + 1, 16) for i in range(3)], ("flip", "crop4")
    )


def test_batches_there_are_the_batches_here():
    here = list(colours("cpu")([0, 2], 3, 70))
    with pretended_cuda():
        there = [(x.cpu(), y.cpu()) for x, y in colours("cuda")([0, 2], 3, 70)]
    assert len(here) == len(there) == 67
    assert all(torch.equal(p, q) for a, b in zip(here, there, strict=True) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("engine", ["reference", "stacked"])
def test_training_steps_do_not_wait_for_the_device(engine):
    """As many copies and waits for 6 steps as for 3, and as many for two members of a stack as for one."""

    def crossings(members, steps):
        model, states, _ = fresh("batchnorm resnet", members)
        with pretended_cuda() as labels:
            pool = DeviceImages(
                np.zeros((80, 1, 8, 8), np.uint8), np.zeros(80, np.int64), (np.zeros(1), np.ones(1)),
                torch.device("cuda"),
            )  # fmt: skip
            items = np.arange(80)
            streams = [make_stream(items, items, "own", i, i, RECIPE.batch_size) for i in members]
            feed = Feed(pool, streams, ("flip", "crop4"))
            there = [state.to(torch.device("cuda")) for state in states]
            labels.crossings.clear()
            train(engine, model.to("cuda"), there, feed, steps)
            return sum(labels.crossings.values())

    few = crossings([0, 1], 3)
    assert crossings([0, 1], 6) == few
    if engine == "stacked":
        assert crossings([0, 1, 2], 3) == few


WAITING = {
    "sizes of groups": lambda there: torch.unique(there),
    "repeats": lambda there: torch.repeat_interleave(there, there.long()),
    "a mask there": lambda there: there[there > 0],
    "a mask from here": lambda there: there[torch.tensor([True, False, True])],
    "a number": lambda there: float(there.sum()),
}


@pytest.mark.parametrize("operation", WAITING)
def test_operations_that_wait_are_counted(operation):
    with pretended_cuda() as labels:
        there = torch.arange(3.0).to("cuda")
        labels.crossings.clear()
        WAITING[operation](there)
        assert labels.crossings["wait"] == 1


@pytest.mark.parametrize("engine", ["reference", "stacked"])
def test_a_warmed_step_crosses_nothing(engine):
    """Only at every 64th step indices are copied, a block at a time."""
    model, states, _ = fresh("mlp", [0, 1])
    with pretended_cuda() as labels:
        pool = DeviceImages(
            np.zeros((80, 1, 8, 8), np.uint8), np.zeros(80, np.int64), (np.zeros(1), np.ones(1)),
            torch.device("cuda"),
        )  # fmt: skip
        items = np.arange(80)
        streams = [make_stream(items, items, "own", i, i, RECIPE.batch_size) for i in range(2)]
        feed = Feed(pool, streams, ("flip", "crop4"))
        counts = []

        def watched(members, start, stop):
            for batch in feed(members, start, stop):
                counts.append(sum(labels.crossings.values()))
                yield batch

        there = [state.to(torch.device("cuda")) for state in states]
        train(engine, model.to("cuda"), there, watched, 70)
    per_member = [counts[i : i + 70] for i in range(0, len(counts), 70)]
    for found in per_member:
        steps = [step for step in range(1, 70) if found[step] != found[step - 1]]
        assert steps == [64]


def test_the_doctor_sees_the_device():
    with pretended_cuda():
        assert examine()["device"]["cuda"] == {
            "name": "Pretended", "memory_bytes": 80 * 2**30, "runtime": torch.version.cuda
        }  # fmt: skip
