import json
from pathlib import Path

import pytest

from builders import make_record, toy_cell, toy_suite, write_run
from lmcbench.board.page import INTRODUCTION, render, run_table
from lmcbench.board.table import make_board
from lmcbench.errors import UserError
from lmcbench.results.store import write_atomic
from lmcbench.spec.cells import expand
from lmcbench.spec.suite import load_suite

REPOSITORY = Path(__file__).resolve().parents[2]


def submit(board, slug, records):
    return write_run(board / "submissions" / slug, records)


def test_an_empty_leaderboard_says_so(tmp_path):
    (tmp_path / "submissions").mkdir()
    (tmp_path / "submissions" / ".gitkeep").touch()
    assert render(tmp_path) == f"{INTRODUCTION}\nThere are no submissions yet.\n"


def test_a_section_per_suite_and_version_with_its_digest(tmp_path):
    first, second = make_record(), make_record(toy_cell(suite=toy_suite(version=2)), barrier_error=0.2)
    submit(tmp_path, "b-new", [second])
    submit(tmp_path, "a-old", [first])
    text = render(tmp_path)
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## toy version 1",
        "## toy version 2",
    ]
    one, two = text.split("## toy version 2")
    assert f"Suite digest `{first.suite.digest[:12]}`." in one
    assert make_board([first]).render("github") in one
    assert f"Suite digest `{second.suite.digest[:12]}`." in two
    assert make_board([second]).render("github") in two
    assert "no submissions" not in text


def test_submissions_to_one_suite_share_its_tables(tmp_path):
    records = [make_record(toy_cell(a)) for a in ("lmc_mlp", "lmc_linear")]
    for slug, record in zip(("z", "a"), records, strict=True):
        submit(tmp_path, slug, [record])
    assert make_board(records).render("github") in render(tmp_path)


def test_the_floor_is_the_published_suites_where_the_digest_is_its(tmp_path):
    suite = load_suite("digits")
    assert suite.floor > 0
    dead = make_record(expand(suite)[0], member_error=0.9)
    submit(tmp_path, "x", [dead])
    assert "below the suite's floor of" in render(tmp_path)
    submit(
        tmp_path, "x", [dead.model_copy(update={"suite": dead.suite.model_copy(update={"digest": "0" * 64})})]
    )
    assert "below the suite's floor of" not in render(tmp_path)


def test_the_committed_page_is_up_to_date():
    board = REPOSITORY / "leaderboard"
    assert (board / "README.md").read_text(encoding="utf-8") == render(board)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a whole record"),
        (json.dumps({"schema": "lmcbench/cell/2"}), "Upgrade: pip install -U lmcbench"),
        (json.dumps({"schema": "lmcbench/cell/1"}), "is not a record"),
    ],
)
def test_a_record_that_cannot_be_read_is_refused_by_name(tmp_path, content, message):
    folder = submit(tmp_path, "x", [make_record()])
    write_atomic(folder.record("bad"), content)
    with pytest.raises(UserError, match=rf"submissions/x/records/bad\.json .*{message}"):
        render(tmp_path)


def test_a_submission_without_records_is_refused(tmp_path):
    (tmp_path / "submissions" / "x").mkdir(parents=True)
    with pytest.raises(UserError, match=r"No records in .*submissions/x"):
        render(tmp_path)


def test_a_folder_that_is_no_leaderboard_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"is no leaderboard: it has no folder 'submissions'.* leaderboard RUN"
    ):
        render(tmp_path)


def test_the_table_of_one_run(tmp_path):
    records = [make_record(toy_cell(replicate=r), barrier_error=0.1 * (r + 1)) for r in range(2)]
    write_run(tmp_path, records)
    assert run_table(tmp_path, "simple") == make_board(records).render("simple")


def test_records_of_two_suites_are_no_run(tmp_path):
    one, two = make_record(), make_record(toy_cell(suite=toy_suite(siblings=3)))
    write_run(tmp_path, [one, two])
    with pytest.raises(UserError) as refused:
        run_table(tmp_path, "simple")
    digests = sorted(r.suite.digest[:12] for r in (one, two))
    assert str(refused.value) == (
        f"{tmp_path} holds records of more than one suite: toy v1 ({digests[0]}), toy v1 ({digests[1]})."
    )
