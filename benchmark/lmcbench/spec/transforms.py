"""Evaluation transforms by name: the grammar of `gaussian_noise-3`, `rotate-15` and the like."""

from __future__ import annotations

import re
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
