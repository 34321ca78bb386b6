"""A data set in memory: uint8 images, labels, and where they came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmcbench.errors import UserError

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class ImageSet:
    """One split.

    Attributes:
        images: `[n, c, h, w]` uint8; may be memory-mapped.
        labels: `[n]` int64, 0 to classes - 1.
    """

    images: Pixels
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def sha256(self) -> str:
        """Of shape, pixels and labels: what everybody who runs a suite must see."""
        text = hashlib.sha256(repr(self.images.shape).encode())
        text.update(np.ascontiguousarray(self.images).data)
        text.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return text.hexdigest()


@dataclass(frozen=True)
class Dataset:
    """A named data set with its two splits.

    Attributes:
        name: its name in the table of sources.
        train: the full training set.
        test: the full test set.
        classes: names of the classes, in label order.
    """

    name: str
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for split, images in (("train", self.train), ("test", self.test)):
            if len(images) == 0:
                raise UserError(f"Data set {self.name}: split {split} is empty.")
            bad = np.flatnonzero((images.labels < 0) | (images.labels >= len(self.classes)))
            if len(bad):
                raise UserError(
                    f"Data set {self.name}, split {split}, row {bad[0]}: label {images.labels[bad[0]]} "
                    f"is out of range, there are {len(self.classes)} classes."
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, c, h, w = self.train.images.shape
        return c, h, w

    @cached_property
    def statistics(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation per channel of the training pixels scaled to 0..1, `[c]` each."""
        images = self.train.images
        counts = np.stack([np.bincount(images[:, c].ravel(), minlength=256) for c in range(images.shape[1])])
        values = np.arange(256) / 255
        mean = counts @ values / counts.sum(1)
        variance = (counts * (values - mean[:, None]) ** 2).sum(1) / counts.sum(1)
        return mean, np.sqrt(variance)

    def identity(self) -> list[dict[str, Any]]:
        """The `data` field of a record: one entry per split."""
        splits = (("train", self.train), ("test", self.test))
        return [{"name": self.name, "sha256": s.sha256, "split": split, "n": len(s)} for split, s in splits]
