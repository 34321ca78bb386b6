"""Sections of docs/findings.md on single suites, computed from the committed evidence."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pandas as pd
from committed import (
    COMPARATORS,
    EVIDENCE,
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
from lmcbench.report.contrasts import recalibration
from lmcbench.results.cell_values import CONNECTED, shift_label
from lmcbench.results.record import Record
from lmcbench.results.record_files import RECORDS, read_records
from lmcbench.spec.architectures import short_labels
from lmcbench.spec.forks import INDEPENDENT, Fork
from lmcbench.spec.suite_files import load_suite
from lmcbench.stats.cells import Cells, sort_shifts

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

![Accuracy of ensembles by members and cost](../benchmark/evidence/{folder}/figures/accuracy-size.png)

{table}

{points}

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
        *_on_claims(name, ("shift", "shared noise", "views")),
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
    """Name the claims that are contrary, in one network where there are several, with effect."""
    text = text_of(suite, "findings.md")
    found = []
    if "### By architecture" not in text:
        rows = (row for row in first_table(text) if row["verdict"] == "contrary")
        return [f"{row['claim']}: contrary, {row['effect']} ({_unit(row['claim'])})." for row in rows]
    for row in first_table(text[text.index("### By architecture") :]):
        for network, cell in row.items():
            if network != "claim" and cell.endswith("contrary"):
                effect = cell.partition(",")[0]
                name = network.replace("\\", "").partition("(")[0]
                found.append(f"{row['claim']}: contrary in {name}, {effect} ({_unit(row['claim'])}).")
    return found


def _on_claims(suite: str, words: Sequence[str]) -> list[str]:
    """Return effect, interval, unit and verdict of the tested claims that have one of some words."""
    return [
        f"{row['claim']}: {row['effect']} ({row['95 % interval']}) {_unit(row['claim'])}, {row['verdict']}; "
        f"margin {row['margin']}."
        for row in first_table(text_of(suite, "findings.md"))
        if any(word in row["claim"] for word in words) and row["effect"] != "–"
    ]


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
    last = [fork.name for fork in suite.fork_list if fork.has_trunk][-1]
    records = read_records(EVIDENCE / folder_of(ENSEMBLES) / RECORDS)
    ensembles = by["ensemble_accuracy"]
    apart = {
        shift: show_interval(*interval(ensembles.loc[shift, last] - ensembles.loc[shift, COMPARATORS[0]]))
        for shift in sort_shifts(cells["shift"])
    }
    points = [
        *_contrary(ENSEMBLES),
        f"By shift, recalibration lowers the barrier of these forks by {_recalibrated(records)} points: "
        "where siblings have seen other labels, points between them are more accurate with blended "
        "statistics.",
        f"At equal cost, ensembles of siblings of fork {last} are more accurate than ensembles of "
        f"independent networks by {' and '.join(f'{d} points (`{shift}`)' for shift, d in apart.items())}.",
        _fewer(records, last, costs),
    ]
    return ON_ENSEMBLES.format(
        suite=ENSEMBLES,
        folder=folder_of(ENSEMBLES),
        n=n,
        planned="" if n == suite.replicates else f"the first {n} of {suite.replicates} replicates, ",
        table="\n".join(lines),
        points=bullets(points),
    )


def _fewer(records: Sequence[Record], last: str, costs: dict[str, str]) -> str:
    """Compare siblings of the latest fork with fewer independent networks of full length at their cost."""
    count = int(float(costs[last]))
    assert count == float(costs[last])
    found: dict[tuple[str, str], list[float]] = {}
    for record in records:
        if record.functions and (fork := record.fork.name) in (last, INDEPENDENT):
            sizes = record.functions["test"]["sizes"]
            size = str(count) if fork == INDEPENDENT else max(sizes, key=int)
            found.setdefault((shift_label(record), fork), []).append(sizes[size]["accuracy"])
    shown = [
        f"{show_mean(pd.Series(found[shift, INDEPENDENT]))} % against "
        f"{show_mean(pd.Series(found[shift, last]))} % (`{shift}`)"
        for shift in sort_shifts(shift for shift, _ in found)
    ]
    return (
        f"For the cost of all siblings of fork {last}, {count} independent networks can be trained at full "
        f"length: their ensemble has {', '.join(shown)}."
    )


def _recalibrated(records: Sequence[Record]) -> str:
    """How much recalibration lowers the barrier of siblings, by shift, with intervals over replicates."""
    found = pd.DataFrame(
        [(c.replicate, c.what[2], c.value) for c in recalibration(Cells(records), "test")],
        columns=["replicate", "shift", "lowered"],
    )
    by = found.groupby(["shift", "replicate"])["lowered"].mean()
    shown = (f"{show_interval(*interval(by[shift]))} (`{shift}`)" for shift in sort_shifts(found["shift"]))
    return " and ".join(shown)


def _worth(suite: str) -> str:
    text = text_of(suite, "leaderboard.md")
    return text[text.index("### Siblings and their ensembles") :]
