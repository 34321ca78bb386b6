"""Seeds by name: who draws, for what, in which replicate, and nothing else."""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Role = Literal["init", "order", "augment", "layer", "shift"]


def derive_seed(suite: str, version: int, replicate: int, role: Role, index: int = 0) -> int:
    """The seed of one role: first 63 bits, big-endian, of a sha256 (design 3.6).

    It does not depend on architecture, recipe, shift or fork, so that entries can be compared
    replicate by replicate. `index` is 0 for the trunk and for shifts, i + 1 for sibling i.
    """
    text = f"lmcbench/1|{suite}|{version}|{replicate}|{role}|{index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Seeds(NamedTuple):
    """All seeds of one replicate; lists by index, the trunk's first."""

    init: tuple[int, ...]
    order: tuple[int, ...]
    augment: tuple[int, ...]
    layer: tuple[int, ...]
    shift: int

    @classmethod
    def of(cls, suite: str, version: int, replicate: int, siblings: int) -> Seeds:
        """The seeds of `replicate` for a trunk and `siblings` siblings."""

        def roles(role: Role) -> tuple[int, ...]:
            return tuple(derive_seed(suite, version, replicate, role, i) for i in range(siblings + 1))

        shift = derive_seed(suite, version, replicate, "shift")
        return cls(roles("init"), roles("order"), roles("augment"), roles("layer"), shift)


def random_words(seed: int, counter: int, n: int) -> NDArray[np.uint64]:
    """`n` random 64-bit words of the stream (seed, counter), `[n]` uint64.

    Philox by key, so streams of neighbouring seeds or counters share nothing; raw words, because
    NumPy keeps bit generators stable between versions but not what is drawn from them (NEP 19).
    """
    words = np.random.Philox(key=np.array([seed, counter], dtype=np.uint64)).random_raw(n)
    return np.asarray(words, dtype=np.uint64)


def permutation(seed: int, counter: int, n: int) -> NDArray[np.int64]:
    """A permutation of 0..n-1 drawn from the stream (seed, counter), `[n]` int64."""
    return np.argsort(random_words(seed, counter, n), kind="stable").astype(np.int64)


def uniforms(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """`words` as numbers inside (0, 1): the middle of each of 2^52 cells, never an end."""
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
