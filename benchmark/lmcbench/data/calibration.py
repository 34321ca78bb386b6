"""The calibration list: which images normalisation statistics are taken on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmcbench.data.subset import stratified
from lmcbench.spec.shifts import Indices


def calibration_items(views: Sequence[Indices], source: Indices, labels: Indices, n: int) -> Indices:
    """Up to `n` positions in the pool, `[n]`, stratified, from the union of the `views` (design 3.3).

    Image j is shown as sibling j mod K sees it; where that sibling's view lacks the image, as the first
    that has it does.
    """
    shown = [dict(zip(source[view].tolist(), view.tolist(), strict=True)) for view in views]
    label_of = {s: int(labels[item]) for view in shown for s, item in view.items()}
    union = np.array(sorted(label_of), dtype=np.int64)
    classes = np.array([label_of[s] for s in union.tolist()])
    chosen = stratified(classes, min(n, len(union)))
    # by class, so that the siblings take turns within each class
    picked = union[chosen[np.argsort(classes[chosen], kind="stable")]]
    items = []
    for j, image in enumerate(picked.tolist()):
        order = [j % len(shown), *range(len(shown))]
        items.append(next(shown[i][image] for i in order if image in shown[i]))
    return np.array(items, dtype=np.int64)
