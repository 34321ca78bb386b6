"""The numbers of a record that `lmcbench verify` cannot check: it lists them as claimed."""

from __future__ import annotations

SIZE = "the network's number of weights, and its FLOPs of a step beyond the floor that follows from it"
OWN_SIZE = (
    "the network's number of weights and its FLOPs of a step, which have no floor in a network of the "
    "author's own (they are the same in all cells)"
)
"""Claims that could only be checked by building the network, which would execute submitted code."""

CLAIMED: dict[str, tuple[str, ...]] = {
    "curves, as blended too, but for their ends and midpoints on the test set and under evaluation shifts "
    "(they need the weights)": (
        "pairs.*.curves.*.*.inner",
        "pairs.*.curves.train*.*.*",
        "pairs.*.curves.test_?.*.*",
        "pairs.*.curves_uncalibrated.*.*.*",
    ),
    "siblings' training scores and final losses, as trained and recalibrated, and the trunk's accuracy at "
    "the fork (they need the weights)": (
        "siblings.*.splits.train.*",
        "siblings.*.splits.view.*",
        "siblings.*.recalibrated.train.*",
        "siblings.*.recalibrated.view.*",
        "pairs.*.ends_recalibrated.train*.*.*",
        "pairs.*.ends_recalibrated.test_?.*.*",
        "siblings.*.train_loss",
        "training.losses.*",
        "fork.trunk_accuracy",
    ),
    "calibration errors of siblings and soups within what rounding to fp16 leaves open": (
        "siblings.*.splits.test*.ece",
        "siblings.*.recalibrated.test*.ece",
        "soup.*.ece",
    ),
    "the geometry (it needs the weights)": ("pairs.*.geometry.**",),
    "the gradient noise at the fork, the classes of views, and within bounds the sizes of views and of their "
    "parts in training curves (they need the data)": (
        "training.label_counts.*.*",
        "training.domain_counts.*.*",
        "noise.gradient.**",
        "noise.views.*",
        "pairs.*.curves*.train_?.n",
    ),
    "ensembles of points on the path, but for their members' mean accuracy and loss, their gain and size": (
        "pairs.*.path_ensemble.*.*.both_wrong",
        "pairs.*.path_ensemble.*.*.brier_mean",
        "pairs.*.path_ensemble.*.*.disagreement",
        "pairs.*.path_ensemble.*.*.ensemble_accuracy",
        "pairs.*.path_ensemble.*.*.ensemble_brier",
        "pairs.*.path_ensemble.*.*.ensemble_ece",
        "pairs.*.path_ensemble.*.*.ensemble_nll",
        "pairs.*.path_ensemble.*.*.error_overlap",
        "pairs.*.path_ensemble.*.*.js_divergence",
        "pairs.*.path_ensemble.*.*.mutual_information",
        "pairs.*.path_ensemble.*.*.same_wrong",
    ),
    "further measures (--measure), and keys that this version does not know": tuple(
        f"pairs.*.{name}.**"
        for name in ("align", "curvature", "features", "landscape", "layers", "plane", "repair")
    ),
    "seconds, memory, versions and device": ("cost.train_s", "cost.eval_s", "cost.peak_bytes", "env.**"),
    SIZE: ("architecture.params", "cost.train_flop"),
}
"""What is claimed, in words, and the places of its numbers in a record: `*` is any key, `**` at the end any
number of them, and the points of a curve are `first`, `inner`, `middle` and `last`."""

PREDICTIONS_CLAIMED = [
    "midpoints, soups, ensembles, disagreements, siblings' test scores and losses at fitted temperatures "
    "(the predictions are not here)"
]
