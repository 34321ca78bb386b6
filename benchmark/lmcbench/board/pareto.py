"""Which of several ways to spend training are worth their cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lmcbench.errors import UserError


class Offer(NamedTuple):
    """What something costs and what it gives.

    Attributes:
        cost: training FLOPs; less is better.
        score: accuracy (fraction); more is better.
    """

    cost: float
    score: float


def pareto(offers: Sequence[Offer]) -> list[bool]:
    """For each offer, whether no other one beats it: at most its cost, at least its score, not equal in both.

    Equal offers share their flag.

    Raises:
        UserError: for a cost or score that is NaN, which compares with nothing.
    """
    for offer in offers:
        if offer.cost != offer.cost or offer.score != offer.score:
            raise UserError(f"An offer without a number cannot be compared: {offer}.")
    return [not any(_beats(other, offer) for other in offers) for offer in offers]


def _beats(a: Offer, b: Offer) -> bool:
    return a.cost <= b.cost and a.score >= b.score and a != b
