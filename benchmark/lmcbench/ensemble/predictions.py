"""Predictions of several networks: their diversity, and accuracy and calibration of their ensemble."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmcbench.errors import UserError
from lmcbench.values import as_numbers, holds_other, shown

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

ECE_BINS = 15
"""Equal right-closed bins of top-1 confidence (Guo et al., 2017, arXiv 1706.04599, section 2)."""


def compare_predictions(probs: ArrayLike, labels: ArrayLike) -> dict[str, float | None]:
    """Return accuracy, likelihood, calibration and diversity of K networks and of their ensemble.

    The ensemble predicts the mean of its members' probabilities. Ties are resolved to the lowest class;
    log(0) is clamped at the smallest normal number of the input's dtype.

    Args:
        probs: softmax probabilities, `[K, n, classes]`, K >= 2.
        labels: true classes, `[n]` integers.

    Returns:
        All scores are means over images; fractions unless stated otherwise.

        - `accuracy_mean` of the members, `ensemble_accuracy`, and `ensemble_gain`, their difference;
        - `nll_mean`, `ensemble_nll`: negative log-likelihood, nats;
        - `brier_mean`, `ensemble_brier`: squared error summed over classes (Brier, 1950);
        - `ensemble_ece`: expected calibration error, 15 equal bins (Guo et al., 2017, arXiv 1706.04599);
        - means over pairs: `disagreement` of top-1 (Fort et al., 2019, arXiv 1912.02757), `both_wrong`,
          `same_wrong` (both predict the same wrong class), and `js_divergence`, nats (Lakshminarayanan et
          al., 2017, arXiv 1612.01474);
        - `error_overlap`: mean of both wrong divided by mean of either wrong; None if no member errs;
        - `mutual_information` between the prediction and the choice of member, over all K, nats.

    Raises:
        UserError: for wrong shapes, labels out of range, or rows that are not probabilities.

    Examples:
        >>> probs = [[[0.75, 0.25], [0.75, 0.25]], [[0.5, 0.5], [0.25, 0.75]]]
        >>> scores = compare_predictions(probs, labels=[0, 1])
        >>> scores["accuracy_mean"], scores["ensemble_accuracy"], scores["disagreement"]
        (0.75, 0.5, 0.5)
    """
    p, y, tiny = validate(probs, labels)
    k = len(p)
    mean = p.mean(0)
    top = p.argmax(-1)
    wrong = top != y
    pairs = list(combinations(range(k), 2))
    both = [(wrong[i] & wrong[j]).mean() for i, j in pairs]
    either = [(wrong[i] | wrong[j]).mean() for i, j in pairs]
    member_nll = [nll(member, y, tiny) for member in p]
    # both from counts, so that the gain of identical members is exactly 0
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
        "js_divergence": np.mean([_entropy_gap(p[[i, j]], tiny) for i, j in pairs]),
        "error_overlap": np.mean(both) / np.mean(either) if np.any(either) else None,
        "mutual_information": _entropy_gap(p, tiny),
    }
    return {name: None if value is None else float(value) for name, value in measures.items()}


def independent_disagreement(error_a: float, error_b: float, classes: int) -> float:
    """Return the expected disagreement (fraction) of two networks with independent errors.

    If all wrong classes are equally likely, networks differ where one errs alone and where both err with
    different classes: e_A + e_B - e_A e_B C / (C - 1). At chance, e = 1 - 1/C, this is 1 - 1/C.
    """
    return error_a + error_b - error_a * error_b * classes / (classes - 1)


def compare_errors(probs: ArrayLike, labels: ArrayLike) -> dict[str, float | None]:
    """Return the agreement of K networks' errors, and their disagreement relative to independent errors.

    Ratios are taken of means over pairs, as in `compare_predictions`. Ties are resolved to the lowest class.

    Args:
        probs: softmax probabilities, `[K, n, classes]`, K >= 2.
        labels: true classes, `[n]` integers.

    Returns:
        - `error_agreement`: fraction of the images misclassified by both on which they predict the same
          class; its expectation by chance is 1 / (classes - 1). None if no image is misclassified by both;
        - `error_consistency`: Cohen's kappa of correctness (Geirhos et al., 2020, arXiv 2006.16736, section
          3): 1 for the same errors, 0 for independent errors, None if agreement by chance is 1;
        - `disagreement_independent`: `independent_disagreement` at these errors, fraction;
        - `disagreement_normalised`: disagreement divided by it: 0 for equal predictions, 1 for independent
          errors, None if no network errs. Fort et al. (2019, arXiv 1912.02757) divide by the error instead,
          which is valid for small errors only.

    Raises:
        UserError: as in `compare_predictions`.
    """
    p, y, _ = validate(probs, labels)
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
    """Return the mean negative log-likelihood, nats, of `p` `[n, classes]`."""
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], tiny)).mean())


def brier(p: Array, y: Labels) -> float:
    """Return the mean squared distance to one-hot labels, summed over classes, of `p` `[n, classes]`."""
    true = p[np.arange(len(y)), y]
    return float(((p**2).sum(-1) - 2 * true + 1).mean())


def expected_calibration_error(p: Array, y: Labels) -> float:
    """Return the mean of |accuracy - confidence| over bins, weighted by images, of `p` `[n, classes]`."""
    confidence, right = p.max(-1), p.argmax(-1) == y
    # right-closed: (0, 1/15] is bin 0, (1/15, 2/15] is bin 1, ...
    edges = np.arange(1, ECE_BINS) / ECE_BINS
    bins = np.searchsorted(edges, confidence, side="left")
    gaps = np.bincount(bins, weights=right - confidence, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(y))


def softmax(logits: NDArray[Any]) -> Array:
    """Return float64 probabilities of logits `[..., classes]` of any dtype."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    odds = np.exp(shifted)
    return np.asarray(odds / odds.sum(-1, keepdims=True))


def _entropy(p: Array, tiny: float) -> Array:
    return np.asarray(-(p * np.log(np.maximum(p, tiny))).sum(-1))


def _entropy_gap(p: Array, tiny: float) -> float:
    """Return the entropy of the mean minus the mean entropy, nats, averaged over images; at least 0.

    It is the Jensen-Shannon divergence of two members (Lakshminarayanan et al., 2017, arXiv 1612.01474), and
    the mutual information between prediction and choice of member of all (Depeweg et al., 2018, arXiv
    1710.07283).
    """
    gap = _entropy(p.mean(0), tiny) - _entropy(p, tiny).mean(0)
    # exactly 0 where all members agree, although the mean of three equal numbers may round
    gap[(p == p[0]).all((0, 2))] = 0.0
    return float(np.maximum(gap, 0.0).mean())


def validate(probs: ArrayLike, labels: ArrayLike) -> tuple[Array, Labels, float]:
    """Return probabilities as float64, labels as int64, and the smallest normal number of the input's dtype.

    Raises:
        UserError: for wrong shapes, labels out of range, or rows that are not probabilities.
    """
    given, y = _array(probs, "Probabilities"), _array(labels, "Labels")
    if given.dtype.kind not in "iufO":
        raise UserError(f"Probabilities must be real, found {given.dtype}.")
    if holds_other(probs):
        raise UserError(f"Probabilities must be real, found {shown(probs)}.")
    if given.ndim != 3 or given.shape[0] < 2:
        raise UserError(f"Probabilities must be [K, n, classes] with K of at least 2, found {given.shape}.")
    if y.shape != given.shape[1:2]:
        raise UserError(
            f"Probabilities of {given.shape[1]} images need labels [{given.shape[1]}], found {y.shape}."
        )
    if len(y) == 0:
        raise UserError("Probabilities and labels are of no images; at least one is needed.")
    if not np.issubdtype(y.dtype, np.integer):
        raise UserError(f"Labels must be integers, found {y.dtype}.")
    if y.min() < 0 or y.max() >= given.shape[2]:
        bad = y.min() if y.min() < 0 else y.max()
        raise UserError(f"Label {bad} is out of range; there are {given.shape[2]} classes.")
    kind = given.dtype if np.issubdtype(given.dtype, np.floating) else np.dtype(np.float64)
    p = as_numbers(given, "Probabilities")
    # rounding errors of a row add up
    slack = max(1e-6, 4 * float(np.finfo(kind).eps) * given.shape[2] ** 0.5)
    if not np.isfinite(p).all() or p.min() < 0 or np.abs(p.sum(-1) - 1).max() > slack:
        raise UserError("Probabilities must be finite, not negative, and sum to 1 over classes.")
    return p, y.astype(np.int64), float(np.finfo(kind).tiny)


def _array(given: ArrayLike, what: str) -> NDArray[Any]:
    """Convert array-likes and tensors to an array, without importing torch."""
    try:
        if isinstance(given, list | tuple):
            return np.asarray([_detached(one) for one in given])
        return np.asarray(_detached(given))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{what} are not an array of numbers: {error}") from None


def _detached(given: Any) -> Any:
    return given.detach().cpu() if hasattr(given, "detach") else given
