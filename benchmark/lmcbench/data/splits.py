"""One split from its files: from the cache where it is, else decoded into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lmcbench.data.cache import CachedSplit, file_hashes, read_split, write_split
from lmcbench.data.dataset import Labels
from lmcbench.data.decode import RULES, Item, decoded
from lmcbench.errors import UserError
from lmcbench.spec.canonical import digest


class Reader(Protocol):
    """What knows how to read the files of a split; nothing is opened before it is asked for."""

    @property
    def files(self) -> Sequence[Path]:
        """The files the split is made of, in order; their content is its identity."""

    def settings(self) -> dict[str, Any]:
        """What else decides which images and labels come out."""

    def load(self, classes: int | None) -> tuple[int, tuple[str, ...], Iterator[list[Item]]]:
        """How many images there are, the names of the classes, and the images in batches.

        `classes` is their number where it is known; labels out of range are refused.
        """


def open_split(
    reader: Reader,
    title: str,
    channels: int | None = None,
    classes: int | None = None,
    lossless: bool = False,
) -> CachedSplit:
    """The split that `reader` reads, decoded at most once for each content.

    Args:
        reader: parquet files or an image folder.
        title: what the progress bar says.
        channels: 1 or 3; None takes what the first image has.
        classes: how many there must be; None takes what the files say.
        lossless: refuse JPEG images.

    Raises:
        UserError: naming file and row of what cannot be read; the cache then holds nothing of it.
    """
    hashes = file_hashes(reader.files)
    asked = {"channels": channels, "classes": classes, "lossless": lossless, **reader.settings()}
    key = digest({"files": hashes, "rules": RULES, **asked})
    cached = read_split(key)
    if cached is not None:
        return cached
    n, names, batches = reader.load(classes)
    if n == 0:
        raise UserError(f"{title}: there are no images for it in {', '.join(map(str, reader.files[:3]))}.")
    write_split(key, n, decoded(batches, n, channels, lossless, title), names, {"settings": asked})
    stored = read_split(key)
    if stored is None:
        raise UserError(f"{title}: the cache was changed while it was written. Run again.")
    return stored


def every_fifth(labels: Labels) -> NDArray[np.bool_]:
    """True for every fifth image of each class in file order, `[n]`: a test split where none is given."""
    rank = np.empty_like(labels)
    for c in np.unique(labels):
        rank[labels == c] = np.arange((labels == c).sum())
    return np.asarray(rank % 5 == 4, dtype=np.bool_)
