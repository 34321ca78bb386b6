"""Quote the committed findings in README.md: python benchmark/evidence/quote.py [README].

The section "What the papers claim" is written anew from findings.md and report.md of the evidence beside this
file: claims down, suites across. Run it after `make.py`; nothing in that section is typed by hand.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from lmcbench.results.run_folder import write_atomic

EVIDENCE = Path(__file__).parent
VERSIONS = {"digits": 2, "noise-grid": 1, "fashion-shift-cpu": 1}
"""The suites that are quoted, with the version of their evidence."""
HEADING = "## What the papers claim"
NOISE_TABLE = "## Does the noise scale set the barrier at fork 0?"

FIGURE = "benchmark/evidence/noise-grid-v1/figures/noise-scale.png"
CONTROLS = "Training shift over control: "

SECTION = """{heading}

`lmcbench report RUN --findings` holds the papers' claims against the records of a run: effect, 95 % t
interval over replicates, verdict. Barriers, accuracies and disagreement are in percentage points, and
positive is what the claim says. [H] is Hepburn et al., [S] Singh et al., [F]
[Frankle et al.](https://arxiv.org/abs/1912.05671). The recipes of the first two suites were chosen to make
effects visible: demonstrations. The baseline `lmc_linear`, which is convex, is in no effect. n stands in the
heads, and in a cell where it differs. A dash: the suite does not hold what the claim needs; in the last, one
replicate has no interval ([its effects](benchmark/evidence/fashion-shift-cpu-v1/findings.md)). The findings
have each test in words, and the same by architecture.

{table}

{controls}

Barrier and noise scale go together across learning rates, batch sizes, equal epochs and equal steps (rank
correlation {lowest} to {highest} by shift and comparison,
[noise-grid](benchmark/evidence/noise-grid-v1/report.md), n = {n}). At one recipe, disjoint halves give about
the barrier that the whole set gives, so that against g, which counts the images of a view, they lie higher:

![Error barrier at fork 0 against the noise scale, with and without shift]({figure})

"""


def main() -> None:
    """Rewrite the section."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("readme", type=Path, nargs="?", default=EVIDENCE.parents[1] / "README.md")
    readme: Path = parser.parse_args().readme
    write_atomic(readme, quoted(readme.read_text(encoding="utf-8")))
    print(f"Wrote '{HEADING.removeprefix('## ')}' in {readme}.")


def quoted(readme: str) -> str:
    """The README with the section as the evidence has it."""
    start = readme.index(HEADING)
    return readme[:start] + section() + readme[readme.index("\n## ", start) + 1 :]


def section() -> str:
    """The section, from its heading to the next one."""
    noise = _table(_text("noise-grid", "report.md").split(NOISE_TABLE)[1])
    ranked = sorted({row["error barrier"] for row in noise}, key=lambda text: text.split(" ± "))
    return SECTION.format(
        heading=HEADING,
        table=claims_table(),
        controls="\n".join(_controls()),
        figure=FIGURE,
        lowest=ranked[0],
        highest=ranked[-1],
        n=noise[0]["n"],
    )


def claims_table() -> str:
    """Claims down, suites across; those under evaluation shifts are left to the findings themselves."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for suite in VERSIONS:
        for found in _table(_text(suite, "findings.md")):
            if "(test:" not in found["claim"]:
                rows.setdefault((found[""], found["claim"]), {})[suite] = _cell(found, _replicates(suite))
    heads = [
        f"[{suite}](benchmark/evidence/{_folder(suite)}/findings.md), n = {_replicates(suite)}"
        for suite in VERSIONS
    ]
    lines = [("", "claim", *heads), ("---",) * (2 + len(VERSIONS))]
    lines += [
        (who, claim, *(row.get(suite, "–") for suite in VERSIONS)) for (who, claim), row in rows.items()
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
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
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
