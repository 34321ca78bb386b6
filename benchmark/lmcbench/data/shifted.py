"""Test sets that are shifted in truth, where the user has them: CIFAR-10-C, CIFAR-100-C, CIFAR-10.1."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lmcbench.data.dataset import ImageSet
from lmcbench.data.locate import data_folder
from lmcbench.errors import UserError, unknown


@dataclass(frozen=True)
class ShiftedSet:
    """One entry of the table.

    Attributes:
        base: the data set whose classes it has.
        folders: names of its folder in the data folder, as its archive unpacks first.
        classes: how many.
        versions: what may follow the colon, or none for a corruption and severity.
        source: where it is described and found.
    """

    base: str
    folders: tuple[str, ...]
    classes: int
    versions: tuple[str, ...]
    source: str


SHIFTED: dict[str, ShiftedSet] = {
    "cifar10-c": ShiftedSet(
        "cifar10",
        ("CIFAR-10-C", "cifar10-c"),
        10,
        (),
        "Hendrycks & Dietterich 2019, zenodo.org/records/2535967",
    ),
    "cifar100-c": ShiftedSet(
        "cifar100", ("CIFAR-100-C", "cifar100-c"), 100, (), "the same, zenodo.org/records/3555552"
    ),
    "cifar10.1": ShiftedSet(
        "cifar10",
        ("cifar10.1", "CIFAR-10.1"),
        10,
        ("v4", "v6"),
        "Recht et al. 2018 (arXiv 1806.00451), github.com/modestyachts/CIFAR-10.1, folder datasets",
    ),
}


def open_shifted(name: str, data_dir: Path | None = None) -> ImageSet:
    """A shifted test set: `cifar10-c:fog-3`, `cifar10.1:v6`; the images are memory-mapped.

    The arrays are those their authors publish: `fog.npy` `[5 n, 32, 32, 3]` uint8, severity after
    severity, with `labels.npy`; `cifar10.1_v6_data.npy` with `cifar10.1_v6_labels.npy`.

    Raises:
        UserError: for an unknown name, files that are not there, or arrays of another shape.
    """
    family, _, version = name.partition(":")
    if family not in SHIFTED:
        raise unknown("shifted test set", family, SHIFTED)
    entry = SHIFTED[family]
    folder = _folder(family, data_folder(data_dir))
    if entry.versions:
        if version not in entry.versions:
            raise UserError(f"{name!r}: {family} has the versions {', '.join(entry.versions)}.")
        images = _array(folder / f"{family}_{version}_data.npy")
        labels = _array(folder / f"{family}_{version}_labels.npy")
    else:
        kind, _, severity = version.rpartition("-")
        if not kind or severity not in ("1", "2", "3", "4", "5"):
            raise UserError(f"{name!r}: write a corruption and a severity from 1 to 5, as in {family}:fog-3.")
        every, shown = _array(folder / f"{kind}.npy"), _array(folder / "labels.npy")
        size = len(every) // 5
        part = slice((int(severity) - 1) * size, int(severity) * size)
        images, labels = every[part], shown[part]
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or len(labels) != len(images):
        raise UserError(
            f"{folder}: {version} must be uint8 images [n, 32, 32, 3] with n labels, "
            f"found {images.dtype} {list(images.shape)} with {len(labels)} labels."
        )
    bad = np.flatnonzero((labels < 0) | (labels >= entry.classes))
    if len(bad):
        raise UserError(f"{folder}, {version}, row {bad[0]}: label {labels[bad[0]]} is out of range.")
    return ImageSet(images.transpose(0, 3, 1, 2), labels.astype(np.int64))


def _folder(family: str, data: Path | None) -> Path:
    entry = SHIFTED[family]
    places = [] if data is None else [data / f for f in entry.folders]
    for place in places:
        if place.is_dir():
            return place
    looked = f" Looked in {', '.join(map(str, places))}." if places else ""
    raise UserError(
        f"{family} is not here.{looked} Get it from its authors ({entry.source}), unpack it as "
        f"DIR/{entry.folders[0]}, and name DIR by --data-dir or LMCBENCH_DATA."
    )


def _array(file: Path) -> NDArray[np.uint8]:
    try:
        return np.asanyarray(np.load(file, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError:
        held = ", ".join(sorted(f.stem for f in file.parent.glob("*.npy"))) or "no .npy files"
        raise UserError(f"There is no {file.name} in {file.parent}. It holds {held}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not a readable .npy file ({error}).") from None
