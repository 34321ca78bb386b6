"""Room on the disk: what training leaves is foretold, and refused before it is begun."""

from types import SimpleNamespace

import pytest

from lmcbench.errors import UserError
from lmcbench.results.run_folder import RunFolder
from lmcbench.running import checkpointing, family
from lmcbench.running.plan import plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.cells import expand
from lmcbench.spec.suite_files import parse_suite

SUITE = """
name = "small"
version = 1
description = "for tests"
shifts = ["none", "label-skew"]
forks = [0, 1, "independent", "whole-budget"]
replicates = 1
[data]
name = "digits"
train_size = 300
test_size = 60
[probe]
shifts = ["label-skew"]
[protocol]
alphas = 3
[recipes.short]
lr = 0.1
batch_size = 64
epochs = 4
[[architectures]]
name = "lmc_mlp"
recipe = "short"
"""


def run(folder):
    plan = plan_run(expand(parse_suite(SUITE.encode(), "small.toml")), folder)
    list(run_plan(plan, folder, data_dir=None, device="cpu", jobs=1))


def test_what_training_leaves_is_foretold(tmp_path, monkeypatch):
    foretold, folder = [], RunFolder(tmp_path / "r")

    def asked(*arguments):
        foretold.append(checkpointing.check_disk_space(*arguments))
        return foretold[-1]

    monkeypatch.setattr(family, "check_disk_space", asked)
    run(folder)
    files = list((folder.root / "checkpoints").glob("*.safetensors"))
    assert {"trunk", "step"} <= {part.rstrip("0123456789") for f in files for part in f.stem.split("-")}
    # a header in each file
    assert sum(f.stat().st_size for f in files) == pytest.approx(foretold[0], rel=0.02)
    run(folder)
    assert len(foretold) == 1  # nothing is left to train
    for path in [*folder.records.iterdir(), *(folder.root / "checkpoints").glob("*.json")]:
        path.unlink()  # as where it was interrupted
    folder.sibling(gone := expand(parse_suite(SUITE.encode(), "small.toml"))[0].key, 0).unlink()
    run(folder)
    assert folder.record(gone).exists()
    assert foretold[1] == pytest.approx(folder.sibling(gone, 0).stat().st_size, rel=0.02)


def test_a_disk_without_room_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpointing.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(
        UserError, match=r"r needs 6\.8 MB of disk space .* 8 cells of lmc_mlp, replicate 0; 1\.0 MB are free"
    ):
        run(RunFolder(tmp_path / "r"))
    assert not (tmp_path / "r").exists()
