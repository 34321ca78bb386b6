"""Batches: uint8 images on a device in, normalised floating ones out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmcbench.data.augment import augment, keyed_words
from lmcbench.data.dataset import SHOWN, Labels, Pixels
from lmcbench.data.streams import Stream
from lmcbench.spec.shift_rules import Indices

BLOCK = 64
"""Steps whose indices are worked out and sent to the device at once."""


class DeviceImages:
    """uint8 images and labels on a device, shared by every network that reads them.

    On a CPU the arrays given are used as they are, memory-mapped ones too: nothing is copied.

    Args:
        images: `[p, c, h, w]` uint8.
        labels: `[m]` int64, one an item.
        statistics: mean and standard deviation per channel of pixels in 0..1, `[c]` each.
        device: where they go.
        image: the row of `images` that each item shows, `[m]`; None: item i shows image i.
        fills: values that replace whole channels, `[f, c]` int16, `SHOWN` where the pixels are shown.
        fill: the row of `fills` for each item, `[m]`; None: all pixels are shown.
    """

    def __init__(
        self,
        images: Pixels,
        labels: Labels,
        statistics: tuple[NDArray[np.float64], NDArray[np.float64]],
        device: torch.device,
        image: Indices | None = None,
        fills: NDArray[np.int16] | None = None,
        fill: Indices | None = None,
    ) -> None:
        mean, std = (torch.as_tensor(s, dtype=torch.float64).view(-1, 1, 1) for s in statistics)
        self.pixels = _tensor(images).to(device)
        self.labels = _tensor(labels).to(device)
        self.image = None if image is None else torch.as_tensor(image).to(device)
        # nothing to do in a pool whose views all show every channel
        filled = fills is not None and fill is not None and bool((fills != SHOWN).any())
        self.fills = torch.as_tensor(fills).to(device) if filled else None
        self.fill = torch.as_tensor(fill).to(device) if filled else None
        self.scale = (1 / (255 * std)).float().to(device)
        self.offset = (-mean / std).float().to(device)

    def shown(self, items: Tensor) -> Tensor:
        """The uint8 pixels of `items` `[...]`, `[..., c, h, w]`."""
        pixels = self.pixels[items if self.image is None else self.image[items]]
        if self.fills is None or self.fill is None:
            return pixels
        values = self.fills[self.fill[items]][..., None, None]
        return torch.where(values == SHOWN, pixels, values.to(torch.uint8))

    def normalised(self, pixels: Tensor) -> Tensor:
        """uint8 pixels `[..., c, h, w]` as fp32, zero mean and unit variance per channel."""
        return pixels.float() * self.scale + self.offset

    def split(self, items: Tensor | None = None) -> tuple[Normalised, Tensor]:
        """Un-augmented images and labels `[n]`: all, or those of `items` `[n]`."""
        index = torch.arange(len(self.labels)) if items is None else items
        index = index.to(self.pixels.device)
        return Normalised(self, index), self.labels[index]


class Normalised:
    """Images that become floating batch by batch: a whole split of them would be four times its pixels."""

    def __init__(self, pool: DeviceImages, items: Tensor) -> None:
        self.pool = pool
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def split(self, size: int) -> Iterator[Tensor]:
        """Batches of `size` in order, `[b, c, h, w]` fp32, the last as large as what is left."""
        for items in torch.split(self.items, size):
            yield self.pool.normalised(self.pool.shown(items))

    def whole(self) -> Tensor:
        """All at once, `[n, c, h, w]` fp32."""
        return self.pool.normalised(self.pool.shown(self.items))


def _tensor(array: NDArray[Any]) -> Tensor:
    """The array's memory as a tensor. Nobody writes to it: images and labels are only indexed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(array))


class Feed:
    """The training batches of a fleet: each member's own stream over one pool."""

    def __init__(self, pool: DeviceImages, streams: Sequence[Stream], augmentation: Sequence[str]) -> None:
        self.pool = pool
        self.streams = streams
        self.augmentation = augmentation

    def __call__(self, members: Sequence[int], start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of steps start..stop-1: images `[N, B, c, h, w]` fp32 and labels `[N, B]`."""
        streams = [self.streams[m] for m in members]
        for first in range(start, stop, BLOCK):
            steps = range(first, min(first + BLOCK, stop))
            rows = [[s.rows(step) for s in streams] for step in steps]
            items = np.stack([[s.items[r] for s, (_, r) in zip(streams, at, strict=True)] for at in rows])
            index = torch.as_tensor(items).to(self.pool.pixels.device)
            words = self._words(streams, rows) if self.augmentation else [None] * len(rows)
            for chosen, drawn in zip(index, words, strict=True):
                yield self._batch(chosen, drawn)

    def _words(self, streams: Sequence[Stream], rows: Sequence[Sequence[tuple[int, Indices]]]) -> Tensor:
        """The random words of a block's images, `[steps, N, B]`.

        Drawn at once: member by member each step would wait for copies to the device.
        """
        device = self.pool.pixels.device
        keys = np.stack([[s.keys[r] for s, (_, r) in zip(streams, at, strict=True)] for at in rows])
        passes = np.array([[passed for passed, _ in at] for at in rows])
        seeds = np.array([s.augment_seed for s in streams], dtype=np.int64)
        seed, passed, key = (torch.as_tensor(a).to(device) for a in (seeds, passes, keys))
        return keyed_words(seed[:, None], passed[..., None], key)

    def _batch(self, index: Tensor, words: Tensor | None) -> tuple[Tensor, Tensor]:
        pixels = self.pool.shown(index)
        if words is not None:
            pixels = augment(pixels.flatten(0, 1), words.flatten(), self.augmentation).view_as(pixels)
        return self.pool.normalised(pixels), self.pool.labels[index]
