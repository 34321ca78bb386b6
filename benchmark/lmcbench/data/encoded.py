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
