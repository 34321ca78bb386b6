"""The leaderboard's page: committed submissions in, Markdown out."""

from __future__ import annotations

from pathlib import Path

from lmcbench.errors import UserError
from lmcbench.results.record import Record, read_record
from lmcbench.results.store import find_records
from lmcbench.spec.suite import load_suite

INTRODUCTION = """# Leaderboard

Rendered by `lmcbench leaderboard` from the records under `submissions/`; not edited by hand.
Barriers say how well connected siblings are, not how good a network is: a network that learned nothing
is perfectly connected, so mean accuracy is shown beside them.
"""


def run_table(path: Path, style: str) -> str:
    """The tables of a run folder or a folder of records.

    Raises:
        UserError: where there are no records, or they are of more than one suite.
    """
    records = [read_record(file) for file in find_records(path)]
    suites = {(r.suite.name, r.suite.version, r.suite.digest) for r in records}
    if len(suites) > 1:
        names = ", ".join(f"{name} v{version} ({digest[:12]})" for name, version, digest in sorted(suites))
        raise UserError(f"{path} holds records of more than one suite: {names}.")
    return _table(records, style)


def render(folder: Path) -> str:
    """The whole leaderboard as Markdown: a section per suite and version, its digest beside it.

    Raises:
        UserError: where `folder` is not a leaderboard's, or a record in it cannot be read.
    """
    if not (folder / "submissions").is_dir():
        raise UserError(
            f"{folder} is no leaderboard: it has no folder 'submissions'. Go to the repository's root, "
            "or name another with --leaderboard DIR. For one run: lmcbench leaderboard RUN."
        )
    suites: dict[tuple[str, int, str], list[Record]] = {}
    for submission in sorted(p for p in (folder / "submissions").iterdir() if p.is_dir()):
        for file in find_records(submission):
            record = read_record(file)
            suite = (record.suite.name, record.suite.version, record.suite.digest)
            suites.setdefault(suite, []).append(record)
    sections = [INTRODUCTION]
    for (name, version, digest), records in sorted(suites.items()):
        table = _table(records, "github")
        sections.append(f"## {name} version {version}\n\nSuite digest `{digest[:12]}`.\n\n{table}")
    if not suites:
        sections.append("There are no submissions yet.\n")
    return "\n".join(sections)


def _table(records: list[Record], style: str) -> str:
    # imported where there is something to show: pandas takes most of the time a light command has
    from lmcbench.board.table import make_board

    return make_board(records, _floor(records[0])).render(style)


def _floor(record: Record) -> float:
    """The accuracy floor of a record's suite, where it is a published one."""
    try:
        suite = load_suite(f"{record.suite.name}-v{record.suite.version}")
    except UserError:
        return 0.0
    return suite.floor if suite.digest == record.suite.digest else 0.0
