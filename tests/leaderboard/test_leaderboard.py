"""The leaderboard: who is ranked and why not, what is kept, and that pages are a function of submissions."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from builders import write_submission
from lmcbench.errors import UserError
from lmcbench.latex import escape_latex
from lmcbench.leaderboard import ranking_table as standings
from lmcbench.leaderboard import summary_cache as derived
from lmcbench.leaderboard.markdown import tenths
from lmcbench.leaderboard.payload import ALPHABET, make_payload, order_forks, pack
from lmcbench.leaderboard.ranking_table import count_missing, make_tables
from lmcbench.leaderboard.render import (
    HEADLINE,
    HTML,
    MARKDOWN,
    export_entries,
    export_rows,
    render_leaderboard,
    render_rows,
    to_latex,
)
from lmcbench.leaderboard.scores import AREA, COLUMNS, View, column
from lmcbench.leaderboard.submission_file import read_submission
from lmcbench.leaderboard.summary import summarize
from lmcbench.leaderboard.summary_cache import read_rows, summary_path
from lmcbench.leaderboard.trust import RERUN_SCHEMA, VERIFIED_SCHEMA, CellAgain, Rerun, Verified
from lmcbench.output import escape_markdown, to_csv
from lmcbench.results.atomic_files import write_atomic
from lmcbench.results.frame import build_frame
from lmcbench.results.record_parser import parse_record
from lmcbench.spec.suite_files import load_suite
from lmcbench.stats.cells import Line
from lmcbench.stats.estimates import Estimate, estimate
from lmcbench.stats.instability_area import instability_areas
from lmcbench.stats.stability import Stability, median_text
from synthetic import synthetic_cells, synthetic_suite, synthetic_table

REPOSITORY = Path(__file__).resolve().parents[2]
SUITE = synthetic_suite(
    shifts=["none", "same-half", "disjoint-halves", "label-skew"],
    forks=[0, 9, "independent", "independent-equal-cost"],  # 9 of 30 epochs: the area ends there
)
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def published(monkeypatch):
    """The synthetic suite, as if it were shipped."""

    def load(name):
        return SUITE if name == "synthetic-v1" else load_suite(name)

    monkeypatch.setattr("lmcbench.spec.suite_files.load_suite", load)


def records_of(index, change=lambda table: table, replicates=5):
    tables = [synthetic_table(cell, index) for cell in synthetic_cells(index, SUITE, replicates)]
    changed = [change(table) for table in tables]
    return [parse_record(json.dumps(table), "synthetic") for table in changed if table is not None]


def submit(board, index, slug=None, *, change=lambda table: table, replicates=5, checked=True, **meta):
    about = {"title": f"Network {index}", **meta}
    slug = slug or f"entry-{index}"
    folder = write_submission(board, slug, records_of(index, change, replicates), **about)
    if checked:
        state(board, read_submission(folder))


def state(board, submission, **changes):
    """Write the verifier's statement that the submission's midpoints were recomputed."""
    statement = Verified(
        schema=VERIFIED_SCHEMA, slug=submission.slug, submission_sha256=submission.sha256,
        records_sha256=submission.meta.sha256.records, predictions_sha256=None, lmcbench="0",
        level="rescored", cells=1, missing=0, rescored=[], claimed=[], **{"midpoints": True, **changes},
    )  # fmt: skip
    write_atomic(board / "results" / submission.slug / "verified.json", statement.to_json())


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A leaderboard of the baseline and three networks, with their summaries; not to be changed."""
    board = tmp_path_factory.mktemp("four")
    for index in range(4):
        submit(board, index)
    for row in read_rows(board):
        write_atomic(summary_path(board, row.entry.slug), row.entry.to_json())
    return board


@pytest.fixture
def board(four, tmp_path):
    """A copy of it."""
    shutil.copytree(four, tmp_path / "leaderboard")
    return tmp_path / "leaderboard"


def remove_summaries(board):
    """Remove the stored summaries, so that the next reader recomputes them from the records."""
    for path in board.glob(str(summary_path(Path(), "*"))):
        path.unlink()


def standing_of(board, slug):
    [table], _ = tables_of(board)
    return standing_in(table, slug)


def standing_in(table, slug):
    return next(s for s in table.standings if s.entry.slug == slug)


# --- ranks ---------------------------------------------------------------------------------------


def test_the_area_is_the_mean_over_shifts(four):
    standing = standing_of(four, "entry-2")
    values = instability_areas(build_frame(records_of(2))).set_index("replicate")["area"]
    assert standing.areas == pytest.approx(values.to_dict(), abs=1e-8)
    expected = estimate(values.tolist())
    found = standing.scores.columns[AREA]
    assert (found.mean, found.half_width) == pytest.approx((expected.mean, expected.half_width), abs=1e-7)
    assert found.n == standing.n == 5
    [row] = [r for r in export_entries(*tables_of(four))["entries"] if r["entry"] == "entry-2"]
    assert (row["suite"], row["rank"]) == ("synthetic", list(standing.rank))
    assert row["instability_area"] == {str(r): area for r, area in standing.areas.items()}
    assert row["shifts"].keys() == {"none", "same-half", "disjoint-halves", "label-skew"}
    errors = instability_areas(build_frame(records_of(2)), "error_mid")["area"]
    assert standing.scores.columns["area_errors"].mean == pytest.approx(errors.mean(), abs=1e-7)
    scaled = instability_areas(build_frame(records_of(2)), "loss_mid_scaled")["area"]
    assert standing.scores.columns["area_scaled"].mean == pytest.approx(scaled.mean(), abs=1e-7)


def test_differences_are_paired_by_replicate(four):
    view = View(standing_of(four, "entry-3").entry, ["disjoint-halves"])
    shifted, plain = view.barrier("error_mid"), View(view.entry, ["same-half"]).barrier("error_mid")
    expected = estimate([shifted[r] - plain[r] for r in range(5)])
    found = column("shift_effect").score(view)
    assert (found.mean, found.half_width) == (expected.mean, expected.half_width)
    ensemble = view.worth("ensemble", "9")
    equal = view.worth("ensemble", "independent-equal-cost")
    gain = column("ensemble_equal_cost").series(view)
    assert gain == {r: ensemble[r] - equal[r] for r in range(5)}
    assert set(gain) == set(range(5))
    # label-skew has no control here
    assert column("shift_effect").series(View(view.entry, ["label-skew"])) == {}


def test_companions_by_hand(four):
    view = View(standing_of(four, "entry-3").entry, ["disjoint-halves"])
    ensemble, member, soup = (view.worth(name, "9") for name in ("ensemble", "member", "soup"))
    trainings = view.entry.shifts["disjoint-halves"].place("9").trainings
    gain = column("gain_per_training").series(view)
    assert gain == pytest.approx({r: (ensemble[r] - member[r]) / trainings[r] for r in range(5)})
    difference = column("soup_ensemble").series(view)
    assert difference == pytest.approx({r: soup[r] - ensemble[r] for r in range(5)})
    unknown = View(view.entry.model_copy(update={"chance": None}), ["disjoint-halves"])
    assert unknown.skill_lost() == {}
    known = View(view.entry.model_copy(update={"chance": 0.9}), ["disjoint-halves"])
    rise, at_0 = view.barrier("error_mid"), view.worth("member", "0")
    assert known.skill_lost() == pytest.approx({r: rise[r] / (at_0[r] - 0.1) for r in range(5)})


def test_the_baseline_is_shown_and_takes_no_rank(four):
    [table], _ = tables_of(four)
    baseline = next(s for s in table.standings if s.baseline)
    assert baseline.entry.network.label == "lmc_linear"
    assert (baseline.rank, baseline.unranked) == (None, ())
    assert table.ranked == 3
    assert all(1 <= s.rank.first <= s.rank.last <= 3 for s in table.standings if s.rank)


def without(condition):
    return lambda table: None if condition(table) else table


def failed(table):
    if table["shift"]["name"] == "none" and table["replicate"] == 1:
        return {
            **table,
            "status": "failed",
            "reason": "x",
            "siblings": [],
            "pairs": [],
            "ensemble": None,
            "soup": None,
        }
    return table


def diverged(table):
    if table["shift"]["name"] == "label-skew" and table["fork"]["name"] == "0" and table["replicate"] == 1:
        return {
            **table,
            "status": "diverged",
            "reason": "x",
            "siblings": [],
            "pairs": [],
            "ensemble": None,
            "soup": None,
        }
    return table


def dead(table):
    for sibling in table["siblings"]:
        sibling["splits"]["test"]["error"] = 0.8
    table["ensemble"]["test"]["accuracy_mean"] = 0.2
    return table


@pytest.mark.parametrize(
    ("change", "replicates", "reason"),
    [
        (
            without(lambda t: t["fork"]["name"] == "9" and t["replicate"] == 4),
            5,
            "^4 cells missing; the instability area of 1 rep",
        ),
        (without(lambda t: t["replicate"] == 2), 6, "^16 cells missing$"),
        (failed, 5, "^4 cells failed$"),
        (diverged, 6, "^the instability area of 1 replicate is undefined: a cell was not measured"),
        (lambda t: t, 4, "^16 cells missing; 4 replicates of the 5 that a rank needs$"),
        (dead, 5, r"^accuracy 20\.0 %, below the suite's floor of 70 %$"),
    ],
    ids=["a fork is missing", "a replicate is left out", "failed", "diverged", "four replicates", "dead"],
)
def test_who_is_not_ranked_and_why(board, change, replicates, reason):
    submit(board, 5, "late", change=change, replicates=replicates)
    rendered = render_leaderboard(board)
    [table] = rendered.tables
    standing = standing_in(table, "late")
    assert standing.rank is None
    assert re.search(reason, "; ".join(standing.unranked))
    assert standing_in(table, "entry-1").rank.last == 3
    assert escape_markdown("; ".join(standing.unranked)) in rendered.files[board / MARKDOWN]


CLAIMED = ("claimed: its midpoints were not recomputed from logits, nor all of their cells re-run",)


def test_only_midpoints_that_were_recomputed_rank(board):
    submit(board, 5, "late", checked=False)
    render_leaderboard(board).write()  # with its summary
    late = standing_of(board, "late")
    assert (late.rank, late.unranked) == (None, CLAIMED)
    late = read_submission(board / "submissions" / "late")
    state(board, late, midpoints=False)
    assert standing_of(board, "late").unranked == CLAIMED
    rendered = render_leaderboard(board)
    assert f"- [late](submissions/late): {CLAIMED[0]}" in rendered.files[board / MARKDOWN]
    rows = export_rows(rendered.tables, rendered.about)
    assert {(r["slug"], r["basis"]) for r in rows if r["shift"] == HEADLINE} >= {
        ("late", "claimed"),
        ("entry-1", "recomputed"),
    }
    state(board, late)
    late = standing_of(board, "late")
    assert late.basis == "recomputed"
    assert late.rank is not None


@pytest.mark.parametrize(
    ("left_out", "verdict", "basis"), [(0, "within", "re-run"), (1, "within", None), (0, "outside", None)]
)
def test_a_rerun_of_every_cell_that_the_rank_is_based_on_ranks(board, left_out, verdict, basis):
    submit(board, 5, "late", checked=False)
    late = read_submission(board / "submissions" / "late")
    state(board, late, midpoints=False)
    shifts = ("disjoint-halves", "label-skew")
    forks = ("0", "9", "independent")
    based = [r.key for r in late.records if r.fork.name in forks and r.shift.name in shifts]
    others = [r.key for r in late.records if r.key not in based][:left_out]
    assert len(based) == 30
    cells = [
        CellAgain(key=key, cell=key, verdict=verdict, measures=[]) for key in [*based[left_out:], *others]
    ]
    report = Rerun(
        schema=RERUN_SCHEMA, slug="late", submission_sha256=late.sha256, lmcbench="0", chosen_by=late.sha256,
        records_sha256=late.meta.sha256.records, nonce="a", asked=10, calibrated=True, conditions="",
        cells=cells,
    )  # fmt: skip
    write_atomic(board / "results" / "late" / "rerun-0123456789ab.json", report.to_json())
    standing = standing_of(board, "late")
    assert standing.basis == basis
    assert (standing.rank is None) == (basis is None)


def test_a_diverged_cell_is_counted_and_its_replicate_has_no_area(board):
    submit(board, 5, "late", change=diverged, replicates=6)
    standing = standing_of(board, "late")
    assert standing.entry.count("diverged") == 1
    assert (standing.n, standing.areas[1], standing.rank) == (5, None, None)
    assert standing.scores.columns[AREA].n == 5


def test_replicates_without_a_cell_of_the_headline_have_a_null_area_each(board):
    submit(board, 5, "late", change=without(lambda t: t["shift"]["name"] != "none"))
    exported = export_entries(*tables_of(board))["entries"]
    [late] = [entry for entry in exported if entry["entry"] == "late"]
    assert late["instability_area"] == dict.fromkeys("01234")
    assert "replicates of the 5" not in late["unranked"]


def convex(table):
    """The record of a network whose averages are never worse than their ends."""
    for pair in table["pairs"]:
        for curve in pair["curves"].values():
            ends = (curve["loss"][0] + curve["loss"][-1]) / 2
            curve["loss"][len(curve["loss"]) // 2] = ends
        for barrier in pair["barriers"].values():
            barrier["loss_mid"] = 0.0
    return table


def test_a_convex_network_has_no_area_and_no_rank(board):
    submit(board, 5, "late", change=convex)
    standing = standing_of(board, "late")
    assert standing.areas == dict.fromkeys(range(5))
    assert standing.rank is None
    assert "the instability area of every replicate is undefined" in "; ".join(standing.unranked)
    assert standing_of(board, "entry-1").rank is not None


def test_a_suite_that_nobody_published_has_no_ranks(four, monkeypatch):
    monkeypatch.setattr("lmcbench.spec.suite_files.load_suite", load_suite)
    [table], _ = tables_of(four)
    assert table.ranked == 0
    assert table.name == f"synthetic-v1-{SUITE.digest[:12]}"
    reasons = {s.unranked for s in table.standings if not s.baseline}
    assert reasons == {("suite not published with this version of lmcbench",)}


def test_a_new_entry_moves_no_other_score(board):
    def scores():
        rows = export_rows(*tables_of(board))
        ranks = ("rank_first", "rank_last")
        return {(r["slug"], r["shift"]): {k: v for k, v in r.items() if k not in ranks} for r in rows}

    before = scores()
    submit(board, 7)
    after = scores()
    assert before.items() <= after.items()
    assert len(after) == len(before) + 5


def tables_of(board):
    rows = read_rows(board)
    about = {row.entry.slug: (row.submission.meta, row.trust) for row in rows}
    return make_tables((row.entry for row in rows), {row.entry.slug: row.basis for row in rows}), about


# --- pages as a function of submissions ----------------------------------------------------------


def test_the_order_of_submissions_does_not_matter(four):
    rows = read_rows(four)
    expected = render_rows(four, rows).files
    for seed in range(3):
        shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
        assert render_rows(four, shuffled).files == expected


def test_nothing_of_the_machine_is_in_a_page(board, tmp_path):
    first = render_leaderboard(board)
    shutil.copytree(board, tmp_path / "elsewhere")
    second = render_leaderboard(tmp_path / "elsewhere")
    assert {p.relative_to(board): c for p, c in first.files.items()} == {
        p.relative_to(tmp_path / "elsewhere"): c for p, c in second.files.items()
    }
    for content in first.files.values():
        assert str(tmp_path) not in content
        assert not re.search(r"\b(NaN|Infinity)\b(?![\"?:;,)])", content.split("<script")[0])


def test_the_page_loads_nothing(four):
    page = render_leaderboard(four).files[four / HTML]
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a language, not a place
    assert "default-src 'none'" in page
    assert not re.search(r"<(link|script|img|iframe)[^>]*(src|href)=\"(?!data:)", page)


def test_html_in_what_people_write_is_text(board):
    submit(board, 5, "evil", title=SCRIPT, notes=f"{SCRIPT} <!-- </script> & [x](javascript:a)")
    files = render_leaderboard(board).files
    page, readme = files[board / HTML], files[board / MARKDOWN]
    assert "<script>alert" not in page
    assert "\\u003cscript\\u003ealert(1)\\u003c/script\\u003e" in page
    assert page.count("</script>") == 2
    assert "<script>" not in readme
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in readme


def test_a_suites_name_is_text(board):
    def renamed(table):
        return {**table, "suite": {**table["suite"], "name": "a | <img src=x>", "digest": "0" * 64}}

    submit(board, 5, "evil", change=renamed)
    assert "## a \\| &lt;img src=x&gt; version 1\n" in render_leaderboard(board).files[board / MARKDOWN]


def test_a_link_or_another_name_is_no_submission(board):
    link = board / "submissions" / "twice"
    link.symlink_to("entry-1")
    for afresh in (True, False):
        with pytest.raises(UserError, match="twice is a link, so tables would show its target twice"):
            read_rows(board, afresh=afresh)
    link.unlink()
    submit(board, 1, "x](javascript:a) [y")
    with pytest.raises(UserError, match="cannot name a submission"):
        read_rows(board)


def with_fewer_alphas(table):
    if table["replicate"] == 1:
        lines = [
            line for p in table["pairs"] for c in p["curves"].values() for line in (c["loss"], c["error"])
        ]
        for line in [table["protocol"]["alphas"], *lines]:
            del line[1]
    return table


def test_records_that_contradict_each_other_are_one_message(board):
    submit(board, 5, "odd", change=with_fewer_alphas)
    with pytest.raises(UserError, match=r"odd contains records that cannot be summarized .* lmcbench verify"):
        read_rows(board)


def test_cells_given_twice_hide_none_that_are_missing():
    cells = {("label-skew", "0"), ("label-skew", "3")}
    records = [r for r in records_of(1) if r.shift.name == "label-skew" and r.fork.name == "0"]
    again = [r.model_copy(update={"key": r.key[::-1]}) for r in records]
    assert count_missing(summarize("a", "0" * 64, records), cells, 5) == 5
    assert count_missing(summarize("a", "0" * 64, [*records, *again]), cells, 5) == 5


def test_an_empty_leaderboard_says_so(tmp_path):
    (tmp_path / "submissions").mkdir()
    (tmp_path / "submissions" / ".gitkeep").touch()
    (tmp_path / "submissions" / ".mine.7.partial").mkdir()  # left over of one that was cut off
    files = render_leaderboard(tmp_path).files
    assert files[tmp_path / MARKDOWN].endswith("There are no submissions yet.\n")
    assert set(files) == {tmp_path / MARKDOWN, tmp_path / HTML}


def test_a_folder_that_is_no_leaderboard_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no folder 'submissions'.* leaderboard RUN"):
        render_leaderboard(tmp_path)


@pytest.mark.slow_tier  # derives all summaries from the records; `leaderboard --check` compares the pages
def test_the_committed_leaderboard_is_up_to_date():
    board = REPOSITORY / "leaderboard"
    assert render_leaderboard(board, afresh=True).outdated() == []


# --- what was derived before ---------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch):
    """Slugs of the submissions that are read whole."""
    found = []
    whole = derived.read_submission

    def read(folder):
        found.append(folder.name)
        return whole(folder)

    monkeypatch.setattr(derived, "read_submission", read)
    return found


def test_a_submission_is_derived_once(board, reads):
    remove_summaries(board)
    written = render_leaderboard(board).write()
    assert len(written) == 4 + 2
    assert reads == [f"entry-{i}" for i in range(4)]
    reads.clear()
    again = render_leaderboard(board)
    assert (again.outdated(), again.write(), reads) == ([], [], [])


def test_what_is_stale_or_damaged_is_derived_anew(board, reads):
    remove_summaries(board)
    pages = {p: p.read_bytes() for p in render_leaderboard(board).write()}
    assert len(pages) == 4 + 2
    reads.clear()
    summary_path(board, "entry-1").write_text("{")
    other = summary_path(board, "entry-2")
    other.write_text(other.read_text().replace('"submission_sha256":"', '"submission_sha256":"0'))
    summary_path(board, "entry-3").unlink()
    render_leaderboard(board).write()
    assert reads == ["entry-1", "entry-2", "entry-3"]
    assert {p: p.read_bytes() for p in pages} == pages


def large(path):
    with path.open("wb") as file:
        file.truncate(2**32)


@pytest.mark.parametrize("name", ["README.md", "results/entry-1/summary.json"])
@pytest.mark.parametrize("plant", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), large])
def test_a_pipe_a_device_and_a_large_file_in_place_of_a_page_are_not_read(board, plant, name):
    render_leaderboard(board).write()
    path = board / name
    content = path.read_bytes()
    path.unlink()
    plant(path)
    assert render_leaderboard(board).outdated() == [path]
    render_leaderboard(board).write()
    assert not path.is_symlink()
    assert path.read_bytes() == content


def test_a_changed_submission_is_derived_anew(board, reads):
    render_leaderboard(board).write()
    reads.clear()
    shutil.rmtree(board / "submissions" / "entry-1")
    submit(board, 9, "entry-1")
    assert standing_of(board, "entry-1").entry.network.label == "mixer_s16_224"
    assert reads == ["entry-1"]


def test_a_check_believes_no_derived_number(board):
    render_leaderboard(board).write()
    path = summary_path(board, "entry-2")
    forged = json.loads(path.read_text())
    forged["shifts"]["label-skew"]["places"][0]["barriers"]["error_chord"] = [0.0] * 5
    path.write_text(json.dumps(forged))
    render_leaderboard(board).write()  # a page that believes it
    outdated = render_leaderboard(board, afresh=True).outdated()
    assert outdated == sorted([board / MARKDOWN, board / HTML, path])


def test_changed_records_are_refused_by_name(board):
    render_leaderboard(board).write()
    other = board / "submissions" / "entry-2" / "records.jsonl.gz"
    shutil.copy(other, board / "submissions" / "entry-1" / "records.jsonl.gz")
    with pytest.raises(
        UserError, match=r"entry-1 is no sound submission:\n.*sha256.records: found .*, but records"
    ):
        render_leaderboard(board, afresh=True)


def test_what_is_left_of_a_submission_that_went_is_removed(board):
    render_leaderboard(board).write()
    evidence = summary_path(board, "entry-3").with_name("verified.json")
    evidence.write_text("{}")
    shutil.rmtree(board / "submissions" / "entry-3")
    assert summary_path(board, "entry-3") in render_leaderboard(board, afresh=True).outdated()
    render_leaderboard(board).write()
    assert not summary_path(board, "entry-3").exists()
    assert evidence.exists()


# --- exports and small things --------------------------------------------------------------------


def test_the_export_has_every_number(four):
    rows = export_rows(*tables_of(four))
    assert len(rows) == 4 * (1 + 4)
    [row] = [r for r in rows if (r["slug"], r["shift"]) == ("entry-2", HEADLINE)]
    standing = standing_of(four, "entry-2")
    for c in COLUMNS:
        value = standing.scores.columns[c.key]
        assert (row[c.key], row[f"{c.key}_half"], row[f"{c.key}_n"]) == (
            value.mean,
            value.half_width,
            value.n,
        )
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert len(read) == len(rows)
    [same] = [r for r in read if (r["slug"], r["shift"]) == ("entry-2", HEADLINE)]
    assert float(same[AREA]) == row[AREA]
    assert to_csv([]) == ""


def test_the_first_figure_is_the_curve_whose_area_ranks(four):
    view = View(standing_of(four, "entry-3").entry, ["disjoint-halves"])
    steps, areas = view.instability(), view.areas()
    assert next(iter(steps)) == 0
    assert max(steps) == 0.3
    for replicate, area in areas.items():
        heights = [steps[share][replicate] for share in steps]
        width = [math.sqrt(share) for share in steps]
        assert area == pytest.approx(np.trapezoid(heights, width) / math.sqrt(0.3))
    tables, about = tables_of(four)
    [entry] = [e for e in make_payload(tables, about)["suites"][0]["entries"] if e["slug"] == "entry-3"]
    assert [share for share, _ in entry["steps"]["disjoint-halves"]] == [100 * share for share in steps]
    mean = sum(steps[0].values()) / len(steps[0])
    assert entry["steps"]["disjoint-halves"][0][1][0] == pytest.approx(1e4 * mean, abs=1)


def test_the_board_as_latex_has_ranks_titles_and_intervals(four):
    tables, about = tables_of(four)
    text = to_latex(tables, about)
    assert text.count(r"\begin{table}") == len(tables)
    standing = standing_of(four, "entry-2")
    area = standing.scores.columns[AREA]
    [row] = [line for line in text.splitlines() if escape_latex(about["entry-2"][0].title) in line]
    assert rf"& ${tenths(area.mean)} \pm {tenths(area.half_width)}$ &" in row
    rank = "–" if standing.rank is None else str(standing.rank)
    assert row.startswith(f"{rank.replace('–', '--')} & ")
    assert "% Written by: " in text
    assert f"digest {standing.entry.suite.digest}" in text


def test_a_spreadsheet_runs_no_title():
    assert to_csv([{"title": "=1+1", "x": -1.5, "y": None}]) == "title,x,y\n'=1+1,-1.5,\n"


@pytest.mark.parametrize(
    ("fraction", "sign", "shown"),
    [
        (0.1234, False, "12.3"),
        (0.12345, False, "12.3"),
        (0.12348, False, "12.3"),  # rounded once, not to 12.35 first
        (-0.12348, False, "−12.3"),
        (0.0057, False, "0.6"),
        (0.1235 - 1e-12, False, "12.4"),
        (0.1235, False, "12.4"),
        (-0.0004, True, "0.0"),
        (-0.0005, True, "−0.1"),
        (0.002, True, "+0.2"),
        (1.0, False, "100.0"),
    ],
)
def test_numbers_in_print(fraction, sign, shown):
    assert tenths(fraction, sign=sign) == shown


@pytest.mark.parametrize("letters", [1, 2])
def test_packed_curves_are_as_fine_as_promised(letters):
    values = np.linspace(0, 0.37, 21)
    text = pack(values, 0.37, letters)
    assert len(text) == 21 * letters
    levels = [
        sum(ALPHABET.index(c) * 64 ** (letters - 1 - i) for i, c in enumerate(text[k : k + letters]))
        for k in range(0, len(text), letters)
    ]
    step = 0.37 / (64**letters - 1)
    assert np.abs(np.array(levels) * step - values).max() <= step / 2 * (1 + 1e-9)


def test_a_suite_without_training_shifts_ranks_by_the_unshifted_barrier():
    assert standings.headline_shifts(synthetic_suite(shifts=["none", "same-half"])) == ("none",)
    assert standings.headline_shifts(SUITE) == ("disjoint-halves", "label-skew")


def test_siblings_that_share_nothing_cost_what_independent_networks_do():
    suite = synthetic_suite(forks=[0, "independent"], shifts=["none", "label-skew"])
    cells = synthetic_cells(2, suite)
    records = [parse_record(json.dumps(synthetic_table(cell, 2)), "synthetic") for cell in cells]
    view = View(summarize("x", "0" * 64, records), ["label-skew"])
    gain = column("ensemble_equal_cost").series(view)
    ensemble, alone = (view.worth("ensemble", fork) for fork in ("0", "independent"))
    assert gain == {r: ensemble[r] - alone[r] for r in range(5)}


def test_equal_cost_is_compared_under_the_shifts_that_have_comparators():
    shifts = ["none", "disjoint-halves", "label-skew"]
    suite = synthetic_suite(shifts=shifts, comparator_shifts=["none", "label-skew"])
    cells = synthetic_cells(2, suite)
    records = [parse_record(json.dumps(synthetic_table(cell, 2)), "synthetic") for cell in cells]
    entry = summarize("x", "0" * 64, records)
    gain = column("ensemble_equal_cost").series
    both, skew = View(entry, shifts[1:]), View(entry, ["label-skew"])
    assert gain(both) == gain(skew)
    ensemble, alone = (skew.worth("ensemble", fork) for fork in ("3", "independent-equal-cost"))
    assert gain(skew) == {r: ensemble[r] - alone[r] for r in range(5)}
    assert gain(View(entry, ["disjoint-halves"])) == {}
    places = {(shift.label, fork.name) for shift, fork in suite.conditions}
    assert standings.count_missing(entry, places, 5) == 0


def test_an_entry_that_leaves_comparators_out_is_not_compared_over_the_other_shifts(monkeypatch):
    shifts = ["none", "disjoint-halves", "label-skew"]
    suite = synthetic_suite(shifts=shifts)
    cells = [
        cell
        for cell in synthetic_cells(2, suite)
        if (cell.shift.label, cell.fork.name) != ("label-skew", "independent-equal-cost")
    ]
    records = [parse_record(json.dumps(synthetic_table(cell, 2)), "synthetic") for cell in cells]
    monkeypatch.setattr(standings, "published_suite", lambda *_: suite)
    [table] = make_tables([summarize("x", "0" * 64, records)])
    [row] = table.standings
    assert row.missing == 5
    assert row.scores.columns["ensemble_equal_cost"].mean is None
    assert row.by_shift["disjoint-halves"].columns["ensemble_equal_cost"].mean is not None


def test_a_table_says_under_which_of_its_shifts_ensembles_are_compared(monkeypatch):
    shifts = ["none", "disjoint-halves", "label-skew"]
    suite = synthetic_suite(shifts=shifts, comparator_shifts=["none", "label-skew"])
    cells = synthetic_cells(2, suite)
    records = [parse_record(json.dumps(synthetic_table(cell, 2)), "synthetic") for cell in cells]
    entry = summarize("x", "0" * 64, records)
    monkeypatch.setattr(standings, "published_suite", lambda *_: suite)
    [table] = make_tables([entry])
    assert table.headline == ("disjoint-halves", "label-skew")
    assert table.comparison == "Ensembles are compared with independent ones under label-skew only."
    for under, said in ((None, ""), (shifts, ""), (["none"], "No shift of this suite has an equal-cost")):
        other = synthetic_suite(shifts=shifts, comparator_shifts=under)
        monkeypatch.setattr(standings, "published_suite", lambda *_, other=other: other)
        found = make_tables([entry])[0].comparison
        assert found.startswith(said)
        assert bool(found) == bool(said)


def test_stability_points_in_print():
    def shown(*shares):
        return median_text(Stability(Line("a", "r", "s"), (), dict(enumerate(shares)), 0))

    assert shown(0.1, 0.005, None) == "10 % (0.5 % to never)"
    assert shown(0.3, 0.3) == shown(0.3) == "30 %"
    assert shown() == "–"


def test_on_a_suite_with_a_sweep_only_tuned_recipes_rank(monkeypatch):
    sweep = {"batch_size": 32, "epochs": 10, "optimizers": [{"lr": [0.1]}]}
    suite = synthetic_suite(shifts=["none", "disjoint-halves"], sweep=sweep)
    cells = synthetic_cells(2, suite)
    records = [parse_record(json.dumps(synthetic_table(cell, 2)), "synthetic") for cell in cells]
    entry = summarize("x", "0" * 64, records)
    monkeypatch.setattr(standings, "published_suite", lambda *_: suite)
    said = "not the choice of 'lmcbench tune'"
    [row] = make_tables([entry])[0].standings
    assert sum(said in reason for reason in row.unranked) == 1
    tuned = entry.model_copy(update={"recipe": {**entry.recipe, "name": "tuned"}})
    [row] = make_tables([tuned])[0].standings
    assert not any(said in reason for reason in row.unranked)


def test_recipes_of_an_architecture_are_on_its_frontier_unless_another_beats_them():
    def standing(slug, area, accuracy, label="a", basis="recomputed"):
        estimates = {"area": Estimate(area, 0.0, 5), "accuracy": Estimate(accuracy, 0.0, 5)}
        entry = SimpleNamespace(slug=slug, network=SimpleNamespace(label=label))
        return SimpleNamespace(entry=entry, scores=SimpleNamespace(columns=estimates), basis=basis)

    rows = [
        standing("claimed", 0.01, 0.99, basis=None),
        standing("stable", 0.1, 0.8),
        standing("accurate", 0.3, 0.9),
        standing("beaten", 0.3, 0.8),
        standing("undefined", None, 0.95),
        standing("other", 0.9, 0.1, label="b"),
    ]
    assert standings._frontier(rows) == {"stable", "accurate", "other"}


def test_the_page_has_forks_in_the_order_of_training():
    shares = {"independent": None, "30%": 0.3, "2": 0.125, "10": 0.625, "0": 0.0}
    assert order_forks(shares) == ["0", "2", "30%", "10", "independent"]
