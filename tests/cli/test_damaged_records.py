"""A damaged record hides no other one: the rest is shown, it is named, and the exit code is 5."""

import json

import pytest

from builders import make_record, toy_cell, write_run
from lmcbench.errors import UserError
from lmcbench.results.frame import load_records


@pytest.fixture
def runs(tmp_path):
    """Return a function that writes `base` and `head` of four replicates, with damaged records of `head`."""

    def write(*damaged):
        for name in ("base", "head"):
            records = [make_record(toy_cell(replicate=r), barrier_error=0.1 + r / 50) for r in range(4)]
            folder = write_run(tmp_path / name, records)
        for record, change in zip(records, damaged, strict=False):
            path = folder.record(record.key)
            if isinstance(change, str):
                path.write_text(change)
            else:
                path.write_text(json.dumps(json.loads(path.read_text()) | change))
        return [folder.record(record.key) for record in records]

    return write


WRONG = {"cost": {"train_flop": 1e308}, "replicate": "many"}


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("leaderboard", "head"), "lmc_mlp"),
        (("report", "head"), "report.md"),
        (("report", "head", "--findings"), "findings.md"),
        (("compare", "base", "head"), "1 record of head cannot be read; what both have is identical"),
        (("compare", "head", "head"), "1 record of head cannot be read; 1 record of head cannot be read"),
        (("compare", "base", "head", "--json"), '"exit_code": 5'),
        (("compare", "base", "head", "--markdown"), "1 record of head cannot be read"),
    ],
)
def test_the_other_records_are_shown(lmcbench, runs, arguments, shown):
    damaged, *_ = runs(WRONG)
    code, out, err = lmcbench(*arguments)
    assert code == 5
    assert shown in out
    assert f"Left out: head/records/{damaged.name} is not a valid record: replicate: Input should be" in err
    assert "(and 5 more faults)." in err
    assert "Traceback" not in err


def test_the_tables_are_of_the_records_that_can_be_read(lmcbench, runs, tmp_path):
    damaged, *_ = runs(WRONG)
    _, out, _ = lmcbench("leaderboard", "head")
    damaged.unlink()
    assert lmcbench("leaderboard", "head") == (0, out, "")


def test_each_damaged_record_is_named_up_to_ten(lmcbench, tmp_path):
    folder = write_run(tmp_path / "head", [make_record()])
    for i in range(30):
        (folder.records / f"{i:016x}.json").write_text("{")
    code, out, err = lmcbench("leaderboard", "head")
    first, *lines = err.splitlines()
    assert (code, first) == (5, "Left out: 30 records of head cannot be read:")
    assert len(lines) == 11
    assert all("is damaged: Expecting" in line for line in lines[:-1])
    assert lines[-1] == "  and 20 more."
    assert "lmc_mlp" in out


@pytest.mark.parametrize("command", ["leaderboard", "report", "compare"])
def test_a_run_without_a_readable_record_is_bad_input(lmcbench, runs, command):
    runs(WRONG, "{", "[]", "null")
    code, out, err = lmcbench(command, "head", *["base"] * (command == "compare"))
    assert (code, out) == (2, "")
    assert err.startswith("Error: 4 records of head cannot be read:\n  head/records/")
    assert len(err.splitlines()) == 5


def test_a_newer_schema_is_bad_input_beside_other_records(lmcbench, runs):
    runs({"schema": "lmcbench/cell/99"})
    code, out, err = lmcbench("leaderboard", "head")
    assert (code, out) == (2, "")
    assert "Upgrade" in err


def test_python_raises_and_names_every_damaged_record(runs, tmp_path):
    one, two, *_ = runs(WRONG, "{")
    with pytest.raises(
        UserError, match=f"(?s)2 records of .*({one.stem}.*{two.stem}|{two.stem}.*{one.stem})"
    ):
        load_records(tmp_path / "head")
