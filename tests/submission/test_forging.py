"""Every number of a record, moved by 2 % with all hashes corrected, is refused or listed as claimed."""

import copy
import re
from dataclasses import asdict
from fnmatch import fnmatchcase
from functools import cache

import numpy as np
import pytest

from lmcbench.ensemble.predictions import expected_calibration_error, softmax
from lmcbench.results.curves import Curve, barrier, chord_area
from lmcbench.results.run_folder import RunFolder
from lmcbench.running import analyses
from lmcbench.running.plan import plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.cells import Selection, expand
from lmcbench.spec.suite_files import load_suite
from lmcbench.submission.claimed import CLAIMED
from lmcbench.submission.score_bounds import score_bounds
from lmcbench.submission.submit import submit
from lmcbench.submission.verify import verify
from submitted import (
    SAID,
    a_pair,
    correct_hashes,
    correct_meta,
    edit_logits,
    edit_record,
    linear_submission,
    make_board,
    read_tables,
    write_tables,
)

SUITE = """
name = "forged"
version = 1
description = "records with every field"
shifts = ["rotation"]
forks = [1]
siblings = 3
replicates = 1
evaluations = ["gaussian_noise-5"]

[data]
name = "digits"
train_size = 240
test_size = 200

[protocol]
alphas = 5
calibration = 60
train_eval = 60

[recipes.short]
lr = 0.05
batch_size = 16
epochs = 2

[probe]
shifts = ["rotation"]
images = 20
snapshots = 1

[[architectures]]
name = "lmc_resnet"
recipe = "short"
kwargs = { width = 2, stem_stride = 2 }
"""


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The submission of a small run with all analyses: three siblings, BatchNorm, a shift by transforms."""
    root = tmp_path_factory.mktemp("full")
    (root / "forged.toml").write_text(SUITE)
    suite = load_suite(str(root / "forged.toml"))
    run = RunFolder(root / "run")
    sizes = {"STEPS": 5, "PROBES": 2, "EPOCH_ALPHAS": 3, "LAYER_ALPHAS": 3}
    with pytest.MonkeyPatch.context() as patched:
        for name, size in sizes.items():
            patched.setattr(analyses, name, size)
        plan = plan_run(expand(suite, Selection()), run, ["all"])
        for _ in run_plan(plan, run, data_dir=None, device="cpu", jobs=1):
            pass
    board = make_board(root)
    return submit(run.root, "full", SAID, board, suite_file=root / "forged.toml").folder, root / "forged.toml"


ANALYSES = "align|curvature|features|landscape|layers|plane|repair"


def double(curve):
    curve["n"] *= 2


def matches(place, pattern):
    """Return whether a place matches one pattern of `CLAIMED`."""
    parts = pattern.split(".")
    if parts[-1] == "**":
        parts = parts[:-1]
        place = place[: len(parts)]
    return len(parts) == len(place) and all(map(fnmatchcase, place, parts))


def is_claimed(place):
    """Return whether `verify` lists a number at this place as claimed."""
    return any(matches(place, pattern) for patterns in CLAIMED.values() for pattern in patterns)


def numbers(table):
    """Yield every number of a record: its path, and its place, the path in words."""
    for path in number_paths(table):
        place = [str(part) for part in path]
        if len(path) == 6 and path[2] == "curves":  # pairs, P, curves, SPLIT, loss, K
            size = len(table["pairs"][path[1]]["curves"][path[3]][path[4]])
            points = {0: "first", size // 2: "middle", size - 1: "last"}
            place[5] = points.get(path[5], "inner")
        yield path, place


def number_paths(value):
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from ([key, *rest] for rest in number_paths(inner))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield []


def moved(table, path):
    """Return a record with one number moved by 2 %."""
    forged = copy.deepcopy(table)
    inner = forged
    for part in path[:-1]:
        inner = inner[part]
    value = inner[path[-1]]
    if isinstance(value, int):
        inner[path[-1]] = value + max(1, value // 50)
    else:
        inner[path[-1]] = value * 1.02 if value else 0.02
    return forged


def forge_all(folder, suite):
    """Return what happens to each number of a record: refused, claimed or neither, by its place."""
    tables = read_tables(folder)
    key = next(iter(tables))
    outcome = {}
    paths = {}
    for path, place in numbers(tables[key]):
        pattern = ".".join(re.sub(r"^\d+$", "#", part) for part in place)
        pattern = re.sub(r"geometry\.layers\..*", "geometry.layers.**", pattern)
        pattern = re.sub(
            r"\.(align|curvature|features|landscape|layers|plane|repair)\..*", r".\1.**", pattern
        )
        pattern = re.sub(r"(train|test)_[ab]", r"\1_#", pattern)
        paths.setdefault(pattern, path)
        outcome[pattern] = "claimed" if is_claimed(place) else "neither"
    for pair in tables[key]["pairs"]:  # smaller records are verified faster
        for name in pair.keys() & set(ANALYSES.split("|")):
            del pair[name]
    for pattern in [p for p, what in outcome.items() if what == "neither"]:
        others = [t for k, t in tables.items() if k != key]
        write_tables(folder, [moved(tables[key], paths[pattern]), *others])
        correct_meta(folder)
        if verify(folder, suite).faults:
            outcome[pattern] = "refused"
    return outcome


def test_every_number_is_checked_or_listed_as_claimed(full, monkeypatch):
    # the suite is read once, not for each number
    monkeypatch.setattr("lmcbench.submission.verify.load_suite", cache(load_suite))
    folder, suite = full
    assert verify(folder, suite).faults == []
    outcome = forge_all(folder, suite)
    print("\n".join(f"{pattern}: {what}" for pattern, what in sorted(outcome.items())))
    assert [pattern for pattern, what in outcome.items() if what == "neither"] == []
    assert set(outcome.values()) == {"refused", "claimed"}
    patterns = [pattern for group in CLAIMED.values() for pattern in group]
    places = [place for table in read_tables(folder).values() for _, place in numbers(table)]
    assert len(places) > 1000
    unused = [p for p in patterns if not any(matches(place, p) for place in places)]
    # analyses are deleted above, and digits has no domains
    assert all(re.search(rf"\.({ANALYSES}|domain_counts)\.", pattern) for pattern in unused)


def faults(folder):
    correct_hashes(folder)
    return "\n".join(map(str, verify(folder).faults))


@pytest.fixture
def folder(tmp_path):
    return linear_submission(tmp_path)


def test_a_midpoint_forged_with_its_barriers_and_soup_contradicts_its_logits(folder):
    key = a_pair(folder)
    steps = len(read_tables(folder)[key]["protocol"]["alphas"]) - 1

    def flatten(table):
        pair = table["pairs"][0]
        for split in ("test", "test:gaussian_noise-5"):
            points = pair["curves"][split]
            for kind in ("loss", "error"):
                points[kind] = [points[kind][0]] * steps + [points[kind][-1]]
            curve = Curve(table["protocol"]["alphas"], points["loss"], points["error"], points["n"])
            pair["barriers"][split] = asdict(barrier(curve))
            pair["area"][split] = {k: chord_area(curve.alphas, getattr(curve, k)) for k in ("loss", "error")}
            del pair["path_ensemble"][split]
            table["soup"][split] |= {k: points[k][steps // 2] for k in ("loss", "error")}

    edit_record(folder, key, flatten)
    found = faults(folder)
    for field in (f"pairs.0.curves.test.loss.{steps // 2}", "soup.test.loss"):
        assert re.search(rf"#{key}: {field}: found [\d.]+, the stored logits give", found)


def test_two_siblings_soup_is_checked_by_their_midpoint(folder):
    assert verify(folder).faults == []
    count = sum(bool(table["pairs"]) for table in read_tables(folder).values())
    rescored = f"midpoints, their barriers and soups of {count} of {count}"
    assert any(w.startswith(rescored) for w in verify(folder).rescored)
    assert verify(folder).midpoints
    edit_record(
        folder, a_pair(folder), lambda t: t["soup"]["test"].update(ece=t["soup"]["test"]["ece"] + 0.1)
    )
    assert "soup.test.ece: found 0." in faults(folder)


def without_midpoints(tensors):
    for name in [n for n in tensors if ".midpoint-" in n]:
        del tensors[name]


def test_midpoints_of_one_cell_cannot_be_left_out(folder):
    key = a_pair(folder)
    edit_logits(folder, key, without_midpoints)
    assert f"predictions.safetensors#{key}: lacks the tensor 'test.midpoint-0-1'." in faults(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t["protocol"]["train_eval"].update(n=720), "protocol.train_eval.n: found 720"),
        (
            lambda t: [t["pairs"][0]["curves"][s].update(n=720) for s in ("train", "train_a", "train_b")],
            "pairs.0.curves.train.n: found 720, must be 360",
        ),
        (
            lambda t: t["pairs"][0]["curves"]["train_a"].update(
                n=2 * t["pairs"][0]["curves"]["train_a"]["n"]
            ),
            "images of the views, which must add up to 360",
        ),
        (
            lambda t: t["evidence"]["predictions"].update(path="../../evil.safetensors"),
            "evidence.predictions: path: must lie in the run folder",
        ),
        (
            lambda t: t["evidence"]["predictions"].update(path="predictions/other.safetensors"),
            "evidence.predictions.path: found 'predictions/other.safetensors', must be 'predictions/",
        ),
        (
            lambda t: t["evidence"]["checkpoints"][0].update(path="checkpoints/other.safetensors"),
            "evidence.checkpoints.0.path: found 'checkpoints/other.safetensors', must be 'checkpoints/",
        ),
        (
            lambda t: t["siblings"][1]["splits"]["test"].update(ece=0.2),
            "siblings.1.splits.test.ece: found 0.2, the stored logits give 0.0",
        ),
    ],
)
def test_numbers_of_images_and_names_of_files_follow_from_the_suite_and_the_key(folder, edit, message):
    edit_record(folder, a_pair(folder), edit)
    assert message in faults(folder)


def test_without_logits_a_loss_at_a_fitted_temperature_is_at_most_the_plain_loss(folder):
    (folder / "predictions.safetensors").unlink()
    assert faults(folder) == ""
    edit_record(
        folder, a_pair(folder), lambda t: t["pairs"][0]["temperature_scaled"]["test"].update(loss=[9, 0, 0])
    )
    found = faults(folder)
    assert "pairs.0.temperature_scaled.test.loss.0: found 9, more than the curve's" in found
    assert "temperature_scaled.test.loss.1" not in found


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_bounds_hold_the_scores_of_fp32_and_are_close(scale):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 2000)
    for _ in range(20):
        logits = (rng.standard_normal((2000, 10)) * scale).astype(np.float32)
        logits[np.arange(2000), labels] += 2 * scale * (rng.random(2000) < 0.9)
        probs = softmax(logits)
        bounds = score_bounds(logits.astype(np.float16), labels)
        loss = float(-np.log(probs[np.arange(2000), labels]).mean())
        error = float((logits.argmax(-1) != labels).mean())
        ece = expected_calibration_error(probs, labels)
        for value, (low, high) in ((error, bounds.error), (loss, bounds.loss), (ece, bounds.ece)):
            assert low <= value <= high
        assert bounds.error[1] - bounds.error[0] <= 0.01
        assert bounds.loss[1] - bounds.loss[0] <= 0.01 * loss
