import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lmcbench.stats.estimates import Estimate, estimate, spearman


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30).filter(lambda v: np.std(v) > 1e-6))
def test_the_interval_is_students(values):
    found = estimate(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.half_width == pytest.approx((high - low) / 2, rel=1e-8)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
        (low, high), abs=1e-6
    )


def test_an_interval_by_hand():
    # t(0.975, 2 degrees of freedom) = 4.302653; standard error of 1, 2, 3 is 1 / sqrt(3)
    assert estimate([1.0, 2.0, 3.0]) == Estimate(2.0, pytest.approx(4.302653 / 3**0.5, rel=1e-6), 3)


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert estimate([0.25]) == Estimate(0.25, None, 1)
    assert estimate([]) == Estimate(None, None, 0)


def test_equal_values_have_an_interval_of_zero_width():
    assert estimate([0.5, 0.5, 0.5]) == Estimate(0.5, 0.0, 3)


def test_ranks_are_tied_where_values_differ_by_rounding_alone():
    tenths = [0.1 + 0.2, 0.3, 0.5]  # the first two are equal but for the last bit
    assert tenths[0] != tenths[1]
    tied = spearman([1.0, 2.0, 3.0], tenths)
    assert tied == pytest.approx(float(stats.spearmanr([1, 2, 3], [1, 1, 2]).statistic))
    assert spearman([1.0, 2.0, 3.0], [0.3, 0.1 + 0.2, 0.3]) is None
    assert spearman([1.0, 2.0], [1.0, 2.0]) is None
    assert spearman([3.0, 1.0, 2.0], [-9.0, 1e300, 5.0]) == -1.0


def test_an_estimate_is_written_with_its_interval_and_without_the_minus_of_a_rounded_zero():
    value = Estimate(0.1234, 0.0131, 2)
    assert value.text(unit=100) == "12.3 ± 1.3"
    assert value.text(unit=100, sign=True, among=3) == "+12.3 ± 1.3 (2)"
    assert value.text(2, among=2) == "0.12 ± 0.01"
    assert Estimate(-0.0004, None, 1).text(unit=100) == "0.0"
    assert Estimate(None, None, 0).text(among=3) == "–"
