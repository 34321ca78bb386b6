"""What bounds memory changes no number: the states of a path are held a few at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmcbench.connect import state
from lmcbench.connect.network import Network
from lmcbench.connect.path import stretches
from lmcbench.connect.state import at_once
from lmcbench.results.store import RunFolder, read_records
from lmcbench.running.run import plan_run, run_plan
from lmcbench.spec.cells import expand
from lmcbench.spec.published import parse_suite

torch.set_num_threads(1)

SUITE = """
name = "held"
version = 1
description = "a network with BatchNorm and one without, every measure of one shift"
shifts = ["label-skew"]
forks = [0, "independent"]
replicates = 1
[data]
name = "digits"
[probe]
shifts = ["label-skew"]
images = 50
[protocol]
alphas = 7
[recipes.short]
lr = 0.05
batch_size = 64
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
    """Has so many states like one fit; returns how many were ever passed together since."""
    counts: list[int] = []
    forward = Network._forward

    def noted(self, states, batch):
        counts.append(len(next(iter(states.values()))))
        return forward(self, states, batch)

    monkeypatch.setattr(Network, "_forward", noted)

    def fit(count: int, like: state.State) -> list[int]:
        size = sum(v.numel() * v.element_size() for v in like.values())
        monkeypatch.setattr(state, "MOST_BYTES", count * size + 1)
        counts.clear()
        return counts

    return fit


def test_as_many_as_fit_and_one_in_any_case(monkeypatch) -> None:
    network = {"weight": torch.zeros(1000), "count": torch.zeros(1, dtype=torch.int64)}
    assert at_once(network) == 256 * 2**20 // 4008
    grid = torch.linspace(0, 1, 21).numpy()
    assert [len(part) for part in stretches(grid, network)] == [21]
    for most, sizes in ((8 * 4008, [7, 7, 7]), (8 * 4008 - 1, [7, 7, 7]), (4007, [1] * 21)):
        monkeypatch.setattr(state, "MOST_BYTES", most)
        assert [len(part) for part in stretches(grid, network)] == sizes
        np.testing.assert_array_equal(np.concatenate(list(stretches(grid, network))), grid)


def found(record):
    """The numbers of a record: all but when and in what time it was made."""
    return {k: v for k, v in record.model_dump().items() if k not in ("cost", "env", "evidence")}


def test_a_run_does_not_see_how_many_states_are_held(tmp_path, held) -> None:
    suite = parse_suite(SUITE.encode(), "held.toml")
    like, records = {"weights": torch.zeros(1500)}, []  # of 1,506 and 770 weights and statistics
    for name, count in (("whole", 100), ("stretches", 3)):
        counts, folder = held(count, like), RunFolder(tmp_path / name)
        plan = plan_run(expand(suite), folder, ["layers", "plane", "repair", "features"])
        list(run_plan(plan, folder, data_dir=None, device="cpu", jobs=1))
        records.append({record.key: found(record) for record in read_records(folder.root)})
        # a row of the plane; what one layer has made of six alphas, where all else is held once
        assert max(counts) == (13 if count == 100 else 6)
    assert len(records[0]) == 4
    assert records[0] == records[1]
