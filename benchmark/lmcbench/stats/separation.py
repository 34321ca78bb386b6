"""How far siblings separate in weight space, in proportion to the way that they travel."""

from __future__ import annotations

import pandas as pd


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
