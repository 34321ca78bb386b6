"""The instability area: how unstable training is from its start on, in one number per replicate.

With phi the share of training at which siblings leave the trunk, the area is the integral of B(phi) (see
`lmcbench.results.instability`) over u = sqrt(phi) from 0 to sqrt(0.3), divided by sqrt(0.3), by the trapezoid
rule. 0: connected from the start; 1: as far apart as independent networks throughout (docs/design.md, section
9.3). The square root gives early training more weight, where stability is decided (Frankle et al., 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from lmcbench.results.cell_values import epochs_of, shift_label
from lmcbench.results.curves import Array
from lmcbench.results.frame import build_frame
from lmcbench.results.instability import LOSS_FLOOR, instability
from lmcbench.results.record import Record
from lmcbench.spec.forks import INDEPENDENT, Fork
from lmcbench.spec.suite import Suite
from lmcbench.stats.cells import LINE, are_controls, average_pairs, is_control

LAST_SHARE = 0.3
"""Share of training at which the area ends. Forks at 0 and here are required, later ones are ignored."""

EARLY_SHARE = 0.03
"""Latest share of training of the forks at which an effect of the data is looked for."""


def is_headline_fork(fork: str, share: float | None) -> bool:
    """Return whether the area contains a fork: those up to 30 % of training, and independent networks."""
    return fork == INDEPENDENT or (share is not None and share <= LAST_SHARE)


def headline_records(records: Sequence[Record]) -> list[Record]:
    """Return the records that the area is a mean over (see `instability_areas`)."""
    own = [r for r in records if r.shift.noise == "own" and is_headline_fork(r.fork.name, fork_share(r))]
    return [r for r in own if not is_control(r)] or [r for r in own if r.shift.name == "none"]


def headline_shifts(suite: Suite) -> tuple[str, ...]:
    """Return the training shifts that the area is a mean over: with own noise, but not controls.

    A suite without any is ranked by the area without shift.
    """
    shifts = [spec.shift for spec in suite.shifts if spec.shift.noise == "own"]
    real = [s.label for s in shifts if s.name != "none" and not s.is_control]
    return tuple(real or [s.label for s in shifts if s.name == "none"])


def is_ranked_cell(record: Record, suite: Suite) -> bool:
    """Return whether the rank of a suite is based on a cell."""
    counts = is_headline_fork(record.fork.name, fork_share(record))
    return counts and shift_label(record) in headline_shifts(suite)


def fork_share(record: Record) -> float | None:
    """Return the nominal share of training at the fork; None without a trunk."""
    return Fork.parse(record.fork.name).share(epochs_of(record))


def instability_area(
    excess: Mapping[float, float | None], independent: float | None, floor: float = LOSS_FLOOR
) -> float | None:
    """Return the instability area of one replicate under one shift; None if it is undefined.

    Args:
        excess: nominal share of training at the fork -> D there, None where it was not measured. A suite's
            forks up to 0.3 must all be keys: an absent fork would change what the area means.
        independent: D of independent networks; None if it was not measured.
        floor: the area is undefined where `independent` is at most this.

    Examples:
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


def areas_of_draws(shares: Sequence[float], excess: Array) -> Array:
    """Return `instability_area` of many values of D at once, `[replicates, draws]`; NaN: undefined.

    Args:
        shares: of training at the forks up to 30 %, ascending; 0 and 0.3 are among them.
        excess: D at each of them, then of independent networks, `[forks + 1, replicates, draws]`, nats.
    """
    scale = np.where(excess[-1] > LOSS_FLOOR, excess[-1], np.nan)
    ratio = np.clip(excess[:-1] / scale, 0, 1)
    return np.asarray(np.trapezoid(ratio, np.sqrt(shares), axis=0) / math.sqrt(LAST_SHARE))


def areas_by_shift(rows: pd.DataFrame, measure: str = "loss_mid", floor: float = LOSS_FLOOR) -> pd.DataFrame:
    """Return the instability area of every architecture, recipe, shift with own noise, and replicate.

    A replicate whose cell at one of the forks up to 30 % is missing or was not measured has none.

    Args:
        rows: the table of `load_records`.
        measure: the column of D: `loss_mid` (nats); for the area from errors, `error_mid` (fractions); for
            that at fitted temperatures, `loss_mid_scaled` (nats).
        floor: in the unit of `measure`.

    Returns:
        Columns `architecture`, `recipe`, `shift`, `is_control`, `replicate` and `area` (NaN: undefined).
    """
    cells = rows[rows["noise_mode"] == "own"].drop_duplicates("key")
    values = average_pairs(rows).set_index("key")[measure]
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
    rows: pd.DataFrame, measure: str = "loss_mid", floor: float = LOSS_FLOOR
) -> pd.DataFrame:
    """Return the headline: the area of every architecture, recipe and replicate, averaged over shifts.

    It is a mean over the shifts with own noise that are not controls; of records that have none of these, the
    area without shift. A replicate that lacks the area of one shift has none.

    Args:
        rows: the table of `load_records`, of one suite.
        measure: as in `areas_by_shift`.
        floor: as in `areas_by_shift`.

    Returns:
        Columns `architecture`, `recipe`, `replicate` and `area` (NaN: undefined).
    """
    return average_shifts(areas_by_shift(rows, measure, floor))


def average_shifts(areas: pd.DataFrame) -> pd.DataFrame:
    """Return the headline from the areas by shift (see `instability_areas`)."""
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
