"""Tables of runs on data with domains: the barrier of each pair of domains, and accuracy on each domain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lmcbench.results.cell_values import architecture_label, shift_label
from lmcbench.results.record import Record
from lmcbench.spec.domain_rules import DOMAIN_SHIFTS, DOMAINS
from lmcbench.spec.domains import sort_names
from lmcbench.spec.evaluation_shifts import DOMAIN, EVALUATION
from lmcbench.spec.forks import INDEPENDENT, Fork
from lmcbench.spec.shifts import split_control
from lmcbench.stats.cells import forks_of, sort_records
from lmcbench.stats.estimates import estimate

PAIRS = "Error barrier by pair of domains (test set, chord form, percentage points, by fork)"
ACCURACIES = "Accuracy by domain (percent)"

COLUMNS = 6
"""Most siblings with a column of their own; of more, the worst and the best are shown."""

Head = tuple[str, str, str]
"""Architecture, recipe and shift."""


@dataclass(frozen=True)
class DomainTable:
    """A formatted table.

    Attributes:
        title: its heading.
        rows: architecture, recipe, shift and further columns as text.
        notes: how to read it.
    """

    title: str
    rows: pd.DataFrame
    notes: list[str]


def domain_tables(records: Iterable[Record]) -> list[DomainTable]:
    """Return the tables of records on data with domains; none for other data."""
    measured = [r for r in sort_records(records) if r.status == "ok" and len(r.siblings) > 1]
    measured = [r for r in measured if domains_of_views(r) is not None]
    tables = [_pairs(measured), _accuracies(measured)]
    return [table for table in tables if len(table.rows)]


def domains_of_views(record: Record) -> list[str] | None:
    """Return the domains that each sibling sees, as `art+photo`; None for data without domains."""
    views = (record.training or {}).get("domain_counts")
    return None if views is None else ["+".join(view) for view in views]


def pairs_of(record: Record) -> Iterator[tuple[str, float]]:
    """Yield the domains of each pair of siblings, `art | photo`, and its error barrier on the test set."""
    seen = domains_of_views(record) or []
    for pair in record.pairs:
        yield f"{seen[pair.i]} | {seen[pair.j]}", pair.barriers["test"].error_chord


def by_domain(record: Record) -> list[str]:
    """Return the domains that the record is tested on, in order."""
    prefix = f"{EVALUATION}{DOMAIN}"
    return list(sort_names(s.removeprefix(prefix) for s in record.soup or {} if s.startswith(prefix)))


def held_out(record: Record) -> list[str]:
    """Return the domains that the record is tested on and that are not in its training set."""
    trained = next(entry["domains"] for entry in record.data if entry["split"] == "train")
    return [name for name in by_domain(record) if name not in trained]


def percent(values: Sequence[float], sign: bool = False) -> str:
    """Return the mean of fractions in percent with its 95 % t interval; a dash without values."""
    return estimate(list(values)).text(unit=100, sign=sign)


def _head(record: Record) -> Head:
    return architecture_label(record), record.recipe["name"], shift_label(record)


def _pairs(records: Sequence[Record]) -> DomainTable:
    """Return the barrier of each pair of domains by fork, beside the controls' mean over pairs."""
    heights: dict[tuple[str, ...], dict[str, dict[int, float]]] = {}
    shown: list[Record] = []
    for record in records:
        base, same = split_control(record.shift.name)
        if base not in DOMAIN_SHIFTS or Fork.parse(record.fork.name).is_cost_matched:
            continue
        found = list(pairs_of(record))
        if base != DOMAINS or same:
            found = [("mean of pairs", sum(height for _, height in found) / len(found))]
        shown.append(record)
        for pair, height in found:
            of_row = heights.setdefault((*_head(record), pair), {})
            of_row.setdefault(record.fork.name, {})[record.replicate] = height
    forks = forks_of(shown)
    rows: list[dict[str, Any]] = []
    for (architecture, recipe, shift, pair), of_row in heights.items():
        row = {"architecture": architecture, "recipe": recipe, "shift": shift, "pair": pair}
        row |= {fork: percent(list(of_row.get(fork, {}).values())) for fork in forks}
        rows.append(row | {"n": str(max(len(of_fork) for of_fork in of_row.values()))})
    notes = [
        "Pair: the domains of two siblings. In mixed(domains) each sibling sees as many images, of all these "
        "domains; in same(domains) all see one domain. What a pair has above mixed(domains) is the "
        "effect of other images, not of fewer images."
    ]
    return DomainTable(PAIRS, pd.DataFrame(rows), notes)


def _accuracies(records: Sequence[Record]) -> DomainTable:
    """Return accuracy and gains on each domain, and their mean and worst over the domains held out."""
    cells: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        if by_domain(record) and not Fork.parse(record.fork.name).is_cost_matched:
            cells.setdefault((*_head(record), record.fork.name), []).append(record)
    shown = _shown_forks(record for found in cells.values() for record in found)
    rows: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    for (architecture, recipe, shift, fork), replicates in cells.items():
        if fork not in shown:
            continue
        domains, out = by_domain(replicates[0]), held_out(replicates[0])
        groups = [([name], f"{name} (held out)" if name in out else name) for name in domains]
        for names, what in ((domains, "all"), (out, "held out")):
            if len(names) > 1 and (what == "held out" or len(names) > len(out)):
                groups += [(names, f"{what}: mean"), (names, f"{what}: worst")]
        for names, label in groups:
            scores = [domain_scores(record, names, label.endswith("worst")) for record in replicates]
            head = {"architecture": architecture, "recipe": recipe, "shift": shift, "fork": fork}
            rows.append(head | {"domain": label} | _columns(scores) | {"n": str(len(replicates))})
        views = domains_of_views(replicates[0]) or []
        if len(set(views)) > 1 and len(views) <= COLUMNS:
            seen = ", ".join(f"sibling {i} {view}" for i, view in enumerate(views))
            notes.setdefault(f"{shift}: {seen}.")
    text = (
        "Gain: ensemble, or soup (average of weights), less the mean of the siblings. Worst: the lowest "
        "accuracy over the domains, of each network by itself. No sibling sees a domain that is held out."
    )
    return DomainTable(ACCURACIES, pd.DataFrame(rows), [text, *list(notes)[:COLUMNS]])


def _shown_forks(records: Iterable[Record]) -> set[str]:
    """Return the earliest and the latest fork of the trunk, given checkpoints and independent networks."""
    names = forks_of(records)
    trunk = [name for name in names if Fork.parse(name).has_trunk]
    given = [name for name in names if Fork.parse(name).checkpoint is not None or name == INDEPENDENT]
    return {*trunk[:1], *trunk[-1:], *given}


@dataclass(frozen=True)
class DomainScores:
    """Accuracies of one replicate, over one or several domains."""

    siblings: list[float]
    ensemble: float
    soup: float

    @property
    def member(self) -> float:
        """Mean over the siblings."""
        return sum(self.siblings) / len(self.siblings)


def domain_scores(record: Record, domains: Sequence[str], worst: bool = False) -> DomainScores:
    """Return accuracies as fractions: the mean, or the lowest, over `domains`."""
    splits = [f"{EVALUATION}{DOMAIN}{name}" for name in domains]
    assert record.ensemble is not None
    assert record.soup is not None

    def over(values: list[float]) -> float:
        return min(values) if worst else sum(values) / len(values)

    ensembles = [float(record.ensemble[split]["ensemble_accuracy"] or 0.0) for split in splits]
    return DomainScores(
        [over([1 - sibling.splits[split].error for split in splits]) for sibling in record.siblings],
        over(ensembles),
        over([1 - record.soup[split].error for split in splits]),
    )


def _columns(scores: Sequence[DomainScores]) -> dict[str, str]:
    """Return the numbers of a row, over replicates."""
    count = len(scores[0].siblings)
    if count <= COLUMNS:
        each = {f"sibling {i}": percent([s.siblings[i] for s in scores]) for i in range(count)}
    else:
        each = {
            "worst sibling": percent([min(s.siblings) for s in scores]),
            "best sibling": percent([max(s.siblings) for s in scores]),
        }
    return each | {
        "ensemble": percent([s.ensemble for s in scores]),
        "gain": percent([s.ensemble - s.member for s in scores], sign=True),
        "soup": percent([s.soup for s in scores]),
        "soup gain": percent([s.soup - s.member for s in scores], sign=True),
    }
