"""Figures of runs on data with domains: barriers between domains, and accuracy on each domain."""

from __future__ import annotations

import numpy as np

from lmcbench.report.domain_tables import by_domain, domain_scores, domains_of_views, held_out
from lmcbench.report.figures.style import (
    COLOURS,
    MAP,
    MARKERS,
    Drawing,
    fork_label,
    legend_below,
    panels,
    replicates,
)
from lmcbench.results.cell_values import architecture_label, error_barrier, shift_label
from lmcbench.results.record import Record
from lmcbench.spec.domain_rules import DOMAINS, MIXED
from lmcbench.stats.cells import Cells, forks_of

Grid = dict[str, dict[str, list[Record]]]
"""Architecture -> fork -> the replicates of one shift."""


def barrier_matrix(cells: Cells) -> Drawing | None:
    """Draw the error barrier of each pair of domains as a matrix, a panel per network and fork."""
    grid, shift = _cells(cells, DOMAINS)
    if not grid:
        return None
    mixed, _ = _cells(cells, MIXED)
    forks = _first_and_last(grid)
    figure, axes = panels(len(grid), len(forks), width=3.0, height=2.6)
    matrices = {
        (name, fork): _matrix(by_fork[fork])
        for name, by_fork in grid.items()
        for fork in forks
        if fork in by_fork
    }
    top = max(1.0, *(float(np.nanmax(matrix)) for matrix in matrices.values()))
    for row, name in zip(axes, grid, strict=True):
        for axis, fork in zip(row, forks, strict=True):
            if (name, fork) not in matrices:
                axis.set_visible(False)
                continue
            matrix, found = matrices[name, fork], grid[name][fork]
            seen = domains_of_views(found[0]) or []
            axis.imshow(matrix, cmap=MAP, vmin=0, vmax=top)
            for i, j in zip(*np.nonzero(np.isfinite(matrix)), strict=True):
                colour = "black" if matrix[i, j] > top / 2 else "white"
                axis.text(j, i, f"{matrix[i, j]:.1f}", ha="center", va="center", color=colour)
            axis.set_xticks(range(len(seen)), seen, rotation=30, ha="right")
            axis.set_yticks(range(len(seen)), seen)
            axis.grid(visible=False)
            control = mixed.get(name, {}).get(fork, [])
            heights = [h for h in map(error_barrier, control) if h is not None]
            beside = f"\nmixed: {100 * np.mean(heights):.1f}" if heights else ""
            axis.set_title(f"{name}, {fork_label(fork)}{beside}")
    n = max(len(found) for by_fork in grid.values() for found in by_fork.values())
    return Drawing(
        "domain-barriers",
        "Barriers between domains",
        "Error barrier on the test set (chord form, percentage points) between siblings trained on different "
        f"domains, shift {shift}, mean over {replicates(n)}. Mixed: the mean over pairs where each sibling "
        "sees as many images, of all these domains.",
        figure,
    )


def domain_accuracy(cells: Cells) -> Drawing | None:
    """Draw the accuracy of each sibling, the ensemble and the soup on each domain."""
    grid, shift = _cells(cells, DOMAINS)
    grid = {
        name: {fork: found for fork, found in by_fork.items() if by_domain(found[0])}
        for name, by_fork in grid.items()
    }
    grid = {name: by_fork for name, by_fork in grid.items() if by_fork}
    if not grid:
        return None
    forks = _first_and_last(grid)
    one = next(found for by_fork in grid.values() for found in by_fork.values())[0]
    domains, out, seen = by_domain(one), held_out(one), domains_of_views(one) or []
    figure, axes = panels(len(grid), len(forks), width=3.4, height=2.4, sharey=True)
    for row, name in zip(axes, grid, strict=True):
        for axis, fork in zip(row, forks, strict=True):
            found = grid[name].get(fork, [])
            if not found:
                axis.set_visible(False)
                continue
            means = [[domain_scores(record, [domain]) for record in found] for domain in domains]
            places = np.arange(len(domains))
            spread = 0.5 / max(len(seen) + 1, 1)
            series = [
                (f"sibling on {view}", [np.mean([s.siblings[i] for s in scores]) for scores in means])
                for i, view in enumerate(seen)
            ]
            series += [
                ("ensemble", [np.mean([s.ensemble for s in scores]) for scores in means]),
                ("soup", [np.mean([s.soup for s in scores]) for scores in means]),
            ]
            for k, (label, values) in enumerate(series):
                shift_by = spread * (k - (len(series) - 1) / 2)
                big = label in ("ensemble", "soup")
                axis.plot(
                    places + shift_by,
                    100 * np.array(values),
                    linestyle="none",
                    marker=MARKERS[k % len(MARKERS)],
                    color=COLOURS[k % len(COLOURS)],
                    markersize=6.5 if big else 4.5,
                    label=label,
                )
            axis.set_xticks(places, [f"{d}\n(held out)" if d in out else d for d in domains])
            axis.set_xlim(-0.5, len(domains) - 0.5)
            axis.set_title(f"{name}, {fork_label(fork)}")
        row[0].set_ylabel("accuracy (%)")
    legend_below(figure, axes)
    n = max(len(found) for by_fork in grid.values() for found in by_fork.values())
    return Drawing(
        "domain-accuracy",
        "Accuracy on each domain",
        "Accuracy of each sibling, of their ensemble and of their soup (average of weights) on the test "
        f"images of each domain, shift {shift}, mean over {replicates(n)}. No sibling sees a domain that is "
        "held out.",
        figure,
    )


def _cells(cells: Cells, shift: str) -> tuple[Grid, str]:
    """Return the measured records of one shift, and its label: the one with the fewest settings."""
    found = [r for r in cells.records if r.status == "ok" and r.pairs and r.shift.name == shift]
    if not found:
        return {}, ""
    label = min((shift_label(r) for r in found), key=lambda text: (len(text), text))
    grid: Grid = {}
    for record in found:
        if shift_label(record) == label and domains_of_views(record) is not None:
            grid.setdefault(architecture_label(record), {}).setdefault(record.fork.name, []).append(record)
    return grid, label


def _first_and_last(grid: Grid) -> list[str]:
    """Return the earliest fork and the last one: independent networks, if there are any."""
    forks = forks_of(record for row in grid.values() for records in row.values() for record in records)
    return list(dict.fromkeys([forks[0], forks[-1]]))


def _matrix(records: list[Record]) -> np.ndarray:
    """Return the error barrier of each pair in percentage points, mean over replicates, `[K, K]`."""
    k = len(records[0].siblings)
    heights = np.full((len(records), k, k), np.nan)
    for r, record in enumerate(records):
        for pair in record.pairs:
            heights[r, pair.i, pair.j] = heights[r, pair.j, pair.i] = 100 * pair.barriers["test"].error_chord
    filled = np.full((k, k), np.nan)
    known = np.isfinite(heights).all(axis=0)
    filled[known] = heights[:, known].mean(axis=0)
    return filled
