"""A data set in memory: uint8 images, labels, and where they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmcbench.data.file_stamp import Stamp
from lmcbench.errors import UserError
from lmcbench.spec.evaluation_shifts import EVALUATION

ARRAYS = "arrays"
"""Where shifted test sets come from: files of arrays, as their authors publish them."""

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

Fill = NDArray[np.int16]
"""The value that each channel of an image shows instead of its pixels, or `SHOWN`, `[c]`."""

SHOWN = -1


@dataclass(frozen=True)
class Facts:
    """What takes a pass over all pixels to know; the cache keeps it beside them.

    Attributes:
        sha256: of shape, pixels and labels: what everybody who runs a suite must see.
        histogram: how often each channel takes each value, `[c, 256]` int64.
    """

    sha256: str
    histogram: NDArray[np.int64]


class FactsOfBatches:
    """The facts of a split that goes by in batches."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._hash = hashlib.sha256(repr(shape).encode())
        self._histogram = np.zeros((shape[1], 256), np.int64)

    def add(self, images: Pixels) -> None:
        """The next images, `[b, c, h, w]`."""
        self._hash.update(np.ascontiguousarray(images).data)
        for channel, counts in enumerate(self._histogram):
            counts += np.bincount(images[:, channel].ravel(), minlength=256)

    def finish(self, labels: Labels) -> Facts:
        """The facts, given all labels `[n]`."""
        self._hash.update(np.ascontiguousarray(labels, dtype="<i8").data)
        return Facts(self._hash.hexdigest(), self._histogram)


@dataclass(frozen=True)
class ImageSet:
    """One split.

    Attributes:
        images: `[n, c, h, w]` uint8; may be memory-mapped, then read-only.
        labels: `[n]` int64, 0 to classes - 1.
        known: its facts where they are stored; else they are found when asked for.
        stamps: the user's files that `images` is a mapping of, as they stood when they were opened.
    """

    images: Pixels
    labels: Labels
    known: Facts | None = field(default=None, repr=False, compare=False)
    stamps: tuple[Stamp, ...] = field(default=(), repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def facts(self) -> Facts:
        """Hash and histogram of the split."""
        if self.known is not None:
            return self.known
        collect = FactsOfBatches(self.images.shape)
        for start in range(0, len(self), 10_000):
            collect.add(self.images[start : start + 10_000])
        return collect.finish(self.labels)

    @property
    def sha256(self) -> str:
        """Of shape, pixels and labels: what everybody who runs a suite must see."""
        return self.facts.sha256


@dataclass(frozen=True)
class Dataset:
    """A named data set with its two splits.

    Attributes:
        name: its name in the table of sources.
        train: the full training set.
        test: the full test set.
        classes: names of the classes, in label order.
        source: where it comes from, in words that hold on any machine: `scikit-learn`,
            `hub:uoft-cs/cifar10`, `parquet`, `folder`.
        revision: the hub's commit, where it comes from there.
        shifted: further test sets of the same classes, by name (`cifar10.1:v6`), opened where a suite asks.
    """

    name: str
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    source: str = "memory"
    revision: str | None = None
    shifted: Mapping[str, ImageSet] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise UserError(f"Data set {self.name} has one class; there is nothing to tell apart.")
        for split, images in {"train": self.train, "test": self.test, **self.shifted}.items():
            if len(images) == 0:
                raise UserError(f"Data set {self.name}: split {split} is empty.")
            bad = np.flatnonzero((images.labels < 0) | (images.labels >= len(self.classes)))
            if len(bad):
                raise UserError(
                    f"Data set {self.name}, split {split}, row {bad[0]}: label {images.labels[bad[0]]} "
                    f"is out of range, there are {len(self.classes)} classes."
                )
            if images.images.shape[1:] != self.shape:
                raise UserError(
                    f"Data set {self.name}, split {split}: images are {_size(images)}, those of the training "
                    f"set {_size(self.train)}."
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, c, h, w = self.train.images.shape
        return c, h, w

    @cached_property
    def statistics(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation per channel of the training pixels scaled to 0..1, `[c]` each.

        Raises:
            UserError: for a channel that has one value in all training images; nothing can divide by its 0.
        """
        counts = self.train.facts.histogram
        values = np.arange(256) / 255
        mean = counts @ values / counts.sum(1)
        variance = (counts * (values - mean[:, None]) ** 2).sum(1) / counts.sum(1)
        flat = np.flatnonzero(np.count_nonzero(counts, axis=1) == 1)
        if len(flat):
            raise UserError(
                f"Data set {self.name}: channel {flat[0]} has the value {counts[flat[0]].argmax()} in every "
                "pixel of all training images. Leave it out."
            )
        return mean, np.sqrt(variance)

    def check_unchanged(self) -> None:
        """Refuse files that were written to since they were opened: a mapping shows what they hold now.

        Raises:
            UserError: naming one.
        """
        for images in self.shifted.values():
            for stamp in images.stamps:
                if not stamp.stands:
                    raise UserError(
                        f"{stamp.path} was changed since the run began. Run again when it stays: what is "
                        "finished is kept."
                    )

    def identity(self) -> list[dict[str, Any]]:
        """The `data` field of a record: one entry per split."""
        origin: dict[str, Any] = {"name": self.name, "source": self.source}
        if self.revision is not None:
            origin["revision"] = self.revision
        splits = [(origin, "train", self.train), (origin, "test", self.test)]
        for name, images in self.shifted.items():
            own = {"name": name.partition(":")[0], "source": ARRAYS}
            splits.append((own, f"{EVALUATION}{name}", images))
        return [{**of, "sha256": s.sha256, "split": split, "n": len(s)} for of, split, s in splits]


def _size(images: ImageSet) -> str:
    return " x ".join(map(str, images.images.shape[1:]))
