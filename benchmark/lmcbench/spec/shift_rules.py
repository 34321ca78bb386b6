"""A view: what one sibling sees of the training data."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    """What one sibling sees of the training set.

    Attributes:
        indices: positions in the full training set, `[m]` int64, sorted by class, then index.
        transform: the evaluation transform its images pass through (`gaussian_noise-3`), or None.
        labels: labels that replace the true ones, `[m]` int64, or None.
        nested: siblings see parts of one another, so shared noise goes by data set index instead of
            position in the view: the same order with holes.
    """

    indices: Indices
    transform: str | None = None
    labels: Indices | None = None
    nested: bool = False


def by_class(labels: Indices, indices: Indices) -> Indices:
    """`indices` sorted by class, then index: the order in which shared noise counts positions."""
    return indices[np.lexsort((indices, labels[indices]))]


def views_digest(views: Sequence[View], labels: Indices) -> str:
    """Sha256 over what the views show: per sibling its indices, labels and transform."""
    text = hashlib.sha256()
    for view in views:
        shown = labels[view.indices] if view.labels is None else view.labels
        header = {"n": len(view.indices), "transform": view.transform}
        text.update(canonical_json(header).encode())
        text.update(np.ascontiguousarray(view.indices, dtype="<i8").tobytes())
        text.update(np.ascontiguousarray(shown, dtype="<i8").tobytes())
    return text.hexdigest()


Rule = Callable[..., list[View]]
MIN_IMAGES = 10
"""A Dirichlet split is drawn again until every sibling has so many (Li et al. 2022, arXiv 2102.02079)."""


@dataclass(frozen=True)
class ShiftKind:
    """One entry of the table: a rule (labels, k, seed, **params) -> k views, and what it is.

    `check` refuses values that no number of siblings and no data set could make right.
    """

    rule: Rule
    summary: str
    source: str
    check: Callable[..., None] = lambda: None

    @property
    def defaults(self) -> dict[str, Any]:
        """The rule's parameters with their default values."""
        parameters = inspect.signature(self.rule).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


# --- which images: partitions and parts ----------------------------------------------------------


def _none(labels: Indices, k: int, seed: int) -> list[View]:
    return [_everything(labels)] * k


def _disjoint_halves(labels: Indices, k: int, seed: int) -> list[View]:
    """Deal each class, shuffled, to the siblings in turn: parts differ by at most one image."""
    shuffled = permutation(seed, 0, len(labels))
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return [View(by_class(labels, dealt[i::k])) for i in range(k)]


def _label_skew(labels: Indices, k: int, seed: int, *, share: float = 0.8) -> list[View]:
    """Each class has one home among the siblings, which gets `share` of it; the others split the rest."""
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
    """Split each class in proportions drawn from a symmetric Dirichlet; small is uneven."""
    if len(labels) < k * MIN_IMAGES:
        raise UserError(
            f"Shift dirichlet gives each of {k} siblings at least {MIN_IMAGES} images, "
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
        f"{MIN_IMAGES} images. Raise the concentration."
    )


def _subset(labels: Indices, k: int, seed: int, *, fraction: float = 0.5) -> list[View]:
    """Sibling i sees a stratified part of fraction^i, each inside the one before."""
    shuffled = permutation(seed, 0, len(labels))
    views = []
    for i in range(k):
        classes = [shuffled[labels[shuffled] == c] for c in np.unique(labels)]
        kept = [members[: round(fraction**i * len(members))] for members in classes]
        views.append(View(by_class(labels, np.concatenate(kept)), nested=True))
    return views


# --- what the images look like -------------------------------------------------------------------


def _channels(labels: Indices, k: int, seed: int, *, groups: str = "") -> list[View]:
    """Sibling i sees group i of the channels, by default channel i alone."""
    seen = groups.split("/") if groups else [str(i) for i in range(k)]
    if len(seen) != k:
        raise UserError(f"Shift channels: {len(seen)} groups for {k} siblings, found groups {groups!r}.")
    return _transformed(labels, [f"channels-{group}" for group in seen])


def _corruption(
    labels: Indices, k: int, seed: int, *, name: str = "gaussian_noise", severity: int = 3
) -> list[View]:
    """Sibling 0 sees clean images, the others corrupted ones."""
    return _transformed(labels, [None] + [f"{name}-{severity}"] * (k - 1))


def _rotation(labels: Indices, k: int, seed: int, *, degrees: float = 30.0) -> list[View]:
    """Sibling i sees images turned by i times `degrees`."""
    if abs(degrees) * (k - 1) > 180:
        raise UserError(f"Shift rotation: {k} siblings in steps of {degrees:g} degrees go past 180.")
    return _transformed(labels, [None] + [f"rotate-{_plain(i * degrees)}" for i in range(1, k)])


# --- what the labels say -------------------------------------------------------------------------


def _label_noise(labels: Indices, k: int, seed: int, *, fraction: float = 0.2) -> list[View]:
    """Each sibling has its own `fraction` of every class relabelled as another class, uniformly.

    All siblings are noisy, independently: the noise differs, its amount does not.
    """
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


# --- parameters ----------------------------------------------------------------------------------


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
        raise UserError(f"Shift subset: fraction must lie between 0 and 1, ends excluded, found {fraction}.")


def _check_label_noise(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise UserError(f"Shift label-noise: fraction must lie above 0 and not above 1, found {fraction}.")


def _check_groups(groups: str) -> None:
    if groups and not re.fullmatch(r"\d+(\+\d+)*(/\d+(\+\d+)*)+", groups):
        raise UserError(
            f"Shift channels: groups lists the channels of each sibling, as in '0+1/2', found {groups!r}."
        )
    if groups and len({frozenset(map(int, group.split("+"))) for group in groups.split("/")}) == 1:
        raise UserError(
            f"Shift channels: all groups of {groups!r} are the same channels, which is no shift. For the "
            "control in which all siblings see one group, say same(channels) of groups that differ."
        )


def _check_corruption(name: str, severity: int) -> None:
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    parse_transform(f"{name}-{severity}")


def _check_degrees(degrees: float) -> None:
    if not 0 < abs(degrees) <= 180 or float(_plain(degrees)) != degrees:
        raise UserError(
            "Shift rotation: degrees must lie between -180 and 180 and not be 0, with four decimals at most, "
            f"found {degrees}."
        )


def _plain(degrees: float) -> str:
    """Degrees as names of transforms have them: without an exponent, and nothing that sums leave behind."""
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
        "each class mostly (share) at one sibling, the rest at the others",
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
        "sibling i sees a stratified part (fraction^i) of the set, each inside the one before",
        "control of size; nested as in learning curves",
        _check_subset,
    ),
    "channels": ShiftKind(
        _channels,
        "each sibling sees other channels (groups), the unseen ones at the training mean",
        "Hepburn et al. 2025 (arXiv 2511.04514), domain shift by spectral bands",
        _check_groups,
    ),
    "corruption": ShiftKind(
        _corruption,
        "sibling 0 clean, the others corrupted (name, severity)",
        "Hendrycks & Dietterich 2019 (arXiv 1903.12261)",
        _check_corruption,
    ),
    "rotation": ShiftKind(
        _rotation,
        "sibling i turned by i times degrees",
        "Ghifary et al. 2015 (arXiv 1508.07680), rotated MNIST",
        _check_degrees,
    ),
    "label-noise": ShiftKind(
        _label_noise,
        "each sibling has its own part (fraction) of every class relabelled at random",
        "symmetric noise, Zhang et al. 2017 (arXiv 1611.03530), 2",
        _check_label_noise,
    ),
}


# --- draws ---------------------------------------------------------------------------------------


def _everything(labels: Indices) -> View:
    return View(by_class(labels, np.arange(len(labels))))


def _transformed(labels: Indices, transforms: list[str | None]) -> list[View]:
    """Views of the whole set through `transforms`, one a sibling."""
    indices = _everything(labels).indices
    return [View(indices, transform) for transform in transforms]


def _dirichlet_draw(words: NDArray[np.uint64], concentration: float, k: int) -> NDArray[np.float64]:
    """Rows of a symmetric Dirichlet of dimension k from 2 words a number, `[len(words) / 2k, k]`.

    Normalised gammas by inverse distribution functions, not NumPy's sampler, which may change (NEP 19).
    Gamma(a) = Gamma(a + 1) U^(1/a) in logs, as a small `a` underflows (Marsaglia & Tsang 2000).
    """
    # Here and not above: a third of a second that only this shift is worth.
    from scipy.special import gammaincinv

    u, v = uniforms(words).reshape(2, -1, k)
    logs = np.log(gammaincinv(concentration + 1, u)) + np.log(v) / concentration
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float64)
