"""How far apart siblings are: instability, separation, and the skill lost between them.

D is the loss at alpha = 1/2 minus the mean loss of the ends. B = clip(D / D of independent networks, 0, 1) is
0 where siblings are linearly connected and 1 where they are as far apart as independent networks
(docs/design.md, section 9.3; D is the signed midpoint of the barrier of Frankle et al., 2020, section 2).
"""

from __future__ import annotations

import math

import pandas as pd

from lmcbench.spec.forks import INDEPENDENT, Fork

LOSS_FLOOR = 0.02
"""Independent networks that are at most this far apart (nats) do not define a scale: B is undefined."""

ERROR_FLOOR = 0.02
"""The same for errors, as a fraction."""

_NETWORKS = ("digest", "architecture", "recipe", "shift_name", "shift_params", "replicate")


def instability(excess: float | None, independent: float | None, floor: float = LOSS_FLOOR) -> float | None:
    """Return B = clip(D / D(independent), 0, 1); None if it is undefined.

    Args:
        excess: D of the siblings.
        independent: D of independent networks, averaged over their pairs.
        floor: B is undefined where `independent` is at most this.

    Examples:
        >>> instability(0.5, 2.0), instability(-0.1, 2.0), instability(0.5, 0.01)
        (0.25, 0.0, None)
    """
    # NaN compares false
    if excess is None or independent is None or not (independent > floor and excess == excess):
        return None
    return min(max(excess / independent, 0.0), 1.0)


def add_instability(table: pd.DataFrame) -> pd.DataFrame:
    """Add the columns `fork_share`, `midpoint_excess` and `instability` to the table of `load_records`.

    Args:
        table: one row per cell, pair and split, with `loss_mid`.

    Returns:
        A new table. `instability` is NaN where it is undefined, and for comparators of equal cost.
    """
    table = table.assign(
        fork_share=pd.Series(
            [
                Fork.parse(name).share(epochs)
                for name, epochs in zip(table["fork"], table["epochs"], strict=True)
            ],
            index=table.index,
            dtype=float,
        ),
        midpoint_excess=table["loss_mid"].astype(float),
    )
    # siblings with shared noise are compared with independent networks that have their own
    far = table[(table["fork"] == INDEPENDENT) & (table["noise_mode"] == "own")]
    place = [*_NETWORKS, "split"]
    # NaN would be a group of its own: controls without parameters have "{}"
    scale = far.groupby(place)["midpoint_excess"].mean().rename("scale")
    scale = table[place].join(scale, on=place)["scale"]
    priced = table["fork"].map(lambda name: Fork.parse(name).is_cost_matched).astype(bool)
    defined = (scale > LOSS_FLOOR) & ~priced
    ratio = (table["midpoint_excess"] / scale.where(defined)).clip(0, 1)
    return table.assign(instability=ratio.astype(float))


def separation(table: pd.DataFrame, suffix: str = "") -> pd.Series[float]:
    """Return the distance between siblings over the distance that both travelled from the fork.

    0: they end at the same point; 0.71: they travelled equally far in orthogonal directions; 1: in opposite
    directions. NaN where nothing was travelled or the fork is not known.

    Args:
        table: with the columns `distance_ab`, `distance_a` and `distance_b`.
        suffix: of these columns.
    """
    travelled = table[f"distance_a{suffix}"] + table[f"distance_b{suffix}"]
    return table[f"distance_ab{suffix}"] / travelled.where(travelled > 0)


def skill_lost(rise: float, error: float, chance: float) -> float:
    """Return (E(1/2) - mean E of the ends) / (E of chance - mean E of the ends), E the test error.

    NaN where the ends are not better than chance.

    Args:
        rise: E(1/2) minus the mean of the ends.
        error: mean of the ends.
        chance: error of always giving one answer.

    Examples:
        >>> skill_lost(0.2, 0.1, 0.9)
        0.25
    """
    return rise / (chance - error) if error < chance else math.nan
