"""Randomness of transforms, keyed by seed, name and image, not by batch or order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmcbench.spec.seeds import random_words, uniforms

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
        text = f"lmcbench/1|transform|{self.seed}|{self.kind}|{label}"
        key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
        size = int(np.prod(shape, dtype=np.int64))
        words = np.stack([random_words(key, int(i), size) for i in self.indices])
        return uniforms(words).reshape(len(self.indices), *shape)

    def normal(self, label: str, *shape: int) -> Floats:
        """Return standard normal numbers, `[n, *shape]`.

        By the inverse distribution function: NumPy's samplers may change between versions (NEP 19).
        """
        from scipy.special import ndtri  # half a second, which few commands need

        return np.asarray(ndtri(self.uniform(label, *shape)), dtype=np.float64)
