"""Quote the committed evidence in README.md and docs/findings.md: python benchmark/evidence/quote.py.

In README.md this writes the tables under "What you see" and the number of replicates; in docs/findings.md the
list of runs, the sections of `sections.py`, and "What the papers claim" with one row per claim and one column
per suite.
The suites are those with a folder beside this file, each in its latest version. Run it after `make.py`; do
not edit these parts by hand.
"""

from __future__ import annotations

import re

from committed import (
    BASELINE,
    COMPARATORS,
    DEFAULT,
    ROOT,
    first_table,
    folder_of,
    replicates_of,
    text_of,
    versions,
)
from default_section import in_short
from sections import (
    PHOTOGRAPHS,
    SHIFTED,
    on_ensembles,
    on_photographs,
    on_recipes,
    on_shifts,
)

from lmcbench.results.atomic_files import write_atomic

CONTROLS = "Training shift over control: "
BARRIERS = "Error barrier on the test set"
WORTH = "Siblings and their ensembles on the test set"
WORTH_COLUMNS = [
    "architecture",
    "recipe",
    "shift",
    "fork",
    "member",
    "disagreement",
    "ensemble",
    "gain",
    "soup",
    "cost",
]
"""The most important columns of that table, as the README shows them."""
RUNS = """| run | version | replicates | device |
|---|---|---|---|
{rows}

"""
CLAIMS = """## What the papers claim

`lmcbench report RUN --findings` tests the papers' claims on the records of a run. Each cell below has the
effect, its 95 % t interval over replicates, and a verdict; CPU, n replicates as in the column's head, or as
stated in the cell. Barriers, accuracies and disagreement are in percentage points. A positive effect agrees
with the claim. The convex baseline `lmc_linear` is in no effect. A dash means that the run does not contain
what the claim needs. The linked findings explain each test and have the results by architecture.

{table}

{controls}

"""


def main() -> None:
    """Rewrite both pages."""
    for name, write in (("README.md", quoted_readme), ("docs/findings.md", quoted)):
        page = ROOT / name
        write_atomic(page, write(page.read_text(encoding="utf-8")))
        print(f"Quoted the evidence in {page}.")


def quoted_readme(page: str) -> str:
    """Return the README with the default suite's tables, links and numbers of replicates."""
    block = re.search(rf"```\n{BARRIERS}.*?```", page, re.DOTALL)
    assert block is not None
    page = page[: block.start()] + f"```\n{excerpt()}```" + page[block.end() :]
    for suite in versions():
        page = re.sub(rf"evidence/{suite}-v\d+/", f"evidence/{folder_of(suite)}/", page)
    of = {"the figure": PHOTOGRAPHS, "the tables": DEFAULT}  # in their order on the page
    numbers = iter(of.values())
    page, found = re.subn(r"n = \d+(?=\s+replicates)", lambda _: f"n = {replicates_of(next(numbers))}", page)
    assert found == len(of)
    return page


def excerpt() -> str:
    """Return rows of two tables: the baseline, and the network with the highest barrier at fork 0.

    They are under label-skew; the barriers under its control are shown too.
    """
    tables = text_of(DEFAULT, "leaderboard.md")
    barriers, worth = (first_table(tables[tables.index(title) :]) for title in (BARRIERS, WORTH))
    skewed = [row for row in barriers if row["shift"] == "label-skew"]
    highest = max(skewed, key=lambda row: float(row["0"].split()[0]))["architecture"]
    shown = [row for row in skewed if row["architecture"].partition("(")[0] == BASELINE]
    for shift in ("same(label-skew)", "label-skew"):
        shown += [row for row in barriers if (row["architecture"], row["shift"]) == (highest, shift)]
    members = [
        {column: row[column] for column in WORTH_COLUMNS}
        for row in worth
        if (row["architecture"], row["shift"]) == (highest, "label-skew") and row["fork"] not in COMPARATORS
    ]
    return (
        f"{BARRIERS} (chord form, percentage points, by fork)\n\n{_simple(shown)}\n"
        f"{WORTH} (percent)\n\n{_simple(members)}"
    )


def _simple(rows: list[dict[str, str]]) -> str:
    """Return a table as the terminal shows it."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )


def quoted(page: str) -> str:
    """Return the page of findings with its quoted parts replaced by what the evidence has."""
    start, end = page.index("| run |"), page.index("Small networks on small images.")
    page = page[:start] + runs_table() + page[end:]
    shifts = [on_shifts()] if any(suite in versions() for suite in SHIFTED) else []
    parts = [in_short(), on_photographs(), *shifts, on_ensembles(), on_recipes(), claims()]
    end = len(page)
    for text in reversed(parts):
        heading = text.partition("\n")[0]
        start = page.find(heading)
        if start < 0:  # a new section stands before the one that follows it
            start = end
        else:
            end = page.index("\n## ", start) + 1
        page = page[:start] + text + page[end:]
        end = start
    return page


def runs_table() -> str:
    """Return the table of runs."""
    rows = (
        f"| [{suite}](../benchmark/evidence/{folder_of(suite)}/README.md) | {version} | "
        f"{replicates_of(suite)} | {_device(suite)} |"
        for suite, version in versions().items()
    )
    return RUNS.format(rows="\n".join(rows))


def claims() -> str:
    """Return the section of claims, from its heading to the next."""
    return CLAIMS.format(table=claims_table(), controls="\n".join(_controls()))


def claims_table() -> str:
    """Return the table of claims by suites, without the claims under evaluation shifts."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for suite in versions():
        for found in first_table(text_of(suite, "findings.md")):
            if "(test:" not in found["claim"]:
                rows.setdefault((found["paper"], found["claim"]), {})[suite] = _cell(
                    found, replicates_of(suite)
                )
    heads = [
        f"[{suite}](../benchmark/evidence/{folder_of(suite)}/findings.md), n = {replicates_of(suite)}"
        for suite in versions()
    ]
    lines = [("paper", "claim", *heads), ("---",) * (2 + len(versions()))]
    lines += [
        (paper, claim, *(row.get(suite, "–") for suite in versions())) for (paper, claim), row in rows.items()
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _controls() -> list[str]:
    """Which shifts the claim about controls was tested with, where there is an interval."""
    notes = []
    for suite in versions():
        for line in text_of(suite, "findings.md").splitlines():
            if line.startswith(f"- {CONTROLS}") and replicates_of(suite) > 1:
                notes.append(f"Training shift over control on {suite}: {line.removeprefix(f'- {CONTROLS}')}")
    return notes


def _cell(found: dict[str, str], replicates: int) -> str:
    """Effect, interval, n where it is not the suite's, verdict; a dash where there is no interval."""
    interval = found["95 % interval"]
    if interval == "–":
        return "–"
    n = "" if int(found["n"]) == replicates else f", n = {found['n']}"
    verdict = "no verdict" if found["verdict"].startswith("not testable") else found["verdict"]
    return f"{found['effect']} ({interval}{n}), {verdict}"


def _device(suite: str) -> str:
    found = re.search(r"\d cells \(.*?\), (.*?), engines", text_of(suite, "README.md"))
    assert found is not None, suite
    return found[1]


if __name__ == "__main__":
    main()
