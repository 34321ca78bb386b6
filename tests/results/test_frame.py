import json
from dataclasses import fields

import pandas as pd
import pytest

import lmcbench
from builders import make_record, toy_cell, toy_suite, write_run
from lmcbench.errors import UserError
from lmcbench.results.frame import frame, load_records
from lmcbench.results.measures import Barrier
from lmcbench.results.record import parse_record

CELL = ["key", "suite", "version", "digest", "architecture", "recipe", "shift", "fork", "replicate", "status"]
FIXED = [
    *CELL,
    "params",
    *["connected", "connected_mean_form"],
    *["i", "j", "split", "n"],
    *[f.name for f in fields(Barrier)],
    *["disagreement", "error", "loss"],
]


def test_one_row_per_cell_pair_and_split(tmp_path):
    three = toy_suite(siblings=3)
    records = [
        make_record(toy_cell(fork=f, suite=three), barrier_error=b) for f, b in (("0", 0.2), ("2", 0.1))
    ]
    write_run(tmp_path, records)
    rows = load_records(tmp_path)
    assert lmcbench.load_records is load_records
    assert len(rows) == 2 * 3 * 2
    assert list(rows.columns[: len(FIXED)]) == FIXED
    places = set(rows[["fork", "i", "j", "split"]].itertuples(index=False, name=None))
    assert places == {
        (f, i, j, s) for f in ("0", "2") for i, j in ((0, 1), (0, 2), (1, 2)) for s in ("train", "test")
    }
    assert rows.groupby("fork")["error_chord"].max().to_dict() == pytest.approx({"0": 0.2, "2": 0.1})


def test_a_row_holds_what_the_record_does():
    record = make_record(
        toy_cell(shift="label-skew", fork="2", replicate=1),
        barrier_error=0.25,
        barrier_loss=0.75,
        member_error=0.125,
        soup_error=0.375,
        disagreement=0.0625,
        ensemble_error=0.5,
    )
    [row] = frame([record]).query("split == 'test'").to_dict("records")
    expected = {
        "key": record.key,
        "suite": "toy",
        "version": 1,
        "architecture": "lmc_mlp",
        "recipe": "fast",
        "shift": "label-skew",
        "fork": "2",
        "replicate": 1,
        "status": "ok",
        "params": 42000,
        "n": 360,
        "error_chord": 0.25,
        "error_mid": 0.25,
        "error_mean": 0.25,
        "error_floor": 0.0,
        "error_argmax": 0.5,
        "loss_chord": 0.75,
        "error": 0.125,
        "loss": 0.2,
        "disagreement": 0.0625,
        "ensemble_accuracy": 0.5,
        "soup_error": 0.375,
        "soup_loss": 0.3,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected)


def test_what_was_not_measured_on_a_split_is_missing():
    rows = frame([make_record()]).set_index("split")
    assert rows.loc["train", ["disagreement", "ensemble_accuracy", "soup_error"]].isna().all()
    assert rows.loc["train", ["error_chord", "error", "loss"]].notna().all()


def test_every_pair_keeps_its_own_disagreement():
    table = json.loads(make_record(toy_cell(suite=toy_suite(siblings=3))).to_json())
    for pair, value in zip(table["pairs"], (0.1, 0.2, 0.6), strict=True):
        pair["disagreement"]["test"] = value
    table["ensemble"]["test"]["disagreement"] = 0.3
    rows = frame([parse_record(json.dumps(table), "x")]).query("split == 'test'")
    assert rows["disagreement"].tolist() == [0.1, 0.2, 0.6]


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_cell_without_measures_is_one_row(status):
    rows = frame([make_record(status=status), make_record(toy_cell(replicate=1))])
    assert rows["status"].tolist() == [status, "ok", "ok"]
    assert rows.loc[0, ["i", "split", "error_chord", "disagreement", "error"]].isna().all()
    assert rows.loc[0, "replicate"] == 0
    alone = frame([make_record(status=status)])
    assert list(alone.columns) == FIXED
    assert len(alone) == 1


def test_connected_is_of_the_cell_by_both_forms_of_the_barrier():
    table = json.loads(make_record(toy_cell(suite=toy_suite(siblings=3))).to_json())
    for pair, chord, mean in zip(table["pairs"], (0.0, 0.0, 0.05), (0.0, 0.03, 0.06), strict=True):
        pair["barriers"]["test"] |= {"error_chord": chord, "error_mean": mean}
    rows = frame([parse_record(json.dumps(table), "x"), make_record(toy_cell(fork="2"), status="diverged")])
    # means over pairs: 0.0167 and 0.03, the limit is 0.02
    verdicts = rows[["connected", "connected_mean_form"]]
    assert {tuple(row) for row in verdicts[rows["i"].notna()].to_numpy()} == {(True, False)}
    assert verdicts[rows["status"] == "diverged"].isna().all(axis=None)


def test_no_records_are_an_empty_table_with_its_columns():
    assert list(frame([]).columns) == FIXED


def test_labels_show_settings():
    suite = toy_suite(
        architectures=[{"name": "lmc_mlp", "recipe": "fast", "kwargs": {"width": 9, "depth": 2}}],
        shifts=[{"name": "label-skew", "params": {"share": 0.9}, "noise": "shared"}],
    )
    record = make_record(toy_cell("lmc_mlp", "label-skew*", suite=suite))
    row = frame([record]).iloc[0]
    assert row["architecture"] == "lmc_mlp(depth=2,width=9)"
    assert row["shift"] == "label-skew[share=0.9,noise=shared]"


def test_a_shift_of_a_later_version_is_still_a_row():
    later = {"name": "time-travel", "params": {"years": 3}, "noise": "own"}
    assert frame([make_record(shift=later)])["shift"].unique().tolist() == ["time-travel[years=3]"]
    more = {"name": "label-skew", "params": {"share": 0.8, "ties": "low"}, "noise": "own"}
    assert frame([make_record(shift=more)])["shift"].unique().tolist() == ["label-skew[share=0.8,ties=low]"]


def test_a_damaged_record_is_named(tmp_path):
    folder = write_run(tmp_path, [make_record()])
    path = folder.record("0" * 16)
    path.write_text("{")
    with pytest.raises(UserError, match=f"{path} is not a whole record"):
        load_records(str(tmp_path))


def test_the_table_is_pandas(tmp_path):
    write_run(tmp_path, [make_record()])
    assert isinstance(load_records(tmp_path), pd.DataFrame)
