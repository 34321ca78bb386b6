"""The pool of a family: every distinct (image, view) item once; siblings index into it."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmcbench.data.dataset import (
    KEEP,
    ChannelFill,
    ImageSet,
    Labels,
    Pixels,
    Statistics,
    add_to_histogram,
    statistics_of,
)
from lmcbench.errors import UserError
from lmcbench.spec.shift_rules import Indices, View

Transform = Callable[[str, Pixels, Indices], Pixels]
"""(name, images `[n, c, h, w]`, their data set indices `[n]`) -> images of the same shape."""

FillOf = Callable[[str], ChannelFill | None]
"""Name of a transform -> the channels it replaces by constants, None if it changes pixels otherwise."""

BATCH = 5000
"""Images transformed at a time, which avoids a second copy of a whole view."""


@dataclass(frozen=True)
class Pool:
    """Distinct training items.

    Attributes:
        images: `[p, c, h, w]` uint8; the training set first, then transformed images.
        image: the row of `images` that each item shows, `[m]`. Items that differ in labels or replaced
            channels only share a row.
        fills: values that replace whole channels, `[f, c]`; the first row keeps every channel.
        fill: the row of `fills` for each item, `[m]`.
        labels: `[m]` int64.
        source: position of each item in the training set, `[m]`; keys its augmentation.
    """

    images: Pixels
    image: Indices
    fills: NDArray[np.int16]
    fill: Indices
    labels: Labels
    source: Indices


def build_pool(
    train: ImageSet, shifts: Sequence[Sequence[View]], transform: Transform, fill_of: FillOf
) -> tuple[Pool, list[list[Indices]]]:
    """Return the pool that serves all `shifts` (views per shift), and each view as positions in it.

    Only transformed images take memory, and equal ones are stored once: views without a transform, with
    other labels or with replaced channels refer to the training images.
    """
    everything = np.arange(len(train))
    image, labels, source = [everything], [train.labels], [everything]
    fills = [np.full(train.images.shape[1], KEEP, np.int16)]
    fill = [np.zeros(len(train), np.int64)]
    items = pixels = len(train)
    rows_of: dict[tuple[str, bytes], Indices] = {}
    items_of: dict[tuple[str | None, bytes, bytes], Indices] = {}
    pending: list[tuple[str, Indices, int]] = []
    placed: list[list[Indices]] = []
    for views in shifts:
        placed.append([])
        for view in views:
            if view.transform is None and view.labels is None:
                placed[-1].append(view.indices)
                continue
            given = train.labels[view.indices] if view.labels is None else view.labels
            key = (view.transform, view.indices.tobytes(), given.tobytes())
            if key not in items_of:
                rows, row = view.indices, 0
                values = None if view.transform is None else fill_of(view.transform)
                if values is not None:
                    row = len(fills)
                    fills.append(values)
                elif view.transform is not None:
                    transformed = (view.transform, view.indices.tobytes())
                    if transformed not in rows_of:
                        pending.append((view.transform, view.indices, pixels))
                        rows_of[transformed] = np.arange(pixels, pixels + len(rows))
                        pixels += len(rows)
                    rows = rows_of[transformed]
                image.append(rows)
                fill.append(np.full(len(rows), row))
                labels.append(given)
                source.append(view.indices)
                items_of[key] = np.arange(items, items + len(given))
                items += len(given)
            placed[-1].append(items_of[key])
    images = train.images
    if pending:
        images = np.empty((pixels, *train.images.shape[1:]), np.uint8)
        images[: len(train)] = train.images
        release_pages(train.images)
        for name, indices, first in pending:
            for start in range(0, len(indices), BATCH):
                some = indices[start : start + BATCH]
                place = slice(first + start, first + start + len(some))
                images[place] = transform(name, images[some], some)
    pool = Pool(
        images,
        np.concatenate(image),
        np.stack(fills),
        np.concatenate(fill),
        np.concatenate(labels),
        np.concatenate(source),
    )
    return pool, placed


def digest_shown(pool: Pool, items: Indices) -> str:
    """Return the sha256 of the pixels that `items` of the pool show, uint8 `[c, h, w]` in order."""
    text = hashlib.sha256()
    for pixels in _shown(pool, items):
        text.update(np.ascontiguousarray(pixels).data)
    return text.hexdigest()


def statistics_shown(pool: Pool, items: Indices) -> Statistics:
    """Return mean and standard deviation of each channel over what `items` of the pool show.

    Raises:
        UserError: if a channel is constant.
    """
    histogram = np.zeros((pool.images.shape[1], 256), np.int64)
    for pixels in _shown(pool, items):
        add_to_histogram(histogram, pixels)
    flat = np.flatnonzero(np.count_nonzero(histogram, axis=1) == 1)
    if len(flat):
        raise UserError(f"channel {flat[0]} is constant, so that it cannot be standardised")
    return statistics_of(histogram)


def _shown(pool: Pool, items: Indices) -> Iterator[Pixels]:
    """Yield the pixels that `items` show, batch by batch, `[b, c, h, w]`."""
    for start in range(0, len(items), BATCH):
        some = items[start : start + BATCH]
        pixels, values = pool.images[pool.image[some]], pool.fills[pool.fill[some]]
        for channel in np.flatnonzero((values != KEEP).any(axis=0)):
            replaced = values[:, channel] != KEEP
            pixels[replaced, channel] = values[replaced, channel].astype(np.uint8)[:, None, None]
        yield pixels


def release_pages(images: Pixels) -> None:
    """Release the memory of a mapped file that has been copied; later access reads the file again."""
    mapped = getattr(images, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
