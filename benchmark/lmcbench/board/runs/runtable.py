"""A run's records in, its tables out as text."""

from __future__ import annotations

from pathlib import Path

from lmcbench.board.runs.table import make_board
from lmcbench.errors import UserError
from lmcbench.results.store import read_records
from lmcbench.spec.published import published_suite


def run_table(path: Path, style: str) -> str:
    """The tables of a run folder or a folder of records.

    Raises:
        UserError: where there are no records, or they are of more than one suite.
    """
    records = read_records(path)
    suites = {(r.suite.name, r.suite.version, r.suite.digest) for r in records}
    if len(suites) > 1:
        names = ", ".join(f"{name} v{version} ({digest[:12]})" for name, version, digest in sorted(suites))
        raise UserError(f"{path} holds records of more than one suite: {names}.")
    one = records[0].suite
    suite = published_suite(one.name, one.version, one.digest)
    return make_board(records, suite.floor if suite is not None else 0.0).render(style)
