"""One pool of images for a family: every distinct (image, view) item once, siblings index into it."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmcbench.data.dataset import SHOWN, Fill, ImageSet, Labels, Pixels
from lmcbench.spec.shift_rules import Indices, View

Transform = Callable[[str, Pixels, Indices], Pixels]
"""(name, images `[n, c, h, w]`, their data set indices `[n]`) -> images of the same shape."""

Filling = Callable[[str], Fill | None]
"""Name of a transform -> what it shows of each channel, where that is all it does."""

BATCH = 5000
"""Images transformed at a time: there is no second copy of a whole view while the pool is built."""


@dataclass(frozen=True)
class Pool:
    """Distinct training items.

    Attributes:
        images: `[p, c, h, w]` uint8; the training set first, then what views change.
        image: the row of `images` that each item shows, `[m]`; items of other labels share theirs, and so
            do items that show some channels only.
        fills: values that replace whole channels, `[f, c]`; the first row shows every channel.
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
    train: ImageSet, shifts: Sequence[Sequence[View]], transform: Transform, filling: Filling
) -> tuple[Pool, list[list[Indices]]]:
    """The pool that serves all `shifts` (views per shift), and each view as positions in it.

    Views that leave images and labels alone cost nothing, those that change labels or replace whole channels
    no pixels, and equal changed views are stored once. Nothing is held twice while the pool is built.
    """
    everything = np.arange(len(train))
    image, labels, source = [everything], [train.labels], [everything]
    fills = [np.full(train.images.shape[1], SHOWN, np.int16)]
    fill = [np.zeros(len(train), np.int64)]
    items = pixels = len(train)
    shown: dict[tuple[str, bytes], Indices] = {}
    stored: dict[tuple[str | None, bytes, bytes], Indices] = {}
    todo: list[tuple[str, Indices, int]] = []
    placed: list[list[Indices]] = []
    for views in shifts:
        placed.append([])
        for view in views:
            if view.transform is None and view.labels is None:
                placed[-1].append(view.indices)
                continue
            given = train.labels[view.indices] if view.labels is None else view.labels
            key = (view.transform, view.indices.tobytes(), given.tobytes())
            if key not in stored:
                rows, row = view.indices, 0
                values = None if view.transform is None else filling(view.transform)
                if values is not None:
                    row = len(fills)
                    fills.append(values)
                elif view.transform is not None:
                    changed = (view.transform, view.indices.tobytes())
                    if changed not in shown:
                        todo.append((view.transform, view.indices, pixels))
                        shown[changed] = np.arange(pixels, pixels + len(rows))
                        pixels += len(rows)
                    rows = shown[changed]
                image.append(rows)
                fill.append(np.full(len(rows), row))
                labels.append(given)
                source.append(view.indices)
                stored[key] = np.arange(items, items + len(given))
                items += len(given)
            placed[-1].append(stored[key])
    images = train.images
    if todo:
        images = np.empty((pixels, *train.images.shape[1:]), np.uint8)
        images[: len(train)] = train.images
        _let_go(train.images)
        for name, indices, first in todo:
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


def shown_digest(pool: Pool, items: Indices) -> str:
    """Sha256 of the pixels that `items` of the pool show, uint8 `[c, h, w]` one image after another."""
    text = hashlib.sha256()
    for start in range(0, len(items), BATCH):
        some = items[start : start + BATCH]
        pixels, values = pool.images[pool.image[some]], pool.fills[pool.fill[some]]
        for channel in np.flatnonzero((values != SHOWN).any(axis=0)):
            hidden = values[:, channel] != SHOWN
            pixels[hidden, channel] = values[hidden, channel].astype(np.uint8)[:, None, None]
        text.update(np.ascontiguousarray(pixels).data)
    return text.hexdigest()


def _let_go(images: Pixels) -> None:
    """Give back the memory of a mapped file that has been copied; it is read again if it is asked for."""
    mapped = getattr(images, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
