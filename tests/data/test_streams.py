"""Streams: every image once a pass, full batches, and the step alone decides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcbench.data.batches import make_stream
from lmcbench.errors import UserError


def seen(s, steps):
    """Items of some steps, `[steps, B]`."""
    return np.stack([s.items[s.rows(step)[1]] for step in steps])


@given(
    m=st.integers(1, 60), batch=st.integers(1, 20), seed=st.integers(0, 2**63 - 1), passed=st.integers(0, 5)
)
def test_a_pass_shows_no_item_twice_and_drops_only_the_tail(m, batch, seed, passed):
    source = np.arange(100)
    items = np.arange(m) + 7
    if m < batch:
        with pytest.raises(UserError, match="holds no full batch"):
            make_stream(items, source, "own", seed, 0, batch)
        return
    s = make_stream(items, source, "own", seed, 0, batch)
    per = s.steps_per_pass
    shown = seen(s, range(passed * per, (passed + 1) * per))
    assert shown.shape == (m // batch, batch)
    assert len(np.unique(shown)) == shown.size
    assert np.isin(shown, items).all()


def test_steps_may_be_asked_for_in_any_order():
    a, b = (make_stream(np.arange(50), np.arange(50), "own", 3, 0, 8) for _ in range(2))
    forward = seen(a, range(30))
    backward = seen(b, range(29, -1, -1))[::-1]
    np.testing.assert_array_equal(forward, backward)
    # another pass is another order
    assert (forward[:6] != forward[6:12]).any()


def test_neighbouring_seeds_share_nothing():
    """With seeds `seed + epoch` one stream would repeat the other one pass later."""
    a, b = (make_stream(np.arange(64), np.arange(64), "own", seed, 0, 64) for seed in (5, 6))
    passes_a, passes_b = seen(a, range(4)), seen(b, range(4))
    assert not (passes_a[:, None] == passes_b[None]).all(-1).any()


def test_a_half_view_is_passed_twice_as_often():
    full = make_stream(np.arange(64), np.arange(64), "own", 1, 0, 8)
    half = make_stream(np.arange(32), np.arange(64), "own", 1, 0, 8)
    assert full.rows(8)[0] == 1
    assert half.rows(8)[0] == 2


def test_own_noise_gives_a_subset_the_order_of_the_full_set():
    """Keyed by data set index: a subset comes in the order of the full set."""
    source = np.arange(40)
    full = seen(make_stream(source, source, "own", 9, 0, 40), [0])[0]
    part = np.sort(np.random.default_rng(0).permutation(40)[:25])
    np.testing.assert_array_equal(
        seen(make_stream(part, source, "own", 9, 0, 25), [0])[0], full[np.isin(full, part)]
    )


def test_shared_noise_draws_the_same_positions():
    """Siblings on disjoint views of equal size draw the same positions at every step."""
    source = np.arange(40)
    a = make_stream(np.arange(0, 40, 2), source, "shared", 9, 0, 5)
    b = make_stream(np.arange(1, 40, 2), source, "shared", 9, 0, 5)
    for step in range(12):
        np.testing.assert_array_equal(a.rows(step)[1], b.rows(step)[1])
    assert not np.isin(seen(a, range(12)), seen(b, range(12))).any()


def test_own_noise_on_one_view_differs_between_siblings():
    source = np.arange(40)
    a, b = (seen(make_stream(source, source, "own", seed, 0, 8), range(5)) for seed in (1, 2))
    assert (a != b).any()
    np.testing.assert_array_equal(np.sort(a.ravel()), np.sort(b.ravel()))
