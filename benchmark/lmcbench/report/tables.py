"""The tables of a run: error barriers by fork, and what siblings and their ensembles are worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from lmcbench.errors import UserError
from lmcbench.output import GITHUB, escape_markdown, make_table, one_line
from lmcbench.report.domain_tables import DomainTable, domain_tables
from lmcbench.report.image_intervals import areas_over_images
from lmcbench.report.instability_table import IMAGES_NOTE, INSTABILITY_NOTES, instability_table
from lmcbench.results.frame import build_frame
from lmcbench.results.record import Record
from lmcbench.spec.architectures import short_labels
from lmcbench.spec.forks import INDEPENDENT, Fork
from lmcbench.spec.suite_files import published_suite
from lmcbench.stats.cells import LINE, average_pairs, forks_in, full_trainings, shift_order
from lmcbench.stats.estimates import estimate, round_ties
from lmcbench.stats.pareto import Offer, pareto

MARK = " *"
"""Behind the shift of a row whose accuracy is below the suite's floor."""

OPTIONAL = {"path": "path_ensemble_accuracy", "gain without priors": "corrected_ensemble_gain"}
"""Columns of ensembles that are shown where any cell has them -> columns of `load_records`."""

OPTIONAL_NOTES = {
    "path": "Path: accuracy of the ensemble of points on the line between two siblings (Hepburn et al., "
    "2025), the largest that was measured.",
    "gain without priors": "Gain without priors: the ensemble's gain with the log-prior of each member's "
    "view subtracted from its logits; a gain that is left comes from diversity, not from cancelled priors.",
}

MEASURES = [
    *OPTIONAL.values(),
    *("error", "error_chord", "accuracy_mean", "disagreement"),
    *("ensemble_accuracy", "ensemble_gain", "soup_error"),
]

INSTABILITY = "Instability: siblings' loss barrier in percent of that of independent networks, by fork"
CONNECTIVITY = "Error barrier on the test set (chord form, percentage points, by fork)"
ENSEMBLES = "Siblings and their ensembles on the test set (percent)"
"""Headings of the tables."""

NOT_MEASURED = {"did-not-learn": "did not learn", "failed": "failed"}
"""Statuses that are named beside the number of diverged cells."""


@dataclass(frozen=True)
class Tables:
    """The formatted tables of a suite.

    Attributes:
        instability: B by fork, the instability area and its companions; empty without independent networks.
        connectivity: error barrier by fork, in percentage points.
        ensembles: accuracies and disagreement of the siblings of the earliest and latest fork, and of
            independent networks, in percent.
        notes: how to read the numbers.
        by_domain: barriers by pair of domains, and accuracy by domain; empty for data without domains.
    """

    instability: pd.DataFrame
    connectivity: pd.DataFrame
    ensembles: pd.DataFrame
    notes: list[str]
    by_domain: Sequence[DomainTable] = ()

    def render(self, style: Literal["github", "simple"]) -> str:
        """Return the tables as text in a format of tabulate.

        For a terminal, a network's name and recipe stand above its rows instead of in each.
        """
        mark = "### " if style == GITHUB else ""
        parts = []
        tables = (
            (INSTABILITY, self.instability),
            (CONNECTIVITY, self.connectivity),
            (ENSEMBLES, self.ensembles),
            *((table.title, table.rows) for table in self.by_domain),
        )
        for title, table in tables:
            if table.empty:
                continue
            if style == GITHUB:
                text = make_table(table.to_numpy(), list(table.columns), style, disable_numparse=True)
            else:
                counts = set(table.get("n", ()))
                if len(counts) == 1:
                    table, title = table.drop(columns="n"), f"{title} (n = {counts.pop()})"
                text = _grouped(table, style)
            parts.append(f"{mark}{title}\n\n{text}")
        bullet = "- " if style == GITHUB else ""
        listed = [*self.notes, *(note for table in self.by_domain for note in table.notes)]
        notes = map(escape_markdown, listed) if style == GITHUB else map(one_line, listed)
        return "\n\n".join([*parts, "\n".join(f"{bullet}{note}" for note in notes)]) + "\n"


def _grouped(table: pd.DataFrame, style: str) -> str:
    """Return a table as text with each network's name and recipe on a line above its rows."""
    columns = [LINE[-1], *table.columns[len(LINE) :]]
    head, rule, *rows = make_table(
        table[columns].to_numpy(), columns, style, disable_numparse=True
    ).splitlines()
    parts, network = [head, rule], None
    for (architecture, recipe), row in zip(table[LINE[:2]].to_numpy().tolist(), rows, strict=True):
        if network != (architecture, recipe):
            network = architecture, recipe
            parts.append(one_line(f"{architecture}, recipe {recipe}:"))
        parts.append(row)
    return "\n".join(parts)


def make_tables(records: Iterable[Record], floor: float = 0.0, folder: Path | None = None) -> Tables:
    """Return the tables of one suite's records.

    The replicate is the unit: pairs are averaged within it, and each number is a mean over replicates with
    its 95 % t interval. Diverged cells are counted and never averaged.

    Args:
        records: of one suite and version.
        floor: mean member accuracy below which a row is marked.
        folder: the run folder; logits in it make the interval of the area contain the sampling of images.
    """
    records = list(records)
    rows = build_frame(records)
    areas = {} if folder is None else areas_over_images(records, folder)
    cells = rows.drop_duplicates("key")
    names = forks_in(cells)
    # barriers between networks of another length or number are not comparable
    priced = [name for name in names if Fork.parse(name).is_cost_matched]
    forks = [name for name in names if name not in priced]
    values = average_pairs(rows)
    # a measure that no cell has is a column of missing values
    values = values.reindex(columns=list(dict.fromkeys([*values.columns, *MEASURES])))
    values["trainings"] = full_trainings(values)
    optional = {title: name for title, name in OPTIONAL.items() if values[name].notna().any()}
    connectivity, ensembles, low = [], [], False
    for line in _lines(cells):
        mine, here = _of(values, line), _of(cells, line)
        accuracy = estimate((1 - mine["error"])[~mine["fork"].isin(priced)].tolist()).mean
        below = accuracy is not None and accuracy < floor
        low |= below
        head = dict(zip(LINE, line, strict=True))
        head["shift"] += MARK if below else ""
        by_fork = {fork: mine[mine["fork"] == fork] for fork in names}
        n = here["replicate"].nunique()
        barriers = {fork: _percent(by_fork[fork]["error_chord"], n) for fork in forks}
        connectivity.append(head | barriers | _counts(here))
        shown = [fork for fork in _shown(forks, priced) if (here["fork"] == fork).any()]
        costs = _costs({fork: by_fork[fork] for fork in shown}) if priced else {}
        ensembles += [
            head | {"fork": fork} | _accuracies(by_fork[fork], n, optional) | costs.get(fork, {})
            for fork in shown
        ]
    notes = [
        "Mean over replicates (n) ± half-width of the 95 % Student t interval; no interval for n = 1. "
        "Where fewer than n were measured, their number stands behind.",
        "Fork: epoch or share of training at which siblings leave the trunk; independent: separately "
        "initialised networks. "
        "Diverged: of the row's cells.",
        "Member: mean accuracy of the networks; ensemble: of the mean of their probabilities; gain: ensemble "
        "less member; soup: accuracy of the average of their weights. All but the soup are of networks as "
        "trained; the soup and points between siblings have recalibrated normalisation statistics.",
    ]
    notes += [note for title, note in OPTIONAL_NOTES.items() if title in optional]
    instability = instability_table(rows, _lines(cells), areas)
    if len(instability):
        notes = [*INSTABILITY_NOTES, *([IMAGES_NOTE] if areas else []), *notes]
    if priced:
        notes.append(
            "Cost: training steps in full trainings of one network, a shared trunk counted once. Pareto: no "
            "row of the network and shift costs as little and is as accurate (ensemble, or the one network), "
            "and better in one, by means over replicates: two that differ by less than their intervals may "
            "change places. independent-equal-cost and whole-budget cost what the latest fork's do."
        )
    if low:
        notes.append(f"* mean member accuracy below the suite's floor of {100 * floor:g} %: not ranked.")
    short = short_labels(map(str, cells["architecture"].unique()))
    settings = {name: label.removeprefix(name)[1:-1] for label, name in short.items() if label != name}
    notes += [f"{name}: {listed}." for name, listed in settings.items()]
    tables = (instability, pd.DataFrame(connectivity), pd.DataFrame(ensembles))
    first, second, third = (_shortened(table, short) for table in tables)
    by_domain = [replace(table, rows=_shortened(table.rows, short)) for table in domain_tables(records)]
    return Tables(first, second, third, notes, by_domain)


def _shortened(table: pd.DataFrame, short: Mapping[str, str]) -> pd.DataFrame:
    """Return a table whose networks have short names."""
    if table.empty:
        return table
    return table.assign(architecture=[short.get(label, label) for label in table["architecture"]])


def _lines(cells: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return the rows of the tables: small networks first; no shift, then controls, then other shifts."""
    size = cells.groupby("architecture")["params"].max().fillna(0)
    lines = cells[LINE].drop_duplicates().itertuples(index=False, name=None)

    def rank(line: tuple[str, ...]) -> tuple[object, ...]:
        architecture, recipe, shift = line
        return size[architecture], architecture, recipe, shift_order(shift)

    return sorted(lines, key=rank)


def _shown(forks: Sequence[str], priced: Sequence[str]) -> list[str]:
    """Return the forks whose ensembles are shown: the earliest, and those to compare at equal cost."""
    latest = [fork for fork in forks if Fork.parse(fork).has_trunk][-1:] if priced else []
    given = [fork for fork in forks if Fork.parse(fork).checkpoint is not None]
    others = [fork for fork in forks if fork == INDEPENDENT]
    return list(dict.fromkeys([*forks[:1], *latest, *given, *others, *priced]))


def _costs(by_fork: dict[str, pd.DataFrame]) -> dict[str, dict[str, str]]:
    """Return for each fork its training cost and whether its accuracy is Pareto-optimal."""
    offers, trainings = {}, {}
    for fork, cells in by_fork.items():
        accuracy = cells["ensemble_accuracy"].fillna(1 - cells["error"]).dropna()
        priced = cells.dropna(subset="train_flop")
        if len(accuracy) and len(priced):
            offers[fork] = Offer(_mean(priced["train_flop"]), round_ties(float(accuracy.mean())))
            trainings[fork] = f"{_mean(priced['trainings']):.2f}"
    optimal = dict(zip(offers, pareto(list(offers.values())), strict=True))
    return {
        fork: {"cost": trainings.get(fork, "–"), "Pareto": "yes" if optimal.get(fork) else "–"}
        for fork in by_fork
    }


def _mean(values: pd.Series[float]) -> float:
    return sum(values) / len(values)


def _of(table: pd.DataFrame, line: tuple[str, ...]) -> pd.DataFrame:
    return table[(table[LINE] == pd.Series(line, index=LINE)).all(axis=1)]


def _counts(cells: pd.DataFrame) -> dict[str, str]:
    """Return the number of replicates, and of the row's cells that diverged or failed."""
    status = cells["status"].value_counts()
    others = "".join(f", {status[name]} {text}" for name, text in NOT_MEASURED.items() if name in status)
    return {
        "n": str(cells["replicate"].nunique()),
        "diverged": f"{status.get('diverged', 0)}/{len(cells)}{others}",
    }


def _accuracies(cells: pd.DataFrame, n: int, optional: Mapping[str, str]) -> dict[str, str]:
    """Return the accuracy of members, ensemble and soup, and the members' disagreement."""
    further = {title: _percent(cells[name], n, sign="gain" in title) for title, name in optional.items()}
    return {
        "member": _percent(cells["accuracy_mean"].fillna(1 - cells["error"]), n),
        "disagreement": _percent(cells["disagreement"], n),
        "ensemble": _percent(cells["ensemble_accuracy"], n),
        "gain": _percent(cells["ensemble_gain"], n, sign=True),
        "soup": _percent(1 - cells["soup_error"], n),
        **further,
    }


def _percent(values: pd.Series[float], n: int, sign: bool = False) -> str:
    """Return a mean of fractions in percent, `12.4 ± 1.3`; a dash without values.

    The number of values is appended if it is below `n`: `12.4 ± 1.3 (2)`.
    """
    return estimate(values.dropna().tolist()).text(unit=100, sign=sign, among=n)


def floor_of(records: Sequence[Record], path: Path) -> float:
    """Return the accuracy floor of the suite of a run folder, 0 if it is not a published one.

    Raises:
        UserError: for records of more than one suite.
    """
    suites = {(r.suite.name, r.suite.version, r.suite.digest) for r in records}
    if len(suites) > 1:
        names = ", ".join(f"{name} v{version} ({digest[:12]})" for name, version, digest in sorted(suites))
        raise UserError(f"{path} holds records of more than one suite: {names}.")
    one = records[0].suite
    suite = published_suite(one.name, one.version, one.digest)
    return suite.floor if suite is not None else 0.0


def run_table(records: Sequence[Record], path: Path, style: Literal["github", "simple"]) -> str:
    """Return the tables of the records of a run folder as text.

    Args:
        records: at least one.
        path: of the folder; logits in it make the interval of the area contain the sampling of images.
        style: a format of tabulate.

    Raises:
        UserError: for records of more than one suite.
    """
    return make_tables(records, floor_of(records, path), path).render(style)
