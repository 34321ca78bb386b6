"""Which of several ways to spend training are worth their cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lmcbench.errors import UserError
from lmcbench.results.cell_values import SPLIT, architecture_label, error_barrier, shift_label
from lmcbench.results.frame import build_frame
from lmcbench.results.record import Record
from lmcbench.results.run_folder import read_records
from lmcbench.spec.forks import INDEPENDENT, Fork
from lmcbench.spec.suite_files import published_suite
from lmcbench.stats.estimates import alike, estimate


class Offer(NamedTuple):
    """What something costs and what it gives.

    Attributes:
        cost: training FLOPs; less is better.
        score: accuracy (fraction); more is better.
    """

    cost: float
    score: float


def pareto(offers: Sequence[Offer]) -> list[bool]:
    """For each offer, whether no other one beats it: at most its cost, at least its score, not equal in both.

    Equal offers share their flag.

    Raises:
        UserError: for a cost or score that is NaN, which compares with nothing.
    """
    for offer in offers:
        if offer.cost != offer.cost or offer.score != offer.score:
            raise UserError(f"An offer without a number cannot be compared: {offer}.")
    return [not any(_beats(other, offer) for other in offers) for offer in offers]


def _beats(a: Offer, b: Offer) -> bool:
    return a.cost <= b.cost and a.score >= b.score and a != b


LINE = ["architecture", "recipe", "shift"]
CELL = [*LINE, "fork", "replicate", "key"]
WORTH = ["accuracy_mean", "disagreement", "ensemble_accuracy", "ensemble_gain", "soup_error"]
NUMBERS = ["error", *WORTH]

CONNECTIVITY = "Error barrier on the test set (chord form, percentage points, by fork)"
ENSEMBLES = "Siblings and their ensembles on the test set (percent)"
"""Headings of the two tables."""


@dataclass(frozen=True)
class Tables:
    """A suite's tables, cells already formatted.

    Attributes:
        connectivity: error barrier per fork, in percentage points.
        ensembles: what siblings of the earliest and the latest fork and independent networks are worth, in
            percent.
        notes: what the reader must know about the numbers.
    """

    connectivity: pd.DataFrame
    ensembles: pd.DataFrame
    notes: list[str]

    def render(self, style: str) -> str:
        """The tables as text, in a format of tabulate (`github` for Markdown, `simple` for terminals)."""
        mark = "### " if style == "github" else ""
        parts = []
        for title, table in ((CONNECTIVITY, self.connectivity), (ENSEMBLES, self.ensembles)):
            text = table.to_markdown(index=False, tablefmt=style, disable_numparse=True)
            parts.append(f"{mark}{title}\n\n{text}")
        bullet = "- " if style == "github" else ""
        return "\n\n".join([*parts, "\n".join(f"{bullet}{note}" for note in self.notes)]) + "\n"


def make_tables(records: Iterable[Record], floor: float = 0.0) -> Tables:
    """The tables of one suite's records.

    The replicate is the unit: pairs are averaged inside it, and each number is a mean over replicates
    with its 95 % t interval (design section 2). Diverged cells are counted and never averaged.

    Args:
        records: of one suite and version.
        floor: mean member accuracy below which a row is marked.
    """
    records = list(records)
    rows = build_frame(records)
    cells = rows.drop_duplicates("key")
    names = sorted(cells["fork"].unique(), key=lambda name: Fork.parse(name).order)
    # lines between networks of another length or number say nothing of this training
    priced = [name for name in names if Fork.parse(name).is_cost_matched]
    forks = [name for name in names if name not in priced]
    costs = _costs(records) if priced else {}
    measured = rows[rows["split"] == SPLIT]
    values = measured.groupby(CELL, sort=False).mean(numeric_only=True).reset_index()
    # where every cell diverged there are no numbers, and no columns for them
    values = values.reindex(columns=[*CELL, *NUMBERS])
    heights = {record.key: error_barrier(record) for record in records}
    values["barrier"] = pd.Series([heights[key] for key in values["key"]], dtype=float)
    connectivity, ensembles, low = [], [], False
    for line in _lines(cells):
        mine, here = _of(values, line), _of(cells, line)
        accuracy = estimate((1 - mine["error"])[~mine["fork"].isin(priced)].tolist()).mean
        below = accuracy is not None and accuracy < floor
        low |= below
        head = dict(zip(LINE, line, strict=True))
        head["architecture"] += " *" if below else ""
        by_fork = {fork: mine[mine["fork"] == fork] for fork in names}
        n = here["replicate"].nunique()
        barriers = {fork: _percent(by_fork[fork]["barrier"], n) for fork in forks}
        connectivity.append(head | barriers | _counts(here))
        held = set(here["fork"])
        worth = {fork: _worth(by_fork[fork], n) for fork in _shown(forks, priced) if fork in held}
        spent = _spent(line, by_fork, list(worth), costs)
        ensembles += [head | {"fork": fork} | row | spent.get(fork, {}) for fork, row in worth.items()]
    notes = [
        "Mean over replicates (n) ± half-width of the 95 % Student t interval; no interval for n = 1. "
        "Where fewer than n were measured, their number stands behind.",
        "Fork: epoch at which siblings leave the trunk; independent: separately initialised networks. "
        "Diverged: of the row's cells.",
        "Member: mean accuracy of the networks; ensemble: of the mean of their probabilities; gain: ensemble "
        "less member; soup: accuracy of the average of their weights.",
    ]
    if priced:
        notes.append(
            "Cost: training steps in full trainings of one network, a shared trunk counted once. Pareto: no "
            "row of the network and shift costs as little and is as accurate (ensemble, or the one network), "
            "and better in one, by means over replicates: two that differ by less than their intervals may "
            "change places. independent-equal-cost and whole-budget cost what the latest fork's do."
        )
    if low:
        notes.append(f"* mean member accuracy below the suite's floor of {100 * floor:g} %: not ranked.")
    return Tables(pd.DataFrame(connectivity), pd.DataFrame(ensembles), notes)


def _lines(cells: pd.DataFrame) -> list[tuple[str, ...]]:
    """The rows of the tables: small networks first, and for each no shift, then controls, then the rest."""
    size = cells.groupby("architecture")["params"].max().fillna(0)
    lines = cells[LINE].drop_duplicates().itertuples(index=False, name=None)

    def rank(line: tuple[str, ...]) -> tuple[object, ...]:
        architecture, recipe, shift = line
        return size[architecture], architecture, recipe, shift != "none", not shift.startswith("same"), shift

    return sorted(lines, key=rank)


def _shown(forks: Sequence[str], priced: Sequence[str]) -> list[str]:
    """The forks whose ensembles are shown: the earliest, that by which comparators are priced, and those."""
    latest = [fork for fork in forks if Fork.parse(fork).epoch is not None][-1:] if priced else []
    given = [fork for fork in forks if Fork.parse(fork).checkpoint is not None]
    others = [fork for fork in forks if fork == INDEPENDENT]
    return list(dict.fromkeys([*forks[:1], *latest, *given, *others, *priced]))


def _costs(records: Iterable[Record]) -> dict[tuple[str, ...], tuple[float, float]]:
    """Training FLOPs, and steps in full trainings of one network, by line and fork; means over replicates."""
    found: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for r in records:
        if r.status == "ok" and r.cost is not None:
            size = next(d["n"] for d in r.data if d["split"] == "train")
            full = r.recipe["epochs"] * (size // r.recipe["batch_size"])
            place = (architecture_label(r), r.recipe["name"], shift_label(r), r.fork.name)
            found.setdefault(place, []).append((r.cost.train_flop, r.cost.train_steps / full))
    return {p: (_mean(f for f, _ in held), _mean(s for _, s in held)) for p, held in found.items()}


def _spent(
    line: tuple[str, ...],
    by_fork: Mapping[str, pd.DataFrame],
    shown: Sequence[str],
    costs: Mapping[tuple[str, ...], tuple[float, float]],
) -> dict[str, dict[str, str]]:
    """What each fork's ensemble costs, and whether it is worth it; nothing without comparators of cost."""
    if not costs:
        return {}
    offers = {}
    for fork in shown:
        accuracy = by_fork[fork]["ensemble_accuracy"].fillna(1 - by_fork[fork]["error"]).dropna()
        if len(accuracy) and (*line, fork) in costs:
            offers[fork] = Offer(costs[*line, fork][0], alike(float(accuracy.mean())))
    worth = dict(zip(offers, pareto(list(offers.values())), strict=True))
    return {
        fork: {
            "cost": f"{costs[*line, fork][1]:.2f}" if fork in offers else "–",
            "Pareto": "yes" if worth.get(fork) else "–",
        }
        for fork in shown
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _of(table: pd.DataFrame, line: tuple[str, ...]) -> pd.DataFrame:
    return table[(table[LINE] == pd.Series(line, index=LINE)).all(axis=1)]


def _counts(cells: pd.DataFrame) -> dict[str, str]:
    """Replicates, and how many of the row's cells diverged or failed."""
    status = cells["status"].value_counts()
    failed = f", {status['failed']} failed" if "failed" in status else ""
    return {
        "n": str(cells["replicate"].nunique()),
        "diverged": f"{status.get('diverged', 0)}/{len(cells)}{failed}",
    }


def _worth(cells: pd.DataFrame, n: int) -> dict[str, str]:
    """Accuracy of members, ensemble and soup, and how much the members disagree."""
    return {
        "member": _percent(cells["accuracy_mean"].fillna(1 - cells["error"]), n),
        "disagreement": _percent(cells["disagreement"], n),
        "ensemble": _percent(cells["ensemble_accuracy"], n),
        "gain": _percent(cells["ensemble_gain"], n, sign=True),
        "soup": _percent(1 - cells["soup_error"], n),
    }


def _percent(values: pd.Series[float], n: int, sign: bool = False) -> str:
    """A mean of fractions in percent, `12.4 ± 1.3`; a dash without values.

    Of fewer than `n` replicates it says so, `12.4 ± 1.3 (2)`: the others diverged, failed or are missing.
    """
    mean = estimate(values.dropna().tolist())
    if mean.mean is None:
        return "–"
    # adding 0.0 keeps a rounded zero from showing a minus
    text = f"{round(100 * mean.mean, 1) + 0.0:{'+' if sign else ''}.1f}"
    interval = "" if mean.half_width is None else f" ± {100 * mean.half_width:.1f}"
    return f"{text}{interval}{f' ({mean.n})' if mean.n < n else ''}"


def run_table(path: Path, style: str) -> str:
    """The tables of a run folder or a folder of records.

    Raises:
        UserError: where there are no records, or they are of more than one suite.
    """
    records = read_records(path)
    suites = {(r.suite.name, r.suite.version, r.suite.digest) for r in records}
    if len(suites) > 1:
        names = ", ".join(f"{name} v{version} ({digest[:12]})" for name, version, digest in sorted(suites))
        raise UserError(f"{path} holds records of more than one suite: {names}.")
    one = records[0].suite
    suite = published_suite(one.name, one.version, one.digest)
    return make_tables(records, suite.floor if suite is not None else 0.0).render(style)
