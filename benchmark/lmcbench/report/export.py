"""The tables of a run for papers: LaTeX (booktabs) and tidy CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lmcbench.latex import document_comment, latex_table
from lmcbench.output import one_line
from lmcbench.report.image_intervals import areas_over_images
from lmcbench.report.instability_table import MEAN
from lmcbench.report.provenance import Provenance, provenance_of
from lmcbench.report.tables import CONNECTIVITY, ENSEMBLES, INSTABILITY, make_tables
from lmcbench.results.frame import build_frame
from lmcbench.results.instability import ERROR_FLOOR
from lmcbench.results.record import Record
from lmcbench.stats.cells import LINE, average_pairs, full_trainings
from lmcbench.stats.estimates import Estimate, estimate
from lmcbench.stats.instability_area import areas_by_shift, average_shifts

MEASURES = {
    "error_chord": "fraction",
    "error_mean": "fraction",
    "error_mid": "fraction",
    "loss_chord": "nats",
    "midpoint_excess": "nats",
    "instability": "fraction",
    "accuracy_mean": "fraction",
    "ensemble_accuracy": "fraction",
    "ensemble_gain": "fraction",
    "soup_error": "fraction",
    "disagreement": "fraction",
    "train_flop": "operations",
    "trainings": "full trainings",
}
"""Columns of the table of records that are exported for each fork -> their unit."""


def run_latex(records: Sequence[Record], folder: Path, floor: float = 0.0) -> str:
    r"""Return the tables of a run as LaTeX; it needs `\usepackage{booktabs,graphicx}`.

    Args:
        records: of one suite.
        folder: the run folder.
        floor: mean member accuracy below which a row is marked.
    """
    tables = make_tables(records, floor, folder)
    one = records[0].suite
    parts = [document_comment(provenance_of(records, folder).facts)]
    for name, title, table in (
        ("instability", INSTABILITY, tables.instability),
        ("barriers", CONNECTIVITY, tables.connectivity),
        ("ensembles", ENSEMBLES, tables.ensembles),
    ):
        if not table.empty:
            parts.append(_latex(table, f"{one.name} version {one.version}. {title}.", f"{one.name}-{name}"))
    notes = "\n".join(f"% {one_line(note)}" for note in tables.notes)
    return "\n\n".join([*parts, notes]) + "\n"


def _latex(table: pd.DataFrame, caption: str, label: str) -> str:
    """Return a table with a row of each network's name above its shifts."""
    columns = [LINE[-1], *table.columns[len(LINE) :]]
    rows: list[Sequence[str] | str] = []
    network = None
    for architecture, recipe, *cells in table[[*LINE[:2], *columns]].itertuples(index=False, name=None):
        if (architecture, recipe) != network:
            network = architecture, recipe
            rows.append(f"{architecture}, recipe {recipe}")
        rows.append(cells)
    left = sum(name in ("shift", "fork") for name in columns)
    return latex_table(columns, rows, caption=caption, label=label, left=left)


def run_rows(records: Sequence[Record], folder: Path) -> list[dict[str, Any]]:
    """Return the numbers of a run, a row per network, training shift, fork and measure.

    `mean` and `half_width` (of the 95 % interval) are in `unit`, over `n` replicates. Rows of the instability
    area have no fork; those of `mean of shifts` are the headline.

    Args:
        records: of one suite.
        folder: the run folder; logits in it make the headline's interval contain the sampling of images.
    """
    made = provenance_of(records, folder)
    one = records[0].suite
    head = {"suite": one.name, "version": one.version, "suite_digest": one.digest}
    rows = build_frame(records)
    values = average_pairs(rows)
    values = values.assign(trainings=full_trainings(values))
    found = [*_by_fork(values), *_areas(rows, areas_over_images(records, folder))]
    return [head | row | provenance_columns(made) for row in found]


def provenance_columns(made: Provenance) -> dict[str, str]:
    """Return the columns that end every row of a table file: command, citation, versions."""
    return {"command": made.command, "citation": made.citation, "versions": made.versions}


def _by_fork(values: pd.DataFrame) -> Iterator[dict[str, Any]]:
    measures = {name: unit for name, unit in MEASURES.items() if name in values}
    for place, group in values.groupby([*LINE, "fork"], sort=False):
        named = dict(zip((*LINE, "fork"), place, strict=True))
        for measure, unit in measures.items():
            yield named | _numbers(measure, unit, estimate(group[measure].dropna().tolist()))


def _areas(rows: pd.DataFrame, images: Mapping[tuple[str, str], Estimate]) -> Iterator[dict[str, Any]]:
    if rows["instability"].notna().sum() == 0:
        return
    for measure, areas in (
        ("area", areas_by_shift(rows)),
        ("area_errors", areas_by_shift(rows, "error_mid", ERROR_FLOOR)),
        ("area_scaled", areas_by_shift(rows, "loss_mid_scaled")),
    ):
        for place, group in areas.groupby(LINE, sort=False):
            named = dict(zip(LINE, place, strict=True)) | {"fork": ""}
            yield named | _numbers(measure, "fraction", estimate(group["area"].dropna().tolist()))
        for network, group in average_shifts(areas).groupby(["architecture", "recipe"], sort=False):
            known = estimate(group["area"].dropna().tolist())
            if measure == "area":
                known = images.get((str(network[0]), str(network[1])), known)
            named = {"architecture": network[0], "recipe": network[1], "shift": MEAN, "fork": ""}
            yield named | _numbers(measure, "fraction", known)


def _numbers(measure: str, unit: str, value: Estimate) -> dict[str, Any]:
    return {
        "measure": measure,
        "unit": unit,
        "mean": value.mean,
        "half_width": value.half_width,
        "n": value.n,
    }
