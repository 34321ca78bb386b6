"""Images as they are stored to pixels: in threads, in order, every refusal with file and row."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lmcbench.data.dataset import Labels, Pixels
from lmcbench.data.encoded import channels_of, open_image, pixels_of
from lmcbench.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

RULES = 2
"""Raised where other pixels come out of the same files, which are then decoded anew: 2 turns images
upright, and refuses what 1 dropped (colours beside grey images, transparency, 16 bits, further frames)."""

KNEE = 16
"""Counts up to which 16 bits become 8 about linearly; above it by their logarithm."""

COMPANDED: Pixels = np.rint(255 * np.log1p(np.arange(2**16) / KNEE) / np.log1p((2**16 - 1) / KNEE)).astype(
    np.uint8
)
"""16 bits -> 8, the step 3 % of the value: bands of sensors differ in brightness by two orders."""

ONE_KIND = "Store all images of a data set alike."

Stored = bytes | NDArray[np.uint8] | NDArray[np.uint16]
"""An encoded image, or its values `[h, w, c]`."""


class Item(NamedTuple):
    """One stored image with its label; `row` is None where the file is the image."""

    file: Path
    row: int | None
    data: Stored
    label: int

    @property
    def where(self) -> str:
        """File and row, for messages."""
        return str(self.file) if self.row is None else f"{self.file}, row {self.row}"


def decoded(
    batches: Iterable[list[Item]], n: int, channels: int | None, lossless: bool, title: str
) -> Iterator[tuple[Pixels, Labels]]:
    """The batches as images `[b, c, h, w]` uint8 and labels `[b]` int64, with a bar on standard error.

    Args:
        batches: stored images.
        n: how many there are in all.
        channels: of encoded images 1 or 3; None takes what the first image has.
        lossless: refuse JPEG, of a data set that is published without loss.
        title: what the bar says.

    Raises:
        UserError: for an image that does not decode, has another size than the first, or is lossy.
    """
    convert: Callable[[Item], Pixels] | None = None
    with _bar() as bar, ThreadPoolExecutor(os.cpu_count()) as threads:
        task = bar.add_task(title, total=n)
        for items in batches:
            convert = convert or _converter(items[0], channels, lossless)
            images = np.stack(list(threads.map(convert, items)))
            images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
            yield np.ascontiguousarray(images), np.array([item.label for item in items], np.int64)
            bar.advance(task, len(items))


def _converter(first: Item, channels: int | None, lossless: bool) -> Callable[[Item], Pixels]:
    """What makes pixels of every image that is stored as the first one is."""
    if not isinstance(first.data, bytes):
        h, w, c = first.data.shape
        shape = (h, w, channels or c)
        return lambda item: _values(item, shape)
    image = _open(first, lossless)
    shown, size = channels or channels_of(image), image.size
    return lambda item: _pixels(item, shown, size, lossless)


def _values(item: Item, shape: tuple[int, int, int]) -> Pixels:
    """`[h, w, c]` uint8 of an image that is stored as numbers."""
    if isinstance(item.data, bytes):
        raise UserError(f"{item.where}: an encoded image, but the first is an array of values. {ONE_KIND}")
    if item.data.shape != shape:
        found, expected = (" x ".join(map(str, s)) for s in (item.data.shape, shape))
        raise UserError(
            f"{item.where}: the image is {found} (height, width, channels), expected {expected}. "
            "All images of a data set must have one size: resize them first."
        )
    if item.data.dtype == np.uint16:
        return COMPANDED[item.data]
    return item.data.astype(np.uint8, copy=False)


def _pixels(item: Item, channels: int, size: tuple[int, int], lossless: bool) -> Pixels:
    """`[h, w]` or `[h, w, 3]` uint8 of an encoded image."""
    image = _open(item, lossless)
    if image.size != size:
        found, expected = (f"{s[0]} x {s[1]}" for s in (image.size, size))
        raise UserError(
            f"{item.where}: the image is {found} pixels, the first one {expected}. "
            "All images of a data set must have one size: resize them first."
        )
    return pixels_of(image, item.where, channels)


def _open(item: Item, lossless: bool) -> Image.Image:
    """The image, fully decoded."""
    if not isinstance(item.data, bytes):
        raise UserError(f"{item.where}: an array of values, but the first image is encoded. {ONE_KIND}")
    return open_image(item.data, item.where, lossless)


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(
        *columns, console=Console(file=sys.stderr), transient=True, disable=not sys.stderr.isatty()
    )
