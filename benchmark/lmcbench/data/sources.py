"""The table of data sets: by name, where each comes from and how it is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmcbench.data.dataset import Dataset, ImageSet
from lmcbench.errors import unknown


@dataclass(frozen=True)
class Source:
    """One entry of the table; `load` takes the user's data folder, which an embedded set ignores."""

    load: Callable[[Path | None], Dataset]
    summary: str
    licence: str


def open_dataset(name: str, data_dir: Path | None = None) -> Dataset:
    """The data set `name`.

    Raises:
        UserError: for an unknown name, or data that are not there.
    """
    if name not in SOURCES:
        raise unknown("data set", name, SOURCES)
    return SOURCES[name].load(data_dir)


def _digits(data_dir: Path | None) -> Dataset:
    """Scikit-learn's 1,797 digits of 8 x 8; every fifth of each class, in file order, is the test split.

    Grey levels 0..16 are spread over 0..255, so that everything defined on 8-bit images applies.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = labels.astype(np.int64)
    rank = np.empty_like(labels)
    for c in range(10):
        rank[labels == c] = np.arange((labels == c).sum())
    test = rank % 5 == 4
    return Dataset(
        "digits",
        ImageSet(images[~test], labels[~test]),
        ImageSet(images[test], labels[test]),
        tuple(str(c) for c in range(10)),
    )


SOURCES: dict[str, Source] = {
    "digits": Source(_digits, "1,797 grey 8 x 8 digits, shipped with scikit-learn", "CC BY 4.0"),
}
