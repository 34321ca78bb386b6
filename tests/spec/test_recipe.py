import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lmcbench.errors import UserError
from lmcbench.spec.recipe import Recipe, noise_scale


def recipe(**fields):
    return Recipe.model_validate({"lr": 0.1, "batch_size": 32, "epochs": 10} | fields)


def test_cosine_falls_from_the_peak_to_almost_zero():
    r = recipe()
    assert r.lr_at(0, 100) == 0.1
    assert r.lr_at(50, 100) == pytest.approx(0.05, rel=1e-12)
    assert r.lr_at(25, 100) == pytest.approx(0.1 * (1 + math.sqrt(0.5)) / 2, rel=1e-12)
    assert r.lr_at(99, 100) == pytest.approx(0.1 * math.sin(math.pi / 200) ** 2, rel=1e-9)


@given(st.integers(1, 400), st.floats(1e-4, 10))
def test_cosine_decreases_and_averages_half_the_peak(length, lr):
    r = recipe(lr=lr)
    rates = [r.lr_at(s, length) for s in range(length)]
    assert all(a > b for a, b in pairwise(rates))
    # sum of (1 + cos(pi s / T)) / 2 over s < T is (T + 1) / 2
    assert sum(rates) == pytest.approx(lr * (length + 1) / 2, rel=1e-9)


def test_warm_up_rises_linearly_to_the_peak_and_the_cosine_starts_there():
    r = recipe(warmup_epochs=2)
    assert [r.lr_at(s, 50) for s in range(10)] == pytest.approx([0.01 * (s + 1) for s in range(10)])
    assert r.lr_at(10, 50) == 0.1
    assert r.lr_at(30, 50) == pytest.approx(0.05)


def test_step_divides_by_ten_at_each_milestone():
    r = recipe(schedule="step", milestones=[0.5, 0.75])
    rates = [r.lr_at(s, 100) for s in (0, 49, 50, 74, 75, 99)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@given(st.integers(1, 99))
def test_a_milestone_in_hundredths_takes_effect_on_its_step(hundredths):
    r = recipe(schedule="step", milestones=[hundredths / 100])
    assert [r.lr_at(s, 100) for s in (hundredths - 1, hundredths)] == pytest.approx([0.1, 0.01])


def test_constant_stays():
    assert {recipe(schedule="constant").lr_at(s, 100) for s in range(100)} == {0.1}


def test_length_counts_full_batches_only():
    r = recipe()
    assert (r.steps_per_epoch(1437), r.length(1437), r.steps_per_epoch(31)) == (44, 440, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": -0.1}, "greater than 0"),
        ({"lr": 0}, "greater than 0"),
        ({"lr": math.nan}, "finite"),
        ({"lr": "0.1"}, "valid number"),
        ({"momentum": 1}, "less than 1"),
        ({"batch_size": 0}, "greater than or equal to 1"),
        ({"batch_size": 32.0}, "valid integer"),
        ({"epochs": True}, "valid integer"),
        ({"eps": math.inf}, "finite"),
        ({"clip_norm": math.inf}, "finite"),
        ({"betas": [0.9, 1.0]}, r"betas must lie in \[0, 1\)"),
        ({"schedule": "linear"}, "'constant', 'cosine' or 'step'"),
        ({"schedule": "step"}, "milestones are required with schedule 'step'"),
        ({"milestones": [0.5]}, "milestones are required with schedule 'step'"),
        ({"schedule": "step", "milestones": [0.5, 0.5]}, "increase strictly"),
        ({"schedule": "step", "milestones": [0.7, 0.5]}, "increase strictly"),
        ({"schedule": "step", "milestones": [1.0]}, "increase strictly"),
        ({"warmup_epochs": 10}, "warmup_epochs must be less than epochs"),
        ({"augmentation": ["flip", "blur"]}, "'flip', 'shift1', 'crop4' or 'crop4-reflect'"),
        ({"learning_rate": 1}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_trained_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        recipe(**fields)


def test_noise_scale_published_values():
    # docs/oracles.md, oracle 16
    assert noise_scale(0.1, 50000, 128) == pytest.approx(38.9625, rel=1e-14)
    assert noise_scale(0.1, 25000, 128) == pytest.approx(19.43125, rel=1e-14)
    assert noise_scale(0.1, 128, 128) == 0.0
    assert noise_scale(0.0, 100, 10) == 0.0
    assert type(noise_scale(np.float32(0.1), np.int64(100), np.int64(10))) is float


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-0.1, 10, 2), "lr must be a finite number of at least 0, found -0.1"),
        ((math.nan, 10, 2), "lr must be a finite number"),
        (("0.1", 10, 2), "lr must be a finite number of at least 0, found '0.1'"),
        ((0.1, 10.5, 2), r"n must be a whole number, found 10\.5"),
        ((0.1, 10, 2.0), r"batch_size must be a whole number, found 2\.0"),
        ((0.1, 10, 0), r"batch_size must lie in 1\.\.10, found 0"),
        ((0.1, 10, 11), r"batch_size must lie in 1\.\.10, found 11"),
    ],
)
def test_noise_scale_refuses(arguments, message):
    with pytest.raises(UserError, match=message):
        noise_scale(*arguments)
