"""Batches: uint8 images on a device in, normalised floating ones out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmcbench.data.augment import augment, keyed_words
from lmcbench.data.dataset import Labels, Pixels
from lmcbench.data.streams import Stream

BLOCK = 64
"""Steps whose indices are worked out and sent to the device at once."""


class DeviceImages:
    """One uint8 copy of images and labels on a device, shared by every network that reads them."""

    def __init__(
        self,
        images: Pixels,
        labels: Labels,
        statistics: tuple[NDArray[np.float64], NDArray[np.float64]],
        device: torch.device,
    ) -> None:
        mean, std = (torch.as_tensor(s, dtype=torch.float64).view(-1, 1, 1) for s in statistics)
        self.pixels = torch.as_tensor(np.array(images)).to(device)
        self.labels = torch.as_tensor(np.array(labels)).to(device)
        self.scale = (1 / (255 * std)).float().to(device)
        self.offset = (-mean / std).float().to(device)

    def normalised(self, pixels: Tensor) -> Tensor:
        """uint8 pixels `[..., c, h, w]` as fp32, zero mean and unit variance per channel."""
        return pixels.float() * self.scale + self.offset

    def split(self, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Un-augmented images `[n, c, h, w]` fp32 and labels `[n]`: all, or those at `index` `[n]`."""
        if index is None:
            return self.normalised(self.pixels), self.labels
        index = index.to(self.pixels.device)
        return self.normalised(self.pixels[index]), self.labels[index]


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
            for at, chosen in zip(rows, index, strict=True):
                yield self._batch(streams, at, chosen)

    def _batch(
        self, streams: Sequence[Stream], at: Sequence[tuple[int, NDArray[np.int64]]], index: Tensor
    ) -> tuple[Tensor, Tensor]:
        pixels = self.pool.pixels[index]
        if self.augmentation:
            words = torch.cat(
                [
                    keyed_words(s.augment_seed, passed, torch.as_tensor(s.keys[rows]).to(index.device))
                    for s, (passed, rows) in zip(streams, at, strict=True)
                ]
            )
            pixels = augment(pixels.flatten(0, 1), words, self.augmentation).view_as(pixels)
        return self.pool.normalised(pixels), self.pool.labels[index]
