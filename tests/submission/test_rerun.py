"""Re-runs and trust: cells picked by a nonce, measures judged, evidence bound to one submission."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from builders import make_record, toy_cell, toy_suite, write_submission
from lmcbench.errors import UserError
from lmcbench.leaderboard.submission_file import read_submission
from lmcbench.leaderboard.trust import (
    CellAgain,
    Rerun,
    Verified,
    chosen_cells,
    chosen_replicates,
    headline_estimates,
    rerun_file,
    trust_of,
)
from lmcbench.results.atomic_files import write_atomic
from lmcbench.spec.gate_tests import MEASURES
from lmcbench.spec.suite_files import load_suite
from lmcbench.submission.rerun import allowances, compare_cells, rerun
from submitted import NETWORK, cli, linear_submission

CALIBRATED = {
    path.stem: json.loads(path.read_bytes())
    for path in sorted((Path(__file__).parents[2] / "suites" / "calibration").glob("*.json"))
}
ALLOWED = {"error_mid": 0.02, "accuracy_mean": 0.01}


def again(**numbers):
    before = make_record(barrier_error=0.1, member_error=0.05)
    after = make_record(**{"barrier_error": 0.1, "member_error": 0.05} | numbers)
    return compare_cells(before, after, ALLOWED)


def verdict(cell, measure):
    return next(m.verdict for m in cell.measures if m.measure == measure)


def test_measures_are_identical_within_or_outside():
    assert again().verdict == "identical"
    near = again(barrier_error=0.115)
    assert (near.verdict, verdict(near, "error_mid"), verdict(near, "accuracy_mean")) == (
        "outside",  # error_chord_interior is not calibrated here, so that any difference is
        "within",
        "identical",
    )
    assert verdict(near, "error_chord_interior") == "outside"
    far = again(barrier_error=0.13)
    assert verdict(far, "error_mid") == "outside"
    diverged = compare_cells(make_record(), make_record(status="diverged"), ALLOWED)
    assert diverged.verdict == "outside"


def test_a_cell_whose_curves_alone_differ_is_within():
    before = make_record()
    after = before.model_copy(deep=True)
    after.pairs[0].curves["train"].loss[3] += 1e-12
    assert compare_cells(before, after, {}).verdict == "within"


def test_a_suite_that_is_not_calibrated_allows_nothing():
    assert allowances(toy_suite()) == {}


@pytest.mark.parametrize("name", sorted(CALIBRATED))
def test_allowances_are_those_of_the_same_digest(name):
    found = allowances(load_suite(name))
    [error] = [m for m in CALIBRATED[name]["measures"] if m["measure"] == "error_mid"]
    assert found["error_mid"] == max(2 * 2**0.5 * error["deviation"], error["largest"])
    assert set(found) == set(MEASURES)


@pytest.mark.parametrize("name", sorted(CALIBRATED))
def test_calibrations_are_of_their_suites_as_they_are(name):
    suite = CALIBRATED[name]["suite"]
    assert suite == load_suite(name).identity(), f"calibrate {name} again, as leaderboard/SUBMITTING.md says"
    assert all(m["deviation"] >= 0 and m["largest"] >= 0 for m in CALIBRATED[name]["measures"])


def test_a_nonce_picks_cells_that_nobody_could_know():
    keys = [f"{i:016x}" for i in range(40)]
    first = chosen_cells("a" * 64, "word", keys, 5)
    assert first == chosen_cells("a" * 64, "word", keys[::-1], 5)
    assert len(set(first)) == 5
    assert first != chosen_cells("a" * 64, "another", keys, 5)
    assert first != chosen_cells("b" * 64, "word", keys, 5)
    assert chosen_cells("a" * 64, "word", keys, 7)[:5] == first
    # a cell that is said to have diverged is always looked at, by the same order among them
    diverged = chosen_cells("a" * 64, "word", keys, 100)[-3:]
    assert chosen_cells("a" * 64, "word", keys, 5, diverged) == [*diverged, *first[:2]]
    assert chosen_cells("a" * 64, "word", keys, 2, diverged) == diverged[:2]
    replicates = chosen_replicates("a" * 64, "word", 3)
    assert replicates.start >= 1000
    assert len(replicates) == 3
    assert replicates != chosen_replicates("a" * 64, "another", 3)


def test_a_real_rerun_is_identical_and_recorded(tmp_path):
    folder = linear_submission(tmp_path)
    arguments = ["--rerun", 2, "--nonce", "a word", "--device", "cpu", "--jobs", 1, "--record"]
    code, out, err = cli("verify", folder, *arguments)
    assert (code, err) == (0, "")
    assert "2 cells trained again, none of them outside." in out
    results = tmp_path / "leaderboard" / "results" / "linear"
    report = Rerun.model_validate_json((results / rerun_file("a word")).read_bytes())
    assert [cell.verdict for cell in report.cells] == ["identical"] * 2
    submission = read_submission(folder)
    keys = sorted(r.key for r in submission.records)
    assert [c.key for c in report.cells] == chosen_cells(submission.sha256, "a word", keys, 2)
    assert report.chosen_by == submission.sha256
    assert Verified.model_validate_json((results / "verified.json").read_bytes()).cells == len(keys)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["linear"]
    assert trust_of(submission, tmp_path / "leaderboard" / "results", [submission]) == "rescored"


def test_a_rerun_is_by_the_engine_that_each_record_names(tmp_path):
    made = read_submission(linear_submission(tmp_path))
    keys = chosen_cells(made.sha256, "x", sorted(r.key for r in made.records), 2)
    by_reference = [
        r.model_copy(update={"env": r.env | {"engine": "reference"}}) if r.key == keys[0] else r
        for r in made.records
    ]
    report = rerun(replace(made, records=by_reference), load_suite("digits"), 2, "x", device="cpu", jobs=1)
    assert [said.partition(" on ")[0] for said in report.conditions.split("; ")] == [
        "reference engine",
        "stacked engine",
    ]
    assert [cell.key for cell in report.cells] == keys
    assert report.cells[1].verdict == "identical"


def test_rerun_options_belong_together(tmp_path):
    folder = linear_submission(tmp_path)
    assert "Give --nonce TEXT too" in cli("verify", folder, "--rerun", 2)[2]
    assert "go with --rerun N" in cli("verify", folder, "--nonce", "x")[2]
    elsewhere = shutil.copytree(folder, tmp_path / "linear")
    assert "writes beside a leaderboard's submissions" in cli("verify", elsewhere, "--record")[2]


def own_submission(board):
    """A submission of a user's file; its numbers do not matter here."""
    from hashlib import sha256

    digest = sha256(NETWORK.encode()).hexdigest()
    record = make_record()
    network = record.architecture.model_dump() | {
        "name": "mine.py:tiny",
        "source": "file",
        "fingerprint": digest[:16],
    }
    folder = write_submission(
        board,
        "own",
        [make_record(architecture=network)],
        {"source/mine.py": NETWORK.encode()},
        architecture={"label": "mine.py:tiny", "source": "file", "sha256": digest},
    )
    return read_submission(folder)


def test_submitted_code_runs_on_a_word_only(tmp_path):
    with pytest.raises(UserError, match=r"author's code must run on this machine.*--allow-code") as caught:
        rerun(own_submission(tmp_path), toy_suite(), 1, "x")
    assert caught.value.exit_code == 2


# --- trust ---------------------------------------------------------------------------------------


def entry(board, slug="mine", replicates=range(3), authors=("A",), suite=None, **numbers):
    """A submission of the cells that the default gate looks at."""
    cells = [toy_cell(fork=f, replicate=r) for r in replicates for f in ("0", "2", "independent")]
    meta = {"complete": True} | {
        key: numbers.pop(key) for key in ("reproduces", "complete") if key in numbers
    }
    found = [make_record(c, **wobble(numbers, c.replicate)) for c in cells]
    return read_submission(write_submission(board, slug, found, authors=list(authors), **meta))


def wobble(numbers, replicate):
    return {"member_error": 0.05 + 0.01 * (replicate % 3), "barrier_error": 0.1} | numbers


def verified(board, submission, sha256=None):
    evidence = Verified(
        schema="lmcbench/verified/2",
        slug=submission.slug,
        submission_sha256=submission.sha256,
        records_sha256=sha256 or submission.meta.sha256.records,
        predictions_sha256=None,
        level="rescored",
        lmcbench="0.1.0",
        cells=1,
        missing=0,
        rescored=[],
        claimed=[],
    )
    write_atomic(board / "results" / submission.slug / "verified.json", evidence.to_json())


def rerun_report(board, submission, verdicts, nonce="n"):
    report = Rerun(
        schema="lmcbench/rerun/2",
        slug=submission.slug,
        submission_sha256=submission.sha256,
        records_sha256=submission.meta.sha256.records,
        chosen_by=submission.sha256,
        lmcbench="0.1.0",
        nonce=nonce,
        asked=len(verdicts),
        calibrated=True,
        conditions="",
        cells=[
            CellAgain(key=r.key, cell="", verdict=v, measures=[])
            for r, v in zip(submission.records, verdicts, strict=False)
        ],
    )
    write_atomic(board / "results" / submission.slug / rerun_file(nonce), report.to_json())


def test_levels_of_trust_from_claimed_to_rerun(tmp_path):
    mine = entry(tmp_path)
    results = tmp_path / "results"
    assert trust_of(mine, results, [mine]) == "claimed"
    verified(tmp_path, mine, sha256="0" * 64)
    assert trust_of(mine, results, [mine]) == "claimed"
    rerun_report(tmp_path, mine, ["identical"] * 5)
    assert trust_of(mine, results, [mine]) == "claimed"
    verified(tmp_path, mine)
    assert trust_of(mine, results, [mine]) == "re-run"
    rerun_report(tmp_path, mine, ["identical"] * 4)
    assert trust_of(mine, results, [mine]) == "rescored"
    rerun_report(tmp_path, mine, ["within"] * 5)
    assert trust_of(mine, results, [mine]) == "re-run"
    rerun_report(tmp_path, mine, ["identical", "outside"], nonce="second")
    assert trust_of(mine, results, [mine]) == "rescored"


def reproduction(board, mine, nonce="word", **changes):
    replicates = chosen_replicates(mine.sha256, nonce, 3)
    table = {"slug": mine.slug, "submission_sha256": mine.sha256, "nonce": nonce}
    other = entry(
        board, "other", **{"replicates": replicates, "authors": ("B",), "reproduces": table} | changes
    )
    verified(board, other)
    return other


def test_another_author_on_chosen_replicates_reproduces(tmp_path):
    mine = entry(tmp_path)
    verified(tmp_path, mine)
    other = reproduction(tmp_path, mine)
    assert trust_of(mine, tmp_path / "results", [mine, other]) == "reproduced"
    assert trust_of(other, tmp_path / "results", [mine, other]) == "rescored"


@pytest.mark.parametrize(
    "changes",
    [
        {"authors": ("a ", "B")},
        {"authors": ("anonymous",)},
        {"replicates": range(1000, 1003)},
        {"barrier_error": 0.6},
        {"member_error": 0.5},
        {"complete": False},
        {"reproduces": {"slug": "mine", "submission_sha256": "0" * 64, "nonce": "word"}},
    ],
)
def test_what_does_not_reproduce(tmp_path, changes):
    mine = entry(tmp_path)
    verified(tmp_path, mine)
    other = reproduction(tmp_path, mine, **changes)
    assert trust_of(mine, tmp_path / "results", [mine, other]) == "rescored"


def test_a_replicate_that_lacks_a_cell_is_compared_over_the_others(tmp_path):
    # fork 0 is far from the others, and diverged on one replicate
    heights = {"0": 0.6, "2": 0.0, "independent": 0.0}
    cells = [toy_cell(fork=f, replicate=r) for r in range(3) for f in heights]
    found = [make_record(c, barrier_error=heights[c.fork.name]) for c in cells]
    found[0] = make_record(cells[0], status="diverged")
    mine = read_submission(write_submission(tmp_path, "mine", found))
    height, _ = headline_estimates(mine, mine)["error_mid"]
    assert (height.mean, height.half_width, height.n) == (0.0, 0.0, 3)


def test_evidence_of_a_newer_schema_is_refused(tmp_path):
    mine = entry(tmp_path)
    write_atomic(
        tmp_path / "results" / "mine" / "verified.json", json.dumps({"schema": "lmcbench/verified/3"})
    )
    with pytest.raises(UserError, match=r"reads up to lmcbench/verified/2\. Upgrade: pip"):
        trust_of(mine, tmp_path / "results", [mine])
