"""Augmentation on the device, keyed by what is augmented rather than by when."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SHIFTS = {"shift1": (1, "black"), "crop4": (4, "black"), "crop4-reflect": (4, "reflect")}
"""Largest displacement in pixels, and what moves in from outside: black, or the image mirrored there."""


def augment(images: Tensor, words: Tensor, names: Sequence[str]) -> Tensor:
    """`images` `[n, c, h, w]` uint8 under the augmentations `names`, one random word `[n]` int64 each.

    `flip` mirrors half of the images left to right; `shift1` and `crop4` displace by up to 1 and 4
    pixels both ways (crop4 is padding by 4 and cropping at random, the usual one on CIFAR-10), and show
    black borders; `crop4-reflect` mirrors the image there, so that its statistics are those of whole images
    (what black borders cost: suites/tuning/cifar10-jpeg.md).
    """
    for draw, name in enumerate(names):
        word = mix(words + draw)
        images = _flip(images, word) if name == "flip" else _displace(images, word, *SHIFTS[name])
    return images


def keyed_words(seed: int | Tensor, passed: int | Tensor, keys: Tensor) -> Tensor:
    """One random word per key, int64 in the shape of `keys`, a function of (seed, pass, key) on every device.

    Seeds and passes are numbers, or int64 tensors on the device of `keys` that broadcast with them.
    """
    if not isinstance(seed, Tensor):
        seed = torch.full((), seed, dtype=torch.int64, device=keys.device)  # filled there: nothing is copied
    return mix(mix(mix(seed) + passed) + keys.to(torch.int64))


def mix(x: Tensor) -> Tensor:
    """Scramble int64 words: the output function of SplitMix64 (Steele et al., OOPSLA 2014)."""
    x = x + -7046029254386353131  # 0x9E3779B97F4A7C15, wrapping
    x = (x ^ _shift(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _flip(images: Tensor, word: Tensor) -> Tensor:
    return torch.where(((word & 1) == 1)[:, None, None, None], images.flip(-1), images)


def _displace(images: Tensor, word: Tensor, reach: int, filling: str) -> Tensor:
    n, _, h, w = images.shape
    choices = 2 * reach + 1
    down = _shift(word, 8) % choices - reach
    right = _shift(word, 40) % choices - reach
    rows = torch.arange(h, device=images.device) + down[:, None]
    columns = torch.arange(w, device=images.device) + right[:, None]
    image = torch.arange(n, device=images.device)[:, None, None]
    if filling == "reflect":
        rows, columns = _mirrored(rows, h), _mirrored(columns, w)
    # [n, h, w, c]: advanced indices separated by a slice come first
    moved = images[image, :, rows.clamp(0, h - 1)[:, :, None], columns.clamp(0, w - 1)[:, None, :]]
    moved = moved.permute(0, 3, 1, 2)
    if filling == "reflect":
        return moved
    inside = ((rows >= 0) & (rows < h))[:, None, :, None] & ((columns >= 0) & (columns < w))[:, None, None, :]
    return moved * inside


def _mirrored(at: Tensor, size: int) -> Tensor:
    """Positions outside of 0..size-1 mirrored at the first and the last, which do not occur twice."""
    return (size - 1) - ((size - 1) - at.abs()).abs()
