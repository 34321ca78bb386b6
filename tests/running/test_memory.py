"""What bounds memory changes no number: the states of a path are held a few at a time."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from lmcbench.connect import blending as state
from lmcbench.connect import interpolation as path
from lmcbench.connect import layers, repair
from lmcbench.connect import plane as landscape
from lmcbench.connect.blending import states_per_chunk
from lmcbench.connect.interpolation import chunk_points, trace_path
from lmcbench.results.record_files import read_records
from lmcbench.results.run_folder import RunFolder
from lmcbench.running import analyses as probe
from lmcbench.running import evaluate as cell
from lmcbench.running.plan import plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.cells import expand
from lmcbench.spec.suite_files import parse_suite

torch.set_num_threads(1)

SUITE = """
name = "held"
version = 1
description = "a network with BatchNorm and one without, every measure of one shift"
shifts = ["label-skew"]
forks = [0]
replicates = 1
[data]
name = "digits"
train_size = 300
test_size = 20
[probe]
shifts = ["label-skew"]
images = 10
[protocol]
alphas = 11
calibration = 20
[recipes.short]
lr = 0.05
batch_size = 16
epochs = 1
[[architectures]]
name = "lmc_resnet"
recipe = "short"
kwargs = { width = 2 }
[[architectures]]
name = "lmc_mlp"
recipe = "short"
kwargs = { width = 8 }
"""


@pytest.fixture
def held(monkeypatch):
    """The most bytes of states made from others that were alive at once, in states like one given.

    What is expanded takes no memory of its own.
    """
    made: list[weakref.ref] = []
    most = [0]

    def watch(module, name: str) -> None:
        make = getattr(module, name)

        def watched(*args, **kwargs):
            found = make(*args, **kwargs)
            made[:] = [ref for ref in made if ref() is not None]
            made.extend(map(weakref.ref, found.values()))
            alive = [value for ref in made if (value := ref()) is not None]
            most[0] = max(most[0], sum(v.nbytes for v in alive if 0 not in v.stride()))
            return found

        monkeypatch.setattr(module, name, watched)

    for module, name in (
        *((module, "states_on_line") for module in (path, cell, probe, repair)), (repair, "_corrected"),
        (layers, "blend_stack"), (landscape, "_states"),
    ):  # fmt: skip
        watch(module, name)

    def fit(count: int, like: state.State) -> Callable[[], float]:
        size = sum(value.nbytes for value in like.values())
        monkeypatch.setattr(state, "MAX_BYTES", count * size + 1)
        made.clear()
        most[0] = 0
        return lambda: most[0] / size

    return fit


def test_as_many_as_fit_and_one_in_any_case(monkeypatch) -> None:
    network = {"weight": torch.zeros(1000), "count": torch.zeros(1, dtype=torch.int64)}
    assert states_per_chunk(network) == 256 * 2**20 // 4008
    grid = torch.linspace(0, 1, 21).numpy()
    assert [len(part) for part in chunk_points(grid, network)] == [21]
    for most, sizes in ((8 * 4008, [7, 7, 7]), (8 * 4008 - 1, [7, 7, 7]), (4007, [1] * 21)):
        monkeypatch.setattr(state, "MAX_BYTES", most)
        assert [len(part) for part in chunk_points(grid, network)] == sizes
        np.testing.assert_array_equal(np.concatenate(list(chunk_points(grid, network))), grid)


def found(record):
    """The numbers of a record: all but when and in what time it was made."""
    return {k: v for k, v in record.model_dump().items() if k not in ("cost", "env", "evidence")}


def test_a_run_does_not_see_how_many_states_are_held(tmp_path, held, monkeypatch) -> None:
    suite = parse_suite(SUITE.encode(), "held.toml")
    monkeypatch.setattr(probe, "PLANE_SIZE", 4)
    monkeypatch.setattr(probe, "LAYER_ALPHAS", 4)
    records = []
    for name, count in (("whole", 100), ("chunk_points", 3)):
        taken, folder = held(count, {"weights": torch.zeros(1500)}), RunFolder(tmp_path / name)
        plan = plan_run(expand(suite), folder, ["layers", "plane", "repair", "features"])
        list(run_plan(plan, folder, data_dir=None, device="cpu", jobs=1))
        records.append({record.key: found(record) for record in read_records(folder.root)})
        if count == 3:
            assert taken() <= count
        else:
            assert taken() > 9  # of 1,506 weights and statistics, at 11 points and 16 of a plane
    assert len(records[0]) == 2
    assert records[0] == records[1]


MEASURES = {
    "path": lambda m, f, a, b, s: trace_path(m, a, b, {"t": s}, 21),
    "features": lambda m, f, a, b, s: probe.features(probe.AnalysisInput(m, a, b, None, {"t": s}, None, 21)),
    "plane": lambda m, f, a, b, s: landscape.plane(m, f, a, b, s, 13),
    "layers": lambda m, f, a, b, s: layers.layerwise(m, a, b, s, 21),
    "repair": lambda m, f, a, b, s: repair.repair_path(m, a, b, {"t": s}, s[0], 21),
}


@pytest.mark.parametrize("name", MEASURES)
def test_each_measure_lets_go_of_one_stretch_before_the_next(name, held) -> None:
    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    model, (a, b, fork) = network(0), (network(seed).state_dict() for seed in (1, 2, 3))
    split = torch.randn(40, 1, 8, 8), torch.arange(40) % 10
    taken = held(3, a)
    MEASURES[name](model, fork, a, b, split)
    # the repair of one state beside the stretch that it is of
    assert 2 < taken() <= (4 if name == "repair" else 3)
