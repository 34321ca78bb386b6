"""Seeds by role and replicate, and random streams keyed by them, which do not depend on NumPy's version."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
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
    return _first_bits(f"lmcbench/1|{suite}|{version}|{replicate}|{role}|{index}")


def _first_bits(text: str) -> int:
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


Floats = NDArray[np.float64]


@dataclass(frozen=True)
class KeyedRandom:
    """Random numbers for a batch of images, one stream per image and label.

    Severity is not part of the key: a higher severity uses the same numbers.

    Attributes:
        seed: the seed of the suite's transforms.
        kind: the transform's name without its amount.
        indices: data set indices of the images, `[n]`.
    """

    seed: int
    kind: str
    indices: NDArray[np.int64]

    def uniform(self, label: str, *shape: int) -> Floats:
        """Return numbers inside (0, 1), `[n, *shape]`; each label has its own stream."""
        key = _first_bits(f"lmcbench/1|transform|{self.seed}|{self.kind}|{label}")
        size = int(np.prod(shape, dtype=np.int64))
        words = np.stack([random_words(key, int(i), size) for i in self.indices])
        return uniforms(words).reshape(len(self.indices), *shape)

    def normal(self, label: str, *shape: int) -> Floats:
        """Return standard normal numbers, `[n, *shape]`.

        By the inverse distribution function: NumPy's samplers may change between versions (NEP 19).
        """
        from scipy.special import ndtri  # half a second, which few commands need

        return np.asarray(ndtri(self.uniform(label, *shape)), dtype=np.float64)
