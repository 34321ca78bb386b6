"""The images that checkpoints are measured on: uint8 on the host, normalised a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from lmcbench.connect.arguments import LazySplit
from lmcbench.data.batches import standardisation
from lmcbench.data.dataset import Dataset, ImageSet, Pixels
from lmcbench.data.decode import Resize, SizesError
from lmcbench.data.open_dataset import open_dataset
from lmcbench.data.pool import release_pages
from lmcbench.data.selection import select_calibration, select_stratified
from lmcbench.data.sources import SOURCES
from lmcbench.errors import UserError, counted
from lmcbench.machine import release_memory
from lmcbench.spec.shift_rules import Indices

Channels = NDArray[np.float64]
"""One number per channel, `[c]` float64."""

LARGEST_PIXEL = 1e9
"""Largest normalised pixel; beyond it, sums over pixels lose all of an image."""


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per channel, of pixels scaled to 0..1, and where each comes from.

    Attributes:
        mean: `[c]`.
        std: `[c]`.
        origins: of the two: `given`, `network` (timm's `pretrained_cfg`) or `training set`.
    """

    mean: Channels
    std: Channels
    origins: tuple[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the values with their origins."""
        pairs = zip(("mean", "std"), (self.mean, self.std), self.origins, strict=True)
        return {name: {"values": values.tolist(), "from": origin} for name, values, origin in pairs}


def choose_normalisation(
    dataset: Dataset,
    model: nn.Module,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    from_run: bool = False,
) -> Normalisation:
    """Return how pixels are normalised: as given, else as the network's published weights, else by the data.

    Args:
        dataset: its training set has the statistics that a run normalises by.
        model: timm's networks have a `pretrained_cfg`.
        mean: the user's, one number for all channels or one each.
        std: likewise.
        from_run: the checkpoints are training states of a run, which takes the data's statistics.

    Raises:
        UserError: for numbers that are not finite or out of proportion, or not as many as channels.
    """
    channels = dataset.shape[0]
    given = {"mean": mean, "std": std}
    for option, values in given.items():
        if values is None:
            continue
        if len(values) not in (1, channels):
            numbers = f"{counted(len(values), 'number')} for {counted(channels, 'channel')}"
            raise UserError(f"--{option}: {numbers}; give one for all channels, or one each.")
        if not np.isfinite(values).all():
            raise UserError(f"--{option} must be finite, found {', '.join(f'{v:g}' for v in values)}.")
    if std is not None and min(std) <= 0:
        raise UserError("--std must be above 0.")
    published = getattr(model, "pretrained_cfg", None) or {}
    found: list[Channels] = []
    origins: list[str] = []
    for i, (option, values) in enumerate(given.items()):
        of_network = published.get(option)
        if values is not None:
            found.append(np.broadcast_to(np.asarray(values, np.float64), (channels,)).copy())
            origins.append("given")
        elif of_network is not None and len(of_network) == channels and not from_run:
            found.append(np.asarray(of_network, np.float64))
            origins.append("network")
        else:
            # computed only if needed: it raises for a channel without variance
            found.append(dataset.statistics[i])
            origins.append("training set")
    with np.errstate(over="ignore"):
        largest = float(np.max(np.maximum(np.abs(found[0]), np.abs(1 - found[0])) / found[1]))
    if largest > LARGEST_PIXEL:
        raise UserError(
            f"--mean and --std turn pixels into numbers of up to {largest:.3g}. They are of pixels scaled to "
            "0..1, such as 0.5 and 0.25."
        )
    return Normalisation(found[0], found[1], (origins[0], origins[1]))


def open_images(
    name: str,
    data_dir: Path | None,
    image_size: int | None,
    published: Mapping[str, Any] | None,
    domain: str | None = None,
) -> tuple[Dataset, tuple[str, ...]]:
    """Open a data set for a network, and return it with sentences on how its images are resized.

    The user's own images are resized and cropped as timm validates: to `image_size` if it is given, else to
    the size of the network's published weights, if they are larger than that or of several sizes. Images of
    a published data set stay as they are (`image_size` resizes them when they are passed).

    Args:
        name: the data set's name or path.
        data_dir: the data folder.
        image_size: pixels a side.
        published: timm's `pretrained_cfg` of the network; None: there is none.
        domain: column of domains, or `folder` for folders DOMAIN/CLASS; None: the images have none.

    Raises:
        UserError: for missing or unreadable data, and for images of several sizes if no size is known.
    """
    if name in SOURCES:
        return open_dataset(name, data_dir, domain=domain), ()
    settings = {} if published is None else published
    crop, interpolation = settings.get("crop_pct") or 0.875, settings.get("interpolation") or "bilinear"
    size = image_size or (settings["input_size"][-1] if "input_size" in settings else None)
    resize = None if size is None else Resize(size, float(crop), str(interpolation))
    if image_size is None:
        try:
            dataset = open_dataset(name, data_dir, domain=domain)
        except SizesError:
            if resize is None:
                raise
        else:
            if resize is None or min(dataset.shape[1:]) <= resize.size:
                return dataset, dataset.notes
    dataset = open_dataset(name, data_dir, resize, domain)
    if resize is None:
        return dataset, dataset.notes
    note = (
        f"Images of {dataset.name} are resized ({resize.interpolation}, crop {resize.crop:g}) to "
        f"{resize.size} x {resize.size}"
    )
    origin = (
        "" if image_size is not None else ", as the network's pretrained_cfg says; --image-size overrides it"
    )
    return dataset, (*dataset.notes, f"{note}{origin}.")


class HostImages:
    """Images of a data set, created in fp32 when they are passed.

    Args:
        images: `[n, c, h, w]` uint8, which may be memory-mapped.
        rows: which of them, `[m]`.
        normalisation: of the pixels.
        size: side that they are resized to (bilinear, antialiased); None: as they are.
    """

    def __init__(self, images: Pixels, rows: Indices, normalisation: Normalisation, size: int | None):
        self.images, self.rows, self.size = images, rows, size
        self.scale, self.offset = standardisation(
            (normalisation.mean, normalisation.std), torch.device("cpu")
        )

    def __len__(self) -> int:
        return len(self.rows)

    def split(self, size: int, /) -> Iterator[Tensor]:
        """Yield batches of `size` in order, `[b, c, h, w]` fp32 on the CPU."""
        for start in range(0, len(self.rows), size):
            rows = self.rows[start : start + size]
            batch = torch.from_numpy(self.images[rows]).float() * self.scale + self.offset
            if self.size is not None and batch.shape[-2:] != (self.size, self.size):
                batch = F.interpolate(batch, (self.size, self.size), mode="bilinear", antialias=True)
            yield batch
            release_pages(self.images)
            # what is kept of each pass lies between freed batches, into whose gaps the next ones do not fit
            release_memory()


class MeasureImages:
    """The splits of a data set, and calibration images.

    Args:
        dataset: the data set.
        normalisation: of the pixels.
        size: side that images are resized to; None: as they are.
        images: size of the stratified subset of each split; None: all images.
    """

    def __init__(
        self, dataset: Dataset, normalisation: Normalisation, size: int | None, images: int | None
    ) -> None:
        self.dataset, self.normalisation, self.size, self.images = dataset, normalisation, size, images

    def split(self, name: str) -> LazySplit:
        """Return `train`, `test`, or `held-out`, a stratified tenth of the training set."""
        chosen: ImageSet = self.dataset.test if name == "test" else self.dataset.train
        rows = np.arange(len(chosen))
        if name == "held-out":
            rows = select_stratified(chosen.labels, max(1, len(chosen) // 10))
        if self.images is not None and self.images < len(rows):
            rows = rows[select_stratified(chosen.labels[rows], self.images)]
        lazy = HostImages(chosen.images, rows, self.normalisation, self.size)
        return lazy, torch.as_tensor(chosen.labels[rows])

    def calibration(self, n: int) -> HostImages:
        """Return `n` training images for recalibration, as of siblings that all saw the training set."""
        train = self.dataset.train
        items = np.arange(len(train))
        rows = select_calibration([items, items], items, train.labels, n)
        return HostImages(train.images, rows, self.normalisation, self.size)
