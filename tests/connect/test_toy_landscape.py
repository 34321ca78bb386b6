"""The toy landscape of Singh et al. (2024), in NumPy alone (docs/oracles.md, 4)."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcbench.connect.toy_landscape import ProductLandscape, Well
from lmcbench.errors import UserError

GRID = np.linspace(0, 1, 21)


@given(st.integers(0, 10_000), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_closed_forms_against_evaluation(seed, size) -> None:
    rng = np.random.default_rng(seed)
    wells = []
    for _ in range(2):
        root = rng.normal(size=(size, size))
        wells.append(Well(rng.normal(size=size), root @ root.T))
    toy = ProductLandscape(*wells)
    np.testing.assert_allclose(toy.path(GRID), toy.curve(GRID), rtol=1e-10, atol=1e-13 * (1 + toy.barrier))
    assert toy.curve(GRID).max() == pytest.approx(toy.barrier, rel=1e-12)
    ratio = toy.predicted(GRID)[1:-1] / toy.curve(GRID)[1:-1]
    np.testing.assert_allclose(ratio, 1 / (GRID * (1 - GRID))[1:-1], rtol=1e-10)


def test_a_worked_number() -> None:
    """Two round wells two apart: s = 4 each, barrier 16/64, predicted 1 at the middle."""
    toy = ProductLandscape(Well([0, 0], np.eye(2)), Well([2, 0], np.eye(2)))
    assert toy.barrier == 0.25
    assert toy.loss([1, 0]) == 0.25
    assert toy.predicted([0.5])[0] == 1.0


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"found \(2,\) and \(3, 3\)"):
        Well([0, 0], np.eye(3))
    for wrong in ([[1, 2], [0, 1]], [[1, 0], [0, -1]]):
        with pytest.raises(UserError, match="symmetric and positive semi-definite"):
            Well([0, 0], wrong)


def test_no_torch() -> None:
    code = "import sys, lmcbench.connect.toy_landscape; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
