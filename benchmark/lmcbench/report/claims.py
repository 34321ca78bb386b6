"""The papers' claims, each with its test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from lmcbench.report import contrasts
from lmcbench.stats.cells import Cells
from lmcbench.stats.estimates import Contrast

Contrasts = Callable[[Cells, str], Iterable[Contrast]]
"""Cells and a split -> contrasts; the docstring is printed as the exact test."""


@dataclass(frozen=True)
class Claim:
    """A claim of a paper and its test.

    Attributes:
        name: a slug.
        source: the paper: authors and year.
        statement: the claim, in words.
        unit: of the effect; `points` are percentage points.
        contrasts: the test.
        everywhere: also test it under every evaluation shift.
    """

    name: str
    source: str
    statement: str
    unit: Literal["points", "points per doubling of g", "fraction", "correlation"]
    contrasts: Contrasts
    everywhere: bool = False


HEPBURN, SINGH, FRANKLE = "Hepburn et al., 2025", "Singh et al., 2024", "Frankle et al., 2020"
PAPERS = {HEPBURN: "arXiv 2511.04514", SINGH: "arXiv 2406.16300", FRANKLE: "arXiv 1912.05671"}
"""Papers of the claims -> where they are."""

CLAIMS = (
    Claim(
        "shift-raises-barrier",
        HEPBURN,
        "At a fixed recipe, a training shift raises the barrier over its same(...) control",
        "points",
        contrasts.shift_against_control,
    ),
    Claim(
        "noise-without-shift",
        HEPBURN,
        "Smaller noise scale g lowers the barrier, without shift",
        "points per doubling of g",
        contrasts.noise_without_shift,
    ),
    Claim(
        "noise-with-shift",
        HEPBURN,
        "Smaller noise scale g lowers the barrier, with training shift",
        "points per doubling of g",
        contrasts.noise_with_shift,
    ),
    Claim(
        "between-view-noise",
        HEPBURN,
        "The barrier rises with the share of gradient noise that lies between the views",
        "correlation",
        contrasts.gradient_noise,
    ),
    Claim(
        "recalibration",
        HEPBURN,
        "Recalibrating BatchNorm statistics recovers connectivity",
        "points",
        contrasts.recalibration,
    ),
    Claim(
        "disagree-less",
        HEPBURN,
        "Connected siblings disagree less than independent networks",
        "points",
        contrasts.disagree_less,
    ),
    Claim(
        "overlap-more",
        HEPBURN,
        "Connected siblings overlap more in their errors than independent networks",
        "points",
        contrasts.overlap_more,
    ),
    Claim(
        "gain-less",
        HEPBURN,
        "Ensembles of connected siblings gain less than ensembles of as many independent networks",
        "points",
        contrasts.gain_less,
    ),
    Claim(
        "equal-cost",
        HEPBURN,
        "At equal training cost, an ensemble of siblings beats one of independent networks",
        "points",
        contrasts.equal_cost,
        everywhere=True,
    ),
    Claim(
        "whole-budget",
        HEPBURN,
        "At equal training cost, an ensemble of siblings beats one network",
        "points",
        contrasts.whole_budget,
        everywhere=True,
    ),
    Claim("later-forks", SINGH, "Later forks lower the barrier", "points", contrasts.later_forks),
    Claim(
        "distance-falls",
        SINGH,
        "Siblings of later forks end nearer to each other",
        "fraction",
        contrasts.distance_falls,
    ),
    Claim(
        "second-order",
        SINGH,
        "The second-order form ranks barriers",
        "correlation",
        contrasts.second_order,
    ),
    Claim(
        "layer-ranking",
        SINGH,
        "The second-order form ranks layers by the barrier that each gives alone",
        "correlation",
        contrasts.layer_ranking,
    ),
    Claim(
        "stable-early",
        FRANKLE,
        "Networks become stable early: within the first fifth of training",
        "fraction",
        contrasts.stable_early,
    ),
)
