"""The section of docs/findings.md on the default suite, computed from the committed evidence."""

from __future__ import annotations

import re

import pandas as pd
from committed import (
    BASELINE,
    DEFAULT,
    LINE,
    bullets,
    cells_of,
    first_table,
    folder_of,
    interval,
    replicates_of,
    show_interval,
    show_span,
    text_of,
)

MLP = "lmc_mlp"
IN_SHORT = """## In short, on digits

A demonstration with {n} replicates on a CPU. Numbers are means over replicates, by network (without the
baseline) and shift where a range is given; in brackets 95 % t intervals over replicates. All are in the
[tables](../benchmark/evidence/{folder}/leaderboard.md) and
[tests](../benchmark/evidence/{folder}/findings.md). Against the papers:

{contrary}

In agreement with them:

{agreeing}

"""


def in_short() -> str:
    """Return the section on the default suite: what contradicts the papers, then what agrees with them."""
    cells = cells_of(DEFAULT)
    baseline = cells["architecture"] == BASELINE
    networks = cells[~baseline]
    means = networks.groupby(["fork", *LINE])[["error_chord", "soup_error", "ensemble_accuracy"]].mean()
    barriers = means["error_chord"]
    forks = [f for f in dict.fromkeys(cells["fork"]) if re.fullmatch(r"[\d.]+%?", f)]
    forks.sort(key=lambda fork: float(fork.rstrip("%")))
    later = ", ".join(f"{100 * barriers.loc[fork].max():.1f} with {_of_training(fork)}" for fork in forks[1:])
    mlp = barriers.loc["0"].index.get_level_values("architecture") == MLP
    convex = 100 * cells[baseline].groupby(["fork", *LINE])["error_chord"].mean().max()
    agreeing = [
        "Siblings of the other networks that share only their initialisation (fork 0) are separated by mean "
        f"error barriers of {show_span(barriers.loc['0'][~mlp])} percentage points. After training in common "
        f"at most so many points are left, in any network: {later}.",
        "Independently initialised networks are separated by barriers of "
        f"{show_span(barriers.loc['independent'])} points. Their soups have an accuracy of "
        f"{show_span(1 - means.loc['independent', 'soup_error'])} %, their ensembles of "
        f"{show_span(means.loc['independent', 'ensemble_accuracy'])} %.",
        "Recalibrating BatchNorm statistics lowers the barrier of the ResNet, the only network with "
        f"BatchNorm: {_effect('Recalibrating BatchNorm')} points.",
        f"The linear softmax has error barriers of at most {convex:.1f} points under any shift; its loss is "
        "convex.",
    ]
    return IN_SHORT.format(
        n=replicates_of(DEFAULT),
        folder=folder_of(DEFAULT),
        contrary=bullets([*_against_shift(networks), *_against_rest(barriers.loc["0"][mlp])]),
        agreeing=bullets(agreeing),
    )


def _against_shift(networks: pd.DataFrame) -> list[str]:
    """Barriers under shift less those under the control: all, then at fork 0, then by network."""
    by = (
        networks.groupby(["replicate", "fork", "architecture", "shift"])["error_chord"]
        .mean()
        .unstack("shift")
    )
    single, skew = [], by["label-skew"] - by["same(label-skew)"]
    for shift, control in (("label-skew", "same(label-skew)"), ("disjoint-halves", "same-half")):
        differences = (by[shift] - by[control]).dropna().unstack("replicate")
        single += [(*interval(row), name, shift, fork) for (fork, name), row in differences.iterrows()]
    above, below = [c for c in single if c[1] > 0], [c for c in single if c[2] < 0]
    raises = "A training shift raises"
    margin = float(_claim(raises)["margin"])
    at_0 = skew.loc[:, "0"].groupby("replicate").mean()
    points = [
        f"The shifts do not raise the barrier over their controls on average: {_effect(raises)} points, "
        f"{_claim(raises)['verdict']} (margin {margin:g} points). This is the mean of forks 0 and 3 %, two "
        "shifts and four networks, and at 3 % barriers are small with and without shift. At fork 0 alone, "
        f"label-skew has {show_interval(*interval(at_0))} points more than its control, which leaves "
        f"{_left_open(*interval(at_0)[1:], margin)} open."
    ]
    apart = (
        f"By network, shift and fork there are {len(single)} intervals, of which {len(above)} above 0 and "
        f"{len(below)} below; they are not corrected for their number. "
    )
    if above:
        *numbers, name, shift, fork = max(above)
        apart += f"The largest is {name} under {shift} at fork {fork}: {show_interval(*numbers)} points."
    return [*points, apart.strip()]


def _left_open(low: float, high: float, margin: float) -> str:
    """Which effects beyond the margin an interval contains."""
    found = {"a rise": high > margin, "a fall": low < -margin}
    names = [name for name, contained in found.items() if contained]
    return f"{' and '.join(names) or 'neither a rise nor a fall'} of more than {margin:g} points"


def _against_rest(mlp: pd.Series) -> list[str]:
    """The MLP at fork 0, and ensembles at equal cost."""
    beats = "At equal training cost and data, an ensemble of siblings beats one"
    equal, one = f"{beats} of independent networks", f"{beats} network"
    return [
        f"The MLP has no barrier to lower: at fork 0 its mean barriers are {show_span(mlp)} points, and less "
        "than 2 count as connected (Frankle et al. found the same for a small network on MNIST). That later "
        "forks lower the barrier holds for the mean of the networks and not for the MLP.",
        "At equal cost and data, without shift, ensembles of siblings are not more accurate than ensembles "
        f"of independent networks, {_effect(equal)} points, nor than one network that gets the whole budget, "
        f"{_effect(one)} points (verdicts: {_claim(equal)['verdict']}, {_claim(one)['verdict']}; margin "
        f"{float(_claim(one)['margin']):g} point).",
    ]


def _claim(start: str) -> dict[str, str]:
    """The first claim that starts so."""
    return next(c for c in first_table(text_of(DEFAULT, "findings.md")) if c["claim"].startswith(start))


def _effect(start: str) -> str:
    found = _claim(start)
    return f"{found['effect']} ({found['95 % interval']})"


def _of_training(fork: str) -> str:
    if fork.endswith("%"):
        return f"{fork.removesuffix('%')} % of it"
    return f"{fork} epoch" + ("s" if fork != "1" else "")
