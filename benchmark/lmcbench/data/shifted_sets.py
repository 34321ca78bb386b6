"""Published shifted test sets in the user's data folder: CIFAR-10-C, CIFAR-100-C, CIFAR-10.1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lmcbench.data.dataset import FileStamp, ImageSet
from lmcbench.data.find_files import data_folder
from lmcbench.errors import UserError
from lmcbench.spec.evaluation_shifts import SEVERITIES, SHIFTED, is_shifted, parse_shifted

SHAPE = (3, 32, 32)
"""Channels, height and width of the images of all sets."""


def open_all_shifted(names: Sequence[str], data_dir: Path | None = None) -> dict[str, ImageSet]:
    """Open the shifted test sets among the evaluation shifts `names`; returns them by name.

    Raises:
        UserError: as `open_shifted`.
    """
    return {name: open_shifted(name, data_dir) for name in names if is_shifted(name)}


def open_shifted(name: str, data_dir: Path | None = None) -> ImageSet:
    """Open a shifted test set such as `cifar10-c:fog-3` or `cifar10.1:v6`; images are memory-mapped.

    The files are as their authors publish them: `fog.npy` `[5 n, 32, 32, 3]` uint8, all severities in
    order, with `labels.npy`; `cifar10.1_v6_data.npy` with `cifar10.1_v6_labels.npy`.

    Raises:
        UserError: for an unknown name, missing files, or arrays of another shape or type.
    """
    named = parse_shifted(name)
    data = data_folder(data_dir)
    folder = find_shifted(named.family, data)
    if folder is None:
        places = ", ".join(map(str, _places(named.family, data)))
        looked = f" Looked in {places}." if places else ""
        raise UserError(f"{named.family} was not found.{looked} {how_to_get(named.family)}")
    if named.severity is None:
        stem = f"{named.family}_{named.version}"
        files = folder / f"{stem}_data.npy", folder / f"{stem}_labels.npy"
    else:
        files = folder / f"{named.version}.npy", folder / "labels.npy"
    stamps = tuple(map(FileStamp.read, files))
    images, labels = map(_array, files)
    if named.severity is not None:
        part = _part(named.severity, files[0], images, labels)
        images, labels = images[part], labels[part]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (*SHAPE[1:], SHAPE[0]):
        raise UserError(
            f"{folder}: {name} must be uint8 images [n, 32, 32, 3], found {images.dtype} "
            f"{list(images.shape)}."
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1] or len(labels) == 0:
        raise UserError(
            f"{folder}: {name} must have an integer label for each of its {len(images)} images, found "
            f"{labels.dtype} {list(labels.shape)}."
        )
    bad = np.flatnonzero((labels < 0) | (labels >= named.entry.classes))
    if len(bad):
        raise UserError(f"{folder}: {name}, row {bad[0]}: label {labels[bad[0]]} is out of range.")
    return ImageSet(images.transpose(0, 3, 1, 2), labels.astype(np.int64), stamps=stamps)


def find_shifted(family: str, data: Path | None) -> Path | None:
    """Return the folder of the set `family` in the data folder `data`, or None."""
    return next((place for place in _places(family, data) if place.is_dir()), None)


def how_to_get(family: str) -> str:
    """Return the instruction for obtaining a set that is missing."""
    entry = SHIFTED[family]
    return (
        f"Get it from its authors ({entry.source}), put its .npy files into DIR/{entry.folders[0]}, "
        "and pass DIR as --data-dir or LMCBENCH_DATA."
    )


def _places(family: str, data: Path | None) -> list[Path]:
    return [] if data is None else [data / folder for folder in SHIFTED[family].folders]


def _part(severity: int, file: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> slice:
    """Return the rows of a severity in arrays that hold all severities in order."""
    if images.shape[:1] != labels.shape[:1] or images.ndim == 0 or len(images) % len(SEVERITIES):
        raise UserError(
            f"{file.parent}: {file.name} and labels.npy must have as many images as labels, "
            f"{len(SEVERITIES)} severities of one length in order, found {list(images.shape)} and "
            f"{list(labels.shape)}. Use the files as their authors publish them."
        )
    size = len(images) // len(SEVERITIES)
    return slice((severity - 1) * size, severity * size)


def _array(file: Path) -> NDArray[np.uint8]:
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        present = ", ".join(sorted(f.stem for f in file.parent.glob("*.npy"))) or "no .npy files"
        raise UserError(f"There is no {file.name} in {file.parent}. It has {present}.") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file} is not a readable .npy file ({error}).") from None
    if not isinstance(found, np.ndarray):
        raise UserError(f"{file} is an archive of arrays (.npz), not a .npy file.")
    return np.asanyarray(found)
