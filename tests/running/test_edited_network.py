"""A network's file that is edited between two runs into one folder: never averaged with what it was."""

import hashlib

import pytest

from builders import make_record, toy_cell, write_run
from lmcbench.errors import UserError
from lmcbench.results.frame import load_records
from lmcbench.results.record_files import find_records, read_records, scan_records
from lmcbench.results.record_parser import read_record
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.plan import plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.architectures import Architecture
from lmcbench.spec.cells import Selection, expand
from lmcbench.spec.suite_files import load_suite
from lmcbench.train.build import find_factory

NETWORK = """
from torch import nn
{0}

def mine(num_classes, in_chans, img_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * img_size**2, {1}), nn.Linear({1}, num_classes))
"""


def plan(file, root, recipe="mlp", **wanted):
    selection = Selection([f"{file}:mine"], ["none"], ["0"], range(wanted.pop("replicates", 1)), recipe)
    return plan_run(expand(load_suite("digits"), selection), RunFolder(root))


def run(file, root, **wanted):
    list(run_plan(plan(file, root, **wanted), RunFolder(root), data_dir=None, device="cpu", jobs=1))


def contents(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(NETWORK.format("", 8))
    return path


def test_an_edited_file_is_refused_before_anything_is_trained(lmcbench, file, tmp_path):
    run(file, tmp_path / "run")
    was = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    file.write_text(NETWORK.format("", 4))
    now = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    before = contents(tmp_path / "run")
    arguments = ["--arch", f"{file}:mine", "--recipe", "mlp", "--replicates", "2", "--out", "run"]
    assert lmcbench("run", "digits", *arguments) == (
        2,
        "",
        f"Error: run holds 1 cell of an earlier version of mine.py:mine with recipe mlp (fingerprint "
        f"{was}, now {now}). Tables would average both versions. Run into another folder: --out DIR\n",
    )
    assert contents(tmp_path / "run") == before
    # another recipe has a row of its own, and another folder is what the message asks for
    assert len(plan(file, tmp_path / "run", recipe="linear").families) == 1
    assert len(plan(file, tmp_path / "other").families) == 1


def test_a_file_that_is_edited_during_a_run_changes_nothing_of_it(file, tmp_path):
    planned = plan(file, tmp_path / "run", replicates=2)
    was = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    file.write_text(NETWORK.format("", 4))
    list(run_plan(planned, RunFolder(tmp_path / "run"), data_dir=None, device="cpu", jobs=1))
    records = read_records(tmp_path / "run")
    assert {record.key for record in records} == {cell.key for cell in planned.cells}
    assert {(r.architecture.fingerprint, r.architecture.params) for r in records} == {(was, 8 * 65 + 10 * 9)}


def test_a_file_that_is_mended_after_its_cells_failed_runs_into_the_same_folder(file, tmp_path):
    run(file, tmp_path / "run")
    [path] = find_records(tmp_path / "run")
    failed = read_record(path).model_copy(
        update={"status": "failed", "reason": "no", "siblings": [], "pairs": []}
    )
    path.write_text(failed.to_json())
    file.write_text(NETWORK.format("", 4))
    run(file, tmp_path / "run")
    assert len(find_records(tmp_path / "run")) == 2
    [record] = read_records(tmp_path / "run")
    assert (record.status, record.architecture.params) == ("ok", 4 * 65 + 10 * 5)


def test_an_edited_neighbour_is_found_by_the_number_of_weights(file, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "width_of_mine.py").write_text("WIDTH = 8\n")
    file.write_text(NETWORK.format("import width_of_mine", "width_of_mine.WIDTH"))
    run(file, tmp_path / "run")
    before = contents(tmp_path / "run")
    monkeypatch.setattr("width_of_mine.WIDTH", 4)
    with pytest.raises(
        UserError,
        match=r"mine.py:mine has 310 parameters, but 610 in .*run: the code that mine.py imports",
    ):
        run(file, tmp_path / "run", replicates=2)
    assert contents(tmp_path / "run") == before


def test_two_networks_that_are_called_alike_are_in_no_table(tmp_path):
    one = make_record(toy_cell())
    other = one.model_copy(
        update={
            "key": "f" * 16,
            "architecture": one.architecture.model_copy(update={"fingerprint": "e" * 16}),
        }
    )
    alone = make_record(toy_cell(shift="same-half"))
    write_run(tmp_path, [one, other, alone])
    message = (
        f"has different networks, fingerprints {one.architecture.fingerprint} and {'e' * 16}, with "
        rf"the same label lmc_mlp and recipe fast, so tables would average over them "
        rf"\(records {one.key} and {'f' * 16}"
    )
    for reader in (read_records, load_records, scan_records):
        with pytest.raises(UserError, match=message):
            reader(tmp_path)
    # a failed cell is no result beside one
    write_run(tmp_path, [other.model_copy(update={"status": "failed", "reason": "no"})])
    assert {r.key for r in read_records(tmp_path)} == {one.key, alone.key}


def test_a_file_that_imports_its_neighbour_is_told_to_be_one_file(tmp_path):
    (tmp_path / "blocks_of_mine.py").write_text("WIDTH = 8\n")
    for i, (line, said) in enumerate(
        (
            (
                "import blocks_of_mine",
                "A network is one file: put what it needs of blocks_of_mine into m0.py.",
            ),
            ("import no_such_module_at_all", "No module named 'no_such_module_at_all' (m1.py, line 3)"),
        )
    ):
        path = tmp_path / f"m{i}.py"
        path.write_text(NETWORK.format(line, 8))
        with pytest.raises(UserError) as refused:
            find_factory(Architecture(name=f"{path}:mine", recipe="none"))
        assert str(refused.value).endswith(said)
