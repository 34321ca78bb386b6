from pathlib import Path

import pytest

from builders import make_record, toy_cell, toy_suite
from lmcbench.errors import UserError
from lmcbench.report.tables import make_tables, run_table
from lmcbench.spec.cells import expand
from lmcbench.spec.suite_files import load_suite


def test_the_table_of_one_run(tmp_path: Path):
    records = [make_record(toy_cell(replicate=r), barrier_error=0.1 * (r + 1)) for r in range(2)]
    assert run_table(records, tmp_path, "simple") == make_tables(records).render("simple")


def test_the_floor_is_the_published_suites_where_the_digest_is_its(tmp_path: Path):
    suite = load_suite("digits")
    assert suite.floor > 0
    dead = make_record(expand(suite)[0], member_error=0.9)
    assert "below the suite's floor of" in run_table([dead], tmp_path, "simple")
    other = dead.model_copy(update={"suite": dead.suite.model_copy(update={"digest": "0" * 64})})
    assert "below the suite's floor of" not in run_table([other], tmp_path, "simple")


def test_records_of_two_suites_are_no_run(tmp_path: Path):
    one, two = make_record(), make_record(toy_cell(suite=toy_suite(siblings=3)))
    with pytest.raises(UserError) as refused:
        run_table([one, two], tmp_path, "simple")
    digests = sorted(r.suite.digest[:12] for r in (one, two))
    assert str(refused.value) == (
        f"{tmp_path} holds records of more than one suite: toy v1 ({digests[0]}), toy v1 ({digests[1]})."
    )
