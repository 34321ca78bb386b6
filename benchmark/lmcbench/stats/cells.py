"""The records of one suite: tables with one row per cell, and the analyses stored in the records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lmcbench.errors import UserError
from lmcbench.results.cell_values import SPLIT, architecture_label, epochs_of, shift_label
from lmcbench.results.curves import Array, chord_excess
from lmcbench.results.frame import build_frame
from lmcbench.results.record import Record
from lmcbench.spec.architectures import BASELINE
from lmcbench.spec.domain_rules import MIXED
from lmcbench.spec.evaluation_shifts import EVALUATION
from lmcbench.spec.forks import Fork
from lmcbench.spec.shifts import is_one_view

LINE = ["architecture", "recipe", "shift"]
"""Columns that name a row of the printed tables."""


class Line(NamedTuple):
    """A row of the printed tables: an architecture, its recipe and the training shift."""

    architecture: str
    recipe: str
    shift: str


class Cells:
    """The records of one suite and the tables made from them.

    Attributes:
        records: sorted by size of the network, replicate, shift (none first), fork and recipe.

    Raises:
        UserError: for records of more than one suite.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = sort_records(records)
        self._measured: dict[str, pd.DataFrame] = {}
        suites = sorted({(r.suite.name, r.suite.version, r.suite.digest[:12]) for r in self.records})
        if len(suites) > 1:
            names = ", ".join(f"{name} v{version} ({digest})" for name, version, digest in suites)
            raise UserError(f"Claims are tested within one suite; these records are of {names}.")

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The table of `load_records`: one row per cell, pair of siblings and split."""
        return build_frame(self.records)

    def measured(self, split: str = SPLIT) -> pd.DataFrame:
        """Return the cells that were measured on a split (see `average_pairs`)."""
        if split not in self._measured:
            self._measured[split] = average_pairs(self.rows, split)
        return self._measured[split]

    def forked(self, split: str = SPLIT) -> pd.DataFrame:
        """Return the measured cells whose siblings share a trunk."""
        table = self.measured(split)
        return table[table["fork_fraction"].notna()]

    def baselines(self) -> set[str]:
        """Return the labels of the baseline, whose convex loss makes most measures constant."""
        return {architecture_label(r) for r in self.records if is_baseline(r)}

    def architectures(self) -> list[str]:
        """Return the labels of the architectures, smallest network first."""
        size = self.rows.groupby("architecture")["params"].max().fillna(0)
        return sorted(map(str, size.index), key=lambda label: (size[label], label))

    def evaluations(self) -> list[str]:
        """Return the names of the test splits with an evaluation shift, if any cell was measured on them."""
        return sorted(s for s in self.rows["split"].dropna().unique() if s.startswith(EVALUATION))


def average_pairs(rows: pd.DataFrame, split: str = SPLIT) -> pd.DataFrame:
    """Return one row per cell measured on `split`, with numbers averaged over pairs.

    Args:
        rows: the table of `load_records`.
        split: a split of the records.

    Returns:
        The columns of `rows` in another order, with two more: `siblings`, their number (NaN for a single
        network), and `is_control`, whether other shifts are compared with the row's. Rows are in the order of
        `rows`.
    """
    rows = rows[rows["split"] == split]
    groups = rows.groupby("key", sort=False)
    numbers = groups[list(rows.select_dtypes(float))].mean()
    numbers["fork_share"] = groups["fork_share"].first()  # a mean of equal numbers may differ in the last bit
    table = rows.drop(columns=numbers.columns).drop_duplicates("key").set_index("key")
    table = table.assign(siblings=groups["j"].max() + 1, is_control=are_controls(table)).join(numbers)
    return table.reset_index().copy()  # the copy has one block per dtype, which is faster to select and merge


def have_one_view(rows: pd.DataFrame) -> pd.Series[bool]:
    """Return for each row whether all siblings have the same view: without shift, and under `same(...)`."""
    return rows["shift_name"].map(is_one_view).astype(bool)


def are_controls(rows: pd.DataFrame) -> pd.Series[bool]:
    """Return for each row whether its shift is a control: one view for all siblings, or `mixed(domains)`."""
    return have_one_view(rows) | (rows["shift_name"] == MIXED)


def join_fork(cells: pd.DataFrame, fork: str, among: pd.DataFrame) -> pd.DataFrame:
    """Add to each cell the columns (suffix `_other`) of the cell at `fork` that is otherwise the same.

    Cells without such a counterpart are dropped.
    """
    others = among[among["fork"] == fork]
    return cells.merge(others, on=[*LINE, "replicate"], suffixes=("", "_other"))


def join_control(cells: pd.DataFrame) -> pd.DataFrame:
    """Add to each shifted cell the columns (suffix `_other`) of its control `same(shift)`.

    Cells without a control are dropped.
    """
    place = ["architecture", "recipe", "fork", "replicate", "shift_params", "noise_mode"]
    shifted = cells[~cells["is_control"]]
    shifted = shifted.assign(control="same(" + shifted["shift_name"].astype(str) + ")")
    controls = cells.assign(control=cells["shift_name"])
    return shifted.merge(controls, on=[*place, "control"], suffixes=("", "_other"))


def control_labels(cells: pd.DataFrame) -> dict[str, str]:
    """Return for each label of a shift that of its control `same(shift)`, where the table has one."""
    shifts = cells.drop_duplicates("shift").assign(is_control=are_controls(cells))
    place = ["shift_params", "noise_mode", "control"]
    shifted = shifts[~shifts["is_control"]]
    shifted = shifted.assign(control="same(" + shifted["shift_name"].astype(str) + ")")
    both = shifted.merge(shifts.assign(control=shifts["shift_name"]), on=place, suffixes=("", "_other"))
    return dict(zip(both["shift"], both["shift_other"], strict=True))


def full_trainings(cells: pd.DataFrame) -> pd.Series[float]:
    """Return the training steps of each cell, its trunk once, in full trainings of one network."""
    return cells["train_steps"] / (cells["epochs"] * (cells["train_images"] // cells["batch_size"]))


def forks_in(table: pd.DataFrame) -> list[str]:
    """Return the distinct forks of rows: earliest in training first, networks without a trunk last.

    Shares and epochs are compared at the mean length of the recipes.
    """
    epochs = table["epochs"].mean()
    return sorted(set(table["fork"]), key=lambda name: Fork.parse(name).order(epochs))


def forks_of(records: Iterable[Record]) -> list[str]:
    """Return the distinct forks of records, as `forks_in` does."""
    rows = [(record.fork.name, epochs_of(record)) for record in records]
    return forks_in(pd.DataFrame(rows, columns=["fork", "epochs"]))


def sort_shifts(names: Iterable[str]) -> list[str]:
    """Return the distinct shifts: no shift first, then controls, then others, each by name."""
    return sorted(set(names), key=shift_order)


def shift_order(name: str) -> tuple[bool, bool, str]:
    """Return the key that `sort_shifts` sorts by."""
    return name != "none", not name.startswith(("same", MIXED)), name


# --- records -------------------------------------------------------------------------------------


def is_baseline(record: Record) -> bool:
    """Return whether the network is the baseline `lmc_linear`."""
    return record.architecture.source == "lmcbench" and record.architecture.name == BASELINE


def is_control(record: Record) -> bool:
    """Return whether the shift is a control: all siblings have the same view, or `mixed(domains)`."""
    return is_one_view(record.shift.name) or record.shift.name == MIXED


def sort_records(records: Iterable[Record]) -> list[Record]:
    """Sort by size of the network, replicate, shift (none first), fork and recipe."""

    def rank(record: Record) -> tuple[Any, ...]:
        shift = shift_label(record)
        network = (record.architecture.params or 0, architecture_label(record))
        fork, recipe = Fork.parse(record.fork.name).order(epochs_of(record)), record.recipe["name"]
        return *network, record.replicate, shift != "none", shift, fork, recipe, record.key

    return sorted(records, key=rank)


# --- analyses (`--measure`) ----------------------------------------------------------------------

Grid = dict[str, dict[str, Record]]
"""Architecture -> fork -> record."""


def forks_of_grid(cells: Grid) -> list[str]:
    """Return all forks of the cells, earliest first."""
    return forks_of(record for row in cells.values() for record in row.values())


def has_analysis(record: Record, name: str) -> bool:
    """Return whether the first pair of the record has the analysis, and it was not skipped."""
    found = (record.pairs[0].model_extra or {}).get(name) if record.pairs else None
    return isinstance(found, dict) and "skipped" not in found


def analysis(record: Record, name: str) -> dict[str, Any]:
    """Return an analysis of the first pair of the record.

    Raises:
        KeyError: if the pair does not have it or it was skipped.
    """
    if not has_analysis(record, name):
        raise KeyError(name)
    found: dict[str, Any] = (record.pairs[0].model_extra or {})[name]
    return found


def example_cells(records: Iterable[Record], name: str) -> Grid:
    """Choose one replicate, shift and recipe per architecture, and return its records that have the analysis.

    The first replicate is preferred, then the shift `none`.
    """
    cells: Grid = {}
    chosen: dict[str, tuple[int, str, str]] = {}
    for record in sort_records(records):
        if has_analysis(record, name):
            label = architecture_label(record)
            place = (record.replicate, shift_label(record), record.recipe["name"])
            if chosen.setdefault(label, place) == place:
                cells.setdefault(label, {})[record.fork.name] = record
    return cells


def excess(alphas: Sequence[float], values: Sequence[float]) -> Array:
    """Return how far `values` lie above the chord between their ends, at each alpha."""
    return chord_excess(np.array(alphas), np.array(values))


def interior_maximum(values: Array) -> float:
    """Return the largest value at 0 < alpha < 1, signed."""
    return float(values[1:-1].max())
