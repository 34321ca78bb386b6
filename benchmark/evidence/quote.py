"""Quote the committed findings in docs/findings.md: python benchmark/evidence/quote.py [PAGE].

The section "What the papers claim" is written from findings.md of the evidence beside this
file, one row per claim and one column per suite. Run it after `make.py`; do not edit that section by hand.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from lmcbench.results.run_folder import write_atomic

EVIDENCE = Path(__file__).parent
VERSIONS = {"digits": 2}
"""The suites that are quoted, with the version of their evidence."""
HEADING = "## What the papers claim"

CONTROLS = "Training shift over control: "

SECTION = """{heading}

`lmcbench report RUN --findings` tests the papers' claims on the records of a run. Each cell below has the
effect, its 95 % t interval over replicates, and a verdict; CPU, n replicates as in the column's head, or as
stated in the cell. Barriers, accuracies and disagreement are in percentage points. A positive effect agrees
with the claim. The convex baseline `lmc_linear` is in no effect. A dash means that the run does not contain
what the claim needs. The linked findings explain each test and have the results by architecture.

{table}

{controls}

"""


def main() -> None:
    """Rewrite the section."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", type=Path, nargs="?", default=EVIDENCE.parents[1] / "docs" / "findings.md")
    page: Path = parser.parse_args().page
    write_atomic(page, quoted(page.read_text(encoding="utf-8")))
    print(f"Wrote '{HEADING.removeprefix('## ')}' in {page}.")


def quoted(page: str) -> str:
    """Return the text of a page with the section replaced by what the evidence has."""
    start = page.index(HEADING)
    return page[:start] + section() + page[page.index("\n## ", start) + 1 :]


def section() -> str:
    """Return the section, from its heading to the next."""
    return SECTION.format(
        heading=HEADING,
        table=claims_table(),
        controls="\n".join(_controls()),
    )


def claims_table() -> str:
    """Return the table of claims by suites, without the claims under evaluation shifts."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for suite in VERSIONS:
        for found in _table(_text(suite, "findings.md")):
            if "(test:" not in found["claim"]:
                rows.setdefault((found["paper"], found["claim"]), {})[suite] = _cell(
                    found, _replicates(suite)
                )
    heads = [
        f"[{suite}](../benchmark/evidence/{_folder(suite)}/findings.md), n = {_replicates(suite)}"
        for suite in VERSIONS
    ]
    lines = [("paper", "claim", *heads), ("---",) * (2 + len(VERSIONS))]
    lines += [
        (paper, claim, *(row.get(suite, "–") for suite in VERSIONS)) for (paper, claim), row in rows.items()
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _controls() -> list[str]:
    """Which shifts the claim about controls was tested with, where there is an interval."""
    notes = []
    for suite in VERSIONS:
        for line in _text(suite, "findings.md").splitlines():
            if line.startswith(f"- {CONTROLS}") and _replicates(suite) > 1:
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


def _table(markdown: str) -> list[dict[str, str]]:
    """The first table of a text, rows by column."""
    lines = re.split(r"\n\n", markdown[markdown.index("\n|") + 1 :], maxsplit=1)[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


def _replicates(suite: str) -> int:
    found = re.search(r"replicates (\d+) to (\d+)", _text(suite, "README.md"))
    assert found is not None, suite
    return int(found[2]) - int(found[1]) + 1


def _text(suite: str, name: str) -> str:
    return (EVIDENCE / _folder(suite) / name).read_text(encoding="utf-8")


def _folder(suite: str) -> str:
    return f"{suite}-v{VERSIONS[suite]}"


if __name__ == "__main__":
    main()
