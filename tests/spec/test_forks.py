from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmcbench.errors import UserError
from lmcbench.spec.forks import INDEPENDENT, Fork


@pytest.mark.parametrize(
    ("text", "name", "epoch"),
    [(0, "0", 0.0), ("2", "2", 2.0), (2.0, "2", 2.0), ("0.5", "0.5", 0.5), (INDEPENDENT, INDEPENDENT, None)],
)
def test_names_of_one_fork_agree(text, name, epoch):
    fork = Fork.parse(text)
    assert (fork.name, fork.epoch) == (name, epoch)
    assert Fork.parse(fork.name) == fork


@pytest.mark.parametrize("text", [-1, "-1", "", "x", True, float("nan"), float("inf"), "1e3", "Independent"])
def test_anything_else_is_refused_with_what_is_allowed(text):
    with pytest.raises(UserError, match=r"Unknown fork .*Allowed: an epoch \(0, 2, 0\.5\) or 'independent'"):
        Fork.parse(text)


def test_whole_epochs_fall_on_full_passes():
    assert [Fork.parse(e).step(44) for e in (0, 1, 3, 0.5, INDEPENDENT)] == [0, 44, 132, 22, 0]


@example(29, 100)  # 28.999999999999996 in floating point
@given(st.integers(0, 999), st.integers(1, 500))
def test_steps_of_a_part_of_an_epoch_are_exact(hundredths, steps):
    fork = Fork.parse(f"{hundredths / 100:.2f}")
    assert fork.step(steps) == Fraction(hundredths, 100) * steps // 1


def test_forks_sort_by_epoch_and_independent_is_last():
    names = ["independent", "10", "2", "0.5", "0"]
    assert [f.name for f in sorted(map(Fork.parse, names), key=lambda f: f.order)] == names[::-1]
