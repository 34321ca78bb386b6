"""Pareto optimality of offers with a cost and a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lmcbench.errors import UserError


class Offer(NamedTuple):
    """Something with a cost and a score.

    Attributes:
        cost: less is better: training FLOPs, or an instability area.
        score: more is better: an accuracy (fraction).
    """

    cost: float
    score: float


def pareto(offers: Sequence[Offer]) -> list[bool]:
    """Return for each offer whether it is Pareto-optimal; equal offers share their flag.

    Raises:
        UserError: if a cost or score is NaN.

    Examples:
        >>> pareto([Offer(1, 0.8), Offer(2, 0.9), Offer(2, 0.7)])
        [True, True, False]
    """
    for offer in offers:
        if offer.cost != offer.cost or offer.score != offer.score:
            raise UserError(f"An offer without a number cannot be compared: {offer}.")
    return [not any(_beats(other, offer) for other in offers) for offer in offers]


def _beats(a: Offer, b: Offer) -> bool:
    return a.cost <= b.cost and a.score >= b.score and a != b
