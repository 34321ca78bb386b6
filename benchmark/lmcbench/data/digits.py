"""Scikit-learn's digits, the data set that is always there."""

from __future__ import annotations

import numpy as np

from lmcbench.data.dataset import Dataset, ImageSet
from lmcbench.data.splits import every_fifth


def load_digits() -> Dataset:
    """1,797 digits of 8 x 8; every fifth of each class, in file order, is the test split.

    Grey levels 0..16 are spread over 0..255, so that everything defined on 8-bit images applies.
    """
    from sklearn import datasets

    pixels, labels = datasets.load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = labels.astype(np.int64)
    test = every_fifth(labels)
    return Dataset(
        "digits",
        ImageSet(images[~test], labels[~test]),
        ImageSet(images[test], labels[test]),
        tuple(str(c) for c in range(10)),
        source="scikit-learn",
    )
