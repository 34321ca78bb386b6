import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcbench.spec.seeds import Seeds, derive_seed, permutation, random_words

seeds = st.integers(0, 2**63 - 1)


@given(
    st.sampled_from(["digits", "a-b"]),
    st.integers(1, 99),
    st.integers(0, 2000),
    st.sampled_from(["init", "order", "augment", "layer", "shift"]),
    st.integers(0, 9),
)
def test_a_seed_is_the_first_63_bits_of_the_published_text(suite, version, replicate, role, index):
    text = f"lmcbench/1|{suite}|{version}|{replicate}|{role}|{index}"
    bits = "".join(f"{byte:08b}" for byte in hashlib.sha256(text.encode()).digest())
    assert derive_seed(suite, version, replicate, role, index) == int(bits[:63], 2)


def test_seeds_of_a_replicate_are_listed_by_index_and_all_differ():
    found = Seeds.of("digits", 1, 4, 3)
    for role in ("init", "order", "augment", "layer"):
        assert getattr(found, role) == tuple(derive_seed("digits", 1, 4, role, i) for i in range(4))
    assert found.shift == derive_seed("digits", 1, 4, "shift")
    everything = [*found.init, *found.order, *found.augment, *found.layer, found.shift]
    assert len(set(everything)) == 17
    assert set(everything).isdisjoint(Seeds.of("digits", 1, 5, 3).init)
    assert found != Seeds.of("digits", 2, 4, 3)


def test_more_siblings_keep_the_seeds_of_the_others():
    two, five = Seeds.of("digits", 1, 0, 2), Seeds.of("digits", 1, 0, 5)
    assert two.order == five.order[:3]


@given(seeds, st.integers(0, 10**6), st.integers(1, 300))
def test_a_permutation_holds_every_position_once_and_repeats(seed, counter, n):
    found = permutation(seed, counter, n)
    assert found.dtype == np.int64
    assert np.array_equal(np.sort(found), np.arange(n))
    assert np.array_equal(found, permutation(seed, counter, n))


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_neighbouring_seeds_and_counters_share_no_words(seed):
    near = [random_words(seed, c, 1000) for c in (0, 1)] + [random_words(abs(seed - 1), 0, 1000)]
    assert len(np.unique(np.concatenate(near))) == 3000


def test_seed_0_is_a_seed_like_any_other():
    zero = permutation(0, 0, 100)
    assert not np.array_equal(zero, np.arange(100))
    assert not np.array_equal(zero, permutation(1, 0, 100))
    assert not np.array_equal(zero, permutation(0, 1, 100))


def test_a_longer_draw_begins_with_the_shorter():
    assert np.array_equal(random_words(5, 2, 10), random_words(5, 2, 100)[:10])


def test_words_are_even_over_their_range():
    # 64 bins of 1000: chi-square has mean 63 and standard deviation 11.2
    counts = np.bincount(random_words(3, 0, 64_000) >> np.uint64(58), minlength=64)
    assert ((counts - 1000) ** 2 / 1000).sum() < 63 + 4 * 11.2
