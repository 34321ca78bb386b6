"""Explanations that the page and the Markdown share."""

from __future__ import annotations

from lmcbench.leaderboard.ranking_table import MIN_REPLICATES

TITLE = "Linear mode connectivity under data shift"

LEAD = (
    "Two copies of a network leave a common training run and continue with different noise, on differently "
    "shifted data. How much does the error rise on the straight line between their weights?"
)

MEANS = (
    "Connectivity is the error barrier between siblings that fork at initialisation and train on "
    "differently shifted data: how far the test error on the straight line between their weights rises "
    "above the chord between its ends, halfway. It is signed: 0 means that the midpoint lies on the chord, "
    "and a negative value that it is better. It is a mean over the training shifts of the suite (controls "
    "left out), in percentage points; lower is better connected."
)

MEANS_NOT = (
    "Connectivity is not quality. A network that has learned little is well connected, and so is a "
    "linear softmax, whose loss is convex: it is the baseline of every table. Accuracy, "
    "ensembles and cost have their own columns, and a rank needs accuracy above the suite's floor."
)

RANKS = (
    "A number is a mean over replicates, the independent repeats, ± the half-width of its 95 % Student "
    "t interval. Entries of a suite share seeds, so every two of them are compared replicate by "
    "replicate (paired t test, all p-values corrected together by Holm's method). A rank is an "
    "interval: from 1 + the number of entries that are significantly better, to the number of entries "
    "less those that are significantly worse. Overlapping intervals are ties, and their order in the "
    "table means nothing. Scores do not depend on the other entries; the width of an interval "
    "does, because more comparisons need more evidence."
)

UNRANKED = (
    "Ranks are based on midpoints that were checked, and the column ‘rank is’ says how: ‘recomputed’ by the "
    "verifier from stored logits, or ‘re-run’, where every cell that the rank is a mean over was trained "
    "again and agreed. Shown without a rank: entries whose midpoints are only ‘claimed’, entries with fewer "
    f"than {MIN_REPLICATES} replicates, with missing or failed "
    "cells, or below the accuracy floor. Diverged cells are results: they are counted and never "
    "averaged."
)

LATEST = (
    "Ensembles and soups are of the siblings of the latest fork, where sharing a trunk saves the most "
    "training; ‘independent’ is an ensemble of as many networks of their own initialisations that "
    "together cost the same training, measured in the same replicates. A dash: not measured."
)

TRUST = {
    "claimed": "as submitted; the predictions were not checked",
    "rescored": "every derived number was recomputed from the submitted curves and predictions",
    "re-run": "at least five cells, chosen after submission, were trained again and agreed",
    "reproduced": "another author trained replicates that were chosen after submission, and agreed",
}
"""The meaning of each trust level."""
