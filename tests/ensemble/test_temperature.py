"""The loss at the temperature where it is least."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from lmcbench.ensemble.adjusted import STEEPEST, fit_temperature, scale_line


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    shifted = logits - logits.max(-1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(labels)), labels]).mean())


def draw(seed: int, n: int = 60, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), labels] += 1.0
    return logits, labels


@pytest.mark.parametrize("seed", range(5))
def test_finds_the_same_loss_as_a_minimiser_from_scipy(seed: int) -> None:
    logits, labels = draw(seed)
    again = minimize_scalar(
        lambda b: cross_entropy(b * logits, labels),
        bounds=(0, STEEPEST),
        method="bounded",
        options={"xatol": 1e-9},
    )
    b, loss = fit_temperature(logits, labels)
    assert loss == pytest.approx(again.fun, abs=1e-12)
    assert b == pytest.approx(again.x, abs=1e-5)


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 20), st.floats(-50, 50))
def test_does_not_depend_on_confidence(seed: int, scale: float, shift: float) -> None:
    logits, labels = draw(seed)
    b, loss = fit_temperature(logits, labels)
    scaled, same = fit_temperature(scale * logits + shift, labels)
    # beyond the largest inverse temperature the same loss is out of reach
    if b / scale < STEEPEST:
        assert same == pytest.approx(loss, abs=1e-9)
        assert scaled * scale == pytest.approx(b, abs=1e-6 * max(1, scale))


def test_is_at_most_the_plain_loss_and_that_of_chance() -> None:
    for seed in range(20):
        logits, labels = draw(seed)
        loss = fit_temperature(logits, labels)[1]
        assert 0 <= loss <= min(cross_entropy(logits, labels), math.log(5)) + 1e-12


def test_a_network_worse_than_chance_is_made_indifferent() -> None:
    logits, labels = draw(0)
    assert fit_temperature(-logits, labels) == (0.0, pytest.approx(math.log(5)))


def test_a_network_without_errors_has_the_steepest_temperature_and_almost_no_loss() -> None:
    labels = np.arange(4)
    b, loss = fit_temperature(np.eye(4, dtype=np.float16) * np.float16(3), labels)
    assert b == STEEPEST
    assert 0 <= loss < 1e-100


def test_equal_logits_have_no_slope() -> None:
    assert fit_temperature(np.zeros((3, 4), np.float16), np.array([0, 1, 2])) == (
        0.0,
        pytest.approx(math.log(4)),
    )


def test_the_line_has_ends_and_midpoint() -> None:
    assert scale_line([(1.0, 0.5), (2.0, 0.75), (3.0, 0.25)]) == {
        "inverse_temperature": [1.0, 2.0, 3.0],
        "loss": [0.5, 0.75, 0.25],
    }
