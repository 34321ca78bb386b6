"""Figures of networks: gradient noise, noise scale, disagreement, and accuracy against cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lmcbench.report.figures.style import (
    PLAIN,
    Drawing,
    blank,
    cloud_panels,
    fork_label,
    legend_below,
    line,
    panels,
    percent_bars,
    replicates,
    replicates_of,
)
from lmcbench.report.noise_scale import EPOCHS, RECIPE, STEPS, equal_epochs, equal_steps, noise_points
from lmcbench.results.cell_values import SPLIT
from lmcbench.spec.architectures import short_labels
from lmcbench.spec.forks import Fork
from lmcbench.spec.suite_files import published_suite
from lmcbench.stats.cells import Cells, forks_in, full_trainings
from lmcbench.stats.estimates import estimate

HOLLOW = {"label": "ensemble on the path", "mfc": "none", "mec": "#666666", "markersize": 7, "zorder": 1}
"""Style of the ensembles of points on the path between two siblings (Hepburn et al., 2025)."""

FEWEST_RECIPES = 3
"""Fewest learning rates and batch sizes of an architecture for a figure against noise scale."""


def between_views(cells: Cells) -> Drawing | None:
    """Draw the error barrier at the earliest fork against the share of gradient noise between the views."""
    forked = cells.forked()
    first = forked["fork_share"].min()
    points = forked[forked["fork_share"] == first].dropna(subset=["gradient_between_share", "error_chord"])
    shifts = points["shift"].unique()
    if len(shifts) < 2:
        return None
    figure, axes = cloud_panels(
        points, "gradient_between_share", "error_chord", {s: s for s in shifts}, by="shift"
    )
    for row in axes:
        row[0].set_ylabel("error barrier\n(percentage points)")
    for axis in axes.flat:
        axis.set_xscale("symlog", linthresh=0.1)
        axis.xaxis.set_major_formatter(PLAIN)
        axis.set_xlim(left=-0.02)
        axis.set_xlabel("share of gradient noise between the views (%)")
    return Drawing(
        "between-views",
        "Barrier against gradient noise between the views",
        f"Error barrier on the test set (chord form) of siblings of fork {100 * first:g} % against the share "
        "of the per-image gradient covariance at the fork that lies between the siblings' views; one point a "
        f"replicate, {replicates_of(forked)}. Random halves of m images have a share of about 1 / (m - 1). "
        "The scale is linear up to 0.1 and logarithmic above.",
        figure,
    )


def noise_scales(cells: Cells) -> Drawing | None:
    """Draw the error barrier at fork 0 against the noise scale, at equal epochs and at equal steps."""
    points = noise_points(cells.rows)
    recipes = points[["architecture", "lr", "batch_size"]].drop_duplicates()["architecture"].value_counts()
    names = [name for name in points["architecture"].unique() if recipes[name] >= FEWEST_RECIPES]
    if not names:
        return None
    short = short_labels(points["architecture"].unique())
    figure, axes = panels(len(names), 2, width=3.6, height=2.6, sharex=True, sharey="row")
    most = 0
    for row, name in zip(axes, names, strict=True):
        grid = points[points["architecture"] == name]
        for axis, equal, chosen in zip(
            row, (EPOCHS, STEPS), (equal_epochs(grid), equal_steps(grid)), strict=True
        ):
            for k, (shift, here) in enumerate(chosen.groupby("shift", sort=False)):
                most = max(most, _plot_recipes(axis, here, str(shift), k))
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(PLAIN)
            axis.set_title(equal)
            axis.set_xlabel("noise scale g = lr (N/B - 1)")
        row[0].set_ylabel(f"{short[name]}\nerror barrier (percentage points)")
    legend_below(figure, axes)
    return Drawing(
        "noise-scale",
        "Barrier against noise scale",
        "Error barrier on the test set (chord form) of siblings of fork 0 against SGD's noise scale, mean "
        f"with its 95 % Student t interval over up to {replicates(most)}; cells whose siblings all reach 2 % "
        "training error. Hollow: recipes of which some replicate did not; its fitted ones are shown.",
        figure,
    )


def _plot_recipes(axis: Any, points: pd.DataFrame, shift: str, k: int) -> int:
    """Plot one shift, a mean over replicates for each recipe; return the largest number of replicates."""
    most = 0
    groups = [group for _, group in points.groupby(RECIPE)]
    for group in sorted(groups, key=lambda group: group["g"].iloc[0]):
        fitted = 100 * group.loc[group["fitted"], "error_chord"]
        if len(fitted):
            mean = estimate(fitted.tolist())
            most = max(most, len(fitted))
            style = {**line(k), "linestyle": "none"}
            if len(fitted) < len(group):
                style["markerfacecolor"] = "none"
            axis.errorbar(
                [group["g"].iloc[0]],
                [mean.mean],
                yerr=percent_bars([mean]),
                label=shift,
                capsize=2,
                elinewidth=0.8,
                **style,
            )
    return most


def disagreement(cells: Cells) -> Drawing | None:
    """Draw the disagreement against the error barrier, one point a cell, by fork."""
    measured = cells.measured()
    points = measured.dropna(subset=["error_chord", "disagreement"])
    points = points[[not Fork.parse(name).is_cost_matched for name in points["fork"]]]
    if points.empty:
        return None
    names = {fork: fork_label(fork) for fork in forks_in(points)}
    figure, axes = cloud_panels(points, "error_chord", "disagreement", names, by="fork")
    for row in axes:
        row[0].set_ylabel("disagreement (%)")
    for axis in axes.flat:
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlim(-0.15, 110)
        axis.set_xticks([0, 0.5, 1, 2, 5, 10, 20, 50, 100], ["0", "", "1", "2", "5", "10", "20", "50", "100"])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.set_xlabel("error barrier (percentage points)")
    return Drawing(
        "disagreement",
        "Disagreement against barrier",
        "How often two networks disagree on the test set, against the error barrier between them (chord "
        f"form), one point a cell: all shifts, {replicates_of(measured)}. Linear up to 1, "
        "logarithmic above.",
        figure,
    )


def accuracy_and_cost(cells: Cells) -> Drawing | None:
    """Draw the ensemble accuracy against training FLOPs, with the comparators of equal cost."""
    table = cells.measured().copy()
    if not any(Fork.parse(name).is_cost_matched for name in table["fork"]):
        return None
    accuracy = table["ensemble_accuracy"] if "ensemble_accuracy" in table else table["error"] * float("nan")
    # the comparator of one network has no ensemble
    table["accuracy"] = 100 * accuracy.where(table["siblings"].notna(), 1 - table["error"])
    table = table.dropna(subset=["accuracy", "train_flop"])
    several = table.groupby("architecture")["recipe"].transform("nunique") > 1
    # recipes differ in cost and accuracy: each has panels of its own
    names = table["architecture"].map(short_labels(table["architecture"].unique()))
    table["row"] = names.where(~several, names + ", " + table["recipe"])
    shifts = list(table["shift"].unique())
    priced = [Fork.parse(name).is_cost_matched for name in table["fork"]]
    # a panel without comparators would compare nothing
    shown = table.loc[priced, ["row", "shift"]].drop_duplicates().itertuples(index=False, name=None)
    places = sorted(
        shown, key=lambda place: (list(table["row"].unique()).index(place[0]), shifts.index(place[1]))
    )
    forks = forks_in(table)
    columns = min(3, len(places))
    figure, axes = panels(-(-len(places) // columns), columns, width=3.0, height=2.1)
    most = 0
    for axis, (name, shift) in zip(axes.flat, places, strict=False):
        of_row = table[table["row"] == name]
        full = of_row["train_flop"].max()
        for k, fork in enumerate(forks):
            here = of_row[(of_row["shift"] == shift) & (of_row["fork"] == fork)]
            most = max(most, len(here))
            if len(here):
                mean = estimate(here["accuracy"].tolist())
                # equal costs are drawn side by side
                aside = 1 + 0.008 * (k - (len(forks) - 1) / 2)
                cost = here["train_flop"].iloc[0] * aside / full
                axis.errorbar(
                    [cost],
                    [mean.mean],
                    yerr=percent_bars([mean]),
                    label=fork_label(fork),
                    capsize=2,
                    elinewidth=0.8,
                    **{**line(k), "linestyle": "none"},
                )
                path = here["path_ensemble_accuracy"].dropna()
                if len(path):
                    axis.plot([cost], [100 * path.mean()], "o", **HOLLOW)
        axis.set_xlabel(f"training cost (units of {full:.1e} FLOPs)")
        axis.xaxis.get_major_locator().set_params(nbins=4)
        axis.set_ylabel("accuracy (%)")
        axis.set_title(f"{name}, {shift}")
    blank(axes, len(places))
    legend_below(figure, axes, each=2.0)
    return Drawing(
        "accuracy-cost",
        "Ensemble accuracy against training cost",
        "Accuracy on the test set of the ensemble of a cell's networks (whole-budget: of the one network) "
        "against the floating point operations of training them, a shared trunk counted once; mean with its "
        f"95 % Student t interval over {replicates(most)}, drawn as far as an accuracy can reach. Rings: "
        "mean of the largest ensemble of points on the path between two siblings. Cheaper is to be read "
        "between networks of equal cost only: the latest fork, independent-equal-cost and "
        f"whole-budget.{_comparator_shifts(cells, shifts)}",
        figure,
    )


def accuracy_and_size(cells: Cells) -> Drawing | None:
    """Draw the ensemble accuracy against the number of members, up to three or more, and their cost."""
    table = _by_size(cells)
    if table.empty:
        return None
    places = list(table[["row", "shift"]].drop_duplicates().itertuples(index=False, name=None))
    forks = forks_in(table)
    figure, axes = panels(len(places), 2, width=3.3, height=2.1, sharey="row")
    most = 0
    for row, (name, shift) in zip(axes, places, strict=True):
        here = table[(table["row"] == name) & (table["shift"] == shift)]
        for k, fork in enumerate(forks):
            groups = [group for _, group in here[here["fork"] == fork].groupby("size")]
            means = [estimate(group["accuracy"].tolist()) for group in groups]
            most = max([most, *map(len, groups)])
            for axis, x in zip(row, ("size", "cost"), strict=True):
                axis.errorbar(
                    [group[x].mean() for group in groups],
                    [mean.mean for mean in means],
                    yerr=percent_bars(means),
                    label=fork_label(fork),
                    capsize=2,
                    elinewidth=0.8,
                    **line(k),
                )
        row[0].set_xticks(sorted(here["size"].unique()))
        row[0].set_ylabel(f"{name}, {shift}\naccuracy (%)")
    axes[-1][0].set_xlabel("members")
    axes[-1][1].set_xlabel("training cost (trainings of one network)")
    legend_below(figure, axes, each=2.0)
    return Drawing(
        "accuracy-size",
        "Ensemble accuracy by members",
        "Accuracy on the test set of ensembles of 1, 2, ... of a cell's networks, mean over all subsets of a "
        "size (of more than 70, over as many that give every member the same weight), against their number "
        "and against what training them costs, a shared trunk counted once; mean with its 95 % Student t "
        f"interval over {replicates(most)}, drawn as far as an accuracy can reach.",
        figure,
    )


def _by_size(cells: Cells) -> pd.DataFrame:
    """Return a row for each cell and number of members, with `accuracy` (%) and `cost` (full trainings).

    Cells of an architecture and recipe are left out if none has three or more networks.
    """
    table = cells.measured().copy()
    table["trainings"] = full_trainings(table)
    several = table.groupby("architecture")["recipe"].transform("nunique") > 1
    names = table["architecture"].map(short_labels(table["architecture"].unique()))
    table["row"] = names.where(~several, names + ", " + table["recipe"])
    table["trunk"] = table["fork_fraction"].fillna(0)
    functions = {record.key: record.functions for record in cells.records}
    found: list[dict[str, Any]] = []
    for cell in table.dropna(subset="trainings").to_dict("records"):
        scores = functions[cell["key"]]
        sizes = {} if scores is None else scores[SPLIT].get("sizes") or {}
        accuracy = {1: 1 - cell["error"], **{int(size): of["accuracy"] for size, of in sizes.items()}}
        each = (cell["trainings"] - cell["trunk"]) / max(accuracy)
        shown = {name: cell[name] for name in ("row", "shift", "fork", "epochs")}
        found += [
            {**shown, "size": size, "accuracy": 100 * value, "cost": cell["trunk"] + size * each}
            for size, value in accuracy.items()
        ]
    if not found:
        return pd.DataFrame()
    by_size = pd.DataFrame(found)
    return by_size[by_size.groupby("row")["size"].transform("max") > 2]


def _comparator_shifts(cells: Cells, shifts: Sequence[str]) -> str:
    """Return a sentence that names the shifts with comparators, if some of the shown `shifts` have none."""
    priced = [name for name in forks_in(cells.rows) if Fork.parse(name).is_cost_matched]
    under = set(cells.rows.loc[cells.rows["fork"].isin(priced), "shift"])
    bare = [shift for shift in shifts if shift not in under]
    if not bare:
        return ""
    one = cells.records[0].suite
    suite = published_suite(one.name, one.version, one.digest)
    allowed = None if suite is None else suite.comparator_shifts
    by_design = allowed is not None and not any(shift in allowed for shift in bare)
    where = " and ".join(shift for shift in shifts if shift in under)
    holder = "suite has" if by_design else "records have"
    return f" The {holder} {' and '.join(priced)} under {where} only."
