import json
import math
from dataclasses import fields

import pandas as pd
import pytest

import lmcbench
from builders import make_record, toy_cell, toy_suite, write_run
from lmcbench.errors import UserError
from lmcbench.results.curves import Barrier
from lmcbench.results.frame import build_frame, load_records
from lmcbench.results.record_parser import parse_record

CELL = ["key", "suite", "version", "digest", "architecture", "recipe", "shift", "fork", "replicate", "status"]
FIXED = [
    *CELL,
    "params",
    *["connected", "connected_mean_form"],
    *["i", "j", "split", "n"],
    *[f.name for f in fields(Barrier)],
    *["disagreement", "error", "loss"],
]
FURTHER = [
    *["noise_mode", "architecture_source", "architecture_fingerprint", "architecture_kwargs"],
    *["fork_epoch", "fork_step", "fork_fraction", "train_flop", "train_steps"],
    *["noise_scale", "noise_scale_momentum", "gradient_between_share"],
    *["distance_ab", "distance_a", "distance_b", "angle", "cosine"],
    *["loss_area", "error_area", "loss_recalibrated", "error_recalibrated"],
    *["loss_mid_recalibrated", "error_mid_recalibrated", "loss_mid_scaled"],
    *["fork_learning_rate", "trunk_accuracy"],
    *["corrected_accuracy_mean", "corrected_ensemble_accuracy", "corrected_ensemble_gain"],
    *["architecture_name", "shift_name", "shift_params", "recipe_settings"],
    *["lr", "batch_size", "epochs", "train_images", "view_images", "view_error", "chance_error"],
    *["path_members", "path_ensemble_accuracy"],
    *["fork_share", "midpoint_excess", "instability"],
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
    assert list(rows.columns[-len(FURTHER) :]) == FURTHER
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
    [row] = build_frame([record]).query("split == 'test'").to_dict("records")
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
    rows = build_frame([make_record()]).set_index("split")
    assert rows.loc["train", ["disagreement", "ensemble_accuracy", "soup_error"]].isna().all()
    assert rows.loc["train", ["error_chord", "error", "loss"]].notna().all()


def test_every_pair_keeps_its_own_disagreement():
    table = json.loads(make_record(toy_cell(suite=toy_suite(siblings=3))).to_json())
    for pair, value in zip(table["pairs"], (0.1, 0.2, 0.6), strict=True):
        pair["disagreement"]["test"] = value
    table["ensemble"]["test"]["disagreement"] = 0.3
    rows = build_frame([parse_record(json.dumps(table), "x")]).query("split == 'test'")
    assert rows["disagreement"].tolist() == [0.1, 0.2, 0.6]


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_cell_without_measures_is_one_row(status):
    rows = build_frame([make_record(status=status), make_record(toy_cell(replicate=1))])
    assert rows["status"].tolist() == [status, "ok", "ok"]
    assert rows.loc[0, ["i", "split", "error_chord", "disagreement", "error"]].isna().all()
    assert rows.loc[0, "replicate"] == 0
    alone = build_frame([make_record(status=status)])
    assert list(alone.columns) == FIXED + FURTHER
    assert len(alone) == 1


def test_connected_is_of_the_cell_by_both_forms_of_the_barrier():
    table = json.loads(make_record(toy_cell(suite=toy_suite(siblings=3))).to_json())
    for pair, chord, mean in zip(table["pairs"], (0.0, 0.0, 0.05), (0.0, 0.03, 0.06), strict=True):
        pair["barriers"]["test"] |= {"error_chord": chord, "error_mean": mean}
    rows = build_frame(
        [parse_record(json.dumps(table), "x"), make_record(toy_cell(fork="2"), status="diverged")]
    )
    # means over pairs: 0.0167 and 0.03, the limit is 0.02
    verdicts = rows[["connected", "connected_mean_form"]]
    assert {tuple(row) for row in verdicts[rows["i"].notna()].to_numpy()} == {(True, False)}
    assert verdicts[rows["status"] == "diverged"].isna().all(axis=None)


def test_no_records_are_an_empty_table_with_its_columns():
    assert list(build_frame([]).columns) == FIXED + FURTHER


def test_labels_show_settings():
    suite = toy_suite(
        architectures=[{"name": "lmc_mlp", "recipe": "fast", "kwargs": {"width": 9, "depth": 2}}],
        shifts=[{"name": "label-skew", "params": {"share": 0.9}, "noise": "shared"}],
    )
    record = make_record(toy_cell("lmc_mlp", "label-skew*", suite=suite))
    row = build_frame([record]).iloc[0]
    assert row["architecture"] == "lmc_mlp(depth=2,width=9)"
    assert row["shift"] == "label-skew[share=0.9,noise=shared]"


def test_a_shift_of_a_later_version_is_still_a_row():
    later = {"name": "time-travel", "params": {"years": 3}, "noise": "own"}
    assert build_frame([make_record(shift=later)])["shift"].unique().tolist() == ["time-travel[years=3]"]
    more = {"name": "label-skew", "params": {"share": 0.8, "ties": "low"}, "noise": "own"}
    assert build_frame([make_record(shift=more)])["shift"].unique().tolist() == [
        "label-skew[share=0.8,ties=low]"
    ]


def test_a_damaged_record_is_named(tmp_path):
    folder = write_run(tmp_path, [make_record()])
    path = folder.record("0" * 16)
    path.write_text("{")
    with pytest.raises(UserError, match=f"{path} is damaged"):
        load_records(str(tmp_path))


def test_the_table_is_pandas(tmp_path):
    write_run(tmp_path, [make_record()])
    assert isinstance(load_records(tmp_path), pd.DataFrame)


def _measured(fork="2"):
    """A record of three siblings with everything that is plotted, each number another."""
    suite = toy_suite(
        siblings=3,
        shifts=[{"name": "label-skew", "noise": "shared"}],
        architectures=[{"name": "lmc_mlp", "recipe": "fast", "kwargs": {"width": 9, "depth": 2}}],
    )
    cell = toy_cell(shift="label-skew*", fork=fork, suite=suite)
    table = json.loads(make_record(cell).to_json())
    scales = [1.0, 2.0, 6.0]
    table["noise"] = {"views": [9, 9, 9], "g": scales, "g_momentum": [10 * g for g in scales]}
    table["noise"]["gradient"] = {"between_share": 0.25}
    for i, sibling in enumerate(table["siblings"]):
        sibling["recalibrated"] = {
            split: {"error": 0.1 * (i + 1), "loss": 1.0 + i, "ece": 0.0} for split in sibling["splits"]
        }
    for k, pair in enumerate(table["pairs"]):
        pair["curves_uncalibrated"] = pair["curves"]
        ends = {"loss": [0.25, 0.5], "error": [0.0, 0.125 * k]}
        pair["ends_recalibrated"] = dict.fromkeys(pair["curves"], ends)
        pair["area"] = {"test": {"loss": 0.5 + k, "error": 0.01 * k}}
        pair["geometry"] = {"distance_ab": 3.0 + k, "distance_a": 4.0, "distance_b": 5.0, "layers": {}}
        pair["geometry"] |= {"angle": 0.5, "cosine": 0.875}
    return parse_record(json.dumps(table), "x")


def test_chance_is_the_error_of_the_commonest_test_class():
    training = {"losses": [0.1, 0.1], "label_counts": [[3, 3, 3, 3]] * 2}
    table = json.loads(make_record(training=training).to_json())
    assert build_frame([parse_record(json.dumps(table), "x")])["chance_error"].tolist() == [0.75] * 2
    [test] = [entry for entry in table["data"] if entry["split"] == "test"]
    test["largest_class"] = test["n"] // 2
    assert build_frame([parse_record(json.dumps(table), "x")])["chance_error"].tolist() == [0.5] * 2


def test_what_is_plotted_is_of_the_pair_and_the_split():
    record = _measured()
    rows = build_frame([record])
    test = rows.query("split == 'test'").reset_index(drop=True)
    assert test[["i", "j"]].values.tolist() == [[0, 1], [0, 2], [1, 2]]
    expected = {
        "noise_scale": [1.5, 3.5, 4.0],
        "noise_scale_momentum": [15.0, 35.0, 40.0],
        "gradient_between_share": [0.25] * 3,
        "distance_ab": [3.0, 4.0, 5.0],
        "distance_a": [4.0] * 3,
        "distance_b": [5.0] * 3,
        "angle": [0.5] * 3,
        "cosine": [0.875] * 3,
        "loss_area": [0.5, 1.5, 2.5],
        "error_area": [0.0, 0.01, 0.02],
        "error_recalibrated": [0.15, 0.2, 0.25],
        "loss_recalibrated": [1.5, 2.0, 2.5],
        # the curve at alpha = 1/2 has an error of 0.15 and a loss of 0.7
        "error_mid_recalibrated": [0.15, 0.15 - 0.0625, 0.15 - 0.125],
        "loss_mid_recalibrated": [0.7 - 0.375] * 3,
        "loss_mid_scaled": [0.375] * 3,
        "fork_learning_rate": [record.fork.learning_rate] * 3,
        "trunk_accuracy": [0.9] * 3,
        "corrected_accuracy_mean": [0.95] * 3,
        "corrected_ensemble_accuracy": [0.96] * 3,
        "corrected_ensemble_gain": [0.01] * 3,
        "fork_epoch": [2.0] * 3,
        "fork_step": [float(record.fork.step)] * 3,
        "fork_fraction": [record.fork.fraction] * 3,
        "train_flop": [1e9] * 3,
        "train_steps": [300.0] * 3,
    }
    for name, values in expected.items():
        assert test[name].tolist() == pytest.approx(values), name
        assert test[name].dtype == float
    texts = test[FURTHER[:4]].drop_duplicates().to_dict("records")
    assert texts == [
        {
            "noise_mode": "shared",
            "architecture_source": record.architecture.source,
            "architecture_fingerprint": record.architecture.fingerprint,
            "architecture_kwargs": '{"depth":2,"width":9}',
        }
    ]
    train = rows.query("split == 'train'")
    assert train[["loss_area", "error_area", "corrected_ensemble_gain"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("shift", "shown"), [("label-skew", None), ("none", 2.0), ("same-half", 2.0), ("same(label-skew)", 2.0)]
)
def test_the_scale_of_one_network_is_said_where_it_sees_what_a_sibling_sees(shift, shown):
    """It is trained on all that siblings see, and the record has the scales of their views."""
    table = json.loads(_measured().to_json())
    table["siblings"], table["pairs"] = table["siblings"][:1], []
    table["training"] = {key: values[:1] for key, values in table["training"].items()}
    table["noise"] |= {"views": [9] * 3, "g": [2.0] * 3}
    table["shift"]["name"] = shift
    rows = build_frame([parse_record(json.dumps(table), "x")])
    scales = [None if math.isnan(g) else g for g in rows["noise_scale"]]
    assert scales == [shown] * len(rows)


def test_numbers_that_no_cell_has_are_still_numbers():
    rows = build_frame([make_record(toy_cell(fork="independent"))])
    assert rows[["fork_epoch", "fork_step", "angle", "noise_scale"]].isna().all(axis=None)
    assert {str(rows[name].dtype) for name in [*FURTHER[4:-16], *FURTHER[-12:]]} == {"float64"}
    assert rows["train_steps"].tolist() == [300.0, 300.0]
