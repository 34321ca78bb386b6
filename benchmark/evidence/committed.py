"""Read committed evidence, and show its numbers: for `quote.py`, which writes them into pages."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pandas as pd
from scipy import stats

from lmcbench.spec.architectures import short_labels

EVIDENCE = Path(__file__).parent
ROOT = EVIDENCE.parents[1]
DEFAULT = "digits"
"""The suite of the README."""
BASELINE = "lmc_linear"
"""The convex baseline."""
COMPARATORS = ("independent-equal-cost", "whole-budget")
LINE = ["architecture", "recipe", "shift"]


def versions() -> dict[str, int]:
    """Return the suites with evidence and their latest version, the default suite first."""
    found: dict[str, int] = {}
    for file in EVIDENCE.glob("*/findings.md"):
        name, _, version = file.parent.name.rpartition("-v")
        found[name] = max(found.get(name, 0), int(version))
    return dict(sorted(found.items(), key=lambda item: (item[0] != DEFAULT, item[0])))


def folder_of(suite: str) -> str:
    """Return the name of the folder of a suite's evidence."""
    return f"{suite}-v{versions()[suite]}"


def text_of(suite: str, name: str) -> str:
    """Return a file of a suite's evidence."""
    return (EVIDENCE / folder_of(suite) / name).read_text(encoding="utf-8")


def cells_of(suite: str) -> pd.DataFrame:
    """Return the rows of the test set, one per cell and pair, with short names of networks."""
    cells = pd.read_csv(EVIDENCE / folder_of(suite) / "records.csv.gz", dtype={"fork": str})
    short = short_labels(cells["architecture"].unique())
    return cells[cells["split"] == "test"].assign(architecture=cells["architecture"].map(short))


def replicates_of(suite: str) -> int:
    """Return the number of replicates of a suite's evidence."""
    found = re.search(r"replicates (\d+) to (\d+)", text_of(suite, "README.md"))
    assert found is not None, suite
    return int(found[2]) - int(found[1]) + 1


def first_table(markdown: str) -> list[dict[str, str]]:
    """Return the rows of the first table of a text, by column."""
    lines = re.split(r"\n\n", markdown[markdown.index("\n|") + 1 :], maxsplit=1)[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


def interval(values: pd.Series) -> tuple[float, float, float]:
    """Return mean and 95 % t interval of fractions, in percentage points."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std() / len(values) ** 0.5
    return 100 * values.mean(), 100 * (values.mean() - half), 100 * (values.mean() + half)


def show_interval(mean: float, low: float, high: float) -> str:
    """Show a mean with its interval."""
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def show_span(fractions: pd.Series) -> str:
    """Show the least and the greatest of some fractions, in percent."""
    return f"{100 * fractions.min():.1f} to {100 * fractions.max():.1f}"


def show_mean(values: pd.Series) -> str:
    """Return mean and half-width in percentage points; of one value the value alone, of none a dash."""
    if values.isna().all():
        return "–"
    mean, low, _ = interval(values)
    return f"{mean:.1f} ± {mean - low:.1f}" if len(values) > 1 else f"{mean:.1f}"


def bullets(points: list[str]) -> str:
    """Return a Markdown list of at most 120 characters a line."""
    whole = (point.replace(" %", "\N{NO-BREAK SPACE}%") for point in points)
    lines = (textwrap.fill(point, 120, initial_indent="- ", subsequent_indent="  ") for point in whole)
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")
