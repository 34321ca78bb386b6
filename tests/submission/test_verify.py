"""Verification: what is sound passes; each forgery is refused with its message, all hashes corrected."""

import gzip
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

from builders import make_record, toy_cell
from lmcbench.data.selection import select
from lmcbench.data.sources import load_digits
from lmcbench.errors import UserError
from lmcbench.leaderboard.ranking_table import rank_notes
from lmcbench.results.record_parser import read_record
from lmcbench.spec.canonical import digest_bytes
from lmcbench.spec.datasets import DIGITS, RESPLIT_DIGITS
from lmcbench.spec.suite_files import load_suite
from lmcbench.stats.instability_area import is_ranked_cell
from lmcbench.submission.predictions_file import TENSOR_BYTES, kept_splits
from lmcbench.submission.text import explain
from lmcbench.submission.verify import verify
from submitted import (
    a_pair,
    cli,
    correct_hashes,
    correct_meta,
    drop_logits,
    edit_line,
    edit_logits,
    edit_meta,
    edit_record,
    edit_records,
    get_record,
    keys,
    linear_submission,
    make_board,
    part_of_run,
    read_logits,
    read_tables,
    write_logits,
    write_tables,
)


@pytest.fixture
def folder(tmp_path):
    return linear_submission(tmp_path)


def faults(folder):
    """The faults of a forgery, one a line."""
    correct_hashes(folder)
    return "\n".join(map(str, verify(folder).faults))


def test_a_real_submission_is_sound_and_untouched(folder):
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    found = verify(folder)
    assert found.faults == []
    assert found.cells == len(keys(folder))
    assert f"of {found.cells} of {found.cells} cells from stored logits" in " ".join(found.rescored)
    assert not any("labels" in claim for claim in found.claimed)
    assert explain(found).startswith(f"linear: sound, {found.cells} cells.\nLevel: rescored.\n")
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_keys_that_this_version_does_not_know_are_claims(folder):
    def further(table):
        table["novel"] = {"sharpness": [1.0, None]}
        table["pairs"][0]["novel"] = 2.5
        table["ensemble"]["test"]["novel"] = 0.5
        table["siblings"][0]["novel"] = "text"

    edit_record(folder, a_pair(folder), further)
    assert faults(folder) == ""


# --- a forger's numbers --------------------------------------------------------------------------


def number(*path, value):
    def edit(table):
        inner = table
        for key in path[:-1]:
            inner = inner[key]
        assert path[-1] in inner or isinstance(inner, list)
        inner[path[-1]] = value

    return edit


HALVES = next(s.shift for s in load_suite("digits").shifts if s.name == "disjoint-halves").identity()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            number("pairs", 0, "barriers", "test", "error_chord", value=0.0005),
            "pairs.0.barriers.test.error_chord: found 0.0005, its curve gives ",
        ),
        (
            number("pairs", 0, "disagreement", "test", value=0.0),
            "pairs.0.disagreement.test: found 0.0, the stored logits give ",
        ),
        (
            number("ensemble", "test", "ensemble_accuracy", value=0.999),
            "ensemble.test.ensemble_accuracy: found 0.999, the stored logits give ",
        ),
        (
            lambda table: table["ensemble"]["test"].pop("ensemble_nll"),
            "ensemble.test.ensemble_nll: found None, the stored logits give ",
        ),
        (
            number("siblings", 0, "splits", "test", "error", value=0.0),
            "siblings.0.splits.test.error: found 0.0, the stored logits give ",
        ),
        (
            number("siblings", 0, "splits", "test", "loss", value=0.01),
            "siblings.0.splits.test.loss: found 0.01, the stored logits give ",
        ),
        (
            number("siblings", 1, "splits", "test", "error", value=1.5),
            "siblings.1.splits.test.error: Input should be less than or equal to 1",
        ),
        (
            number("siblings", 0, "splits", "test", "error", value=0.0123),
            "siblings.0.splits.test.error: found 0.0123, no whole number of 599 images",
        ),
        (
            number("pairs", 0, "curves", "test", "error", 0, value=0.5),
            "pairs.0.curves.test.error: contains a value that is no whole number of 599 images",
        ),
        (
            number("pairs", 0, "curves", "train", "loss", 0, value=9.0),
            "pairs.0.curves.train.loss: found 9.0 at alpha 0, sibling 0 has ",
        ),
        (
            number("pairs", 0, "curves", "test", "loss", value=[0.1, 0.2]),
            "pairs.0.curves.test.loss: found 2 values, must be 5",
        ),
        (
            number("soup", "test", "error", value=0.0),
            "at alpha 1/2, the soup has 0.0",
        ),
        (
            number("cost", "train_flop", value=855.0),
            "cost.train_flop: found 855, the lower bound is ",
        ),
        (number("cost", "train_steps", value=5), "cost.train_steps: found 5, the suite's recipe takes "),
        (number("seeds", "shift", value=1), "seeds.shift: not as derived from the suite and replicate 0"),
        (
            lambda table: table["seeds"]["order"].reverse(),
            "seeds.order: not as derived from the suite and replicate 0",
        ),
        (number("recipe", "lr", value=0.01), "recipe.lr: found 0.01, must be 0.4"),
        (number("recipe", "name", value="mlp"), "recipe.name: found 'mlp', must be 'linear'"),
        (
            number("protocol", "alphas", value=[0.0, 0.5, 1.0]),
            "curves.test.loss: found 5 values, must be 3",
        ),
        (
            number("protocol", "calibration", "n", value=5000),
            "protocol.calibration.n: found 5000, the suite asks for 500",
        ),
        (number("shift", "params", value={"share": 0.6}), "shift: found {'name': 'label-skew'"),
        (number("fork", "name", value="2"), "fork.name: found '2', the suite has 0, 3%"),
        (
            lambda table: (table["shift"].update(HALVES), table["fork"].update(name="whole-budget")),
            "fork.name: found 'whole-budget' under disjoint-halves, the suite has it under none",
        ),
        (number("fork", "step", value=7), "fork.step: found 7, must be "),
        (
            number("replicate", value=1007),
            "replicate: found 1007 (from 1000 up they are for tuning and reproductions); published ones",
        ),
        (number("status", value="failed"), "status: a failed cell is no result"),
        (number("status", value="diverged"), "siblings: must be empty for a cell that is diverged"),
        (
            number("data", 0, "sha256", value="0" * 64),
            "data.train.sha256: found 0000000000000000, the suite's is 48524314910190e9",
        ),
        # fewer images are fewer steps, and cheaper
        (number("data", 0, "n", value=599), "data.train.n: found 599, the suite's has 1198"),
        (
            number("architecture", "kwargs", value={"width": 9}),
            "architecture: found {'name': 'lmc_linear', 'kwargs': {'width': 9}",
        ),
        (number("architecture", "params", value=10**9), "architecture.params: found 1000000000; other cells"),
        (
            number("suite", "digest", value="0" * 64),
            "suite: found {'name': 'digits', 'version': 3, 'digest': '000",
        ),
        (number("env", "device", value="/home/me/gpu"), "env.device: contains a path of somebody's machine"),
        (number("views_digest", value="0" * 64), "views_digest: found 0000"),
    ],
)
def test_a_number_changed_in_a_record_is_found(folder, edit, message):
    key = a_pair(folder)
    edit_record(folder, key, edit)
    found = faults(folder)
    assert message in found
    # a record that its schema refuses has no key yet
    assert f"records.jsonl.gz#{key}" in found or "records.jsonl.gz, record " in found


def test_noise_scales_follow_from_the_recipe_and_their_views(folder):
    key = a_pair(folder)
    record = get_record(folder, key)
    train = next(entry["n"] for entry in record.data if entry["split"] == "train")
    n, lr, batch = record.noise["views"][0], record.recipe["lr"], record.recipe["batch_size"]
    assert record.noise["g"][0] == pytest.approx(lr * (n / batch - 1))
    edit_record(folder, key, lambda t: t["noise"]["g"].__setitem__(0, t["noise"]["g"][0] * 1.001))
    assert "noise.g: found [" in faults(folder)
    edit_record(folder, key, lambda t: t["noise"].update(g=record.noise["g"], g_momentum=record.noise["g"]))
    assert "noise.g_momentum: found [" in faults(folder)
    edit_record(folder, key, lambda t: t["noise"].update(views=[n, 10**6]))
    assert f"noise.views: found [{n}, 1000000], must be 2 numbers of images up to {train}" in faults(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda e: e.update(alphas=[0.0, 0.4, 1.0]),
            "3.alphas: found [0.0, 0.4, 1.0], must be [0.0, 0.5, 1.0]",
        ),
        (
            lambda e: e.update(accuracy_mean=0.5),
            "3.accuracy_mean: found 0.5, the curve at its points gives 0.",
        ),
        (lambda e: e.update(nll_mean=9.0), "3.nll_mean: found 9.0, the curve at its points gives 0."),
        (lambda e: e.update(ensemble_gain=0.25), "3.ensemble_gain: found 0.25, must be the difference"),
        (lambda e: e.update(ensemble_nll=8.0), "3.ensemble_nll: found 8.0, more than the members' mean"),
        (lambda e: e.update(ensemble_accuracy=0.9012345), "found 0.9012345, no whole number of 599 images"),
        (lambda e: e.update(disagreement=1.5), "3.disagreement: found 1.5, must lie in [0, 1]"),
        (lambda e: e.update(js_divergence=-0.5), "3.js_divergence: found -0.5, must not be negative"),
        (lambda e: e.pop("disagreement"), "3.disagreement: is missing"),
        (lambda e: e.update(both_wrong=None), "cannot be checked: TypeError"),
    ],
)
def test_ensembles_on_the_path_agree_with_its_curve(folder, change, message):
    edit_record(folder, a_pair(folder), lambda t: change(t["pairs"][0]["path_ensemble"]["test"]["3"]))
    assert message in faults(folder)


def test_an_ensemble_on_the_path_that_is_left_out_is_found(folder):
    edit_record(folder, a_pair(folder), lambda t: t["pairs"][0]["path_ensemble"]["test"].pop("5"))
    assert "path_ensemble.test: found ensembles of 3, must be of 3, 5" in faults(folder)


def test_diverged_cells_are_named_and_what_only_is_claimed_too(folder):
    key = a_pair(folder)
    lost = {
        "siblings": [],
        "pairs": [],
        **dict.fromkeys(("ensemble", "corrected", "soup", "functions", "noise")),
    }

    def lose(table):
        table.update(status="diverged", reason="it is said so", **lost)
        table["fork"]["trunk_accuracy"] = None

    edit_record(folder, key, lose)
    drop_logits(folder, key)
    record = get_record(folder, key)
    assert faults(folder) == ""
    found = verify(folder)
    [note] = [n for n in found.notes if "diverged" in n]
    assert note.startswith("1 of 10 cells diverged, which counts as a result")
    assert note.endswith(f"first: label-skew, fork {record.fork.name}, replicate {record.replicate}.")
    for what in ("gradient noise", "points on the path", "as blended"):
        assert any(what in claim for claim in found.claimed)


@pytest.mark.parametrize(
    ("name", "count", "notes"),
    [
        ("lmc_mlp", 4, ["4 replicates of the 5 that a rank needs: shown, not ranked."]),
        ("lmc_mlp", 1, ["1 replicate of the 5 that a rank needs: shown, not ranked."]),
        ("lmc_mlp", 5, []),
        ("lmc_linear", 1, []),
    ],
)
def test_too_few_replicates_for_a_rank_are_told(name, count, notes):
    assert rank_notes([make_record(toy_cell(name, replicate=r)) for r in range(count)]) == notes


@pytest.mark.parametrize(
    ("argument", "value"), [("pretrained", True), ("checkpoint_path", "weights.safetensors")]
)
def test_pretraining_must_be_disclosed(folder, argument, value):
    edit_records(folder, lambda t: t["architecture"].update(kwargs={argument: value}))
    disclosed = f"submission.toml: pretraining: found 'none', but the network is asked for {argument}."
    assert disclosed in faults(folder)
    edit_meta(folder, 'pretraining = "none"', 'pretraining = "ImageNet-1k"')
    assert disclosed not in faults(folder)


def test_a_barrier_forged_together_with_its_curve_contradicts_the_soup_or_the_siblings(folder):
    from dataclasses import asdict

    from lmcbench.results.curves import Curve, barrier

    def flatten(table):
        curve = table["pairs"][0]["curves"]["test"]
        curve["error"] = [0.0] * 5
        flat = Curve(table["protocol"]["alphas"], curve["loss"], curve["error"], curve["n"])
        table["pairs"][0]["barriers"]["test"] = asdict(barrier(flat))

    edit_record(folder, a_pair(folder), flatten)
    assert re.search(r"curves\.test\.error: found 0\.0 at alpha 0, sibling 0 has 0\.0\d", faults(folder))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999"])
def test_what_is_not_finite_is_refused(folder, text):
    edit_line(folder, a_pair(folder), lambda t: re.sub(r'"train_s":[0-9.e-]+', f'"train_s":{text}', t))
    [fault] = [str(f) for f in verify(folder).faults if ", record " in f.file]
    assert re.search("NaN is not JSON|Infinity is not JSON|beyond the range", fault)


def test_an_infinity_among_unknown_keys_is_refused_too(folder):
    edit_line(folder, a_pair(folder), lambda t: t.replace('"env":{', '"novel":[1e999],"env":{'))
    assert "beyond the range of floating point numbers" in "\n".join(map(str, verify(folder).faults))


def test_a_key_given_twice_is_refused(folder):
    edit_line(folder, a_pair(folder), lambda t: t.replace('"status":"ok"', '"status":"failed","status":"ok"'))
    assert "key 'status' is there twice" in "\n".join(map(str, verify(folder).faults))


# --- a forger's logits ---------------------------------------------------------------------------


def test_a_changed_logit_is_found_by_what_follows_from_it(folder):
    key = a_pair(folder)

    def improve(tensors):
        wrong = np.flatnonzero(tensors["test"][0].argmax(-1) != tensors["test.labels"])
        tensors["test"][0, wrong[0], tensors["test.labels"][wrong[0]]] = 100

    edit_logits(folder, key, improve)
    found = faults(folder)
    assert f"records.jsonl.gz#{key}: ensemble.test.accuracy_mean: found " in found
    assert f"records.jsonl.gz#{key}: siblings.0.splits.test.error: found " in found


def test_labels_that_suit_the_predictions_are_not_the_data_sets(folder):
    cells = read_logits(folder)
    for cell in cells.values():
        cell["test.labels"] = cell["test"][0].argmax(-1).astype(np.int16)
    write_logits(folder, cells)
    assert re.search(r"predictions\.safetensors#\w+: test\.labels: are not the data set's", faults(folder))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t["test"].__setitem__((0, 0, 0), np.inf), "test: contains a logit that is not finite"),
        (lambda t: t.pop("test"), "lacks the logits of split 'test'"),
        (
            lambda t: t.update(test=t["test"].astype(np.float32)),
            "test: must be fp16 logits [2, 599, classes], found float32",
        ),
        (
            lambda t: t.update(test=t["test"][:, :9]),
            "test: must be fp16 logits [2, 599, classes], found float16 [2, 9, 10]",
        ),
        (lambda t: t.pop("test.labels"), "needs a tensor 'test.labels' of int16 [599]"),
    ],
)
def test_logits_of_another_form_are_refused(folder, edit, message):
    edit_logits(folder, a_pair(folder), edit)
    assert message in faults(folder)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch /tmp/lmcbench-was-here",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Bomb(), protocol=2), "is a pickle, not safetensors; pickles execute code"),
        (b"PK\x03\x04 as torch.save writes", "is a pickle, not safetensors"),
        (b"\xff" * 200, "is not safetensors: "),
        (b"", "is not safetensors: "),
    ],
)
def test_what_is_no_safetensors_is_refused_and_not_loaded(folder, content, message, tmp_path):
    (folder / "predictions.safetensors").write_bytes(content)
    assert f"predictions.safetensors: {message}" in faults(folder)


def test_a_pickle_of_its_own_name_is_refused(folder):
    (folder / "model.pt").write_bytes(pickle.dumps(Bomb()))
    assert "model.pt: may be a pickle, which executes code" in faults(folder)


def test_logits_that_are_missing_for_some_cells_are_a_fault(folder):
    drop_logits(folder, a_pair(folder))
    assert "is missing; the cell's predictions cannot be rescored" in faults(folder)


def test_logits_of_more_classes_than_the_labels_leave_no_cell_out(folder):
    # with so many classes 25 MB fit the logits of one cell: the others would stay claims
    first, *others = keys(folder)

    def widen(tensors):
        for name, value in tensors.items():
            if not name.endswith(".labels"):
                wide = np.full((*value.shape[:-1], 3000), -60000, np.float16)
                wide[..., :10] = value
                tensors[name] = wide

    drop_logits(folder, *others)
    edit_logits(folder, first, widen)
    found = faults(folder)
    assert found.count("is missing; the cell's predictions cannot be rescored") == len(others) > 0
    assert "training.label_counts: must have 3000 counts a sibling" in found


def test_tensors_of_no_cell_are_refused(folder):
    cells = read_logits(folder)
    cells["0" * 16] = cells[a_pair(folder)]
    write_logits(folder, cells)
    assert f"predictions.safetensors#{'0' * 16}: belongs to no measured record." in faults(folder)
    cells["loose"] = cells.pop("0" * 16)
    write_logits(folder, cells)
    assert "predictions.safetensors: tensor 'loose/test' is not named KEY/SPLIT." in faults(folder)


# --- without predictions, and with those of elsewhere --------------------------------------------


def test_without_predictions_a_submission_is_claimed_and_its_records_are_checked(folder, tmp_path):
    elsewhere = (folder / "predictions.safetensors").rename(tmp_path / "downloaded")
    found = verify(folder)
    assert (found.sound, found.level, found.predictions_sha256) == (True, "claimed", None)
    assert not any("logits" in what for what in found.rescored)
    code, out, err = cli("verify", folder)
    assert (code, err) == (0, "")
    assert "Level: claimed." in out
    with pytest.raises(UserError, match="--predictions FILE"):
        found.statement()
    assert cli("verify", folder, "--record")[0] == 2
    assert not (tmp_path / "leaderboard" / "results").exists()
    code, out, _ = cli("verify", folder, "--predictions", elsewhere)
    assert code == 0
    assert "Level: rescored." in out
    edit_record(folder, a_pair(folder), number("cost", "train_steps", value=5))
    assert "cost.train_steps" in faults(folder)


def test_other_predictions_than_the_submissions_are_refused(folder, tmp_path):
    other = tmp_path / "other"
    other.write_bytes((folder / "predictions.safetensors").read_bytes() + b" ")
    assert "submission.toml: sha256.predictions: found " in "\n".join(
        map(str, verify(folder, predictions=other).faults)
    )
    with other.open("r+b") as file:
        file.truncate(2**30)
    with pytest.raises(UserError, match=r"has 1,073\.7 MB; at most 25\.0 MB"):
        verify(folder, predictions=other)
    with pytest.raises(UserError, match="There is no predictions file"):
        verify(folder, predictions=tmp_path)


def test_a_submission_cannot_state_its_own_verification(folder):
    for name in ("verified.json", "rerun-0123456789ab.json", "summary.json"):
        (folder / name).write_text("{}")
        assert f"{name}: is a verifier's statement; only the maintainers write it" in faults(folder)
        (folder / name).unlink()


# --- records as a file ---------------------------------------------------------------------------


def put_records(folder, content):
    (folder / "records.jsonl.gz").write_bytes(content)
    correct_meta(folder)
    return "\n".join(map(str, verify(folder).faults))


def test_equal_records_give_equal_bytes(folder):
    before = (folder / "records.jsonl.gz").read_bytes()
    assert before[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"  # no name, time 0
    write_tables(folder, [dict(reversed(t.items())) for t in reversed(read_tables(folder).values())])
    assert (folder / "records.jsonl.gz").read_bytes() == before


def test_a_file_that_grows_without_bound_is_refused(folder, monkeypatch):
    bomb = gzip.compress(bytes(101_000_000))
    assert len(bomb) < 200_000
    assert (
        put_records(folder, bomb) == "records.jsonl.gz: expands to more than 100.0 MB; that much is not read."
    )
    assert "line 1 has 3.0 MB; at most 2.0 MB" in put_records(folder, gzip.compress(b" " * 3_000_000))
    assert "contains more than 5,000 records" in put_records(folder, gzip.compress(b"\n" * 5001))


def test_a_file_that_is_not_one_gzip_stream_is_refused(folder):
    content = (folder / "records.jsonl.gz").read_bytes()
    assert "records.jsonl.gz: is not a whole gzip file" in put_records(folder, b"{}\n")
    assert "is not a whole gzip file" in put_records(folder, content[:-20])
    assert "is not in order of keys" in put_records(folder, content + content)
    assert "contains no record" in put_records(folder, gzip.compress(b""))


def test_a_cell_given_twice_and_another_order_are_refused(folder):
    first, second, *others = gzip.decompress((folder / "records.jsonl.gz").read_bytes()).splitlines(True)
    assert "is there twice." in put_records(folder, gzip.compress(b"".join([first, first, second, *others])))
    assert "is not in order of keys." in put_records(
        folder, gzip.compress(b"".join([second, first, *others]))
    )


def test_a_split_that_the_suite_lacks_enters_no_mean(folder):
    key = a_pair(folder)

    def add(table):
        for sibling in table["siblings"]:
            sibling["splits"]["test:easy"] = {"error": 0.0, "loss": 0.0, "ece": 0.0}
        table["ensemble"]["test:easy"] = dict.fromkeys(table["ensemble"]["test"], 0.0)
        table["pairs"][0]["disagreement"]["test:easy"] = 0.0
        table["pairs"][0]["curves"]["test:easy"] = table["pairs"][0]["curves"]["test"]
        table["pairs"][0]["barriers"]["test:easy"] = table["pairs"][0]["barriers"]["test"]

    edit_record(folder, key, add)
    found = faults(folder)
    for field in ("siblings.1.splits", "ensemble", "pairs.0.disagreement", "pairs.0.curves"):
        assert f"records.jsonl.gz#{key}: {field}: split 'test:easy' is none of the suite." in found


def test_a_soup_that_is_bad_cannot_be_left_out(folder):
    key = a_pair(folder)
    edit_record(folder, key, lambda table: table["soup"].pop("test"))
    assert f"records.jsonl.gz#{key}: soup: split 'test' is missing." in faults(folder)


def test_a_test_set_of_no_images_is_refused(folder):
    key = a_pair(folder)
    edit_record(folder, key, lambda table: table["data"][1].update(n=0))

    def empty(tensors):
        for name, value in tensors.items():
            tensors[name] = value[:0] if name.endswith(".labels") else value[:, :0]

    edit_logits(folder, key, empty)
    assert "data.1.n: Input should be greater than or equal to 1" in faults(folder)


def test_a_fault_quotes_control_characters_harmlessly(folder):
    edit_record(
        folder,
        a_pair(folder),
        lambda table: table.update({"a\x1b[2J\nlinear: sound, 8 cells.": "/home/me/x"}),
    )
    correct_hashes(folder)
    report = explain(verify(folder))
    assert "a\\x1b[2J\\nlinear: sound, 8 cells.: contains a path" in report
    assert report.startswith("linear: refused, 1 fault:\n")
    assert report.count("\n") == 2


# --- a forger's files ----------------------------------------------------------------------------


def test_fewer_cells_than_the_suite_has_are_sound_where_nothing_else_is_claimed(folder):
    found = verify(folder)
    assert (found.faults, found.cells) == ([], len(keys(folder)))
    assert "none, fork 0, replicate 2" in found.missing
    assert f"Not ranked: {len(found.missing)} cells of the suite are missing: " in explain(found)
    edit_meta(folder, "complete = false", "complete = true")
    assert "submission.toml: complete: found true, but these cells of the suite are missing: " in faults(
        folder
    )


def test_a_missing_cell_is_named(folder):
    key = a_pair(folder)
    tables = read_tables(folder)
    table = tables.pop(key)
    write_tables(folder, tables.values())
    drop_logits(folder, key)
    count = len(tables)
    assert f"submission.toml: cells: found {count + 1}, must be {count}, the number" in faults(folder)
    assert f"label-skew, fork {table['fork']['name']}, replicate 0" in verify(folder).missing


def test_a_record_under_another_key_is_found(folder):
    edit_record(folder, a_pair(folder), lambda t: t.update(key="0123456789abcdef"))
    assert "records.jsonl.gz#0123456789abcdef: key: found '0123456789abcdef', must be '" in faults(folder)


def test_an_edited_suite_is_refused(folder):
    edited = digest_bytes(b"another")
    edit_meta(folder, load_suite("digits").digest, edited)
    edit_records(folder, lambda t: t["suite"].update(digest=edited))
    found = faults(folder)
    assert f"submission.toml: suite: found digits-v3 with digest {edited[:12]}; digits-v3 has" in found
    assert "A published suite never changes: the run is of an edited one." in found


def test_a_suite_that_is_not_published_needs_its_file(folder, tmp_path):
    edit_meta(folder, 'name = "digits"\nversion = 3', 'name = "mine"\nversion = 1')
    assert "submission.toml: suite: Unknown suite 'mine-v1'" in faults(folder)
    with pytest.raises(UserError, match="No suite file"):
        verify(folder, tmp_path / "mine.toml")


def test_a_name_of_control_characters_is_shown_harmlessly(folder):
    (folder / "a\x1b[31m\n.json").write_text("{}")
    assert r"a\x1b[31m\n.json: is not a file of a submission" in "\n".join(map(str, verify(folder).faults))


@pytest.mark.parametrize("what", ["file", "folder", "dangling"])
@pytest.mark.parametrize("name", ["records.jsonl.gz", "predictions.safetensors", "source"])
def test_a_link_is_not_followed(folder, what, name):
    target = {"file": "/etc/hostname", "folder": "/etc", "dangling": "/nowhere"}[what]
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    found = "\n".join(map(str, verify(folder).faults))
    assert f"{name}: is a link; a submission contains the files themselves." in found


def test_a_submission_that_is_a_link_is_refused(folder):
    link = folder.with_name("other")
    link.symlink_to(folder)
    with pytest.raises(UserError, match="There is no folder"):
        verify(link)


@pytest.mark.parametrize("name", ["records.jsonl.gz", "predictions.safetensors", "submission.toml"])
def test_a_gigabyte_is_refused_before_it_is_read(folder, name, monkeypatch):
    path = folder / name
    with path.open("r+b") as file:
        file.truncate(2**30)
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda p, *a, **k: (opened.append(str(p)), real(p, *a, **k))[1])
    found = "\n".join(map(str, verify(folder).faults))
    assert re.search(r": has 1,073\.7 MB; at most [\d.,]+ (MB|bytes) are allowed", found)
    assert str(path) not in opened
    assert opened


def test_deep_json_is_refused(folder):
    edit_line(folder, a_pair(folder), lambda _: "[" * 500_000)
    assert "is damaged" in "\n".join(map(str, verify(folder).faults))


def test_all_faults_are_reported_at_once(folder):
    first, second, *_ = keys(folder)
    edit_record(folder, first, lambda t: t["cost"].update(train_steps=1))
    edit_record(folder, second, lambda t: t["seeds"].update(shift=1))
    edit_meta(folder, 'licence = "CC-BY-4.0"\n', "")
    found = faults(folder)
    assert "submission.toml: licence: required key is missing." in found
    edit_meta(folder, 'recipe = "linear"', 'licence = "X"\nrecipe = "linear"')
    found = faults(folder)
    assert f"{first}: cost.train_steps" in found
    assert f"{second}: seeds.shift" in found


def test_torch_is_not_needed_and_no_module_of_theirs_is_imported(folder, tmp_path):
    (tmp_path / "evil").mkdir()
    touched = tmp_path / "was-imported"
    (tmp_path / "evil" / "__init__.py").write_text(f"open({str(touched)!r}, 'w')")
    (tmp_path / "evil" / "net.py").write_text("")
    edit_records(folder, lambda t: t["architecture"].update(name="evil.net:f", source="module"))
    edit_meta(
        folder,
        'label = "lmc_linear"\nsource = "lmcbench"',
        f'label = "evil.net:f"\nsource = "module"\nsha256 = "{"5" * 64}"',
    )
    correct_hashes(folder)
    script = (
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "from pathlib import Path; from lmcbench.submission.verify import verify\n"
        f"print(len(verify(Path({str(folder)!r})).faults))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
    assert not touched.exists()


# --- schemas and odd folders ---------------------------------------------------------------------


def test_a_newer_schema_says_how_to_upgrade(folder):
    key = a_pair(folder)
    edit_record(folder, key, lambda t: t.update(schema="lmcbench/cell/3"))
    correct_hashes(folder)
    found = verify(folder)
    assert found.newer
    text = explain(found)
    assert ": has schema lmcbench/cell/3; this lmcbench reads up to lmcbench/cell/2." in text
    assert "Upgrade: pip install -U lmcbench." in text


def test_a_newer_statement_too(folder):
    edit_meta(folder, "lmcbench/submission/2", "lmcbench/submission/9")
    found = verify(folder)
    assert found.newer
    assert "submission.toml: has schema lmcbench/submission/9; this lmcbench reads up to" in explain(found)


@pytest.mark.parametrize("name", ["submission.toml", "records.jsonl.gz"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert f"{name}: is missing." in "\n".join(map(str, verify(folder).faults))


@pytest.mark.parametrize("call", ["scandir", "open"])
def test_a_folder_that_cannot_be_read_is_one_message(folder, monkeypatch, call):
    def fails(path, *arguments, **others):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, call, fails)
    try:
        text = "\n".join(map(str, verify(folder).faults))
    except UserError as error:
        text = str(error)
    assert re.search(rf"{folder}.* cannot be read: Permission denied", text)


def test_what_is_no_submission_is_one_message(tmp_path):
    make_board(tmp_path)
    with pytest.raises(UserError, match="There is no folder"):
        verify(tmp_path / "none")
    with pytest.raises(UserError, match=r"is empty\. Write submissions with 'lmcbench submit'"):
        verify(tmp_path / "leaderboard" / "submissions")
    with pytest.raises(UserError, match=r"is a run, not a submission\. Make one of it: lmcbench submit"):
        verify(part_of_run())


# --- what is kept --------------------------------------------------------------------------------


def test_logits_are_left_out_by_a_rule_and_not_by_choice():
    def widened(record, n):
        data = [{**entry, "n": n} for entry in record.data]
        return record.model_copy(update={"data": data})

    found = [read_record(p) for p in sorted((part_of_run() / "records").glob("*.json"))]
    tests = ["test", "test:gaussian_noise-5"]
    assert all(kept_splits(found, 10)[r.key] == tests for r in found)

    ranked = {r.key for r in found if is_ranked_cell(r, load_suite("digits"))}
    assert {r.fork.name for r in found if r.key in ranked} >= {"0", "independent"}

    def order(record):
        return record.key not in ranked, record.replicate, record.key

    large = [widened(r, 10_000) for r in found if len(r.siblings) == 2]
    kept = kept_splits(large, 100)
    whole = [r for r in large if kept[r.key]]
    assert len(whole) == int(25e6 // (3 * 10_000 * 100 * 2 + 20_000 + 4 * TENSOR_BYTES))
    assert {r.key for r in whole} == {r.key for r in sorted(large, key=order)[: len(whole)]}


def test_the_pinned_hashes_are_those_of_scikit_learns_digits():
    data = load_digits()
    again = select(data, load_suite("digits").data)
    for found, pins in ((data, DIGITS), (again, RESPLIT_DIGITS)):
        labels = digest_bytes(found.test.labels.astype("<i2").tobytes())
        sizes = len(found.train), len(found.test)
        assert (found.train.sha256, found.test.sha256, labels, *sizes) == pins
