"""One encoded image to pixels: whatever would be lost on the way is refused."""

from __future__ import annotations

import io
import re
import struct
from typing import TYPE_CHECKING

import numpy as np

from lmcbench.data.dataset import Pixels
from lmcbench.errors import UserError

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lmcbench.data.dataset import Labels

if TYPE_CHECKING:
    from PIL import Image


MODES = {1: "L", 3: "RGB"}
"""Channels -> Pillow's mode."""

GREY = ("1", "L", "LA")
"""Pillow's modes of images without colours."""

ORIENTATION = 0x0112
"""EXIF's tag for how the camera was held, 1 upright."""


def open_image(data: bytes, where: str, lossless: bool) -> Image.Image:
    """The image, decoded and turned upright, as `datasets` does.

    Args:
        data: the content of an image file.
        where: file and row, for messages.
        lossless: refuse JPEG, of a data set that is published without loss.

    Raises:
        UserError: for an image that does not decode, or is more than opaque pixels of 8 bits a channel.
    """
    # Here and not above: where data sets are only listed, Pillow need not be installed.
    from PIL import Image, ImageOps, UnidentifiedImageError

    if lossless and data[:2] == b"\xff\xd8":
        raise UserError(
            f"{where}: this is a JPEG image, but the data set is published as PNG: "
            "what is here is a re-encoding with other pixels. Give it a name of its own."
        )
    try:
        file = Image.open(io.BytesIO(data))
        deep = _deep(file)  # asked before it is loaded, as Pillow keeps 8 of 16 bits without a word
        file.load()
        frames = getattr(file, "n_frames", 1) if file.format != "MPO" else 1  # a camera's: with previews
        image = ImageOps.exif_transpose(file) if _turned(file) else file
        clear = _transparent(image)
    # Pillow raises SyntaxError for broken PNG chunks and ValueError or struct.error in odd headers.
    except Exception as error:
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(f"{where}: the image does not decode ({reason}).") from None
    if deep or image.mode.startswith(("I", "F")):
        raise UserError(
            f"{where}: images must have 8 bits a channel, found more (Pillow's mode {image.mode}). "
            "Scale all of them to 0..255 first."
        )
    if frames > 1:
        raise UserError(f"{where}: the file holds {frames} frames or pages. Keep one image in a file.")
    if clear:
        raise UserError(
            f"{where}: the image has transparent pixels, whose colours nobody sees. "
            "Lay it on a background first."
        )
    return image


def channels_of(image: Image.Image) -> int:
    """1 for an image without colours, else 3."""
    return 1 if image.mode in GREY else 3


def pixels_of(image: Image.Image, where: str, channels: int) -> Pixels:
    """`[h, w]` or `[h, w, 3]` uint8 of a decoded image.

    Raises:
        UserError: for a coloured image where all must be grey, or one where they have many bands.
    """
    if channels not in MODES:
        raise UserError(f"{where}: an encoded image, but those of the data set have {channels} channels.")
    mode = MODES[channels]
    if image.mode == mode:
        return np.asarray(image)
    if channels == 1 and image.mode not in GREY:
        colours = np.asarray(image.convert("RGB"))
        if (colours != colours[:, :, :1]).any():
            raise UserError(
                f"{where}: the image is coloured, but those of the data set are grey (the first image "
                "decides where nothing else does). Make all of them grey, or all of them RGB."
            )
        return colours[:, :, 0]
    return np.asarray(image.convert(mode))


def _turned(file: ImageFile) -> bool:
    """Whether EXIF says that the camera was not held upright; EXIF that cannot be read says nothing."""
    try:
        return bool(file.getexif().get(ORIENTATION, 1) != 1)
    except (SyntaxError, ValueError, struct.error):
        return False


def _deep(file: ImageFile) -> bool:
    """Whether there are more than 8 bits a channel, by how Pillow is going to read the file."""
    for codec, _, _, how in file.tile:
        # a PPM states its largest value; BGR;16 is a bitmap of 16 bits a pixel
        if codec in ("ppm", "ppm_plain") and isinstance(how, tuple) and how[-1] > 255:
            return True
        if re.search(r"(?<!BGR);16", str(how)):
            return True
    return False


def _transparent(image: Image.Image) -> bool:
    """Whether a pixel is less than opaque."""
    if image.mode[-1] not in "Aa" and "transparency" not in image.info:
        return False
    return int(np.asarray(image.convert("RGBA"))[:, :, 3].min()) < 255


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
