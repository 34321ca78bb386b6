"""Filters and interpolation on batches of images, `[n, c, h, w]` float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lmcbench.spec.seeds import Floats


def gaussian_blur(x: Floats, sigma: float) -> Floats:
    """Blur with a Gaussian of `sigma` pixels, cut at 4 sigma, edges repeated (skimage's defaults)."""
    from scipy import ndimage  # imported here and below: it takes longer than most corruptions

    blurred = ndimage.gaussian_filter(x, (0, 0, sigma, sigma), mode="nearest", truncate=4.0)
    return np.asarray(blurred, dtype=np.float64)


def disk_blur(x: Floats, radius: float, alias: float) -> Floats:
    """Correlate with a disk of `radius` pixels, smoothed by a Gaussian of `alias`; edges mirrored."""
    from scipy import signal

    reach = int(np.ceil(radius))
    line = np.arange(-reach, reach + 1)
    disk = (line[:, None] ** 2 + line**2 <= radius**2).astype(np.float64)
    # the generator's OpenCV kernels: 3 x 3 up to a radius of 8 pixels, 5 x 5 above
    soft = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    gauss = np.exp(-(soft**2) / (2 * alias**2))
    kernel = signal.convolve2d(disk / disk.sum(), np.outer(gauss, gauss) / gauss.sum() ** 2)
    pad = len(kernel) // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="reflect")
    if pad <= 3:
        h, w = x.shape[2:]
        taps = ((i, j) for i in range(len(kernel)) for j in range(len(kernel)))
        return np.asarray(sum(kernel[i, j] * padded[:, :, i : i + h, j : j + w] for i, j in taps))
    return np.asarray(signal.oaconvolve(padded, kernel[None, None], mode="valid", axes=(2, 3)))


def motion_blur(x: Floats, radius: float, sigma: float, degrees: Floats) -> Floats:
    """Blur with a one-sided Gaussian along a line at `degrees` `[n]`, edges repeated.

    As in ImageMagick's MotionBlurImage: 2 ceil(radius) + 1 taps, offsets rounded to whole pixels.
    """
    h, w = x.shape[2:]
    steps = np.arange(2 * int(np.ceil(radius)) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    angle = np.deg2rad(degrees)[:, None]
    right = np.ceil(steps * np.cos(angle) - 0.5).astype(np.int64)
    down = np.ceil(steps * np.sin(angle) - 0.5).astype(np.int64)
    out = np.zeros_like(x)
    for i in steps[weights > 1e-6]:
        rows = np.clip(np.arange(h) + down[:, i, None], 0, h - 1)[:, :, None]
        columns = np.clip(np.arange(w) + right[:, i, None], 0, w - 1)[:, None, :]
        out += weights[i] * gather(x, rows, columns)
    return out


def zoom(x: Floats, factor: float) -> Floats:
    """Magnify the middle of the images by `factor`, bilinear."""
    h, w = x.shape[2:]
    return np.asarray(_zoom_weights(h, factor) @ x @ _zoom_weights(w, factor).T)


def _zoom_weights(size: int, factor: float) -> Floats:
    """Return the bilinear weights of input pixels for each output pixel, `[size, size]`.

    The generator crops whole pixels, enlarges the rest and crops again. This moves the image by up to a
    pixel and leaves small images as they are, so below 16 pixels the grid is continuous about the middle.
    """
    place = np.arange(size)
    if size < 16:
        at = (size - 1) / 2 + (place - (size - 1) / 2) / factor
    else:
        cut = int(np.ceil(size / factor))
        enlarged = round(cut * factor)
        at = (size - cut) // 2 + (place + (enlarged - size) // 2) * (cut - 1) / (enlarged - 1)
    return np.asarray(np.clip(1 - np.abs(at[:, None] - place), 0, None))


def smooth(fields: Floats, sigma: float) -> Floats:
    """Smooth displacement fields `[n, k, h, w]` with a Gaussian of `sigma` pixels, cut at 3 sigma."""
    from scipy import ndimage

    smoothed = ndimage.gaussian_filter(fields, (0, 0, sigma, sigma), mode="reflect", truncate=3.0)
    return np.asarray(smoothed, dtype=np.float64)


def mirror(at: Floats, size: int) -> Floats:
    """Mirror coordinates into 0..size - 1 at the centres of the outer pixels."""
    period = 2.0 * (size - 1)
    folded = np.abs(at) % period
    return np.asarray(np.minimum(folded, period - folded))


def sample(x: Floats, rows: Floats, columns: Floats) -> Floats:
    """Sample the images at points in pixels, `[h, w]` or `[n, h, w]`; bilinear, edges repeated."""
    h, w = x.shape[2:]
    rows, columns = np.clip(rows, 0, h - 1), np.clip(columns, 0, w - 1)
    top, left = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    bottom, beyond = np.minimum(top + 1, h - 1), np.minimum(left + 1, w - 1)
    down, right = rows - top, columns - left
    if rows.ndim == 3:
        down, right = down[:, None], right[:, None]
    upper = gather(x, top, left) * (1 - right) + gather(x, top, beyond) * right
    lower = gather(x, bottom, left) * (1 - right) + gather(x, bottom, beyond) * right
    return np.asarray(upper * (1 - down) + lower * down)


def gather(x: Floats, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Floats:
    """Return the pixels at whole `rows` and `columns`, `[h, w]` for all images or `[n, h, w]` for each."""
    if rows.ndim == 2:
        return x[:, :, rows, columns]
    return x[np.arange(len(x))[:, None, None], :, rows, columns].transpose(0, 3, 1, 2)
