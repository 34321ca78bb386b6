"""Instability: how far apart siblings are, as a share of how far apart independent networks are.

D is the loss at alpha = 1/2 minus the mean loss of the ends. B = clip(D / D of independent networks, 0, 1) is
0 where siblings are linearly connected and 1 where they are as far apart as independent networks
(docs/design.md, section 9.3; D is the signed midpoint of the barrier of Frankle et al., 2020, section 2).
"""

from __future__ import annotations

import re
from fractions import Fraction

import pandas as pd

from lmcbench.spec.forks import INDEPENDENT, Fork

LOSS_FLOOR = 0.02
"""Independent networks that are at most this far apart (nats) do not define a scale: B is undefined."""

ERROR_FLOOR = 0.02
"""The same for errors, as a fraction."""

_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,12})?)%")

_NETWORKS = ("digest", "architecture", "recipe", "shift_name", "shift_params", "replicate")


def instability(excess: float | None, independent: float | None, floor: float = LOSS_FLOOR) -> float | None:
    """Return B = clip(D / D(independent), 0, 1); None if it is undefined.

    Args:
        excess: D of the siblings.
        independent: D of independent networks, averaged over their pairs.
        floor: B is undefined where `independent` is at most this.

    Example:
        >>> instability(0.5, 2.0), instability(-0.1, 2.0), instability(0.5, 0.01)
        (0.25, 0.0, None)
    """
    # NaN compares false
    if excess is None or independent is None or not (independent > floor and excess == excess):
        return None
    return min(max(excess / independent, 0.0), 1.0)


def nominal_share(fork: str, epochs: float | None) -> float | None:
    """Return the share of training at which a fork leaves the trunk, as its name says.

    The step at which it does is rounded down to a whole step, so that the actual share is a little smaller.

    Args:
        fork: name of the fork.
        epochs: length of the recipe.

    Returns:
        A fraction; None for forks without a trunk.

    Example:
        >>> nominal_share("3%", 10), nominal_share("3", 10), nominal_share("independent", 10)
        (0.03, 0.3, None)
    """
    found = _SHARE.fullmatch(fork)
    if found is not None:
        return float(Fraction(found[1]) / 100)
    epoch = Fork.parse(fork).epoch
    if epoch is None or epochs is None or not epochs > 0:
        return None
    return float(Fraction(str(epoch)) / Fraction(str(epochs)))


def add_instability(table: pd.DataFrame) -> pd.DataFrame:
    """Add the columns `fork_share`, `midpoint_excess` and `instability` to the table of `load_records`.

    Args:
        table: one row per cell, pair and split, with `loss_mid`.

    Returns:
        A new table. `instability` is NaN where it is undefined, and for comparators of equal cost.
    """
    table = table.assign(
        fork_share=pd.Series(
            [nominal_share(*named) for named in zip(table["fork"], table["epochs"], strict=True)],
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
    defined = (scale > LOSS_FLOOR) & ~table["fork"].map(_is_cost_matched).astype(bool)
    ratio = (table["midpoint_excess"] / scale.where(defined)).clip(0, 1)
    return table.assign(instability=ratio.astype(float))


def _is_cost_matched(fork: str) -> bool:
    return _SHARE.fullmatch(fork) is None and Fork.parse(fork).is_cost_matched
