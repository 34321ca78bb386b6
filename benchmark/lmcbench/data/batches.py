"""Training and evaluation batches: the order of items, and uint8 images turned into normalised fp32."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmcbench.data.augment import augment, keyed_words
from lmcbench.data.dataset import KEEP, Labels, Pixels, Statistics
from lmcbench.errors import UserError
from lmcbench.spec.seeds import random_words
from lmcbench.spec.shift_rules import Indices
from lmcbench.spec.shifts import Noise

BLOCK = 64
"""Steps whose indices are computed and sent to the device at once."""


@dataclass
class Stream:
    """The endless sequence of full batches of one network; each batch is a function of its step.

    A pass orders the view by one random word per key. Own noise keys by data set index, so a subset is
    passed in the order of the full set; shared noise keys by position in the view (docs/design.md,
    section 3.7). The tail of a pass that fills no batch is dropped.

    Attributes:
        items: positions in the pool, `[m]`.
        keys: keys of order and augmentation, `[m]`.
        statistics: channel statistics by which its images are standardised; None: the pool's.
    """

    items: Indices
    keys: Indices
    order_seed: int
    augment_seed: int
    batch_size: int
    statistics: Statistics | None = None
    _order: tuple[int, Indices] = field(default=(-1, np.empty(0, np.int64)), init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.items) < self.batch_size:
            raise UserError(f"A view of {len(self.items)} images holds no full batch of {self.batch_size}.")

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for two streams of one pool that give the same batches."""
        return (
            self.items.tobytes(),
            self.keys.tobytes(),
            self.order_seed,
            self.augment_seed,
            self.batch_size,
            None if self.statistics is None else tuple(s.tobytes() for s in self.statistics),
        )

    @property
    def steps_per_pass(self) -> int:
        """Full batches in one pass over the view."""
        return len(self.items) // self.batch_size

    def rows(self, step: int) -> tuple[int, Indices]:
        """Return the pass number and the rows of the view in batch `step`, `[B]`."""
        passed, position = divmod(step, self.steps_per_pass)
        start = position * self.batch_size
        return passed, self._pass_order(passed)[start : start + self.batch_size]

    def _pass_order(self, passed: int) -> Indices:
        if self._order[0] != passed:
            words = random_words(self.order_seed, passed, int(self.keys.max()) + 1)
            self._order = (passed, np.argsort(words[self.keys], kind="stable"))
        return self._order[1]


def make_stream(
    items: Indices,
    source: Indices,
    noise: Noise,
    order_seed: int,
    augment_seed: int,
    batch_size: int,
    nested: bool = False,
    statistics: Statistics | None = None,
) -> Stream:
    """Return the stream of a view: `items` of the pool, whose data set indices are `source[items]`.

    Shared noise is keyed by data set index between `nested` views, where one contains the other, and by
    position in the view otherwise.
    """
    by_position = noise == "shared" and not nested
    keys = np.arange(len(items)) if by_position else source[items]
    return Stream(items, keys, order_seed, augment_seed, batch_size, statistics)


class DeviceImages:
    """uint8 images and labels on a device, shared by all networks that read them.

    On a CPU the given arrays are used without a copy, memory-mapped ones too.

    Args:
        images: `[p, c, h, w]` uint8.
        labels: `[m]` int64, one per item.
        statistics: mean and standard deviation per channel of pixels in 0..1, `[c]` each.
        device: where they are stored.
        image: the row of `images` that each item shows, `[m]`; None: item i shows image i.
        fills: values that replace whole channels, `[f, c]` int16, `KEEP` where pixels are kept.
        fill: the row of `fills` for each item, `[m]`; None: all pixels are kept.
    """

    def __init__(
        self,
        images: Pixels,
        labels: Labels,
        statistics: Statistics,
        device: torch.device,
        image: Indices | None = None,
        fills: NDArray[np.int16] | None = None,
        fill: Indices | None = None,
    ) -> None:
        self.pixels = _as_tensor(images).to(device)
        self.labels = _as_tensor(labels).to(device)
        self.image = None if image is None else torch.as_tensor(image).to(device)
        # a pool whose views keep all channels needs no fills
        filled = fills is not None and fill is not None and bool((fills != KEEP).any())
        self.fills = torch.as_tensor(fills).to(device) if filled else None
        self.fill = torch.as_tensor(fill).to(device) if filled else None
        self.scale, self.offset = standardisation(statistics, device)

    def shown(self, items: Tensor) -> Tensor:
        """Return the uint8 pixels of `items` `[...]`, `[..., c, h, w]`."""
        pixels = self.pixels[items if self.image is None else self.image[items]]
        if self.fills is None or self.fill is None:
            return pixels
        values = self.fills[self.fill[items]][..., None, None]
        return torch.where(values == KEEP, pixels, values.to(torch.uint8))

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return uint8 pixels `[..., c, h, w]` as fp32 with zero mean and unit variance per channel."""
        return pixels.float() * self.scale + self.offset

    def split(self, items: Tensor | None = None) -> tuple[NormalisedImages, Tensor]:
        """Return un-augmented images and labels `[n]` of all items, or of `items` `[n]`."""
        index = torch.arange(len(self.labels)) if items is None else items
        index = index.to(self.pixels.device)
        return NormalisedImages(self, index), self.labels[index]


class NormalisedImages:
    """Images normalised batch by batch: a whole split in fp32 takes four times its uint8 memory.

    Args:
        pool: the pixels.
        items: positions in the pool, `[n]`.
        statistics: channel statistics by which pixels are standardised; None: the pool's.
    """

    def __init__(self, pool: DeviceImages, items: Tensor, statistics: Statistics | None = None) -> None:
        self.pool = pool
        self.items = items
        own = None if statistics is None else standardisation(statistics, pool.pixels.device)
        self.scale, self.offset = (pool.scale, pool.offset) if own is None else own

    def __len__(self) -> int:
        return len(self.items)

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield batches of `size` in order, `[b, c, h, w]` fp32; the last one may be smaller."""
        for items in torch.split(self.items, size):
            yield self._normalised(items)

    def whole(self) -> Tensor:
        """Return all images, `[n, c, h, w]` fp32."""
        return self._normalised(self.items)

    def standardised(self, statistics: Statistics) -> NormalisedImages:
        """Return the same images, standardised by other channel statistics."""
        return NormalisedImages(self.pool, self.items, statistics)

    def _normalised(self, items: Tensor) -> Tensor:
        return self.pool.shown(items).float() * self.scale + self.offset


def standardisation(statistics: Statistics, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return scale and offset for uint8 pixels, `[c, 1, 1]` fp32 each."""
    mean, std = (torch.as_tensor(s, dtype=torch.float64).view(-1, 1, 1) for s in statistics)
    return (1 / (255 * std)).float().to(device), (-mean / std).float().to(device)


def _as_tensor(array: NDArray[Any]) -> Tensor:
    """Return a tensor that shares the array's memory; images and labels are never written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(array))


class Feed:
    """The training batches of a fleet: each member has its own stream over one pool."""

    def __init__(self, pool: DeviceImages, streams: Sequence[Stream], augmentation: Sequence[str]) -> None:
        self.pool = pool
        self.streams = streams
        self.augmentation = augmentation
        # scale and offset of each stream, `[N, 1, c, 1, 1]`, if any has statistics of its own
        self.own: tuple[Tensor, Tensor] | None = None
        if any(stream.statistics is not None for stream in streams):
            each = [
                (pool.scale, pool.offset)
                if stream.statistics is None
                else standardisation(stream.statistics, pool.pixels.device)
                for stream in streams
            ]
            self.own = torch.stack([s for s, _ in each])[:, None], torch.stack([o for _, o in each])[:, None]

    def __call__(self, members: Sequence[int], start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of steps start..stop-1: images `[N, B, c, h, w]` fp32 and labels `[N, B]`."""
        streams = [self.streams[m] for m in members]
        for first in range(start, stop, BLOCK):
            steps = range(first, min(first + BLOCK, stop))
            rows = [[s.rows(step) for s in streams] for step in steps]
            items = np.stack([[s.items[r] for s, (_, r) in zip(streams, at, strict=True)] for at in rows])
            index = torch.as_tensor(items).to(self.pool.pixels.device)
            words = self._words(streams, rows) if self.augmentation else [None] * len(rows)
            for chosen, drawn in zip(index, words, strict=True):
                yield self._batch(members, chosen, drawn)

    def _words(self, streams: Sequence[Stream], rows: Sequence[Sequence[tuple[int, Indices]]]) -> Tensor:
        """Return the random words of a block's images, `[steps, N, B]`.

        All at once: a copy to the device per member would delay every step.
        """
        device = self.pool.pixels.device
        keys = np.stack([[s.keys[r] for s, (_, r) in zip(streams, at, strict=True)] for at in rows])
        passes = np.array([[passed for passed, _ in at] for at in rows])
        seeds = np.array([s.augment_seed for s in streams], dtype=np.int64)
        seed, passed, key = (torch.as_tensor(a).to(device) for a in (seeds, passes, keys))
        return keyed_words(seed[:, None], passed[..., None], key)

    def _batch(self, members: Sequence[int], index: Tensor, words: Tensor | None) -> tuple[Tensor, Tensor]:
        pixels = self.pool.shown(index)
        if words is not None:
            pixels = augment(pixels.flatten(0, 1), words.flatten(), self.augmentation).view_as(pixels)
        labels = self.pool.labels[index]
        if self.own is None:
            return self.pool.normalised(pixels), labels
        scale, offset = (values[list(members)] for values in self.own)
        return pixels.float() * scale + offset, labels
