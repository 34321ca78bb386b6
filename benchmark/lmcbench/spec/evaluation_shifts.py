"""Names of evaluation shifts: transforms of test images (`fog-3`), and sets with images of their own.

The latter are the test images of a domain (`domain:photo`) and shifted test sets (`cifar10-c:fog-3`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmcbench.errors import UserError, unknown

HENDRYCKS = "Hendrycks & Dietterich 2019 (arXiv 1903.12261), the CIFAR-10-C generator"

CORRUPTIONS = {
    "brightness": "HSV value increased",
    "contrast": "contrast reduced towards the mean of each channel",
    "defocus_blur": "blurred by a disk",
    "elastic_transform": "smooth random displacement",
    "fog": "overlaid with a plasma fractal",
    "gaussian_blur": "blurred by a Gaussian",
    "gaussian_noise": "additive Gaussian noise",
    "glass_blur": "neighbouring pixels swapped",
    "impulse_noise": "salt and pepper",
    "jpeg_compression": "JPEG at a low quality",
    "motion_blur": "blurred along a line",
    "pixelate": "downsampled and upsampled",
    "shot_noise": "Poisson noise",
    "snow": "snowflakes on a whitened image",
    "speckle_noise": "multiplicative Gaussian noise",
    "zoom_blur": "mean of several magnifications",
}
"""Corruption -> description; each takes a severity from 1 to 5."""

SEVERITIES = range(1, 6)

GEOMETRIES = {
    "rotate": ("rotated anticlockwise by DEGREES, -180 to 180", "Ghifary et al. 2015 (arXiv 1508.07680)"),
    "translate": ("shifted right and down by PIXELS", "Azulay & Weiss 2019 (arXiv 1805.12177)"),
    "channels": (
        "only channels I+J+... kept, the others set to the training mean",
        "Hepburn et al. 2025 (arXiv 2511.04514), domain shift",
    ),
}
"""Transform without severity -> (description, source)."""


@dataclass(frozen=True)
class Transform:
    """A parsed transform of test images.

    Attributes:
        kind: a corruption, `rotate`, `translate` or `channels`.
        amount: severity 1 to 5; degrees; pixels; or the channels kept, ascending.
    """

    kind: str
    amount: int | float | tuple[int, ...]


def parse_transform(name: str) -> Transform:
    """Parse the name of a transform.

    Raises:
        UserError: for an unknown kind or an invalid amount.
    """
    kind, _, amount = name.partition("-")
    if kind in CORRUPTIONS:
        if not re.fullmatch(r"[1-5]", amount):
            raise UserError(f"Transform {name!r}: {kind} takes a severity from 1 to 5, as in {kind}-3.")
        return Transform(kind, int(amount))
    if kind == "rotate":
        if not re.fullmatch(r"-?\d+(\.\d+)?", amount) or abs(float(amount)) > 180:
            raise UserError(f"Transform {name!r}: rotate takes degrees from -180 to 180, as in rotate-15.")
        return Transform(kind, float(amount))
    if kind == "translate":
        if not re.fullmatch(r"\d+", amount):
            raise UserError(f"Transform {name!r}: translate takes whole pixels, as in translate-2.")
        return Transform(kind, int(amount))
    if kind == "channels":
        if not re.fullmatch(r"\d+(\+\d+)*", amount):
            raise UserError(
                f"Transform {name!r}: channels takes channel numbers, as in channels-0 or channels-0+2."
            )
        return Transform(kind, tuple(sorted({int(c) for c in amount.split("+")})))
    raise unknown("transform", kind, [*CORRUPTIONS, *GEOMETRIES])


def transform_table() -> list[dict[str, Any]]:
    """Return name pattern, summary and source of every transform, as listed by `lmcbench shifts`."""
    severities = f"{SEVERITIES.start}..{SEVERITIES.stop - 1}"
    corruptions = [(f"{kind}-{severities}", what, HENDRYCKS) for kind, what in CORRUPTIONS.items()]
    amounts = {"rotate": "DEGREES", "translate": "PIXELS", "channels": "I+J"}
    geometries = [(f"{kind}-{amounts[kind]}", *entry) for kind, entry in GEOMETRIES.items()]
    return [{"name": n, "summary": s, "source": o} for n, s, o in [*corruptions, *geometries]]


CIFAR_C = (*CORRUPTIONS, "frost", "saturate", "spatter")
"""Corruptions of the published arrays: those computed here and three more."""

EVALUATION = "test:"
"""Prefix of the splits of evaluation shifts, followed by the shift's name."""


@dataclass(frozen=True)
class ShiftedSet:
    """A published test set with the classes of a data set, but other images.

    Attributes:
        summary: description in one line.
        bases: data sets with the same classes in the same order.
        classes: number of classes.
        sizes: number of images of each version.
        folders: possible names of its folder in the data folder; the first is that of its archive.
        licence: as stated by its authors.
        source: paper and download.
        corrupted: whether its versions are corruptions with five severities.
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
        "corrupted test set of CIFAR-10",
        ("cifar10", "cifar10-jpeg"),
        10,
        dict.fromkeys(CIFAR_C, 10_000),
        ("CIFAR-10-C", "cifar10-c"),
        "CC BY 4.0",
        "Hendrycks & Dietterich 2019 (arXiv 1903.12261), zenodo.org/records/2535967",
        corrupted=True,
    ),
    "cifar100-c": ShiftedSet(
        "corrupted test set of CIFAR-100",
        ("cifar100",),
        100,
        dict.fromkeys(CIFAR_C, 10_000),
        ("CIFAR-100-C", "cifar100-c"),
        "CC BY 4.0",
        "Hendrycks & Dietterich 2019 (arXiv 1903.12261), zenodo.org/records/3555552",
        corrupted=True,
    ),
    "cifar10.1": ShiftedSet(
        "new photographs, collected by the procedure of CIFAR-10",
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
    """A parsed name of a shifted test set.

    Attributes:
        family: its key in `SHIFTED`.
        version: one of its versions.
        severity: 1 to 5, or None for a set without severities.
    """

    family: str
    version: str
    severity: int | None = None

    @property
    def entry(self) -> ShiftedSet:
        """The entry of `SHIFTED`."""
        return SHIFTED[self.family]


DOMAIN = "domain:"
"""Prefix of the evaluation shifts that are the test images of one domain, followed by its name."""


def is_domain(name: str) -> bool:
    """Return whether an evaluation shift is the test images of a domain: `domain:photo`."""
    return name.startswith(DOMAIN)


def has_own_images(name: str) -> bool:
    """Return whether `name` is a domain or a shifted test set and not a transform of the test images."""
    return is_domain(name) or is_shifted(name)


def is_shifted(name: str) -> bool:
    """Return whether `name` refers to a published shifted test set."""
    return not is_domain(name) and (":" in name or name.startswith(tuple(SHIFTED)))


def parse_shifted(name: str) -> ShiftedName:
    """Parse the name of a shifted test set.

    Raises:
        UserError: for an unknown set, version or severity.
    """
    family, colon, version = name.partition(":")
    if family not in SHIFTED:
        raise unknown("shifted test set", family, SHIFTED)
    entry = SHIFTED[family]
    if not entry.corrupted:
        if version not in entry.sizes:
            versions = ", ".join(f"{family}:{v}" for v in entry.sizes)
            raise UserError(f"Unknown shifted test set {name!r}. Known: {versions}.")
        return ShiftedName(family, version)
    kind, _, severity = version.rpartition("-")
    if not colon or not re.fullmatch(r"[1-5]", severity):
        raise UserError(
            f"Shifted test set {name!r} needs a corruption and a severity from {SEVERITIES.start} to "
            f"{SEVERITIES.stop - 1}, as in {family}:fog-3."
        )
    if kind not in entry.sizes:
        raise unknown(f"corruption of {family}", kind, entry.sizes)
    return ShiftedName(family, kind, int(severity))


def check_evaluations(names: Sequence[str], data: str) -> None:
    """Check that the classes of shifted test sets are those of the data set `data`.

    Raises:
        UserError: naming the shifted set and the data sets that it fits.
    """
    for name in filter(is_shifted, names):
        bases = parse_shifted(name).entry.bases
        if data not in bases:
            raise UserError(
                f"Evaluation shift {name!r} has the classes of {' and '.join(bases)}; "
                f"the data set of the suite is {data!r}."
            )


def shown_split(split: str) -> str:
    """Return the split of the data whose images and labels a record's split uses.

    It is `test` for transformed test images (`test:fog-3`, `test_a`, `test_b`), the split itself for a
    domain or a shifted test set, else `train`.
    """
    if split.startswith(EVALUATION) and has_own_images(split.removeprefix(EVALUATION)):
        return split
    return "test" if split.startswith("test") else "train"


def domain_table() -> list[dict[str, Any]]:
    """Return name pattern, summary and source of tests by domain, as listed by `lmcbench shifts`."""
    summary = "test images of one domain of the data; all its images if it is held out"
    return [
        {
            "name": f"{DOMAIN}NAME",
            "summary": summary,
            "source": "Gulrajani & Lopez-Paz 2021 (arXiv 2007.01434)",
        }
    ]


def shifted_table() -> list[dict[str, Any]]:
    """Return name pattern, summary and source of every shifted test set, as listed by `lmcbench shifts`."""
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
