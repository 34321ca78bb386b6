"""Seeds by role and replicate, and random streams that do not depend on the NumPy version."""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Role = Literal["init", "order", "augment", "layer", "shift"]


def derive_seed(suite: str, version: int, replicate: int, role: Role, index: int = 0) -> int:
    """Return the seed of a role: the first 63 bits, big-endian, of a sha256 (docs/design.md, section 3.6).

    It does not depend on architecture, recipe, shift or fork, so that entries can be compared replicate by
    replicate.

    Args:
        suite: name of the suite.
        version: version of the suite.
        replicate: number of the replicate.
        role: what is drawn with the seed.
        index: 0 for the trunk and for shifts, i + 1 for sibling i.
    """
    text = f"lmcbench/1|{suite}|{version}|{replicate}|{role}|{index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Seeds(NamedTuple):
    """All seeds of a replicate; each tuple has the trunk's seed first, then one for each sibling."""

    init: tuple[int, ...]
    order: tuple[int, ...]
    augment: tuple[int, ...]
    layer: tuple[int, ...]
    shift: int

    @classmethod
    def of(cls, suite: str, version: int, replicate: int, siblings: int) -> Seeds:
        """Derive the seeds of `replicate` for a trunk and its siblings."""

        def roles(role: Role) -> tuple[int, ...]:
            return tuple(derive_seed(suite, version, replicate, role, i) for i in range(siblings + 1))

        shift = derive_seed(suite, version, replicate, "shift")
        return cls(roles("init"), roles("order"), roles("augment"), roles("layer"), shift)


def random_words(seed: int, counter: int, n: int) -> NDArray[np.uint64]:
    """Return `n` random 64-bit words of the stream (seed, counter), `[n]` uint64.

    Philox is keyed, so that streams of neighbouring seeds or counters are unrelated. Raw words are used
    because NumPy guarantees the bit generators between versions, but not the distributions (NEP 19).
    """
    words = np.random.Philox(key=np.array([seed, counter], dtype=np.uint64)).random_raw(n)
    return np.asarray(words, dtype=np.uint64)


def permutation(seed: int, counter: int, n: int) -> NDArray[np.int64]:
    """Return a permutation of 0..n-1 drawn from the stream (seed, counter), `[n]` int64."""
    return np.argsort(random_words(seed, counter, n), kind="stable").astype(np.int64)


def uniforms(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Map 64-bit words to the open interval (0, 1): to the midpoints of 2^52 equal cells."""
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
