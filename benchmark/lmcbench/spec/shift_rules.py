"""Rules of training shifts: how each gives every sibling its view of the training data."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmcbench.errors import UserError, unknown
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.evaluation_shifts import CORRUPTIONS, parse_transform
from lmcbench.spec.seeds import permutation, random_words, uniforms

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class View:
    """One sibling's view of the training set.

    Attributes:
        indices: positions in the full training set, `[m]` int64, sorted by class, then index.
        transform: the transform applied to its images (`gaussian_noise-3`), or None.
        labels: labels that replace the true ones, `[m]` int64, or None.
        nested: whether the views are subsets of one another. Shared noise is then keyed by data set index
            instead of position in the view, so that siblings see common images in the same order.
        own_statistics: whether pixels are standardised by the mean and standard deviation of each channel
            over this view, instead of those over the whole training set.
    """

    indices: Indices
    transform: str | None = None
    labels: Indices | None = None
    nested: bool = False
    own_statistics: bool = False


def by_class(labels: Indices, indices: Indices) -> Indices:
    """Sort `indices` by class, then index: the order in which shared noise counts positions."""
    return indices[np.lexsort((indices, labels[indices]))]


def views_digest(views: Sequence[View], labels: Indices) -> str:
    """Return the sha256 of indices, labels and transforms of all views, 64 hex digits."""
    text = hashlib.sha256()
    for view in views:
        shown = labels[view.indices] if view.labels is None else view.labels
        header: dict[str, Any] = {"n": len(view.indices), "transform": view.transform}
        if view.own_statistics:
            header["own_statistics"] = True
        text.update(canonical_json(header).encode())
        text.update(np.ascontiguousarray(view.indices, dtype="<i8").tobytes())
        text.update(np.ascontiguousarray(shown, dtype="<i8").tobytes())
    return text.hexdigest()


Rule = Callable[..., list[View]]
MIN_IMAGES = 10
"""A Dirichlet split is redrawn until every sibling has this many (Li et al., 2022, arXiv 2102.02079)."""


@dataclass(frozen=True)
class ShiftKind:
    """One entry of the table of shifts.

    Attributes:
        rule: function (labels, k, seed, **params) -> k views; (labels, k, seed, domains, **params) if it
            needs domains.
        summary: one line for `lmcbench shifts`.
        source: where the shift is described.
        check: raises for parameters that are invalid for any number of siblings and any data set.
        needs_domains: whether the rule takes the images' domains after the seed.
    """

    rule: Rule
    summary: str
    source: str
    check: Callable[..., None] = lambda **_: None
    needs_domains: bool = False

    @property
    def defaults(self) -> dict[str, Any]:
        """Parameters of the rule with their default values."""
        parameters = inspect.signature(self.rule).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


# --- shifts by choice of images ------------------------------------------------------------------


def _none(labels: Indices, k: int, seed: int) -> list[View]:
    return [_everything(labels)] * k


def _disjoint_halves(labels: Indices, k: int, seed: int) -> list[View]:
    """Deal each shuffled class to the siblings in turn, so that parts differ by at most one image."""
    shuffled = permutation(seed, 0, len(labels))
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return [View(by_class(labels, dealt[i::k])) for i in range(k)]


def _label_skew(labels: Indices, k: int, seed: int, *, share: float = 0.8) -> list[View]:
    """Give `share` of each class to one sibling, its home, and divide the rest among the others."""
    if share < 1 / k:
        raise UserError(f"Shift label-skew: share must be at least 1/K = {1 / k:.3g}, found {share}.")
    classes = np.unique(labels)
    homes = permutation(seed, 1, len(classes)) % k
    shuffled = permutation(seed, 0, len(labels))
    parts: list[list[Indices]] = [[] for _ in range(k)]
    dealt = 0
    for label, home in zip(classes, homes, strict=True):
        members = shuffled[labels[shuffled] == label]
        kept = round(share * len(members))
        parts[home].append(members[:kept])
        guests = [i for i in range(k) if i != home]
        for j, guest in enumerate(guests):
            parts[guest].append(members[kept:][(j - dealt) % len(guests) :: len(guests)])
        dealt += len(members) - kept
    return [View(by_class(labels, np.concatenate(part))) for part in parts]


def _dirichlet(labels: Indices, k: int, seed: int, *, concentration: float = 0.5) -> list[View]:
    """Split each class in proportions drawn from a symmetric Dirichlet; a small concentration is uneven."""
    if len(labels) < k * MIN_IMAGES:
        raise UserError(
            f"Shift dirichlet needs at least {MIN_IMAGES} images for each of {k} siblings, "
            f"but there are only {len(labels)} in all."
        )
    classes = np.unique(labels)
    shuffled = permutation(seed, 0, len(labels))
    for attempt in range(1000):
        shares = _dirichlet_draw(random_words(seed, 1 + attempt, 2 * len(classes) * k), concentration, k)
        parts: list[list[Indices]] = [[] for _ in range(k)]
        for label, share in zip(classes, shares, strict=True):
            members = shuffled[labels[shuffled] == label]
            cuts = np.rint(np.cumsum(share)[:-1] * len(members)).astype(np.int64)
            for part, piece in zip(parts, np.split(members, cuts), strict=True):
                part.append(piece)
        if min(sum(map(len, part)) for part in parts) >= MIN_IMAGES:
            return [View(by_class(labels, np.concatenate(part))) for part in parts]
    raise UserError(
        f"Shift dirichlet: with concentration {concentration} no draw in 1000 gives each of {k} siblings "
        f"{MIN_IMAGES} images. Increase the concentration."
    )


def _subset(labels: Indices, k: int, seed: int, *, fraction: float = 0.5) -> list[View]:
    """Give sibling i a stratified part of fraction^i of the set; each part contains the next."""
    shuffled = permutation(seed, 0, len(labels))
    views = []
    for i in range(k):
        classes = [shuffled[labels[shuffled] == c] for c in np.unique(labels)]
        kept = [members[: round(fraction**i * len(members))] for members in classes]
        views.append(View(by_class(labels, np.concatenate(kept)), nested=True))
    return views


# --- shifts by transforms of images --------------------------------------------------------------


def _channels(labels: Indices, k: int, seed: int, *, groups: str = "") -> list[View]:
    """Show sibling i group i of the channels, by default channel i alone."""
    shown = groups.split("/") if groups else [str(i) for i in range(k)]
    if len(shown) != k:
        raise UserError(
            f"Shift channels: {len(shown)} groups for {k} siblings in {groups!r}; give one for each."
        )
    return _transformed(labels, [f"channels-{group}" for group in shown])


def _corruption(
    labels: Indices, k: int, seed: int, *, name: str = "gaussian_noise", severity: int = 3
) -> list[View]:
    """Show sibling 0 clean images and the others corrupted ones."""
    return _transformed(labels, [None] + [f"{name}-{severity}"] * (k - 1))


def _rotation(labels: Indices, k: int, seed: int, *, degrees: float = 30.0) -> list[View]:
    """Rotate the images of sibling i by i times `degrees`."""
    if abs(degrees) * (k - 1) > 180:
        raise UserError(f"Shift rotation: {k} siblings in steps of {degrees:g} degrees exceed 180 degrees.")
    return _transformed(labels, [None] + [f"rotate-{_format_degrees(i * degrees)}" for i in range(1, k)])


# --- shifts of labels ----------------------------------------------------------------------------


def _label_noise(labels: Indices, k: int, seed: int, *, fraction: float = 0.2) -> list[View]:
    """Relabel `fraction` of every class uniformly as other classes, independently for each sibling."""
    classes = np.unique(labels)
    if len(classes) < 2:
        raise UserError("Shift label-noise needs at least two classes.")
    indices = by_class(labels, np.arange(len(labels)))
    views = []
    for i in range(k):
        shown = np.searchsorted(classes, labels)
        shuffled = permutation(seed, 2 * i, len(labels))
        steps = 1 + (uniforms(random_words(seed, 2 * i + 1, len(labels))) * (len(classes) - 1)).astype(
            np.int64
        )
        for c in range(len(classes)):
            members = shuffled[labels[shuffled] == classes[c]]
            flipped = members[: round(fraction * len(members))]
            shown[flipped] = (c + steps[flipped]) % len(classes)
        views.append(View(indices, labels=classes[shown][indices]))
    return views


# --- shifts of preprocessing ---------------------------------------------------------------------

OWN_NORMALISATION = "own-normalisation"


def _own_normalisation(labels: Indices, k: int, seed: int, *, views: str = "label-skew") -> list[View]:
    """Give siblings the views of another shift, with pixels standardised by the view's own statistics."""
    inner = SHIFTS[views]
    return [replace(view, own_statistics=True) for view in inner.rule(labels, k, seed, **inner.defaults)]


# --- parameters ----------------------------------------------------------------------------------


def _check_views(views: str) -> None:
    others = [name for name in SHIFTS if name != OWN_NORMALISATION]
    if views not in others:
        raise unknown("shift whose views own-normalisation takes", views, others)


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise UserError(f"Shift label-skew: share must lie between 1/K and 1, found {share}.")


def _check_concentration(concentration: float) -> None:
    if not 1e-3 <= concentration <= 1e6:
        raise UserError(
            f"Shift dirichlet: concentration must lie between 0.001 and 1e6, found {concentration}."
        )


def _check_subset(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise UserError(f"Shift subset: fraction must be greater than 0 and less than 1, found {fraction}.")


def _check_label_noise(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise UserError(
            f"Shift label-noise: fraction must be greater than 0 and at most 1, found {fraction}."
        )


def _check_groups(groups: str) -> None:
    if groups and not re.fullmatch(r"\d+(\+\d+)*(/\d+(\+\d+)*)+", groups):
        raise UserError(
            f"Shift channels: groups must list the channels of each sibling, as in '0+1/2', found {groups!r}."
        )
    if groups and len({frozenset(map(int, group.split("+"))) for group in groups.split("/")}) == 1:
        raise UserError(
            f"Shift channels: all groups of {groups!r} are equal, which is not a shift. For the control in "
            "which all siblings see one group, use same(channels) with groups that differ."
        )


def _check_corruption(name: str, severity: int) -> None:
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    parse_transform(f"{name}-{severity}")


def _check_degrees(degrees: float) -> None:
    if not 0 < abs(degrees) <= 180 or float(_format_degrees(degrees)) != degrees:
        raise UserError(
            "Shift rotation: degrees must lie between -180 and 180, not be 0, and have at most four "
            f"decimals, found {degrees}."
        )


def _format_degrees(degrees: float) -> str:
    """Format degrees as in names of transforms: without exponent and without rounding errors of sums."""
    return f"{degrees:.4f}".rstrip("0").rstrip(".")


SHIFTS: dict[str, ShiftKind] = {
    "none": ShiftKind(_none, "every sibling sees the whole training set", "control"),
    "disjoint-halves": ShiftKind(
        _disjoint_halves,
        "K stratified parts without overlap, one for each sibling",
        "Hepburn et al. 2025 (arXiv 2511.04514), covariate shift",
    ),
    "label-skew": ShiftKind(
        _label_skew,
        "one sibling sees most (share) of each class, the others the rest",
        "Hepburn et al. 2025 (arXiv 2511.04514), label shift, 80/20",
        _check_share,
    ),
    "dirichlet": ShiftKind(
        _dirichlet,
        "each class split in Dirichlet proportions (concentration)",
        "Yurochkin et al. 2019 (arXiv 1905.12022); Li et al. 2022 (arXiv 2102.02079)",
        _check_concentration,
    ),
    "subset": ShiftKind(
        _subset,
        "sibling i sees a stratified part (fraction^i) of the set; each part contains the next",
        "control of size; nested as in learning curves",
        _check_subset,
    ),
    "channels": ShiftKind(
        _channels,
        "each sibling sees different channels (groups); the others are set to the training mean",
        "Hepburn et al. 2025 (arXiv 2511.04514), domain shift by spectral bands",
        _check_groups,
    ),
    "corruption": ShiftKind(
        _corruption,
        "sibling 0 sees clean images, the others corrupted ones (name, severity)",
        "Hendrycks & Dietterich 2019 (arXiv 1903.12261)",
        _check_corruption,
    ),
    "rotation": ShiftKind(
        _rotation,
        "images of sibling i are rotated by i times degrees",
        "Ghifary et al. 2015 (arXiv 1508.07680), rotated MNIST",
        _check_degrees,
    ),
    "label-noise": ShiftKind(
        _label_noise,
        "a part (fraction) of every class is relabelled at random, independently for each sibling",
        "symmetric noise, Zhang et al. 2017 (arXiv 1611.03530), section 2",
        _check_label_noise,
    ),
    OWN_NORMALISATION: ShiftKind(
        _own_normalisation,
        "the views of another shift (views), pixels standardised by the view's own channel statistics",
        "Hepburn et al. 2025 (arXiv 2511.04514), preprocessing by each data set's statistics",
        _check_views,
    ),
}


# --- draws ---------------------------------------------------------------------------------------


def _everything(labels: Indices) -> View:
    return View(by_class(labels, np.arange(len(labels))))


def _transformed(labels: Indices, transforms: list[str | None]) -> list[View]:
    """Return views of the whole set, one for each transform."""
    indices = _everything(labels).indices
    return [View(indices, transform) for transform in transforms]


def _dirichlet_draw(words: NDArray[np.uint64], concentration: float, k: int) -> NDArray[np.float64]:
    """Draw rows of a symmetric Dirichlet distribution of dimension k, `[len(words) / 2k, k]`.

    Gamma variates come from inverse distribution functions, because NumPy's sampler may change (NEP 19). They
    use Gamma(a) = Gamma(a + 1) U^(1/a) in logarithms, because a small `a` underflows (Marsaglia and Tsang,
    2000).
    """
    # imported here because it takes a third of a second and only this shift needs it
    from scipy.special import gammaincinv

    u, v = uniforms(words).reshape(2, -1, k)
    logs = np.log(gammaincinv(concentration + 1, u)) + np.log(v) / concentration
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float64)
