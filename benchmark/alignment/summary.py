"""Make the table and the figure of `docs/align.md` from `worth.csv`: python benchmark/alignment/summary.py

Means over replicates with 95 % Student t intervals. Differences are taken within replicates, whose networks
and images are the same.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from lmcbench.report.figures.style import blank, legend_below, line, panels, percent_bars, styled
from lmcbench.stats.estimates import Estimate, estimate

ROOT = Path(__file__).parents[2]
ROWS = Path(__file__).with_name("worth.csv")
PAGE = ROOT / "docs" / "align.md"
FIGURE = ROOT / "docs" / "figures" / "alignment.svg"
MARKS = "<!-- made by benchmark/alignment/summary.py -->\n", "<!-- end -->\n"

METHODS = {"none": "as it is", "weights": "weights", "activations": "activations", "orthogonal": "orthogonal"}
STATISTICS = ("blended", "repaired")

Values = Mapping[int, float]
"""Replicate -> value."""


class Measured:
    """The stored rows."""

    def __init__(self, rows: list[dict[str, str]]) -> None:
        self.rows = rows
        self.networks = list(dict.fromkeys((row["suite"], row["network"]) for row in rows))

    def values(self, network: tuple[str, str], method: str, statistics: str, measure: str) -> Values:
        """Return the values of the replicates in which it was measured."""
        return {
            int(row["replicate"]): float(row[measure])
            for row in self.rows
            if (row["suite"], row["network"]) == network
            and (row["method"], row["statistics"]) == (method, statistics)
            and row[measure]
        }

    def methods(self, network: tuple[str, str]) -> list[str]:
        """Return the methods with a value for a network."""
        return [m for m in METHODS if self.values(network, m, "blended", "error_barrier")]


def heights(found: Measured) -> str:
    """Return the table of barriers."""
    lines = [
        "| network | B | n | error barrier, points | repaired | loss barrier, nats | repaired |",
        "|---|---|---|---|---|---|---|",
    ]
    for network in found.networks:
        for method in found.methods(network):
            cells = [
                shown(estimate(list(found.values(network, method, s, measure).values())), factor)
                for measure, factor in (("error_barrier", 100), ("loss_barrier", 1))
                for s in STATISTICS
            ]
            n = len(found.values(network, method, "blended", "error_barrier"))
            lines.append(f"| {label(network)} | {METHODS[method]} | {n} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def differences(found: Measured) -> str:
    """Return the table of paired differences from weight matching."""
    lines = [
        "| network | minus weights | n | error barrier, points | repaired | loss barrier, nats | repaired |",
        "|---|---|---|---|---|---|---|",
    ]
    for network in found.networks:
        for method in ("activations", "orthogonal"):
            cells, n = [], 0
            for measure, factor in (("error_barrier", 100), ("loss_barrier", 1)):
                for s in STATISTICS:
                    base, other = (found.values(network, m, s, measure) for m in ("weights", method))
                    both = [other[r] - base[r] for r in sorted(base.keys() & other.keys())]
                    cells.append(shown(estimate(both), factor, signed=True))
                    n = max(n, len(both))
            if n:
                lines.append(f"| {label(network)} | {METHODS[method]} | {n} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def label(network: tuple[str, str]) -> str:
    """Return suite and network without versions and settings."""
    suite, name = network
    return f"{re.sub(r'-v[0-9]+$', '', suite)}, {re.split(r'[(+]', name)[0]}"


def shown(value: Estimate, factor: float, signed: bool = False) -> str:
    """Return a mean with its interval's half width; a dash without values."""
    if value.mean is None:
        return "-"
    digits = 1 if factor == 100 else 3
    sign = "+" if signed else ""
    mean = f"{factor * value.mean:{sign}.{digits}f}"
    return mean if value.half_width is None else f"{mean} ± {factor * value.half_width:.{digits}f}"


def draw(found: Measured) -> Figure:
    """Draw the error barriers: a panel per network, a series per kind of statistics."""
    with styled():
        count = len(found.networks)
        columns = min(count, 4)
        figure, axes = panels(-(-count // columns), columns, width=1.9, height=1.9, sharey=True)
        for axis, network in zip(axes.flat, found.networks, strict=False):
            methods = found.methods(network)
            for index, s in enumerate(STATISTICS):
                measured = [found.values(network, m, s, "error_barrier") for m in methods]
                percent = [estimate([100 * x for x in values.values()]) for values in measured]
                known = [(k, e) for k, e in enumerate(percent) if e.mean is not None]
                axis.errorbar(
                    [k + 0.16 * (index - 0.5) for k, _ in known],
                    [e.mean for _, e in known],
                    percent_bars([e for _, e in known]),
                    label=f"{s} statistics",
                    capsize=2,
                    **(line(index) | {"linestyle": "none"}),
                )
            axis.set_xticks(range(len(methods)), [METHODS[m] for m in methods], rotation=30, ha="right")
            axis.set_title(label(network).replace(", ", "\n"))
            axis.set_xlim(-0.5, len(methods) - 0.5)
        blank(axes, count)
        for row in axes:
            row[0].set_ylabel("error barrier\n(percentage points)")
        axes[0, 0].set_ylim(-2, 100)
        legend_below(figure, axes)
        return figure


def render(page: str, found: Measured) -> str:
    """Return the page with its tables."""
    begin, end = MARKS
    before, rest = page.split(begin)
    after = rest.partition(end)[2]
    return f"{before}{begin}{heights(found)}\nPaired differences:\n\n{differences(found)}{end}{after}"


def read() -> Measured:
    """Return the stored rows."""
    with ROWS.open(encoding="utf-8", newline="") as file:
        return Measured(list(csv.DictReader(file)))


def main() -> None:
    """Write page and figure."""
    sys.path.insert(0, str(ROOT / "docs" / "figures"))
    from measures import small

    found = read()
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    FIGURE.write_text(small(draw(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
