"""Apply a transform by name: corruptions, rotations, translations, channels."""

from __future__ import annotations

import numpy as np

from lmcbench.data.corruptions import CORRUPT, corrupt
from lmcbench.data.dataset import KEEP, ChannelFill, Pixels
from lmcbench.data.resample import sample
from lmcbench.errors import UserError
from lmcbench.spec.evaluation_shifts import Transform, parse_transform
from lmcbench.spec.seeds import Floats, KeyedRandom
from lmcbench.spec.shift_rules import Indices

CHUNK = 1 << 21
"""Values transformed at a time: 16 MB in float64."""


def apply_transform(
    name: str, images: Pixels, indices: Indices, seed: int, mean: Floats | None = None
) -> Pixels:
    """Return `images` transformed by `name`.

    The result for an image depends on its pixels, its index and the seed only, so that any batching and
    order give the same bytes.

    Args:
        name: such as `gaussian_noise-3`, `rotate-15`, `translate-2`, `channels-0+2`.
        images: `[n, c, h, w]` uint8, at least 8 x 8; one or three channels for corruptions.
        indices: positions in the data set, `[n]`; they key the randomness.
        seed: the seed of the suite's transforms.
        mean: mean of each channel of the training set in 0..1, `[c]`, for `channels`.

    Returns:
        Images of the same shape, uint8.

    Raises:
        UserError: for an unknown name, or images that the transform is not defined for.
    """
    transformation = parse_transform(name)
    n, channels, h, w = images.shape
    if transformation.kind in CORRUPT and channels not in (1, 3):
        raise UserError(f"Transform {name} is defined for one or three channels, not for {channels}.")
    if min(h, w) < 8:
        raise UserError(f"Transform {name} needs images of at least 8 x 8 pixels, found {h} x {w}.")
    if transformation.kind == "translate" and int(transformation.amount) >= min(h, w):  # type: ignore[arg-type]
        raise UserError(f"Transform {name} leaves nothing of images of {h} x {w} pixels.")
    values = channel_fill(name, channels, mean)
    if values is not None:
        out = np.array(images)
        for channel in np.flatnonzero(values != KEEP):
            out[:, channel] = values[channel]
        return out
    size = max(1, CHUNK // (channels * h * w))
    out = np.empty(images.shape, np.uint8)
    for start in range(0, n, size):
        part = slice(start, start + size)
        x = images[part].astype(np.float64) / 255
        out[part] = np.rint(_transformed(x, transformation, indices[part], seed) * 255)
    return out


def _transformed(x: Floats, transformation: Transform, indices: Indices, seed: int) -> Floats:
    """Transform images in 0..1, `[n, c, h, w]`."""
    kind, amount = transformation.kind, transformation.amount
    if kind == "rotate" and not isinstance(amount, tuple):
        return _rotate(x, float(amount))
    if kind == "translate" and isinstance(amount, int):
        return _translate(x, amount)
    return corrupt(x, kind, int(amount), KeyedRandom(seed, kind, indices))  # type: ignore[arg-type]


def _rotate(x: Floats, degrees: float) -> Floats:
    """Rotate anti-clockwise about the middle, bilinear; edges are repeated, which avoids black corners."""
    h, w = x.shape[2:]
    down, right = np.arange(h)[:, None] - (h - 1) / 2, np.arange(w) - (w - 1) / 2
    sine, cosine = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    rows = (h - 1) / 2 + cosine * down + sine * right
    columns = (w - 1) / 2 - sine * down + cosine * right
    return sample(x, rows, columns)


def _translate(x: Floats, pixels: int) -> Floats:
    """Move right and down, edges repeated."""
    h, w = x.shape[2:]
    rows, columns = np.clip(np.arange(h) - pixels, 0, h - 1), np.clip(np.arange(w) - pixels, 0, w - 1)
    return x[:, :, rows[:, None], columns]


def channel_fill(name: str, channels: int, mean: Floats | None) -> ChannelFill | None:
    """Return the constants that a `channels` transform puts into channels, None for other transforms.

    Args:
        name: of a transform, such as `channels-0+2`.
        channels: number of channels of the images.
        mean: mean of each channel of the training set in 0..1, `[c]`.

    Returns:
        The value that replaces each channel, `[c]` int16, `KEEP` where the pixels are kept.

    Raises:
        UserError: for an unknown name, or a channel that the images do not have.
    """
    kept = parse_transform(name).amount
    if not isinstance(kept, tuple):
        return None
    if mean is None:
        raise UserError(f"Transform {name} needs the training mean of each channel.")
    if max(kept) >= channels:
        raise UserError(f"Transform {name}: the images have {channels} channels (0 to {channels - 1}).")
    values = np.rint(mean * 255).astype(np.int16)
    values[list(kept)] = KEEP
    return values
