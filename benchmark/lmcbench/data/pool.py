"""One pool of images for a family: every distinct (image, view) item once, siblings index into it."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lmcbench.data.dataset import ImageSet, Labels, Pixels
from lmcbench.spec.shifts import Indices, View

Transform = Callable[[str, Pixels, Indices], Pixels]
"""(name, images `[n, c, h, w]`, their data set indices `[n]`) -> images of the same shape."""


@dataclass(frozen=True)
class Pool:
    """Distinct training items.

    Attributes:
        images: `[p, c, h, w]` uint8; the training set first, then what views change.
        image: the row of `images` that each item shows, `[m]`; items of other labels share theirs.
        labels: `[m]` int64.
        source: position of each item in the training set, `[m]`; keys its augmentation.
    """

    images: Pixels
    image: Indices
    labels: Labels
    source: Indices


def build_pool(
    train: ImageSet, shifts: Sequence[Sequence[View]], transform: Transform
) -> tuple[Pool, list[list[Indices]]]:
    """The pool that serves all `shifts` (views per shift), and each view as positions in it.

    Views that leave images and labels alone cost nothing, those that change labels alone no pixels, and
    equal changed views are stored once. Nothing is held twice while the pool is built.
    """
    everything = np.arange(len(train))
    image, labels, source = [everything], [train.labels], [everything]
    items = pixels = len(train)
    shown: dict[tuple[str, bytes], Indices] = {}
    stored: dict[tuple[str | None, bytes, bytes], Indices] = {}
    todo: list[tuple[str, Indices, slice]] = []
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
                rows = view.indices
                if view.transform is not None:
                    changed = (view.transform, view.indices.tobytes())
                    if changed not in shown:
                        part = slice(pixels, pixels + len(rows))
                        todo.append((view.transform, view.indices, part))
                        shown[changed] = np.arange(part.start, part.stop)
                        pixels = part.stop
                    rows = shown[changed]
                image.append(rows)
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
        for name, indices, part in todo:
            images[part] = transform(name, images[indices], indices)
    return Pool(images, *(np.concatenate(parts) for parts in (image, labels, source))), placed


def _let_go(images: Pixels) -> None:
    """Give back the memory of a mapped file that has been copied; it is read again if it is asked for."""
    mapped = getattr(images, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
