"""Domains in a run: views, records, curves by domain, a submission that verifies, and a user's own shift."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from builders import make_record, toy_cell
from lmcbench.data.selection import open_suite_data
from lmcbench.report.domain_tables import ACCURACIES, PAIRS, domain_tables
from lmcbench.report.figures.domains import barrier_matrix, domain_accuracy
from lmcbench.report.tables import make_tables
from lmcbench.results.frame import load_records
from lmcbench.results.record_files import read_records
from lmcbench.running.run import expand_views
from lmcbench.spec.cells import expand, families
from lmcbench.spec.shift_rules import views_digest
from lmcbench.spec.suite_files import load_suite
from lmcbench.spec.suite_tables import ShiftSpec
from lmcbench.stats.cells import Cells
from lmcbench.submission.verify import verify
from submitted import cli, correct_hashes, edit_record

SIZES = {"art": 20, "photo": 30, "sketch": 15, "toon": 20}
"""Images of each of two classes."""

SUITE = """
name = "styles"
version = 1
description = "domains"
shifts = [
  "domains", "mixed(domains)", "same(domains)", "none", {name = "domains", noise = "shared"},
  {name = "domains", params = {groups = "photo/art/toon"}},
  {name = "rules.py:thirds", params = {step = 3}},
]
forks = [0]
replicates = 1
siblings = 3
evaluations = ["domain:art", "domain:sketch", "domain:toon"]

[data]
name = "./styles"
domain = "folder"
hold_out = ["sketch"]

[recipes.mild]
lr = 0.02
batch_size = 8
epochs = 2

[protocol]
alphas = 3
calibration = 10

[[architectures]]
name = "lmc_linear"
recipe = "mild"
"""

RULES = """
import numpy as np

def thirds(labels, domains, siblings, generator, step=1):
    assert domains.shape == labels.shape and set(domains) == {"art", "photo", "toon"}
    order = generator.permutation(len(labels))
    return [order[i::step] for i in range(siblings)]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images in folders of domains, a suite, and a finished run."""
    root = tmp_path_factory.mktemp("domains")
    rng = np.random.default_rng(0)
    for domain, n in SIZES.items():
        for k, name in enumerate(("cat", "dog")):
            folder = root / "styles" / domain / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 100, (4, 4)) + 150 * (np.arange(4) % 2 == k)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02}.png")
    (root / "suite.toml").write_text(SUITE)
    (root / "rules.py").write_text(RULES)
    (root / "leaderboard" / "submissions").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("LMCBENCH_CACHE", str(root / "cache"))
        code, _, err = cli("run", "suite.toml", "--out", "run", "--device", "cpu", "--jobs", "1")
        assert code == 0, err
    return root


def records(place):
    found = [json.loads(path.read_bytes()) for path in (place / "run" / "records").iterdir()]
    return {
        (r["shift"]["name"], r["shift"]["noise"], str(r["shift"]["params"].get("groups"))): r for r in found
    }


TRAINED = {"art": 32, "photo": 48, "toon": 32}
"""Training images: four of five of those that are not held out."""


def test_records_have_the_domains_of_data_and_views(place):
    found = records(place)
    assert len(found) == 7
    for record in found.values():
        assert record["status"] == "ok"
        assert {e["split"]: e["domains"] for e in record["data"]} == {
            "train": TRAINED,
            "test": {"art": 8, "photo": 12, "toon": 8},
            "test:domain:art": {"art": 8},
            "test:domain:sketch": {"sketch": 30},
            "test:domain:toon": {"toon": 8},
        }
    views = {name: record["training"]["domain_counts"] for name, record in found.items()}
    each = [{"art": 32}, {"photo": 48}, {"toon": 32}]
    assert views["domains", "own", ""] == views["domains", "shared", ""] == each
    assert views["domains", "own", "photo/art/toon"] == [each[1], each[0], each[2]]
    assert views["same(domains)", "own", ""] == [each[0]] * 3
    assert views["none", "own", "None"] == [TRAINED] * 3
    mixed = views["mixed(domains)", "own", ""]
    assert [sum(view.values()) for view in mixed] == [32, 48, 32]
    assert all(set(view) == set(TRAINED) for view in mixed)
    own = found["rules.py:thirds", "own", "None"]
    assert own["shift"]["params"] == {"step": 3}
    assert len(own["shift"]["fingerprint"]) == 16
    assert sorted(own["noise"]["views"]) == [37, 37, 38]
    digests = [record["views_digest"] for record in found.values()]
    assert len(set(digests)) == 6  # noise does not change views


def test_curves_by_domain_are_of_its_own_images(place):
    record = records(place)["domains", "own", ""]
    tensors = load_file(place / "run" / "predictions" / f"{record['key']}.safetensors")
    for split, n in (("test:domain:art", 8), ("test:domain:sketch", 30), ("test:domain:toon", 8)):
        labels, logits = tensors[f"{split}.labels"], tensors[split]
        assert logits.shape == (3, n, 2)
        wrong = (logits.argmax(-1) != labels).mean(-1)
        assert [s["splits"][split]["error"] for s in record["siblings"]] == pytest.approx(wrong)
        for pair in record["pairs"]:
            curve = pair["curves"][split]
            assert curve["n"] == n
            assert [curve["error"][0], curve["error"][-1]] == pytest.approx(wrong[[pair["i"], pair["j"]]])
        assert split in record["soup"]
        assert split in record["ensemble"]
    assert "test:domain:photo" not in record["siblings"][0]["splits"]


def test_views_stay_when_another_shift_is_added(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("LMCBENCH_CACHE", str(place / "cache"))
    suite = load_suite("suite.toml")
    more = suite.model_copy(update={"shifts": [ShiftSpec(name="disjoint-halves"), *suite.shifts]})
    dataset = open_suite_data(suite)
    before, after = (expand_views(families(expand(s)), dataset)[0] for s in (suite, more))
    labels = dataset.train.labels
    assert before.keys() < after.keys()
    assert all(views_digest(before[s], labels) == views_digest(after[s], labels) for s in before)
    digest = records(place)["mixed(domains)", "own", ""]["views_digest"]
    assert views_digest(after["mixed(domains)"], labels) == digest


def test_a_dry_run_counts_by_domain_and_class(place, monkeypatch):
    monkeypatch.chdir(place)
    code, out, err = cli("run", "suite.toml", "--out", "other", "--dry-run")
    assert code == 0, err
    assert "photo          48      12  24 + 6  24 + 6" in out
    assert "Held out: sketch (30 images)." in out
    assert "domains: sibling 0: art 32; sibling 1: photo 48; sibling 2: toon 32" in out
    assert not (place / "other").exists()
    code, out, err = cli("data", "./styles")
    assert code == 0, err
    assert 'domain = "folder"' in out
    assert "sketch         24       6  12 + 3  12 + 3" in out
    code, out, _ = cli("data", "./styles", "--json")
    assert json.loads(out)["splits"]["train"]["domains"]["toon"] == {"cat": 16, "dog": 16}


BAD = {
    "siblings": ("siblings = 3", "siblings = 2", "2 siblings and 3 domains"),
    "two groups": ('"photo/art/toon"', '"photo/art"', "2 groups for 3 siblings"),
    "empty group": ('"photo/art/toon"', '"photo//toon"', "group 1 of 'photo//toon' is empty"),
    "twice": ('"photo/art/toon"', '"photo/art/art"', "'art' is in two groups"),
    "unknown": ('"photo/art/toon"', '"photos/art/toon"', "Did you mean 'photo'?"),
    "held out": ('hold_out = ["sketch"]', 'hold_out = ["sketch", "art", "toon"]', "at least two domains"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_domains_are_one_message_with_the_counts_before_anything_is_written(case, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("LMCBENCH_CACHE", str(place / "cache"))
    before, after, says = BAD[case]
    text = (place / "suite.toml").read_text()
    assert before in text
    (place / "bad.toml").write_text(text.replace(before, after))
    for option in ((), ("--dry-run",)):
        run = (
            "run",
            "bad.toml",
            "--out",
            "bad",
            "--shift",
            "domains*",
            "--jobs",
            "1",
            "--device",
            "cpu",
            *option,
        )
        code, _, err = cli(*run)
        assert code == 2
        assert says in err
        assert "photo 48" in err
        assert len(err.strip().splitlines()) == 1
        assert not (place / "bad").exists()


def test_a_missing_class_or_column_is_refused(place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMCBENCH_CACHE", str(place / "cache"))
    shutil.copytree(place / "styles", "styles")
    shutil.rmtree(Path("styles") / "toon" / "dog")
    shutil.copy(place / "rules.py", ".")
    shutil.copy(place / "suite.toml", ".")
    code, _, err = cli("run", "suite.toml", "--shift", "domains*", "--dry-run")
    assert code == 2
    assert "toon has no image of class 'dog', which other domains have (art 16, photo 24)" in err
    assert "art 32, photo 48, toon 16" in err
    code, out, _ = cli("data", "./styles")
    assert code == 0
    assert "toon has no image of dog" in out
    with Path("list.csv").open("w", newline="") as file:
        rows = [(f"styles/{d}/cat/{i:02}.png", "cat", d) for d in ("art", "photo") for i in range(5)]
        csv.writer(file).writerows([("file_name", "label", "hospital"), *rows])
    Path("suite.toml").write_text(
        SUITE.replace('"./styles"', '"./list.csv"').replace('"folder"', '"hospitel"')
    )
    code, _, err = cli("run", "suite.toml", "--dry-run")
    assert code == 2
    assert "Did you mean 'hospital'?" in err


def test_a_submission_verifies_and_forged_domains_do_not(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("LMCBENCH_CACHE", str(place / "cache"))
    code, _, err = cli("submit", "run", "--suite", "suite.toml", "--name", "tiny", "--author", "A")
    assert code == 0, err
    whole = place / "leaderboard" / "submissions" / "tiny"
    assert verify(whole, place / "suite.toml").faults == []
    key = records(place)["domains", "own", ""]["key"]

    def forged(change):
        folder = place / "forged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        edit_record(folder, key, change)
        correct_hashes(folder)
        return "\n".join(map(str, verify(folder, place / "suite.toml").faults))

    def other_view(record):
        record["training"]["domain_counts"][0] = {"photo": 32}

    def held_out(record):
        record["data"][1]["domains"] = {"art": 8, "photo": 12, "sketch": 8}

    def without(record):
        del record["data"][0]["domains"]

    assert "training.domain_counts: found" in forged(other_view)
    assert "has sketch, which the suite holds out" in forged(held_out)
    assert "data.train.domains: is missing" in forged(without)


def test_a_users_rule_is_part_of_the_digest_and_explained_if_it_fails(place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMCBENCH_CACHE", str(place / "cache"))
    shutil.copy(place / "suite.toml", ".")
    (tmp_path / "styles").symlink_to(place / "styles")
    with pytest.raises(ValueError, match=r"file rules\.py does not exist"):
        load_suite("suite.toml")
    Path("rules.py").write_text(RULES)
    first = load_suite("suite.toml").digest
    Path("rules.py").write_text(RULES + "# edited\n")
    assert load_suite("suite.toml").digest != first
    for body, says in {
        "return [np.arange(5)]": "returned 1 view for 3 siblings",
        "return [np.arange(5), np.array([0, 0]), np.arange(3)]": "sibling 1: position 0 occurs twice",
        "return [labels == 0] * 3": "found bool.*return np.flatnonzero",
        "return [np.arange(5), np.array([9999]), np.arange(3)]": "position 9999 is out of range",
        "return [[], [0], [1]]": "leaves sibling 0 of 3 without training images",
        "return [np.random.permutation(20)[:10] for _ in range(3)]": "Draw all random numbers from its",
        "return 1 / 0": r"ZeroDivisionError.*rules.py, line 5",
    }.items():
        head = "import numpy as np\n\ndef thirds(labels, domains, siblings, generator, step=1):\n"
        Path("rules.py").write_text(f"{head}    # one line\n    {body}\n")
        run = ("run", "suite.toml", "--shift", "rules*", "--jobs", "1", "--device", "cpu", "--out", "own")
        code, _, err = cli(*run)
        assert code == 2
        assert re.search(says, err), err
        assert not Path("own").exists()


def test_a_user_loads_the_records_of_all_shifts(place):
    table = load_records(place / "run")
    assert set(table["shift"]) == {
        "domains",
        "mixed(domains)",
        "same(domains)",
        "none",
        "domains[noise=shared]",
        "domains[groups=photo/art/toon]",
        "rules.py:thirds[step=3]",
    }
    assert {"test:domain:art", "test:domain:sketch", "test:domain:toon"} <= set(table["split"])


def test_tables_show_every_pair_and_every_domain_beside_the_control(place):
    tables = {table.title: table.rows for table in domain_tables(read_records(place / "run"))}
    record = records(place)["domains", "own", ""]
    pairs = tables[PAIRS]
    own = pairs[pairs["shift"] == "domains"]
    assert own["pair"].tolist() == ["art | photo", "art | toon", "photo | toon"]
    heights = [100 * pair["barriers"]["test"]["error_chord"] for pair in record["pairs"]]
    assert own["0"].tolist() == [f"{height:.1f}" for height in heights]
    assert pairs[pairs["shift"] == "mixed(domains)"]["pair"].tolist() == ["mean of pairs"]
    assert set(pairs["shift"]) == {name for name in set(pairs["shift"]) if "domains" in name}
    scores = tables[ACCURACIES]
    rows = scores[scores["shift"] == "domains"].set_index("domain")
    assert list(rows.index) == ["art", "sketch (held out)", "toon", "all: mean", "all: worst"]
    names = ("art", "sketch", "toon")
    siblings = [[1 - s["splits"][f"test:domain:{d}"]["error"] for d in names] for s in record["siblings"]]
    soup = [1 - record["soup"][f"test:domain:{d}"]["error"] for d in names]
    ensemble = [record["ensemble"][f"test:domain:{d}"]["ensemble_accuracy"] for d in names]
    held, worst = rows.loc["sketch (held out)"], rows.loc["all: worst"]
    assert held["sibling 2"] == f"{100 * siblings[2][1]:.1f}"
    assert held["soup gain"] == f"{100 * (soup[1] - np.mean([s[1] for s in siblings])) + 0.0:+.1f}"
    assert worst["ensemble"] == f"{100 * min(ensemble):.1f}"
    assert worst["gain"] == f"{100 * (min(ensemble) - np.mean([min(s) for s in siblings])) + 0.0:+.1f}"
    text = make_tables(read_records(place / "run")).render("github")
    assert PAIRS in text
    assert "domains: sibling 0 art, sibling 1 photo, sibling 2 toon." in text


def test_figures_show_pairs_of_domains_and_accuracy_by_domain(place):
    cells = Cells(read_records(place / "run"))
    matrix, dots = barrier_matrix(cells), domain_accuracy(cells)
    axis = matrix.figure.axes[0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["art", "photo", "toon"]
    record = records(place)["domains", "own", ""]
    shown = sorted(float(text.get_text()) for text in axis.texts)
    heights = [round(100 * pair["barriers"]["test"]["error_chord"], 1) for pair in record["pairs"]]
    assert shown == sorted([*heights, *heights])
    assert "mixed: " in axis.get_title()
    ticks = [tick.get_text() for tick in dots.figure.axes[0].get_xticklabels()]
    assert ticks == ["art", "sketch\n(held out)", "toon"]
    soup = dots.figure.axes[0].lines[-1].get_ydata()
    assert soup[1] == pytest.approx(100 * (1 - record["soup"]["test:domain:sketch"]["error"]))


def test_data_without_domains_have_no_such_table():
    assert domain_tables([make_record(toy_cell())]) == []
