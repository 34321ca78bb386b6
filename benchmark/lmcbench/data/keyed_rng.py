"""Randomness of transforms: keyed by seed, name and image, never by batch or order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from lmcbench.spec.seeds import random_words, uniforms

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """The streams of a batch of images, one for each image and label.

    Severity is not in the key: a higher one takes the same draws further.

    Attributes:
        seed: of the suite's transforms.
        kind: the transform without its amount.
        indices: data set indices of the images, `[n]`.
    """

    seed: int
    kind: str
    indices: NDArray[np.int64]

    def uniform(self, label: str, *shape: int) -> Floats:
        """Numbers inside (0, 1), `[n, *shape]`; each label is a stream of its own."""
        text = f"lmcbench/1|transform|{self.seed}|{self.kind}|{label}"
        key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
        size = int(np.prod(shape, dtype=np.int64))
        words = np.stack([random_words(key, int(i), size) for i in self.indices])
        return uniforms(words).reshape(len(self.indices), *shape)

    def normal(self, label: str, *shape: int) -> Floats:
        """Standard normal numbers, `[n, *shape]`, by the inverse distribution function (see NEP 19)."""
        return np.asarray(ndtri(self.uniform(label, *shape)), dtype=np.float64)
