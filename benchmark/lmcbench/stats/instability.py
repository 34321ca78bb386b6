"""The instability area: how unstable training is from its start on, in one number per replicate.

With phi the share of training at which siblings leave the trunk, the area is the integral of B(phi) (see
`lmcbench.results.instability`) over u = sqrt(phi) from 0 to sqrt(0.3), divided by sqrt(0.3), by the trapezoid
rule. 0: connected from the start; 1: as far apart as independent networks throughout (docs/design.md, section
9.3). The square root gives early training more weight, where stability is decided (Frankle et al., 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise

import pandas as pd

from lmcbench.results.cell_values import SPLIT
from lmcbench.results.frame import build_frame
from lmcbench.results.instability import LOSS_FLOOR, instability
from lmcbench.results.record import Record
from lmcbench.spec.forks import INDEPENDENT
from lmcbench.stats.cells import LINE, are_controls, average_pairs

LAST_SHARE = 0.3
"""Share of training at which the area ends. Forks at 0 and here are required, later ones are ignored."""


def instability_area(
    excess: Mapping[float, float | None], independent: float | None, floor: float = LOSS_FLOOR
) -> float | None:
    """Return the instability area of one replicate under one shift; None if it is undefined.

    Args:
        excess: nominal share of training at the fork -> D there, None where it was not measured. A suite's
            forks up to 0.3 must all be keys: an absent fork would change what the area means.
        independent: D of independent networks; None if it was not measured.
        floor: the area is undefined where `independent` is at most this.

    Example:
        >>> round(instability_area({0: 1.0, 0.03: 0.4, 0.3: 0.0}, 2.0), 6)
        0.179057
    """
    points = {share: value for share, value in excess.items() if share <= LAST_SHARE}
    if not {0.0, LAST_SHARE} <= points.keys():
        return None
    curve = [(math.sqrt(share), instability(points[share], independent, floor)) for share in sorted(points)]
    parts = []
    for (u, a), (v, b) in pairwise(curve):
        if a is None or b is None:
            return None
        parts.append((v - u) * (a + b) / 2)
    return math.fsum(parts) / math.sqrt(LAST_SHARE)


def areas_by_shift(
    rows: pd.DataFrame, measure: str = "loss_mid", floor: float = LOSS_FLOOR, split: str = SPLIT
) -> pd.DataFrame:
    """Return the instability area of every architecture, recipe, shift with own noise, and replicate.

    A replicate whose cell at one of the forks up to 30 % is missing or was not measured has none.

    Args:
        rows: the table of `load_records`.
        measure: the column of D: `loss_mid` (nats) or, for the area from errors, `error_mid` (fractions).
        floor: in the unit of `measure`.
        split: a split of the records.

    Returns:
        Columns `architecture`, `recipe`, `shift`, `is_control`, `replicate` and `area` (NaN: undefined).
    """
    cells = rows[rows["noise_mode"] == "own"].drop_duplicates("key")
    values = average_pairs(rows, split).set_index("key")[measure]
    cells = cells.assign(value=cells["key"].map(values), is_control=are_controls(cells))
    found = []
    for line, group in cells.groupby(LINE, sort=False):
        shares = sorted(share for share in group["fork_share"].dropna().unique() if share <= LAST_SHARE)
        for replicate, mine in group.groupby("replicate"):
            measured = mine.dropna(subset="value")
            at = dict(zip(measured["fork_share"], measured["value"], strict=True))
            far = measured.loc[measured["fork"] == INDEPENDENT, "value"]
            area = instability_area(
                {share: at.get(share) for share in shares}, float(far.iloc[0]) if len(far) else None, floor
            )
            head = dict(zip(LINE, line, strict=True))
            found.append(
                head | {"is_control": bool(mine["is_control"].iloc[0]), "replicate": replicate, "area": area}
            )
    columns = [*LINE, "is_control", "replicate", "area"]
    return pd.DataFrame(found, columns=columns).astype({"area": float})


def instability_areas(
    rows: pd.DataFrame, measure: str = "loss_mid", floor: float = LOSS_FLOOR, split: str = SPLIT
) -> pd.DataFrame:
    """Return the headline: the area of every architecture, recipe and replicate, averaged over shifts.

    It is a mean over the shifts with own noise that are not controls; of records that have none of these, the
    area without shift. A replicate that lacks the area of one shift has none.

    Args:
        rows: the table of `load_records`, of one suite.
        measure: as in `areas_by_shift`.
        floor: as in `areas_by_shift`.
        split: as in `areas_by_shift`.

    Returns:
        Columns `architecture`, `recipe`, `replicate` and `area` (NaN: undefined).
    """
    areas = areas_by_shift(rows, measure, floor, split)
    shifted = areas[~areas["is_control"]]
    areas = shifted if len(shifted) else areas[areas["shift"] == "none"]
    shifts = areas.groupby(["architecture", "recipe"])["shift"].transform("nunique")
    groups = areas.assign(shifts=shifts).groupby(["architecture", "recipe", "replicate"], sort=False)
    means = groups["area"].agg(lambda values: values.mean(skipna=False))
    complete = groups["area"].size() == groups["shifts"].max()
    return means.where(complete).reset_index()


def areas_of_replicates(records: Iterable[Record]) -> dict[int, float]:
    """Return the instability area of every replicate, averaged over networks; undefined ones are absent.

    Args:
        records: of one suite.
    """
    areas = instability_areas(build_frame(records))
    means = areas.groupby("replicate")["area"].agg(lambda values: values.mean(skipna=False)).dropna()
    return {int(replicate): float(area) for replicate, area in means.items()}  # type: ignore[call-overload]
