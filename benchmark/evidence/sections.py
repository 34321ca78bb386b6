"""Sections of docs/findings.md on single suites, computed from the committed evidence."""

from __future__ import annotations

import re
from itertools import product

import pandas as pd
from committed import (
    DEFAULT,
    LINE,
    bullets,
    cells_of,
    first_table,
    folder_of,
    interval,
    replicates_of,
    show_interval,
    show_mean,
    show_span,
    text_of,
    versions,
)
from scipy import stats

from lmcbench.report.claims import CLAIMS as CLAIM_TESTS
from lmcbench.results.cell_values import CONNECTED
from lmcbench.spec.architectures import short_labels
from lmcbench.spec.forks import Fork
from lmcbench.spec.suite_files import load_suite
from lmcbench.stats.cells import sort_shifts

BASELINE = "lmc_linear"
MLP = "lmc_mlp"
COMPARATORS = ("independent-equal-cost", "whole-budget")
IN_SHORT = """## In short, on digits

A demonstration with {n} replicates on a CPU. Numbers are means over replicates, by network (without the
baseline) and shift where a range is given; in brackets 95 % t intervals over replicates. All are in the
[tables](../benchmark/evidence/{folder}/leaderboard.md) and
[tests](../benchmark/evidence/{folder}/findings.md). Against the papers:

{contrary}

In agreement with them:

{agreeing}

"""
PHOTOGRAPHS = "cifar10-cpu-fork"
"""The suite of the section on photographs."""
ON_PHOTOGRAPHS = """## On photographs

How early do siblings become connected? These are results of
[{suite}](../benchmark/evidence/{folder}/README.md) on a CPU, {planned}n = {n}. The suite has 10,000 training
and 2,000 test images of a JPEG copy of CIFAR-10 (not the original pixels), three small networks of timm's, no
data shift, and recipes that `lmcbench tune` chose. The table has error barriers on the test set (chord form,
percentage points) by fork, in epochs or as share of the 16 epochs: means with 95 % t intervals over
replicates.

{table}

{points}

"""
SHIFTED = ("cifar10-cpu-shift", "fashion-shift-cpu")
"""The suites of the section on training shifts, as far as they have evidence."""
ON_SHIFTS = """## Under training shifts

Do siblings on differently shifted data separate more? The tables have, for each training shift, accuracy
of siblings (mean over networks) and error barriers of siblings that share only their initialisation
(fork 0): plain test set, chord form, percentage points, means with 95 % t intervals over replicates.
A shift `s` changes what both siblings learn from, and so does its control `same(s)`: the difference between
the two is the effect of different data. With shared noise, siblings differ in nothing but their data.

{suites}

"""
ON_ONE_SHIFTED = """[{suite}](../benchmark/evidence/{folder}/README.md), CPU, {planned}n = {n}:

{table}

{points}"""
ENSEMBLES = "cifar10-cpu-ensemble"
"""The suite of the section on larger ensembles."""

ON_ENSEMBLES = """## On larger ensembles

Do siblings pay because larger ensembles become affordable?
[{suite}](../benchmark/evidence/{folder}/README.md) trains five networks of one kind, the ResNet of
`cifar10-cpu-fork`, on a CPU ({planned}n = {n}). The table has accuracies on the test set in percent, means
with 95 % t intervals over replicates. Cost is that of all networks of a row in trainings of one network, a
shared trunk counted once. Comparators of equal cost cost as much as siblings of fork 50 %. Under `label-skew`
the one network sees all images, and an independent network those of its sibling.

{table}

"""

RECIPES = "noise-grid"
"""The suite of the section on recipes."""
ON_RECIPES = """## On learning rate and batch size

Does the noise of SGD set the barrier? [{suite}](../benchmark/evidence/{folder}/README.md) trains one
network, the ResNet of `digits`, with {count} recipes (CPU, n = {n}; a demonstration). Without shift, siblings
that separate at initialisation have mean error barriers of {low} to {high} points, at mean accuracies of
{accuracies} %: the lowest with `{least}`, the highest with `{most}` (batch size, learning
rate, epochs). A barrier belongs to a network with its recipe.

Spearman's rank correlation between the recipes' noise scales, g = lr (N/B - 1), and their barriers within a
replicate is {correlation} (mean with 95 % t interval over replicates).

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


def on_photographs() -> str:
    """Return the section on photographs: barriers by fork, and what they say."""
    cells = cells_of(PHOTOGRAPHS)
    n, suite = replicates_of(PHOTOGRAPHS), load_suite(PHOTOGRAPHS)
    forks = [fork.name for fork in suite.fork_list]
    by = cells.groupby(["architecture", "fork", "replicate"])[["error_chord", "error", "soup_error"]].mean()
    networks = list(dict.fromkeys(cells["architecture"]))
    lines = ["| network | accuracy | " + " | ".join(forks) + " |", "|---" * (2 + len(forks)) + "|"]
    for network in networks:
        member = 1 - by.loc[network, "error"].groupby("replicate").mean()
        heights = [show_mean(by.loc[(network, fork), "error_chord"]) for fork in forks]
        lines.append(f"| {network} | {show_mean(member)} % | " + " | ".join(heights) + " |")
    means = by.groupby(["architecture", "fork"]).mean()
    last = [fork for fork in forks if fork not in ("independent", *COMPARATORS)][-1]
    gained = 100 * (means["error"] - means["soup_error"])
    connected = {
        name: next((f for f in forks if means.loc[(name, f), "error_chord"] < CONNECTED), None)
        for name in networks
    }
    first = ", ".join(f"{name} {_named_fork(fork)}" for name, fork in connected.items())
    points = [
        *_contrary(PHOTOGRAPHS),
        f"The first fork with a mean barrier below {100 * CONNECTED:g} points: {first}.",
        "Accuracy of the average of two siblings' weights minus that of the siblings, in percentage points: "
        + "; ".join(
            f"fork {fork}: " + ", ".join(f"{name} {gained.loc[(name, fork)]:+.1f}" for name in networks)
            for fork in (last, "independent")
        )
        + ".",
    ]
    return ON_PHOTOGRAPHS.format(
        suite=PHOTOGRAPHS,
        folder=folder_of(PHOTOGRAPHS),
        planned="" if n == suite.replicates else f"with the first {n} of {suite.replicates} replicates, ",
        n=n,
        table="\n".join(lines),
        points=bullets(points),
    )


def on_shifts() -> str:
    """Return the section on training shifts: barriers at fork 0 by shift and network."""
    suites = (_on_one_shifted(suite) for suite in SHIFTED if suite in versions())
    return ON_SHIFTS.format(suites="\n\n".join(suites))


def _on_one_shifted(name: str) -> str:
    cells, suite = cells_of(name), load_suite(name)
    cells = cells[~cells["fork"].isin(COMPARATORS)]
    n = replicates_of(name)
    by = cells.groupby(["shift", "architecture", "fork", "replicate"])[["error_chord", "error"]].mean()
    networks = list(short_labels([a.label for a in suite.architectures]).values())
    lines = ["| shift | accuracy | " + " | ".join(networks) + " |", "|---" * (2 + len(networks)) + "|"]
    early = by.xs("0", level="fork")
    for shift in sort_shifts(cells["shift"]):
        accuracy = 1 - early.loc[shift, "error"].groupby("replicate").mean()
        heights = [show_mean(early.loc[(shift, network), "error_chord"]) for network in networks]
        lines.append(f"| {shift} | {show_mean(accuracy)} | {' | '.join(heights)} |")
    means = 100 * by["error_chord"].groupby(["fork", "architecture", "shift"]).mean()
    forks = [fork.name for fork in suite.fork_list if fork.name not in ("0", *COMPARATORS)]
    highest = ", ".join(
        f"{means.loc[fork].max():.1f} (fork {fork})" for fork in forks if fork != "independent"
    )
    apart = means.loc["independent"]
    points = [
        *_contrary(name),
        f"The highest mean barrier of any network and shift at later forks: {highest} points. Independent "
        f"networks have {apart.min():.1f} to {apart.max():.1f} points.",
    ]
    return ON_ONE_SHIFTED.format(
        suite=name,
        folder=folder_of(name),
        planned="" if n == suite.replicates else f"the first {n} of {suite.replicates} replicates, ",
        n=n,
        table="\n".join(lines),
        points=bullets(points),
    )


def on_recipes() -> str:
    """Return the section on recipes: the range of barriers of one network, and their correlation with g."""
    cells = cells_of(RECIPES)
    cells = cells[cells["shift"] == "none"]
    noise = cells["lr"] * (cells["train_images"] / cells["batch_size"] - 1)
    means = cells.groupby("recipe")[["error_chord", "error"]].mean()
    barriers = means["error_chord"].sort_values()
    ranks = pd.Series(
        [
            stats.spearmanr(noise[mine.index], mine["error_chord"]).statistic
            for _, mine in cells.groupby("replicate")
        ]
    )
    mean, low, high = (value / 100 for value in interval(ranks))
    return ON_RECIPES.format(
        suite=RECIPES,
        folder=folder_of(RECIPES),
        count=len(means),
        n=replicates_of(RECIPES),
        low=f"{100 * barriers.iloc[0]:.1f}",
        high=f"{100 * barriers.iloc[-1]:.1f}",
        least=barriers.index[0],
        most=barriers.index[-1],
        accuracies=show_span(1 - means["error"]),
        correlation=f"{mean:+.2f} ({low:+.2f} to {high:+.2f})",
    )


def _contrary(suite: str) -> list[str]:
    """Name the claims that are contrary in one network, with effect."""
    text = text_of(suite, "findings.md")
    found = []
    for row in first_table(text[text.index("### By architecture") :]):
        for network, cell in row.items():
            if network != "claim" and cell.endswith("contrary"):
                effect = cell.partition(",")[0]
                name = network.replace("\\", "").partition("(")[0]
                found.append(f"{row['claim']}: contrary in {name}, {effect} ({_unit(row['claim'])}).")
    return found


def _unit(statement: str) -> str:
    return next(claim.unit for claim in CLAIM_TESTS if claim.statement == statement)


def _named_fork(fork: str | None) -> str:
    if fork is None:
        return "none"
    return f"{fork} of training" if fork.endswith("%") else f"epoch {fork}"


def on_ensembles() -> str:
    """Return the section on larger ensembles: accuracies by fork and shift, and their cost."""
    cells = cells_of(ENSEMBLES)
    n, suite = replicates_of(ENSEMBLES), load_suite(ENSEMBLES)
    cells = cells.assign(member=1 - cells["error"], soup=1 - cells["soup_error"])
    columns = ["member", "ensemble_accuracy", "soup"]
    by = cells.groupby(["shift", "fork", "replicate"])[columns].mean()
    costs = {row["fork"]: row["cost"] for row in first_table(_worth(ENSEMBLES))}
    lines = ["| shift | networks | member | ensemble | soup | cost |", "|---" * 6 + "|"]
    names = [fork.name for fork in suite.fork_list]
    for shift, fork in product(sort_shifts(cells["shift"]), names):
        shown = [show_mean(by.loc[(shift, fork), column]) for column in columns]
        networks = f"siblings, fork {fork}" if Fork.parse(fork).has_trunk else fork
        lines.append(f"| {shift} | {networks} | {' | '.join(shown)} | {costs[fork]} |")
    return ON_ENSEMBLES.format(
        suite=ENSEMBLES,
        folder=folder_of(ENSEMBLES),
        n=n,
        planned="" if n == suite.replicates else f"the first {n} of {suite.replicates} replicates, ",
        table="\n".join(lines),
    )


def _worth(suite: str) -> str:
    text = text_of(suite, "leaderboard.md")
    return text[text.index("### Siblings and their ensembles") :]
