import pytest

from lmcbench.errors import UserError
from lmcbench.stats.pareto import Offer, pareto


def test_by_hand():
    offers = [Offer(1, 0.8), Offer(2, 0.9), Offer(2, 0.85), Offer(3, 0.9), Offer(4, 0.95), Offer(0.5, 0.1)]
    assert pareto(offers) == [True, True, False, False, True, True]


def test_equal_offers_share_their_flag():
    assert pareto([Offer(1, 0.8), Offer(1, 0.8)]) == [True, True]
    assert pareto([Offer(1, 0.8), Offer(1, 0.8), Offer(1, 0.9)]) == [False, False, True]
    assert pareto([]) == []


def test_an_offer_without_a_number_is_refused():
    with pytest.raises(UserError, match="without a number"):
        pareto([Offer(1, float("nan"))])
