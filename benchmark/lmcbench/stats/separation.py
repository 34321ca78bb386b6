"""Separation of siblings: distance relative to the distance travelled, and loss of skill."""

from __future__ import annotations

import math

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
