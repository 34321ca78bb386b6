import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group
from sklearn.metrics.pairwise import linear_kernel
from sklearn.preprocessing import KernelCenterer

from lmcbench.ensemble.cka import cka_matrix, linear_cka
from lmcbench.errors import UserError


def by_definition(x, y):
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with centred kernels, Kornblith et al. equations 3 and 4."""
    a, b = (KernelCenterer().fit_transform(linear_kernel(f)) for f in (x, y))
    return np.trace(a @ b) / np.sqrt(np.trace(a @ a) * np.trace(b @ b))


def features(n=40, d=(5, 9), seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 3))
    return [shared @ rng.normal(size=(3, width)) + rng.normal(size=(n, width)) + 2 for width in d]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_equals_the_definition_with_centred_kernels(n, dx, dy, seed):
    x, y = features(n, (dx, dy), seed)
    assert linear_cka(x, y) == pytest.approx(by_definition(x, y), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("n", [7, 8, 9])
def test_the_forms_for_few_and_for_many_images_meet(n):
    """More features than images, as many, fewer; equal features give 1, in any order the same."""
    x, y = features(n, (8, 8))
    assert [linear_cka(x, y), linear_cka(y, x)] == pytest.approx([by_definition(x, y)] * 2, rel=1e-12)
    assert linear_cka(x, x) == pytest.approx(1, rel=1e-15)


def test_one_feature_each_gives_the_squared_correlation():
    x, y = features(d=(1, 1))
    assert linear_cka(x, y) == pytest.approx(np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2)


def test_blind_to_rotation_scale_and_offset_but_not_to_stretching():
    x, _ = features(d=(6, 1))
    turn = ortho_group.rvs(6, random_state=1)
    assert linear_cka(x, 1e-7 * (x @ turn) + 4) == pytest.approx(1.0)
    assert linear_cka(x, x @ np.diag([1e3, 1, 1, 1, 1, 1])) < 0.9


def test_unrelated_features_are_near_zero():
    rng = np.random.default_rng(0)
    n, d = 20_000, 4
    # E = d_x d_y / n over sqrt(d_x d_y) for white features
    assert linear_cka(rng.normal(size=(n, d)), rng.normal(size=(n, d))) < 5 * d / n


def test_extreme_scales_neither_overflow_nor_vanish():
    x, y = features()
    assert linear_cka(1e160 * x, 1e-160 * y) == pytest.approx(linear_cka(x, y))


def test_constant_features_have_none():
    x, _ = features()
    assert linear_cka(x, np.full((40, 3), 0.1)) is None
    assert cka_matrix([x, np.ones((40, 2))]) == [[1.0, None], [None, None]]


def test_matrix_is_symmetric_with_ones():
    x, y = features()
    assert cka_matrix([x, y, x]) == [
        [1.0, linear_cka(x, y), linear_cka(x, x)],
        [linear_cka(x, y), 1.0, linear_cka(x, y)],
        [linear_cka(x, x), linear_cka(x, y), 1.0],
    ]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones(3), np.ones((3, 1)), r"x must be features \[n, d\], found shape \(3,\)"),
        (np.ones((3, 1)), np.ones((3, 0)), r"y must be features \[n, d\], found shape \(3, 0\)"),
        (np.eye(3), np.eye(4), "same images, found 3 and 4"),
        (np.eye(3), np.diag([1, np.nan, 1]), "y contains a value that is not finite"),
    ],
)
def test_refusals(x, y, message):
    with pytest.raises(UserError, match=message):
        linear_cka(x, y)
