"""The corruptions of Hendrycks and Dietterich (2019, arXiv 1903.12261) with the constants of CIFAR-10-C.

Constants are those of `make_cifar_c.py` in the authors' repository, made for 32 pixels. Lengths in
pixels scale with larger images and stay constant for smaller ones. Pixels are rounded to whole levels, not
truncated. Compared with the authors' generator on 60 photographs (2026-11-21): brightness, contrast,
Gaussian, defocus and zoom blur differ by at most one level of 255; pixelate and JPEG are equal; noise, glass
blur and elastic transform agree in mean distance to the clean image. Snow and motion blur follow the
definition of ImageMagick, which they need, and were not compared.

NumPy, SciPy and Pillow compute them on the CPU, so that runs on CUDA and on a CPU see equal bytes. Between
machines, versions of these libraries may round a pixel on the edge between two levels differently.

Of the generator's 19 corruptions, frost is omitted because it needs photographs that may not be distributed,
spatter and saturate because they are defined for colour images only.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from lmcbench.data import resample
from lmcbench.spec.seeds import Floats, KeyedRandom

Corruption = Callable[[Floats, Any, KeyedRandom, float], Floats]
"""(images `[n, c, h, w]` in 0..1, constant, random numbers, scale of lengths) -> images, then clipped."""

CONSTANTS: dict[str, tuple[Any, Any, Any, Any, Any]] = {
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "elastic_transform": (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    ),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "jpeg_compression": (80, 65, 58, 50, 40),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "shot_noise": (500, 250, 100, 75, 50),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),
    "zoom_blur": (1.06, 1.11, 1.16, 1.21, 1.26),
}
"""Corruption -> its constant at severities 1 to 5; for zoom blur, the end of the range of factors."""


def corrupt(images: Floats, kind: str, severity: int, rng: KeyedRandom) -> Floats:
    """Corrupt `images` `[n, c, h, w]` in 0..1, with one or three channels; the result is in 0..1."""
    scale = max(1.0, min(images.shape[2:]) / 32)
    return np.clip(CORRUPT[kind](images, CONSTANTS[kind][severity - 1], rng, scale), 0, 1)


# --- noise ---------------------------------------------------------------------------------------


def _gaussian_noise(x: Floats, c: float, rng: KeyedRandom, scale: float) -> Floats:
    return x + c * rng.normal("noise", *x.shape[1:])


def _speckle_noise(x: Floats, c: float, rng: KeyedRandom, scale: float) -> Floats:
    return x + x * c * rng.normal("noise", *x.shape[1:])


def _impulse_noise(x: Floats, c: float, rng: KeyedRandom, scale: float) -> Floats:
    """Set a share c of all values to black or white, half each."""
    hit, white = rng.uniform("hit", *x.shape[1:]), rng.uniform("white", *x.shape[1:])
    return np.where(hit < c, (white < 0.5).astype(np.float64), x)


def _shot_noise(x: Floats, c: float, rng: KeyedRandom, scale: float) -> Floats:
    """Draw Poisson counts of mean c x, divided by c, by inversion in one table for all 256 levels."""
    from scipy.special import pdtr  # half a second, which few commands need

    counts = np.arange(int(c + 10 * np.sqrt(c)) + 10)
    level = np.rint(x * 255).astype(np.int64)
    distribution = pdtr(counts, np.arange(256)[:, None] / 255 * c)
    # row v of the table is shifted by v, which makes all rows one sorted list
    table = (distribution + np.arange(256)[:, None]).ravel()
    found = np.searchsorted(table, rng.uniform("noise", *x.shape[1:]) + level)
    return np.asarray(np.minimum(found - level * len(counts), len(counts) - 1) / c)


# --- blur ----------------------------------------------------------------------------------------


def _gaussian_blur(x: Floats, c: float, rng: KeyedRandom, scale: float) -> Floats:
    return resample.gaussian_blur(x, c * scale)


def _defocus_blur(x: Floats, c: tuple[float, float], rng: KeyedRandom, scale: float) -> Floats:
    radius, alias = c
    return resample.disk_blur(x, radius * scale, alias)


def _motion_blur(x: Floats, c: tuple[float, float], rng: KeyedRandom, scale: float) -> Floats:
    radius, sigma = c
    angle = 90 * rng.uniform("angle") - 45
    return resample.motion_blur(x, radius * scale, sigma * scale, angle)


def _zoom_blur(x: Floats, c: float, rng: KeyedRandom, scale: float) -> Floats:
    """Average over factors in steps of 0.01 up to about c, and the image itself once more."""
    # as in the generator: rounding decides if c itself is included
    factors = np.arange(1, c, 0.01)
    total = x.copy()
    for factor in factors:
        total += resample.zoom(x, float(factor))
    return total / (len(factors) + 1)


def _glass_blur(x: Floats, c: tuple[float, int, int], rng: KeyedRandom, scale: float) -> Floats:
    """Replace each pixel by a near one, with a Gaussian blur before and after.

    The generator's code is a swap, but NumPy's views make it this copy on colour images, so CIFAR-10-C
    has copies. Near is from -reach to reach - 1.
    """
    sigma, reach, rounds = c[0] * scale, round(c[1] * scale), c[2]
    h, w = x.shape[2:]
    x = resample.gaussian_blur(x, sigma)
    rows, columns = np.mgrid[:h, :w]
    inside = (rows > reach) & (rows <= h - reach) & (columns > reach) & (columns <= w - reach)
    for turn in range(rounds):
        moves = np.floor(rng.uniform(f"moves {turn}", 2, h, w) * 2 * reach) - reach
        moves = moves.astype(np.int64) * inside
        x = resample.gather(x, rows + moves[:, 0], columns + moves[:, 1])
    return resample.gaussian_blur(x, sigma)


def _elastic_transform(x: Floats, c: tuple[float, float, float], rng: KeyedRandom, scale: float) -> Floats:
    """Apply a random affine map of three points, then smooth displacements; lengths in image sizes."""
    n, _, h, w = x.shape
    strength, sigma, jitter = (value * min(h, w) for value in c)
    middle, arm = np.array([w // 2, h // 2]), min(h, w) // 3
    points = np.stack([middle + arm, middle + np.array([arm, -arm]), middle - arm]).astype(np.float64)
    moved = points + jitter * (2 * rng.uniform("affine", 3, 2) - 1)
    # the origin of each output pixel: the affine map from the moved points to the points
    back = points.T @ np.linalg.inv(np.concatenate([moved, np.ones((n, 3, 1))], axis=2).transpose(0, 2, 1))
    down, right = np.mgrid[:h, :w].astype(np.float64)
    grid = np.stack([right, down, np.ones_like(right)])
    columns, rows = np.tensordot(back, grid, axes=(2, 0)).transpose(1, 0, 2, 3)
    x = resample.sample(x, resample.mirror(rows, h), resample.mirror(columns, w))
    if strength == 0:
        return x
    shifts = resample.smooth(2 * rng.uniform("displacements", 2, h, w) - 1, sigma) * strength
    rows, columns = down + shifts[:, 0], right + shifts[:, 1]
    return resample.sample(x, resample.mirror(rows, h), resample.mirror(columns, w))


# --- weather -------------------------------------------------------------------------------------


def _fog(x: Floats, c: tuple[float, float], rng: KeyedRandom, scale: float) -> Floats:
    """Add a fractal of strength c, then scale the brightest value to what it was."""
    strength, decay = c
    h, w = x.shape[2:]
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    layer = _plasma(rng, max(h, w), decay)[:, None, :h, :w]
    return np.asarray((x + strength * layer) * brightest / (brightest + strength))


def _plasma(rng: KeyedRandom, size: int, decay: float) -> Floats:
    """Return diamond-square height maps in 0..1 on a torus, `[n, m, m]`, m the next power of 2 of `size`."""
    m = 1 << (size - 1).bit_length()
    n = len(rng.indices)
    height = np.zeros((n, m, m))
    step, wibble = m, 100.0
    while step >= 2:
        half, points = step // 2, m // step
        noise = (2 * rng.uniform(f"plasma {step}", 3, points, points) - 1) * wibble**2
        corners = height[:, ::step, ::step]
        squares = corners + np.roll(corners, -1, 1)
        squares = (squares + np.roll(squares, -1, 2)) / 4 + noise[:, 0]
        height[:, half::step, half::step] = squares
        beside = squares + np.roll(squares, 1, 1) + corners + np.roll(corners, -1, 2)
        above = squares + np.roll(squares, 1, 2) + corners + np.roll(corners, -1, 1)
        height[:, ::step, half::step] = beside / 4 + noise[:, 1]
        height[:, half::step, ::step] = above / 4 + noise[:, 2]
        step, wibble = half, wibble / decay
    height -= height.min(axis=(1, 2), keepdims=True)
    return np.asarray(height / height.max(axis=(1, 2), keepdims=True))


def _snow(x: Floats, c: tuple[float, ...], rng: KeyedRandom, scale: float) -> Floats:
    """Add flakes twice: noise above a threshold, enlarged and blurred along a line."""
    mean, spread, factor, threshold, radius, sigma, kept = c
    flakes = resample.zoom(mean + spread * rng.normal("flakes", 1, *x.shape[2:]), factor)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    angle = -135 + 90 * rng.uniform("angle")
    # the length of a streak scales with small images too
    fall = min(x.shape[2:]) / 32
    flakes = resample.motion_blur(flakes, radius * fall, sigma * fall, angle)
    # ITU-R BT.601 luma, as OpenCV's grey
    luma = np.array([0.299, 0.587, 0.114]) if x.shape[1] == 3 else np.ones(1)
    grey = np.tensordot(x, luma, axes=(1, 0))[:, None]
    whitened = kept * x + (1 - kept) * np.maximum(x, grey * 1.5 + 0.5)
    return np.asarray(whitened + flakes + flakes[:, :, ::-1, ::-1])


# --- digital -------------------------------------------------------------------------------------


def _brightness(x: Floats, c: float, rng: KeyedRandom, scale: float) -> Floats:
    """Add c to the HSV value at equal hue and saturation, which scales all channels alike."""
    value = x.max(axis=1, keepdims=True)
    raised = np.clip(value + c, 0, 1)
    return np.asarray(np.where(value > 0, x * raised / np.where(value > 0, value, 1), raised))


def _contrast(x: Floats, c: float, rng: KeyedRandom, scale: float) -> Floats:
    means = x.mean(axis=(2, 3), keepdims=True)
    return np.asarray((x - means) * c + means)


def _jpeg_compression(x: Floats, c: int, rng: KeyedRandom, scale: float) -> Floats:
    def encoded(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=c)
        return Image.open(file)

    return _by_image(x, encoded)


def _pixelate(x: Floats, c: float, rng: KeyedRandom, scale: float) -> Floats:
    """Shrink to the share c of the size and back, with box filters.

    Below 16 pixels there are too few whole sizes to order severities; boxes of 1/c pixels are used there.
    """

    def shrunk(image: Image.Image) -> Image.Image:
        w, h = image.size
        small = image.resize((int(w * c), int(h * c)), Image.Resampling.BOX)
        return small.resize((w, h), Image.Resampling.BOX)

    if min(x.shape[2:]) >= 16:
        return _by_image(x, shrunk)
    return np.asarray(_boxes(x.shape[2], 1 / c) @ x @ _boxes(x.shape[3], 1 / c).T)


def _boxes(size: int, length: float) -> Floats:
    """Return the weights of input pixels after averaging over boxes of `length`, `[size, size]`."""
    pixel, count = np.arange(size), int(np.ceil(size / length))
    box = np.arange(count)[:, None] * length - (count * length - size) / 2
    shared = np.clip(np.minimum(pixel + 1, box + length) - np.maximum(pixel, box), 0, None)
    return np.asarray(shared.T @ (shared / shared.sum(axis=1, keepdims=True)))


def _by_image(x: Floats, change: Callable[[Image.Image], Image.Image]) -> Floats:
    """Apply `change` to each image in Pillow's form."""
    levels = np.rint(x * 255).astype(np.uint8)
    grey = x.shape[1] == 1
    shown = levels[:, 0] if grey else np.ascontiguousarray(levels.transpose(0, 2, 3, 1))
    out = np.stack([np.asarray(change(Image.fromarray(image))) for image in shown])
    return (out[:, None] if grey else out.transpose(0, 3, 1, 2)) / 255


CORRUPT: dict[str, Corruption] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "defocus_blur": _defocus_blur,
    "elastic_transform": _elastic_transform,
    "fog": _fog,
    "gaussian_blur": _gaussian_blur,
    "gaussian_noise": _gaussian_noise,
    "glass_blur": _glass_blur,
    "impulse_noise": _impulse_noise,
    "jpeg_compression": _jpeg_compression,
    "motion_blur": _motion_blur,
    "pixelate": _pixelate,
    "shot_noise": _shot_noise,
    "snow": _snow,
    "speckle_noise": _speckle_noise,
    "zoom_blur": _zoom_blur,
}
