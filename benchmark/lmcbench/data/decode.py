"""Encoded images to pixels: in threads, in order, every refusal with file and row."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lmcbench.data.dataset import Labels, Pixels
from lmcbench.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

MODES = {1: "L", 3: "RGB"}
"""Channels -> Pillow's mode."""


class Item(NamedTuple):
    """One encoded image with its label; `row` is None where the file is the image."""

    file: Path
    row: int | None
    data: bytes
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
        batches: encoded images.
        n: how many there are in all.
        channels: 1 or 3; None takes what the first image has.
        lossless: refuse JPEG, of a data set that is published without loss.
        title: what the bar says.

    Raises:
        UserError: for an image that does not decode, has another size than the first, or is lossy.
    """
    size: tuple[int, int] | None = None
    with _bar() as bar, ThreadPoolExecutor(os.cpu_count()) as threads:
        task = bar.add_task(title, total=n)
        for items in batches:
            if size is None:
                first = _open(items[0], lossless)
                size = first.size
                channels = channels or (1 if first.mode in ("1", "L") else 3)
            mode, wanted = MODES[channels or 3], size
            pixels = threads.map(lambda item: _pixels(item, mode, wanted, lossless), items)  # noqa: B023
            images = np.stack(list(pixels))
            images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
            yield np.ascontiguousarray(images), np.array([item.label for item in items], np.int64)
            bar.advance(task, len(items))


def _pixels(item: Item, mode: str, size: tuple[int, int], lossless: bool) -> Pixels:
    """`[h, w]` or `[h, w, 3]` uint8."""
    image = _open(item, lossless)
    if image.size != size:
        found, expected = (f"{s[0]} x {s[1]}" for s in (image.size, size))
        raise UserError(
            f"{item.where}: the image is {found} pixels, the first one {expected}. "
            "All images of a data set must have one size: resize them first."
        )
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _open(item: Item, lossless: bool) -> Image.Image:
    """The image, fully decoded."""
    # Here and not above: where data sets are only listed, Pillow need not be installed.
    from PIL import Image, UnidentifiedImageError

    if lossless and item.data[:2] == b"\xff\xd8":
        raise UserError(
            f"{item.where}: this is a JPEG image, but the data set is published as PNG: "
            "what is here is a re-encoding with other pixels. Give it a name of its own."
        )
    try:
        image = Image.open(io.BytesIO(item.data))
        image.load()
    # Pillow raises SyntaxError for broken PNG chunks and ValueError or struct.error in odd headers.
    except Exception as error:
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(f"{item.where}: the image does not decode ({reason}).") from None
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{item.where}: images must have 8 bits a channel, found Pillow's mode {image.mode}.")
    return image


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(
        *columns, console=Console(file=sys.stderr), transient=True, disable=not sys.stderr.isatty()
    )
