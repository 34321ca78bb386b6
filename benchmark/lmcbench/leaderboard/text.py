"""Explanations that the page and the Markdown share."""

from __future__ import annotations

from lmcbench.leaderboard.ranking_table import MIN_REPLICATES

TITLE = "Linear mode connectivity under data shift"

LEAD = (
    "Two copies of a network leave a common training run and continue with different noise, on differently "
    "shifted data. How much does the error rise on the straight line between their weights?"
)

MEANS = (
    "The instability area says how far apart two siblings are on average over the first 30 % of training, "
    "as a share of how far apart independent networks are. D is the test loss halfway between two "
    "siblings' weights minus the mean loss of both, as trained. At each fork, D is divided by that of "
    "independent networks under the same training shift, and clipped to 0 (connected) and 1 (as far "
    "apart). The area is the mean of this over the square root of the share of training at the fork, so "
    "that early training weighs more, and over the training shifts of the suite that have own noise and "
    "are not controls. It is in percent; smaller is more stable. It is undefined where independent networks "
    "are at most 0.02 nats apart: always for a convex network."
)

MEANS_NOT = (
    "Stability is not quality. A network that has learned little is stable. Accuracy, ensembles and cost "
    "have their own columns, and a rank needs accuracy above the suite's floor. Losses depend on a "
    "network's confidence; the area from errors and the skill lost do not. The area depends on the recipe "
    "as much as on the network."
)

FRONTIER = (
    "Frontier: among the entries of one architecture whose midpoints were checked, recipes that no other "
    "recipe matches in both mean accuracy and mean instability area. In a suite with a sweep, an entry is "
    "ranked with the recipe that 'lmcbench tune' chooses; the others are shown."
)

RANKS = (
    "A number is a mean over replicates, the independent repeats, ± the half-width of its 95 % Student t "
    "interval. Ranks are made in three steps. Mean areas are compared on the scale arcsine of the square "
    "root, where replicates of small and large areas spread alike; each entry counts with the variance of "
    "its replicates there, raised to the table's median and moderated over the entries (Smyth, 2004). Every"
    " two entries are compared by Welch's t test, and all p-values are corrected together by Holm's method."
    " A rank is the interval from 1 + the number of entries that are significantly better to the number of "
    "entries minus those that are significantly worse (Mogstad et al., 2024), so that with probability 0.95"
    " all intervals of a table contain their true rank. Overlapping intervals are ties, and their order in "
    "the table means nothing. Scores do not depend on the other entries. The width of an interval does: "
    "more comparisons need more evidence, and ten replicates tell more apart than five."
)

UNRANKED = (
    "Ranks are based on midpoints that were checked, and the column ‘rank is’ says how: ‘recomputed’ by "
    "the verifier from stored logits, or ‘re-run’, where every cell that the rank is a mean over was "
    "trained again and agreed. Shown without a rank: entries whose midpoints are only ‘claimed’, entries "
    f"with fewer than {MIN_REPLICATES} replicates, with missing or failed cells, with a replicate whose "
    "area is undefined, or below the accuracy floor. Cells that diverged or did not learn are results: "
    "they are counted and never averaged."
)

LATEST = (
    "Ensembles and soups are of the siblings of the latest fork, where sharing a trunk saves the most "
    "training; ‘independent’ is an ensemble of as many networks of their own initialisations that together "
    "cost the same training, measured in the same replicates. A dash: not measured."
)

TRUST = {
    "claimed": "as submitted; the predictions were not checked",
    "rescored": "every derived number was recomputed from the submitted curves and predictions",
    "re-run": "at least five cells, chosen after submission, were trained again and agreed",
    "reproduced": "another author trained replicates that were chosen after submission, and agreed",
}
"""The meaning of each trust level."""
