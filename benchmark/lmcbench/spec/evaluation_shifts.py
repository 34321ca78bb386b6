"""Evaluation transforms by name: the grammar of `gaussian_noise-3`, `rotate-15` and the like."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmcbench.errors import UserError, unknown

HENDRYCKS = "Hendrycks & Dietterich 2019 (arXiv 1903.12261), the CIFAR-10-C generator"

CORRUPTIONS = {
    "brightness": "HSV value raised",
    "contrast": "pulled towards the mean of each channel",
    "defocus_blur": "blurred by a disk",
    "elastic_transform": "stretched and displaced smoothly",
    "fog": "a plasma fractal laid over",
    "gaussian_blur": "blurred by a Gaussian",
    "gaussian_noise": "additive Gaussian noise",
    "glass_blur": "neighbouring pixels swapped",
    "impulse_noise": "salt and pepper",
    "jpeg_compression": "JPEG at a low quality",
    "motion_blur": "blurred along a line",
    "pixelate": "shrunk and enlarged again",
    "shot_noise": "Poisson noise of few photons",
    "snow": "falling flakes on a whitened image",
    "speckle_noise": "Gaussian noise in proportion to the pixel",
    "zoom_blur": "the mean of several enlargements",
}
"""Corruption -> what it does; each takes a severity from 1 to 5."""

SEVERITIES = range(1, 6)

GEOMETRIES = {
    "rotate": ("turned anti-clockwise by DEGREES, -180 to 180", "Ghifary et al. 2015 (arXiv 1508.07680)"),
    "translate": ("moved right and down by PIXELS", "Azulay & Weiss 2019 (arXiv 1805.12177)"),
    "channels": (
        "only the channels I+J+... kept, the others at the training mean",
        "Hepburn et al. 2025 (arXiv 2511.04514), domain shift",
    ),
}
"""Transform without severities -> (what it does, source)."""


@dataclass(frozen=True)
class Transformation:
    """A parsed name.

    Attributes:
        kind: a corruption, `rotate`, `translate` or `channels`.
        amount: severity 1 to 5; degrees; pixels; or the channels kept, ascending.
    """

    kind: str
    amount: int | float | tuple[int, ...]


def parse_transform(name: str) -> Transformation:
    """The transformation that `name` means.

    Raises:
        UserError: for an unknown kind, with the nearest one, or an amount it does not take.
    """
    kind, _, amount = name.partition("-")
    if kind in CORRUPTIONS:
        if not re.fullmatch(r"[1-5]", amount):
            raise UserError(f"Transform {name!r}: {kind} takes a severity from 1 to 5, as in {kind}-3.")
        return Transformation(kind, int(amount))
    if kind == "rotate":
        if not re.fullmatch(r"-?\d+(\.\d+)?", amount) or abs(float(amount)) > 180:
            raise UserError(f"Transform {name!r}: rotate takes degrees from -180 to 180, as in rotate-15.")
        return Transformation(kind, float(amount))
    if kind == "translate":
        if not re.fullmatch(r"\d+", amount):
            raise UserError(f"Transform {name!r}: translate takes whole pixels, as in translate-2.")
        return Transformation(kind, int(amount))
    if kind == "channels":
        if not re.fullmatch(r"\d+(\+\d+)*", amount):
            raise UserError(
                f"Transform {name!r}: channels takes channel numbers, as in channels-0 or channels-0+2."
            )
        return Transformation(kind, tuple(sorted({int(c) for c in amount.split("+")})))
    raise unknown("transform", kind, [*CORRUPTIONS, *GEOMETRIES])


def transform_table() -> list[dict[str, Any]]:
    """Every transform as `lmcbench shifts` lists it: name pattern, summary, source."""
    severities = f"{SEVERITIES.start}..{SEVERITIES.stop - 1}"
    corruptions = [(f"{kind}-{severities}", what, HENDRYCKS) for kind, what in CORRUPTIONS.items()]
    amounts = {"rotate": "DEGREES", "translate": "PIXELS", "channels": "I+J"}
    geometries = [(f"{kind}-{amounts[kind]}", *entry) for kind, entry in GEOMETRIES.items()]
    return [{"name": n, "summary": s, "source": o} for n, s, o in [*corruptions, *geometries]]


CIFAR_C = (*CORRUPTIONS, "frost", "saturate", "spatter")
"""The corruptions of the published arrays: those we draw ourselves and three more."""

EVALUATION = "test:"
"""What the splits of evaluation shifts begin with, before the shift's name."""


@dataclass(frozen=True)
class ShiftedSet:
    """One entry of the table.

    Attributes:
        summary: what it is, in a line.
        bases: the data sets whose classes it has, in their order.
        classes: how many.
        sizes: images of each version.
        folders: names of its folder in the data folder, as its archive unpacks first.
        licence: as its authors state it.
        source: where it is described and found.
        corrupted: whether its versions are corruptions, each in the five severities.
    """

    summary: str
    bases: tuple[str, ...]
    classes: int
    sizes: dict[str, int]
    folders: tuple[str, ...]
    licence: str
    source: str
    corrupted: bool = False


SHIFTED: dict[str, ShiftedSet] = {
    "cifar10-c": ShiftedSet(
        "the test set of CIFAR-10 corrupted by its authors",
        ("cifar10", "cifar10-jpeg"),
        10,
        dict.fromkeys(CIFAR_C, 10_000),
        ("CIFAR-10-C", "cifar10-c"),
        "CC BY 4.0",
        "Hendrycks & Dietterich 2019 (arXiv 1903.12261), zenodo.org/records/2535967",
        corrupted=True,
    ),
    "cifar100-c": ShiftedSet(
        "the test set of CIFAR-100 corrupted by its authors",
        ("cifar100",),
        100,
        dict.fromkeys(CIFAR_C, 10_000),
        ("CIFAR-100-C", "cifar100-c"),
        "CC BY 4.0",
        "Hendrycks & Dietterich 2019 (arXiv 1903.12261), zenodo.org/records/3555552",
        corrupted=True,
    ),
    "cifar10.1": ShiftedSet(
        "photographs collected anew as those of CIFAR-10 were",
        ("cifar10", "cifar10-jpeg"),
        10,
        {"v4": 2021, "v6": 2000},
        ("cifar10.1", "CIFAR-10.1"),
        "not stated; cite the paper",
        "Recht et al. 2018 (arXiv 1806.00451), github.com/modestyachts/CIFAR-10.1, folder datasets",
    ),
}


@dataclass(frozen=True)
class ShiftedName:
    """A parsed name.

    Attributes:
        family: the set, as the table calls it.
        version: one of its versions.
        severity: 1 to 5, None for a set without severities.
    """

    family: str
    version: str
    severity: int | None = None

    @property
    def entry(self) -> ShiftedSet:
        """The set's entry in the table."""
        return SHIFTED[self.family]


def is_shifted(name: str) -> bool:
    """Whether `name` is meant as that of a shifted test set, not of a transform of the test images."""
    return ":" in name or name.startswith(tuple(SHIFTED))


def parse_shifted(name: str) -> ShiftedName:
    """The set, version and severity that `name` means.

    Raises:
        UserError: for an unknown set, with the nearest one, or a version or severity that it has not.
    """
    family, colon, version = name.partition(":")
    if family not in SHIFTED:
        raise unknown("shifted test set", family, SHIFTED)
    entry = SHIFTED[family]
    if not entry.corrupted:
        if version not in entry.sizes:
            versions = ", ".join(f"{family}:{v}" for v in entry.sizes)
            raise UserError(f"Shifted test set {name!r}: write one of {versions}.")
        return ShiftedName(family, version)
    kind, _, severity = version.rpartition("-")
    if not colon or not re.fullmatch(r"[1-5]", severity):
        raise UserError(
            f"Shifted test set {name!r}: write a corruption and a severity from {SEVERITIES.start} to "
            f"{SEVERITIES.stop - 1}, as in {family}:fog-3."
        )
    if kind not in entry.sizes:
        raise unknown(f"corruption of {family}", kind, entry.sizes)
    return ShiftedName(family, kind, int(severity))


def check_evaluations(names: Sequence[str], data: str) -> None:
    """Refuse shifted test sets of other classes than the data set `data` has.

    Raises:
        UserError: naming the set and the data sets that it belongs to.
    """
    for name in filter(is_shifted, names):
        bases = parse_shifted(name).entry.bases
        if data not in bases:
            raise UserError(
                f"Evaluation shift {name!r} has the classes of {' and '.join(bases)}; "
                f"the data set of the suite is {data!r}."
            )


def shown_split(split: str) -> str:
    """The split of the data that a record's `split` shows: a shifted set itself, else `train` or `test`.

    `test:fog-3`, `test_a` and `test_b` are the test set seen through something: its images and labels.
    """
    if split.startswith(EVALUATION) and is_shifted(split.removeprefix(EVALUATION)):
        return split
    return "test" if split.startswith("test") else "train"


def shifted_table() -> list[dict[str, Any]]:
    """Every set as `lmcbench shifts` lists it beside the transforms: name pattern, summary, source."""
    listed = []
    for family, entry in SHIFTED.items():
        versions = "|".join(entry.sizes)
        if entry.corrupted:
            versions = f"CORRUPTION-{SEVERITIES.start}..{SEVERITIES.stop - 1}"
        listed.append(
            {
                "name": f"{family}:{versions}",
                "summary": f"{entry.summary}; for {' and '.join(entry.bases)}",
                "source": entry.source,
            }
        )
    return listed
