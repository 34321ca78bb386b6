"""Records of a run in one file, and a run that continues from it."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

from builders import make_record, toy_cell, write_run
from lmcbench.errors import UserError
from lmcbench.results.frame import load_records
from lmcbench.results.record_files import encode_records, read_records
from lmcbench.running.plan import plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.cells import Selection, expand
from lmcbench.spec.suite_files import load_suite

SCRIPT = Path(__file__).parents[2] / "benchmark/evidence/records.py"

SUITE = """
name = "packed"
version = 1
description = "two short families"
shifts = ["none"]
forks = [0]
replicates = 2
[data]
name = "digits"
train_size = 100
test_size = 50
[recipes.short]
lr = 0.1
batch_size = 50
epochs = 1
[[architectures]]
name = "lmc_linear"
recipe = "short"
"""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("evidence_records", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_packed_run_is_read_like_its_folder_and_has_the_same_bytes_again(script, tmp_path):
    run = write_run(tmp_path / "run", [make_record(toy_cell(fork=f)) for f in ("0", "2")]).root
    file = tmp_path / "records.jsonl.gz"
    assert script.pack(run, file) == 2
    # keys are sorted in the file, so splits and further columns are in another order
    tables = [load_records(path).sort_values(["key", "split"], ignore_index=True) for path in (file, run)]
    pd.testing.assert_frame_equal(*tables, check_like=True, check_exact=True)
    first = file.read_bytes()
    assert script.unpack(file, tmp_path / "again") == 2
    assert script.pack(tmp_path / "again", file) == 2
    assert file.read_bytes() == first


def test_a_damaged_line_is_named(tmp_path):
    file = tmp_path / "records.jsonl.gz"
    file.write_bytes(encode_records([{"key": "0" * 16, "schema": "lmcbench/cell/2"}]))
    with pytest.raises(UserError, match="record 1"):
        read_records(file)
    file.write_bytes(b"no gzip")
    with pytest.raises(UserError, match="gzip"):
        read_records(file)


def test_a_run_continues_from_the_records_of_its_first_replicate(script, tmp_path):
    (tmp_path / "suite.toml").write_text(SUITE)
    suite = load_suite(str(tmp_path / "suite.toml"))

    def train(run, replicates):
        from lmcbench.results.run_folder import RunFolder

        folder = RunFolder(tmp_path / run)
        plan = plan_run(expand(suite, Selection(replicates=replicates)), folder)
        for _ in run_plan(plan, folder, data_dir=None, device="cpu", jobs=1):
            pass
        return {record.replicate: record for record in read_records(folder.root)}

    first = train("first", range(1))
    script.pack(tmp_path / "first", tmp_path / "records.jsonl.gz")
    script.unpack(tmp_path / "records.jsonl.gz", tmp_path / "second")
    both = train("second", range(2))
    assert both.keys() == {0, 1}
    # not trained again: the times are those of the first run
    assert both[0] == first[0]
