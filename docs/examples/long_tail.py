"""A training shift: each sibling has few images of other classes. The worked example of docs/own-shift.md."""

import numpy as np


def long_tail(labels, domains, siblings, generator, ratio=10):
    """Return the positions in the training set that each sibling sees.

    The share of a class that is kept falls geometrically over the classes, from 1 to 1 / `ratio` (Cui et al.,
    2019, arXiv 1901.05555): from the first class to the last at siblings 0, 2, ..., in the other direction at
    siblings 1, 3, ....
    """
    classes = np.unique(labels)
    shares = np.geomspace(1, 1 / ratio, len(classes))
    views = []
    for sibling in range(siblings):
        kept = []
        for label, share in zip(classes, shares[:: -1 if sibling % 2 else 1], strict=True):
            of_class = generator.permutation(np.flatnonzero(labels == label))
            kept.append(of_class[: max(1, round(share * len(of_class)))])
        views.append(np.concatenate(kept))
    return views
