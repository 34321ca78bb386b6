"""One pool of images for a family: every distinct (image, view) item once, siblings index into it."""

from __future__ import annotations

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
        images: `[m, c, h, w]` uint8; the training set first, then what views change.
        labels: `[m]` int64.
        source: position of each item in the training set, `[m]`; keys its augmentation.
    """

    images: Pixels
    labels: Labels
    source: Indices


def build_pool(
    train: ImageSet, shifts: Sequence[Sequence[View]], transform: Transform
) -> tuple[Pool, list[list[Indices]]]:
    """The pool that serves all `shifts` (views per shift), and each view as positions in it.

    Views that leave images and labels alone cost nothing; equal changed views are stored once.
    """
    images, labels, source = [train.images], [train.labels], [np.arange(len(train))]
    size = len(train)
    stored: dict[tuple[str | None, bytes, bytes], Indices] = {}
    placed: list[list[Indices]] = []
    for views in shifts:
        placed.append([])
        for view in views:
            if view.transform is None and view.labels is None:
                placed[-1].append(view.indices)
                continue
            shown = train.labels[view.indices] if view.labels is None else view.labels
            key = (view.transform, view.indices.tobytes(), shown.tobytes())
            if key not in stored:
                pixels = train.images[view.indices]
                if view.transform is not None:
                    pixels = transform(view.transform, pixels, view.indices)
                images.append(pixels)
                labels.append(shown)
                source.append(view.indices)
                stored[key] = np.arange(size, size + len(shown))
                size += len(shown)
            placed[-1].append(stored[key])
    if len(images) == 1:
        return Pool(train.images, train.labels, source[0]), placed
    return Pool(np.concatenate(images), np.concatenate(labels), np.concatenate(source)), placed
