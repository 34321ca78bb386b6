"""Augmentation on the device: a function of (seed, pass, image), not of batch or order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DISPLACEMENTS = {"shift1": (1, "black"), "crop4": (4, "black"), "crop4-reflect": (4, "reflect")}
"""Largest displacement in pixels, and the border: black, or the image mirrored."""


def augment(images: Tensor, words: Tensor, names: Sequence[str]) -> Tensor:
    """Return `images` `[n, c, h, w]` uint8 augmented by `names`, with one random word `[n]` int64 each.

    `flip` mirrors half of the images left to right. `shift1` and `crop4` displace by up to 1 and 4 pixels
    in each direction with black borders (crop4 is the usual random crop of a padded CIFAR-10 image).
    `crop4-reflect` mirrors the image at its borders, which keeps its statistics (the cost of black borders
    is in suites/tuning/cifar10-jpeg.md).
    """
    for draw, name in enumerate(names):
        word = mix(words + draw)
        images = _flip(images, word) if name == "flip" else _displace(images, word, *DISPLACEMENTS[name])
    return images


def keyed_words(seed: int | Tensor, passed: int | Tensor, keys: Tensor) -> Tensor:
    """Return one int64 random word per key, a function of (seed, pass, key) that is equal on every device.

    Seeds and passes are numbers, or int64 tensors on the device of `keys` that broadcast with them.
    """
    if not isinstance(seed, Tensor):
        seed = torch.full((), seed, dtype=torch.int64, device=keys.device)  # no copy from the host
    return mix(mix(mix(seed) + passed) + keys.to(torch.int64))


def mix(x: Tensor) -> Tensor:
    """Scramble int64 words with the output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    x = x + -7046029254386353131  # 0x9E3779B97F4A7C15, wrapping
    x = (x ^ _shift(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right without sign; torch's shift keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _flip(images: Tensor, word: Tensor) -> Tensor:
    return torch.where(((word & 1) == 1)[:, None, None, None], images.flip(-1), images)


def _displace(images: Tensor, word: Tensor, reach: int, border: str) -> Tensor:
    n, _, h, w = images.shape
    choices = 2 * reach + 1
    down = _shift(word, 8) % choices - reach
    right = _shift(word, 40) % choices - reach
    rows = torch.arange(h, device=images.device) + down[:, None]
    columns = torch.arange(w, device=images.device) + right[:, None]
    image = torch.arange(n, device=images.device)[:, None, None]
    if border == "reflect":
        rows, columns = _mirror(rows, h), _mirror(columns, w)
    # [n, h, w, c]: advanced indices separated by a slice come first
    moved = images[image, :, rows.clamp(0, h - 1)[:, :, None], columns.clamp(0, w - 1)[:, None, :]]
    moved = moved.permute(0, 3, 1, 2)
    if border == "reflect":
        return moved
    inside = ((rows >= 0) & (rows < h))[:, None, :, None] & ((columns >= 0) & (columns < w))[:, None, None, :]
    return moved * inside


def _mirror(at: Tensor, size: int) -> Tensor:
    """Mirror positions outside of 0..size-1 at the first and last pixel, without repeating those."""
    return (size - 1) - ((size - 1) - at.abs()).abs()
