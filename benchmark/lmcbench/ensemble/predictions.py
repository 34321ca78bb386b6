"""What several networks' predictions have in common, and what their ensemble gains."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmcbench.errors import UserError

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

ECE_BINS = 15
"""Equal bins of top-1 confidence, right-closed (Guo et al., arXiv 1706.04599, section 2)."""


def compare_predictions(probs: ArrayLike, labels: ArrayLike) -> dict[str, float | None]:
    """Accuracy, likelihood, calibration and diversity of K networks and of their ensemble.

    The ensemble predicts the mean of the members' probabilities. Ties go to the lowest class, log(0) is
    clamped at the smallest normal number of the input's type.

    Args:
        probs: softmax probabilities `[K, n, classes]`, K >= 2.
        labels: `[n]` integers.

    Returns:
        `accuracy_mean`, `ensemble_accuracy`, `ensemble_gain` (fractions; gain is their difference);
        `nll_mean`, `ensemble_nll` (nats); `brier_mean`, `ensemble_brier` (squared error summed over
        classes); `ensemble_ece`; and, as means over pairs, `disagreement`, `both_wrong`, `same_wrong`
        (the same wrong class; fractions of n) and `js_divergence` (nats); `error_overlap`, both wrong over
        either wrong, each averaged over pairs first (None if nobody errs); `mutual_information` over
        all K (nats).

        Scores are means over images, the Brier score as by Brier (1950), diversity as by Fort et al.
        (arXiv 1912.02757, disagreement) and Lakshminarayanan et al. (arXiv 1612.01474, divergence).

    Raises:
        UserError: for wrong shapes, labels out of range, or rows that are not probabilities.
    """
    p, y, tiny = checked(probs, labels)
    k = len(p)
    mean = p.mean(0)
    top = p.argmax(-1)
    wrong = top != y
    pairs = list(combinations(range(k), 2))
    both = [(wrong[i] & wrong[j]).mean() for i, j in pairs]
    either = [(wrong[i] | wrong[j]).mean() for i, j in pairs]
    member_nll = [nll(member, y, tiny) for member in p]
    # both as counts over n, so that identical members gain exactly nothing
    accuracy, ensemble_accuracy = (top == y).mean(), (mean.argmax(-1) == y).mean()
    measures = {
        "accuracy_mean": accuracy,
        "ensemble_accuracy": ensemble_accuracy,
        "ensemble_gain": ensemble_accuracy - accuracy,
        "nll_mean": np.mean(member_nll),
        "ensemble_nll": nll(mean, y, tiny),
        "brier_mean": np.mean([brier(member, y) for member in p]),
        "ensemble_brier": brier(mean, y),
        "ensemble_ece": expected_calibration_error(mean, y),
        "disagreement": np.mean([(top[i] != top[j]).mean() for i, j in pairs]),
        "both_wrong": np.mean(both),
        "same_wrong": np.mean([(wrong[i] & (top[i] == top[j])).mean() for i, j in pairs]),
        "js_divergence": np.mean([_mixture_gap(p[[i, j]], tiny) for i, j in pairs]),
        "error_overlap": np.mean(both) / np.mean(either) if np.any(either) else None,
        "mutual_information": _mixture_gap(p, tiny),
    }
    return {name: None if value is None else float(value) for name, value in measures.items()}


def independent_disagreement(error_a: float, error_b: float, classes: int) -> float:
    """How often two networks of these errors (fractions) disagree if their errors are independent.

    Each errs on its own, and on an error all wrong classes are equally likely: they differ where one
    errs alone, and where both err on different classes, e_A + e_B - e_A e_B C / (C - 1). Two that guess,
    e = 1 - 1/C, disagree on 1 - 1/C of the images.
    """
    return error_a + error_b - error_a * error_b * classes / (classes - 1)


def compare_errors(probs: ArrayLike, labels: ArrayLike) -> dict[str, float | None]:
    """Agreement of K networks where they err, and their disagreement against independent errors.

    Means over pairs are taken before any ratio, as in `compare_predictions`. Ties go to the lowest class.

    Args:
        probs: softmax probabilities `[K, n, classes]`, K >= 2.
        labels: `[n]` integers.

    Returns:
        `error_agreement`: of the images on which both err, the share on which they give the same wrong
        class (None if there is none; 1 / (classes - 1) by chance).
        `error_consistency`: Cohen's kappa of being right (Geirhos et al., arXiv 2006.16736, section 3):
        1 for the same errors, 0 for independent ones (None where chance alone makes them agree on all).
        `disagreement_independent`: what `independent_disagreement` gives at these errors (fraction).
        `disagreement_normalised`: disagreement over that: 0 for one function, 1 for independent errors
        (None if nobody errs). Fort et al. (arXiv 1912.02757) divide by the error; this holds at any.

    Raises:
        UserError: as `compare_predictions`.
    """
    p, y, _ = checked(probs, labels)
    classes = p.shape[2]
    top = p.argmax(-1)
    wrong = top != y
    error = wrong.mean(1)
    pairs = list(combinations(range(len(p)), 2))
    both = float(np.mean([(wrong[i] & wrong[j]).mean() for i, j in pairs]))
    same = float(np.mean([(wrong[i] & (top[i] == top[j])).mean() for i, j in pairs]))
    alike = float(np.mean([(wrong[i] == wrong[j]).mean() for i, j in pairs]))
    chance = float(np.mean([error[i] * error[j] + (1 - error[i]) * (1 - error[j]) for i, j in pairs]))
    differ = float(np.mean([(top[i] != top[j]).mean() for i, j in pairs]))
    free = (
        float(np.mean([independent_disagreement(error[i], error[j], classes) for i, j in pairs]))
        if classes > 1
        else 0.0
    )
    return {
        "error_agreement": same / both if both else None,
        "error_consistency": (alike - chance) / (1 - chance) if chance < 1 else None,
        "disagreement_independent": free,
        "disagreement_normalised": differ / free if free > 0 else None,
    }


def nll(p: Array, y: Labels, tiny: float) -> float:
    """Mean negative log-probability of the true class, nats; `p` `[n, classes]`."""
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], tiny)).mean())


def brier(p: Array, y: Labels) -> float:
    """Mean squared distance to the one-hot label, summed over classes; `p` `[n, classes]`."""
    true = p[np.arange(len(y)), y]
    return float(((p**2).sum(-1) - 2 * true + 1).mean())


def expected_calibration_error(p: Array, y: Labels) -> float:
    """Mean over bins, by their share of images, of |accuracy - confidence|; `p` `[n, classes]`."""
    confidence, right = p.max(-1), p.argmax(-1) == y
    # right-closed: (0, 1/15] is bin 0, (1/15, 2/15] is bin 1, ...
    edges = np.arange(1, ECE_BINS) / ECE_BINS
    bins = np.searchsorted(edges, confidence, side="left")
    gaps = np.bincount(bins, weights=right - confidence, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(y))


def softmax(logits: NDArray[Any]) -> Array:
    """Probabilities in float64 from logits `[..., classes]` of any type."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    odds = np.exp(shifted)
    return np.asarray(odds / odds.sum(-1, keepdims=True))


def _entropy(p: Array, tiny: float) -> Array:
    return np.asarray(-(p * np.log(np.maximum(p, tiny))).sum(-1))


def _mixture_gap(p: Array, tiny: float) -> float:
    """Entropy of the mean less mean entropy, nats, averaged over images: never negative.

    For two members the Jensen-Shannon divergence, for all the mutual information between the
    prediction and the choice of member (Lakshminarayanan et al., arXiv 1612.01474; Depeweg et al.,
    arXiv 1710.07283).
    """
    gap = _entropy(p.mean(0), tiny) - _entropy(p, tiny).mean(0)
    # exactly 0 where all members say the same, although the mean of three equal numbers may round
    gap[(p == p[0]).all((0, 2))] = 0.0
    return float(np.maximum(gap, 0.0).mean())


def checked(probs: ArrayLike, labels: ArrayLike) -> tuple[Array, Labels, float]:
    """Probabilities in float64, labels, and the smallest normal number of the input's type.

    Raises:
        UserError: for wrong shapes, labels out of range, or rows that are not probabilities.
    """
    given, y = _array(probs, "Probabilities"), _array(labels, "Labels")
    if given.ndim != 3 or given.shape[0] < 2:
        raise UserError(f"Probabilities must be [K, n, classes] with K of at least 2, found {given.shape}.")
    if y.shape != given.shape[1:2]:
        raise UserError(
            f"Probabilities of {given.shape[1]} images need labels [{given.shape[1]}], found {y.shape}."
        )
    if len(y) == 0:
        raise UserError("There are no images to compare predictions on.")
    if not np.issubdtype(y.dtype, np.integer):
        raise UserError(f"Labels must be integers, found {y.dtype}.")
    if y.min() < 0 or y.max() >= given.shape[2]:
        bad = y.min() if y.min() < 0 else y.max()
        raise UserError(f"Label {bad} is out of range, there are {given.shape[2]} classes.")
    if np.iscomplexobj(given):
        raise UserError(f"Probabilities must be real, found {given.dtype}.")
    kind = given.dtype if np.issubdtype(given.dtype, np.floating) else np.dtype(np.float64)
    p = given.astype(np.float64)
    # half the classes' rounding errors, at worst, add up in a row
    slack = max(1e-6, 4 * float(np.finfo(kind).eps) * given.shape[2] ** 0.5)
    if not np.isfinite(p).all() or p.min() < 0 or np.abs(p.sum(-1) - 1).max() > slack:
        raise UserError("Probabilities must be finite, not negative, and sum to 1 over classes.")
    return p, y.astype(np.int64), float(np.finfo(kind).tiny)


def _array(given: ArrayLike, what: str) -> NDArray[Any]:
    """An array of what was given; of tensors, their values (this module needs no torch)."""
    try:
        if isinstance(given, list | tuple):
            return np.asarray([_detached(one) for one in given])
        return np.asarray(_detached(given))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{what} are no array of numbers: {error}") from None


def _detached(given: Any) -> Any:
    return given.detach().cpu() if hasattr(given, "detach") else given
