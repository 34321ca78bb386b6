"""A data set in memory: uint8 images, labels, and where they come from; and what it lists without images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmcbench.errors import UserError, printable
from lmcbench.spec.domains import Domains, strata
from lmcbench.spec.evaluation_shifts import EVALUATION, is_domain

ARRAYS = "arrays"
"""The source of shifted test sets: files of arrays, as their authors publish them."""

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

ChannelFill = NDArray[np.int16]
"""The value that replaces each channel of an image, or `KEEP`, `[c]`."""

Statistics = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Mean and standard deviation of each channel of pixels scaled to 0..1, `[c]` each."""

KEEP = -1
"""In a `ChannelFill`: the channel keeps its pixels."""


HISTOGRAM_PIXELS = 2**20
"""Pixels that are counted at once: counting takes 8 bytes for each."""


@dataclass(frozen=True)
class SplitSummary:
    """What takes a pass over all pixels to compute; the cache stores it beside them.

    Attributes:
        sha256: hash of shape, pixels and labels; equal for everybody who runs a suite.
        histogram: how often each channel has each value, `[c, 256]` int64.
    """

    sha256: str
    histogram: NDArray[np.int64]


class SummaryBuilder:
    """The summary of a split that is passed in batches."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._hash = hashlib.sha256(repr(shape).encode())
        self._histogram = np.zeros((shape[1], 256), np.int64)

    def add(self, images: Pixels) -> None:
        """Add the next images, `[b, c, h, w]`."""
        self._hash.update(np.ascontiguousarray(images).data)
        add_to_histogram(self._histogram, images)

    def finish(self, labels: Labels) -> SplitSummary:
        """Return the summary, given all labels `[n]`."""
        self._hash.update(np.ascontiguousarray(labels, dtype="<i8").data)
        return SplitSummary(self._hash.hexdigest(), self._histogram)


@dataclass(frozen=True)
class FileStamp:
    """Size in bytes and time of modification in ns of a file; `state` is None if the file is missing.

    Inode and time of change are left out: backups and network file systems change them, which would end a
    run of hours for nothing.
    """

    path: Path
    state: tuple[int, int] | None

    @classmethod
    def read(cls, path: Path) -> FileStamp:
        """Return the present stamp of `path`."""
        try:
            found = path.stat()
        except OSError:
            return cls(path, None)
        return cls(path, (found.st_size, found.st_mtime_ns))

    @property
    def is_current(self) -> bool:
        """Whether the file is unchanged."""
        return FileStamp.read(self.path) == self


@dataclass(frozen=True)
class ImageSet:
    """One split.

    Attributes:
        images: `[n, c, h, w]` uint8; may be memory-mapped and read-only.
        labels: `[n]` int64, 0 to classes - 1.
        stored_summary: the summary, if it is stored; computed on first use otherwise.
        stamps: size and modification time, at opening, of the user's files that `images` maps.
        domains: the domain of each image; None: the data set has none.
    """

    images: Pixels
    labels: Labels
    stored_summary: SplitSummary | None = field(default=None, repr=False, compare=False)
    stamps: tuple[FileStamp, ...] = field(default=(), repr=False, compare=False)
    domains: Domains | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def summary(self) -> SplitSummary:
        """Hash and histogram of the split."""
        if self.stored_summary is not None:
            return self.stored_summary
        builder = SummaryBuilder(self.images.shape)
        for start in range(0, len(self), 10_000):
            builder.add(self.images[start : start + 10_000])
        return builder.finish(self.labels)

    @cached_property
    def sha256(self) -> str:
        """Hash of shape, pixels, labels and, if there are any, domains."""
        if self.domains is None:
            return self.summary.sha256
        return hashlib.sha256(self.summary.sha256.encode() + self.domains.content()).hexdigest()

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> ImageSet:
        """Return some of the images."""
        domains = None if self.domains is None else self.domains.take(index)
        return ImageSet(self.images[index], self.labels[index], domains=domains)

    @staticmethod
    def join(*parts: ImageSet) -> ImageSet:
        """Return the images of several splits in order."""
        domains = [part.domains for part in parts if part.domains is not None]
        return ImageSet(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.labels for part in parts]),
            stamps=tuple(stamp for part in parts for stamp in part.stamps),
            domains=Domains.join(*domains) if domains else None,
        )


def add_to_histogram(histogram: NDArray[np.int64], images: Pixels) -> None:
    """Add to `histogram` `[c, 256]` how often each channel of `images` `[b, c, h, w]` has each value."""
    step = max(1, HISTOGRAM_PIXELS // max(1, images[0, 0].size)) if len(images) else 1
    for start in range(0, len(images), step):
        for channel, counts in enumerate(histogram):
            counts += np.bincount(images[start : start + step, channel].ravel(), minlength=256)


def statistics_of(histogram: NDArray[np.int64]) -> Statistics:
    """Return the channels' statistics from how often each channel has each value, `[c, 256]`."""
    values = np.arange(256) / 255
    mean = histogram @ values / histogram.sum(1)
    variance = (histogram * (values - mean[:, None]) ** 2).sum(1) / histogram.sum(1)
    return mean, np.sqrt(variance)


@dataclass(frozen=True)
class Dataset:
    """A named data set with its two splits.

    Attributes:
        name: as suites name it.
        train: the full training set.
        test: the full test set.
        classes: class names, in label order.
        source: where it comes from, without paths of this machine: `scikit-learn`, `hub:uoft-cs/cifar10`,
            `parquet`, `folder`.
        revision: the commit on the hub, if it comes from there.
        shifted: further test sets of the same classes by name (`cifar10.1:v6`, `domain:photo`).
        notes: sentences on parts of the user's data that are not used.
    """

    name: str
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    source: str = "memory"
    revision: str | None = None
    shifted: Mapping[str, ImageSet] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise UserError(f"Data set {self.name} has one class; classification needs at least two.")
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
                found, expected = (" x ".join(map(str, s.images.shape[1:])) for s in (images, self.train))
                raise UserError(
                    f"Data set {self.name}, split {split}: images are {found}, those of the training set "
                    f"{expected}."
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, c, h, w = self.train.images.shape
        return c, h, w

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and standard deviation per channel of the training pixels scaled to 0..1, `[c]` each.

        Raises:
            UserError: if a channel is constant over all training images: its deviation is 0.
        """
        counts = self.train.summary.histogram
        flat = np.flatnonzero(np.count_nonzero(counts, axis=1) == 1)
        if len(flat):
            raise UserError(
                f"Data set {self.name}: channel {flat[0]} has the value {counts[flat[0]].argmax()} in every "
                "pixel of all training images. Remove this channel."
            )
        return statistics_of(counts)

    def check_unchanged(self) -> None:
        """Check that mapped files are unchanged: a mapping shows their present content.

        Raises:
            UserError: naming the first changed file.
        """
        for images in self.shifted.values():
            for stamp in images.stamps:
                if not stamp.is_current:
                    raise UserError(
                        f"{stamp.path} was changed since the run began. Run again when it is complete; "
                        "finished cells are kept."
                    )

    def identity(self) -> list[dict[str, Any]]:
        """Return the `data` field of a record: one entry per split."""
        origin: dict[str, Any] = {"name": self.name, "source": self.source}
        if self.revision is not None:
            origin["revision"] = self.revision
        splits = [(origin, "train", self.train), (origin, "test", self.test)]
        for name, images in self.shifted.items():
            own = origin if is_domain(name) else {"name": name.partition(":")[0], "source": ARRAYS}
            splits.append((own, f"{EVALUATION}{name}", images))
        return [
            {**of, "sha256": s.sha256, "split": split, "n": len(s)}
            | ({"largest_class": int(np.bincount(s.labels).max())} if split == "test" else {})
            | ({} if s.domains is None else {"domains": s.domains.counts})
            for of, split, s in splits
        ]


def mark_every_fifth(labels: Labels, domains: Domains | None = None) -> NDArray[np.bool_]:
    """Return True for every fifth image of each class in file order, `[n]`: the test split by default.

    With domains, it is every fifth of each class of each domain.
    """
    groups = strata(labels, domains)
    order = np.argsort(groups, kind="stable")
    _, first, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    rank = np.empty_like(groups)
    rank[order] = np.arange(len(groups)) - np.repeat(first, sizes)
    return np.asarray(rank % 5 == 4, dtype=np.bool_)


# --- without images ------------------------------------------------------------------------------


LONGEST = 200
"""Longest name of a domain, in characters; it is part of the names of splits in records."""


@dataclass(frozen=True)
class Listed:
    """A split without its images.

    Attributes:
        labels: `[n]`, 0 to classes - 1.
        classes: names of the classes, in order.
        domains: domains of the images; None: they have none.
    """

    labels: Labels
    classes: tuple[str, ...]
    domains: Domains | None = None

    def counts(self) -> dict[str, list[int]]:
        """Return for each domain its number of images of every class; without domains an empty table."""
        if self.domains is None:
            return {}
        table = np.zeros((len(self.domains.names), len(self.classes)), np.int64)
        np.add.at(table, (self.domains.codes, self.labels), 1)
        return dict(zip(self.domains.names, table.tolist(), strict=True))


def name_domains(texts: Sequence[str]) -> Domains:
    """Return the domains of images, given the name of each.

    Raises:
        UserError: for a name that is too long for records.
    """
    found = Domains.of([text.strip() for text in texts])
    for name in found.names:
        if not name or len(name) > LONGEST:
            raise UserError(
                f"The name of a domain must have 1 to {LONGEST} characters, found "
                f"{printable(repr(name), 60)}."
            )
    return found
