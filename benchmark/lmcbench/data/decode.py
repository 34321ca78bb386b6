"""Stored images to uint8 pixels; an image that would lose information on the way is refused.

Pillow (and so the `Image` feature of `datasets`) drops transparency, further frames and the lower half of
16 bits without a message, and turns colour images grey on request. Two runs could then
train on different pixels unnoticed, so every image is checked once, before it enters the cache.
"""

from __future__ import annotations

import io
import os
import re
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lmcbench.data.dataset import Labels, Pixels
from lmcbench.errors import UserError
from lmcbench.untrusted import MB, placeholder, printable, read_bytes

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

RULES = 2
"""Version of these rules, part of the cache's key: raise it when the same files give other pixels."""

MODES = {1: "L", 3: "RGB"}
"""Channels -> Pillow's mode."""

GREY = ("1", "L", "LA")
"""Pillow's modes without colours."""

ORIENTATION = 0x0112
"""EXIF's tag for the orientation of the camera; 1 is upright."""

KNEE = 16
"""Below this value, 16 bits map to 8 about linearly, above it by their logarithm."""

COMPANDED: Pixels = np.rint(255 * np.log1p(np.arange(2**16) / KNEE) / np.log1p((2**16 - 1) / KNEE)).astype(
    np.uint8
)
"""16 bits -> 8, in steps of 3 % of the value: bands of a sensor differ in brightness by two orders."""

StoredImage = bytes | NDArray[np.uint8] | NDArray[np.uint16]
"""An encoded image, or its values `[h, w, c]`."""


DECODED_BYTES = 2**23
"""Pixels that are decoded together: 55 images of 224 x 224, and all of a batch of small ones."""

IMAGE_BYTES = 128 * MB
"""Largest file of one image."""

READ_IMAGES = 1000
"""Image files that are read together."""

READ_BYTES = 64 * MB
"""Bytes of image files that are read together: photographs of 4 MB take 4 GB for 1,000 of them."""


class SizesError(UserError):
    """Images of a data set differ in size."""


class ColouredError(UserError):
    """An image of a grey data set is coloured."""


@dataclass(frozen=True)
class Resize:
    """How images become square: as timm prepares them for validation.

    The shorter side is scaled to `size / crop`, rounded down, and the centre of `size` is cut out. An image
    that has the size already is left as it is.

    Attributes:
        size: pixels a side.
        crop: share of the scaled image's side that is cut out; timm's `crop_pct`.
        interpolation: `bilinear`, `bicubic`, `nearest` or `lanczos`.
    """

    size: int
    crop: float = 0.875
    interpolation: str = "bilinear"

    def image(self, image: Image.Image) -> Image.Image:
        """Return the resized image."""
        from PIL import Image as pillow  # noqa: N813

        width, height = image.size
        if (width, height) == (self.size, self.size):
            return image
        side = int(self.size / self.crop)
        short = min(width, height)
        scaled = (int(side * width / short), int(side * height / short))
        left, top = (round((n - self.size) / 2) for n in scaled)
        how = getattr(pillow.Resampling, self.interpolation.upper(), pillow.Resampling.BILINEAR)
        return image.resize(scaled, how).crop((left, top, left + self.size, top + self.size))

    def array(self, pixels: Pixels) -> Pixels:
        """Return pixels `[h, w]` or `[h, w, c]` resized, each channel by itself."""
        from PIL import Image as pillow  # noqa: N813

        if pixels.ndim == 2:
            return np.asarray(self.image(pillow.fromarray(pixels)))
        return np.stack(
            [self.array(np.ascontiguousarray(channel)) for channel in np.moveaxis(pixels, -1, 0)], -1
        )


class Item(NamedTuple):
    """One stored image with its label; `row` is None if the file is the image."""

    file: Path
    row: int | None
    data: StoredImage
    label: int

    @property
    def where(self) -> str:
        """File and row, for messages."""
        return str(self.file) if self.row is None else f"{self.file}, row {self.row}"


def read_items(files: Sequence[Path], labels: Sequence[int]) -> Iterator[list[Item]]:
    """Yield the images of files with their labels, in batches as `in_batches` makes them.

    Raises:
        UserError: for a file that cannot be read, or of more than `IMAGE_BYTES`.
    """
    listed = zip(files, labels, strict=True)
    yield from in_batches(
        Item(file, None, read_bytes(file, limit=IMAGE_BYTES), label) for file, label in listed
    )


def in_batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield items in lists of at most `READ_IMAGES` and, if they are more than one, `READ_BYTES`."""
    batch: list[Item] = []
    size = 0
    for item in items:
        if batch and (len(batch) == READ_IMAGES or size + len(item.data) > READ_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += len(item.data)
    if batch:
        yield batch


def decode_batches(
    batches: Iterable[list[Item]],
    n: int,
    channels: int | None,
    lossless: bool,
    title: str,
    resize: Resize | None = None,
) -> Iterator[tuple[Pixels, Labels]]:
    """Yield each batch as images `[b, c, h, w]` uint8 and labels `[b]` int64, with a bar on standard error.

    Args:
        batches: stored images.
        n: number of images in all batches.
        channels: of encoded images 1 or 3; None takes those of the first image.
        lossless: refuse JPEG images.
        title: text of the progress bar.
        resize: how images of any size become square; None: all must have one size.

    Raises:
        UserError: for an image that does not decode, has another size than the first, or loses information.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(
        *columns, console=Console(file=sys.stderr), transient=True, disable=not sys.stderr.isatty()
    )
    convert: Callable[[Item], Pixels] | None = None
    with bar, ThreadPoolExecutor(os.cpu_count()) as threads:
        task = bar.add_task(printable(title), total=n)
        for items in batches:
            convert = convert or _converter(items[0], channels, lossless, resize)
            first = convert(items[0])
            step = max(1, DECODED_BYTES // first.nbytes)
            for start in range(0, len(items), step):
                some = items[start : start + step]
                images = np.stack(list(threads.map(convert, some)))
                images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
                yield np.ascontiguousarray(images), np.array([item.label for item in some], np.int64)
                bar.advance(task, len(some))


def _converter(
    first: Item, channels: int | None, lossless: bool, resize: Resize | None
) -> Callable[[Item], Pixels]:
    """Return the function that decodes images stored in the same way as the first one."""
    if not isinstance(first.data, bytes):
        h, w, c = first.data.shape
        shape = (h, w, channels or c)
        return lambda item: _decode_array(item, shape, resize)
    image = open_image(first.data, first.where, lossless)
    expected, size = channels or (1 if image.mode in GREY else 3), image.size
    return lambda item: _decode_file(item, expected, size, lossless, resize)


def _decode_array(item: Item, shape: tuple[int, int, int], resize: Resize | None) -> Pixels:
    """Return `[h, w, c]` uint8 of an image stored as an array."""
    if isinstance(item.data, bytes):
        raise UserError(
            f"{item.where}: an encoded image, but the first is an array of values. "
            "Store all images of a data set in one way."
        )
    found = item.data.shape if resize is None else (*shape[:2], item.data.shape[2])
    if found != shape:
        raise _other_size(item, item.data.shape, shape, "(height, width, channels)")
    data = COMPANDED[item.data] if item.data.dtype == np.uint16 else item.data.astype(np.uint8, copy=False)
    return data if resize is None else resize.array(data)


def _decode_file(
    item: Item, channels: int, size: tuple[int, int], lossless: bool, resize: Resize | None
) -> Pixels:
    """Return `[h, w]` or `[h, w, 3]` uint8 of an encoded image."""
    if not isinstance(item.data, bytes):
        raise UserError(
            f"{item.where}: an array of values, but the first image is encoded. "
            "Store all images of a data set in one way."
        )
    image = open_image(item.data, item.where, lossless)
    if resize is not None:
        return resize.array(pixels_of(image, item.where, channels))
    if image.size != size:
        raise _other_size(item, image.size, size, "pixels")
    return pixels_of(image, item.where, channels)


def _other_size(item: Item, found: tuple[int, ...], expected: tuple[int, ...], unit: str) -> SizesError:
    here, there = (" x ".join(map(str, size)) for size in (found, expected))
    return SizesError(
        f"{item.where}: the image is {here} {unit}, expected {there}. "
        "Images of several sizes are resized and cropped to N x N by --image-size N, and by image_size = N "
        "under [data] of a suite."
    )


def open_image(data: bytes, where: str, lossless: bool) -> Image.Image:
    """Return the decoded image, turned upright by its EXIF tag.

    Args:
        data: content of an image file.
        where: file and row, for messages.
        lossless: refuse JPEG, for a data set that is published without loss.

    Raises:
        UserError: for an image that does not decode, or is not a single opaque frame of 8 bits a channel.
    """
    # imported here: listing data sets needs no Pillow
    from PIL import Image, ImageOps, UnidentifiedImageError

    if lossless and data[:2] == b"\xff\xd8":
        raise UserError(
            f"{where}: this is a JPEG image, but the data set is published as PNG: this is a re-encoding "
            "with other pixels. Give it another name."
        )
    try:
        file = Image.open(io.BytesIO(data))
        deep = _is_deep(file)  # before loading, which reduces 16 bits to 8
        file.load()
        frames = getattr(file, "n_frames", 1) if file.format != "MPO" else 1  # MPO: photograph and previews
        image = ImageOps.exif_transpose(file) if _is_turned(file) else file
        transparent = _is_transparent(image)
    # Pillow raises SyntaxError for broken PNG chunks, ValueError or struct.error for odd headers
    except Exception as error:
        if found := placeholder(data[:512]):
            raise UserError(f"{where} {found}.") from None
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(f"{where}: the image does not decode ({reason}).") from None
    if deep or image.mode.startswith(("I", "F")):
        raise UserError(
            f"{where}: images must have 8 bits a channel, found more (Pillow's mode {image.mode}). "
            "Scale all images to 0..255 first."
        )
    if frames > 1:
        raise UserError(f"{where}: the file has {frames} frames or pages. Store one image in each file.")
    if transparent:
        raise UserError(f"{where}: the image has transparent pixels. Put all images on a background first.")
    return image


def pixels_of(image: Image.Image, where: str, channels: int) -> Pixels:
    """Return `[h, w]` or `[h, w, 3]` uint8 of a decoded image.

    Raises:
        UserError: for a coloured image in a grey data set, or an encoded one in a data set of many bands.
    """
    if channels not in MODES:
        raise UserError(f"{where}: an encoded image, but those of the data set have {channels} channels.")
    if image.mode == MODES[channels]:
        return np.asarray(image)
    if channels == 1 and image.mode not in GREY:
        colours = np.asarray(image.convert("RGB"))
        if (colours != colours[:, :, :1]).any():
            raise ColouredError(
                f"{where}: the image is coloured, but the data set is grey (as its first image is). "
                "Make all images grey, or all of them RGB."
            )
        return colours[:, :, 0]
    return np.asarray(image.convert(MODES[channels]))


def _is_turned(file: ImageFile) -> bool:
    """Whether EXIF gives an orientation other than upright; unreadable EXIF is ignored."""
    try:
        return bool(file.getexif().get(ORIENTATION, 1) != 1)
    except (SyntaxError, ValueError, struct.error):
        return False


def _is_deep(file: ImageFile) -> bool:
    """Whether there are more than 8 bits a channel, by the decoder that Pillow has chosen."""
    for codec, _, _, how in file.tile:
        # a PPM states its largest value; BGR;16 is a bitmap of 16 bits a pixel
        if codec in ("ppm", "ppm_plain") and isinstance(how, tuple) and how[-1] > 255:
            return True
        if re.search(r"(?<!BGR);16", str(how)):
            return True
    return False


def _is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is not opaque."""
    if image.mode[-1] not in "Aa" and "transparency" not in image.info:
        return False
    return int(np.asarray(image.convert("RGBA"))[:, :, 3].min()) < 255
