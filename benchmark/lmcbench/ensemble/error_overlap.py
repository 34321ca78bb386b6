"""How alike the errors of several networks are, against errors that are independent."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from lmcbench.ensemble.predictions import checked


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
