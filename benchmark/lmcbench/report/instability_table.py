"""The table of the instability area: B by fork, the area and its companions, by training shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lmcbench.results.instability import ERROR_FLOOR, LOSS_FLOOR, separation, skill_lost
from lmcbench.stats.cells import LINE, average_pairs, forks_in
from lmcbench.stats.estimates import Estimate, estimate
from lmcbench.stats.instability_area import LAST_SHARE, areas_by_shift, average_shifts
from lmcbench.stats.stability import Stability, stability_points

MEAN = "mean of shifts"
"""The row of the headline."""

INSTABILITY_NOTES = [
    "Instability: D over that of independent networks of the same shift, clipped to 0 (connected) and 1 (as "
    "far apart), in percent. D: test loss at alpha = 1/2 minus the mean of the ends, as trained.",
    "Area: mean instability over the square root of the share of training, 0 to 30 %; in the row ‘mean of "
    "shifts’ over shifts except controls.",
    f"A dash: independent networks are at most {LOSS_FLOOR:g} nats ({100 * ERROR_FLOOR:g} points of error) "
    "apart, or a fork is missing.",
    "Of errors: the same area from errors in place of losses. Scaled: from losses with each network's logits "
    "at the temperature where its test loss is least. Skill lost: error rise at fork 0 over the "
    "members' advantage over chance. Separation: distance between siblings over the distance that both "
    "travelled, fork 0. Stable from: stability point of the median replicate, percent of training (earliest "
    "to latest replicate).",
]

IMAGES_NOTE = (
    "Where the logits of all cells are stored, the interval of the area in the row ‘mean of shifts’ is over "
    "replicates and test images (bootstrap of the images); all other intervals are over replicates on these "
    "images."
)


def instability_table(
    rows: pd.DataFrame,
    lines: Sequence[tuple[str, ...]],
    areas: Mapping[tuple[str, str], Estimate],
) -> pd.DataFrame:
    """Return the table as text; empty if no cell has an independent counterpart.

    Args:
        rows: the table of `load_records`.
        lines: architecture, recipe and shift of each row, in order.
        areas: by architecture and recipe, the headline with an interval over replicates and test images;
            others have an interval over replicates.
    """
    if rows["instability"].notna().sum() == 0:
        return pd.DataFrame()
    values = average_pairs(rows)
    values = values.assign(
        separation=separation(values),
        skill=list(map(skill_lost, values["error_mid"], values["error"], values["chance_error"])),
    )
    forks = forks_in(values[values["fork_share"] <= LAST_SHARE])
    by_shift = (
        areas_by_shift(rows),
        areas_by_shift(rows, "error_mid", ERROR_FLOOR),
        areas_by_shift(rows, "loss_mid_scaled"),
    )
    losses, errors, scaled = (found.set_index(LINE)["area"] for found in by_shift)
    points = {tuple(found.line): found for found in stability_points(rows)}
    table = []
    for line in lines:
        mine = values[(values[LINE] == pd.Series(line, index=LINE)).all(axis=1)]
        at_0 = mine[mine["fork_share"] == 0]
        stability = points.get(line)
        row: dict[str, Any] = dict(zip(LINE, line, strict=True))
        row |= {fork: _percent(mine.loc[mine["fork"] == fork, "instability"]) for fork in forks}
        row |= {
            "area": _percent(_of(losses, line)),
            "of errors": _percent(_of(errors, line)),
            "scaled": _percent(_of(scaled, line)),
            "skill lost": _percent(at_0["skill"]),
            "separation": _percent(at_0["separation"]),
            "stable from": "–" if stability is None else _stable_from(stability),
            "n": str(mine["replicate"].nunique()),
        }
        table.append(row)
    networks = list(dict.fromkeys((line[0], line[1]) for line in lines))
    means = _means([average_shifts(found) for found in by_shift], forks, networks, areas)
    # each mean stands below the shifts of its network
    order = [
        *((networks.index((line[0], line[1])), 0) for line in lines),
        *((i, 1) for i in range(len(means))),
    ]
    numbered = zip(order, [*table, *means], strict=True)
    return pd.DataFrame([row for _, row in sorted(numbered, key=lambda item: item[0])])


def _means(
    averages: Sequence[pd.DataFrame],
    forks: Sequence[str],
    networks: Sequence[tuple[str, str]],
    areas: Mapping[tuple[str, str], Estimate],
) -> list[dict[str, Any]]:
    """Return the headline of every architecture and recipe."""
    losses, errors, scaled = (found.set_index(["architecture", "recipe"])["area"] for found in averages)
    return [
        {"architecture": network[0], "recipe": network[1], "shift": MEAN}
        | dict.fromkeys(forks, "")
        | {
            "area": _percent(_of(losses, network), areas.get(network)),
            "of errors": _percent(_of(errors, network)),
            "scaled": _percent(_of(scaled, network)),
        }
        | dict.fromkeys(("skill lost", "separation", "stable from"), "")
        | {"n": str(len(_of(losses, network)))}
        for network in networks
    ]


def _stable_from(stability: Stability) -> str:
    """Return the median replicate's stability point and the range of all, in percent: `10 (3–never)`."""
    if not stability.n:
        return "–"
    ends = stability.interval or (stability.median, stability.median)
    first, median, last = (
        "never" if share is None else f"{100 * share:.3g}" for share in (ends[0], stability.median, ends[1])
    )
    return median if first == last else f"{median} ({first}–{last})"


def _of(areas: pd.Series[float], line: tuple[str, ...]) -> pd.Series[float]:
    found = areas[areas.index == line]
    return found if len(found) else pd.Series(dtype=float)


def _percent(values: pd.Series[float], known_estimate: Estimate | None = None) -> str:
    """Return mean and interval in percent, `12.4 ± 1.3`, and the number of values if some are missing."""
    found = known_estimate or estimate(values.dropna().tolist())
    return found.text(unit=100, among=len(values))
