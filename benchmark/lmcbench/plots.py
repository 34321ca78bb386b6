"""Figures of measured connectivity, in the style of reports.

Each function returns a `matplotlib.figure.Figure`. A notebook shows it, and `figure.savefig("barriers.pdf")`
writes it, also as SVG or PNG. Its axes can be changed before: `figure.axes[0].set_title("...")`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from lmcbench.errors import UserError, printable, unknown
from lmcbench.report.figures import barriers as of_barriers
from lmcbench.report.figures.landscape import draw_plane
from lmcbench.report.figures.networks import draw_lines, draw_matrix
from lmcbench.report.figures.style import panels, styled
from lmcbench.results.curves import Curve
from lmcbench.results.frame import BARRIER_FIELDS, CURVES
from lmcbench.spec.forks import Fork
from lmcbench.stats.cells import average_pairs
from lmcbench.values import as_numbers, as_texts

if TYPE_CHECKING:
    from lmcbench.connect.plane import Plane

__all__ = ["against_fork", "barriers", "curves", "matrix", "plane"]

_UNITS = (
    (r".*_argmax", ""),
    (r"loss|nll|ensemble_nll|soup_loss|js_divergence|mutual_information|midpoint_excess", "nats"),
    (r"error|accuracy|ensemble_(accuracy|gain|ece)|soup_e|disagreement|both_wrong|same_wrong", "%"),
    (r"(corrected|path|trunk)_.*(accuracy|gain)|gradient_between_share|view_error|chance_error", "%"),
    (r"distance_", "weights' units"),
    (r"angle$", "radians"),
    (r"train_flop$", "operations"),
)
"""Beginnings of columns of `load_records` -> their unit in figures; fractions are drawn in percent."""


def barriers(frame: pd.DataFrame, *, split: str = "test") -> Figure:
    """Draw the error barrier against the fork: a panel for each architecture, a line for each shift.

    Points are means over replicates, bars 95 % Student t intervals (none for one replicate). Below the dashed
    line, 2 percentage points, siblings count as connected.

    Args:
        frame: the table of `load_records` or `run`, or some rows of it, of one suite.
        split: the images that the barrier is measured on, such as `test:gaussian_noise-5`.

    Raises:
        UserError: if the table has no barrier on that split, or several suites.

    Examples:
        >>> frame = load_records("runs/digits")  # doctest: +SKIP
        >>> barriers(frame).savefig("barriers.pdf")  # doctest: +SKIP
    """
    rows = _checked(frame, "barriers", "error_chord", split)
    with styled():
        return of_barriers.draw_barriers(average_pairs(rows, split))


def against_fork(
    frame: pd.DataFrame,
    measure: str,
    *,
    split: str = "test",
    label: str | None = None,
    abreast: int = 3,
) -> Figure:
    """Draw a measure against the fork: a panel for each architecture, a line for each shift.

    Points are means over replicates, each the mean of its pairs. Bars are 95 % Student t intervals (none for
    one replicate). Independent networks have no trunk and stand apart.

    Args:
        frame: the table of `load_records` or `run`, or some rows of it, of one suite. Your own columns are
            not converted to percent.
        measure: a column of numbers, such as `disagreement`; fractions are drawn in percent.
        split: the images that it is measured on.
        label: of the vertical axis; by default the column's name and unit.
        abreast: largest number of panels in a row.

    Raises:
        UserError: if the table has no such numbers on that split, or several suites.

    Examples:
        >>> frame = load_records("runs/digits")  # doctest: +SKIP
        >>> against_fork(frame, "ensemble_gain").savefig("gain.pdf")  # doctest: +SKIP
    """
    rows = _checked(frame, "against_fork", measure, split)
    if not pd.api.types.is_numeric_dtype(rows[measure]):
        raise UserError(f"plots.against_fork: column {printable(measure)} is not numeric.")
    if abreast < 1:
        raise UserError(f"plots.against_fork: abreast must be at least 1, found {abreast}.")
    unit = _unit(measure)
    words = measure.replace("_", " ")
    with styled():
        figure, _ = of_barriers.draw_against_fork(
            average_pairs(rows.astype({measure: float}), split),
            measure,
            label or (f"{words} ({unit})" if unit else words),
            factor=100 if unit == "%" else 1,
            abreast=abreast,
        )
        return figure


def curves(
    curves: pd.DataFrame | Curve | Mapping[str, Curve], *, shift: str | None = None, split: str = "test"
) -> Figure:
    """Draw loss and error along the straight line between networks.

    Args:
        curves: a curve, curves by the name in the legend, or the table of `load_records` or `run`: then a
            column of panels for each architecture and a line for each fork, mean over replicates and pairs.
        shift: the training shift of the table that is drawn; by default `none`, or its first.
        split: the images of the table that the curves are measured on.

    Raises:
        UserError: if there is no curve, or no such shift.

    Examples:
        >>> import lmcbench
        >>> curve = lmcbench.Curve([0, 0.5, 1], [0.1, 0.4, 0.1], [0.02, 0.1, 0.03], 100)
        >>> figure = curves({"two siblings": curve})
        >>> [axis.get_ylabel() for axis in figure.axes]
        ['loss (nats)', 'error (%)']
    """
    if isinstance(curves, pd.DataFrame):
        rows = _checked(curves, "curves", "loss_curve", split)
        shift = of_barriers.first_shift(rows) if shift is None else shift
        if shift not in set(rows["shift"]):
            raise unknown("shift of the table", shift, rows["shift"])
        with styled():
            return of_barriers.draw_curves(rows[rows["shift"] == shift])
    named = {"": curves} if isinstance(curves, Curve) else curves
    if not isinstance(named, Mapping) or not named or not all(isinstance(c, Curve) for c in named.values()):
        empty = isinstance(named, Mapping) and not named
        raise UserError(
            "plots.curves takes the table of load_records, a Curve or a dict of them by name, found "
            f"{printable(type(curves).__name__)}{' without curves' if empty else ''}."
        )
    as_texts([*named], "plots.curves: names")
    with styled():
        figure, [axes] = panels(1, 2, width=3.4, height=2.6)
        draw_lines(axes, named)
        return figure


def matrix(
    values: pd.DataFrame | Sequence[Sequence[float]],
    *,
    names: Sequence[str] | None = None,
    measure: str = "error_chord",
    split: str = "test",
    label: str | None = None,
) -> Figure:
    """Draw a value for each pair of networks.

    Args:
        values: a square array, `[n, n]`, or the table of `load_records` or `run` with the cells to average:
            then the means over cells for each pair of siblings.
        names: of the networks; by default their numbers from 0.
        measure: a column of the table with a value of pairs, such as `loss_mid` or `disagreement`; fractions
            are drawn in percent.
        split: the images of the table that it is measured on.
        label: of the colour bar.

    Raises:
        UserError: if the array is not square, or the table has no such values.

    Examples:
        >>> figure = matrix([[0, 12.5], [12.5, 0]], names=["photo", "sketch"], label="barrier (%)")
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['0.0', '12.5', '12.5', '0.0']
    """
    if isinstance(values, pd.DataFrame):
        rows = _checked(values, "matrix", measure, split)
        unit = _unit(measure)
        means = (100 if unit == "%" else 1) * rows.groupby(["i", "j"])[measure].mean()
        count = int(rows["j"].max()) + 1
        grid = np.full((count, count), np.nan)
        i, j = (means.index.get_level_values(level).to_numpy(int) for level in ("i", "j"))
        grid[i, j] = grid[j, i] = means.to_numpy()
        label = label or f"{measure.replace('_', ' ')}, {split}{f' ({unit})' if unit else ''}"
    else:
        grid = as_numbers(values, "plots.matrix: values")
    if grid.ndim != 2 or len(grid) != grid.shape[1] or not np.isfinite(grid).any():
        raise UserError(f"plots.matrix takes values [n, n], found shape {list(grid.shape)}.")
    names = [str(i) for i in range(len(grid))] if names is None else as_texts(names, "plots.matrix: names")
    if len(names) != len(grid):
        raise UserError(f"plots.matrix: {len(names)} names are given for {len(grid)} networks.")
    side = max(3.0, 0.5 * len(grid))
    with styled():
        figure, [[axis]] = panels(1, 1, width=side + 0.8, height=side)
        draw_matrix(figure, axis, grid, names, label or "")
        return figure


def plane(plane: Plane, *, split: str = "") -> Figure:
    """Draw the loss on the plane through a fork (F) and two siblings (A, B), as `lmcbench.plane` measures it.

    Args:
        plane: the grid of losses; axes are in units of the weights.
        split: what it was measured on, for the label.

    Raises:
        UserError: for anything else.

    Examples:
        >>> from lmcbench import Plane
        >>> grid = np.linspace(0, 1, 3)
        >>> anchors = np.array([[0, 0], [1, 0], [0, 1]], dtype=float)
        >>> measured = Plane(grid, grid, np.full((3, 3), 0.5) + grid, np.zeros((3, 3)), anchors)
        >>> figure = plane(measured, split="test")
        >>> figure.axes[1].get_ylabel()
        'test loss (nats)'
    """
    if not all(hasattr(plane, name) for name in ("x", "y", "loss", "anchors")):
        raise UserError(f"plots.plane takes the result of lmcbench.plane, found {type(plane).__name__}.")
    norm = LogNorm(1e-3, 10)
    found: dict[str, Any] = {name: getattr(plane, name) for name in ("x", "y", "loss", "anchors")}
    with styled():
        figure, [[axis]] = panels(1, 1, width=4.6, height=3.8)
        mesh = draw_plane(axis, found, norm)
        figure.colorbar(mesh, ax=axis, label=f"{split} loss (nats)".strip(), extend="both")
        axis.set(xlabel="fork to A (weights' units)", ylabel="across (weights' units)")
        return figure


def _unit(measure: str) -> str:
    """Return the unit of a column of `load_records`; nothing for plain numbers and unknown columns."""
    return next((unit for pattern, unit in _UNITS if re.match(pattern, measure)), "")


def _checked(frame: pd.DataFrame, function: str, column: str, split: str) -> pd.DataFrame:
    """Return the rows of a table that have a value in `column` on a split, of networks of full length.

    Raises:
        UserError: if it is no table of `load_records`, of several suites, or has no such value.
    """
    needed = {"key", "digest", "architecture", "shift", "fork", "replicate", "split", "i", "j"}
    if not isinstance(frame, pd.DataFrame) or not needed <= set(frame.columns):
        raise UserError(
            f"plots.{function} takes the table of lmcbench.load_records or lmcbench.run, found "
            f"{'another table' if isinstance(frame, pd.DataFrame) else type(frame).__name__}."
        )
    if column not in frame and column not in CURVES:
        raise unknown("column of the table", column, [*BARRIER_FIELDS, "disagreement", "distance_ab"])
    if frame["digest"].nunique() > 1:
        names = ", ".join(sorted(frame["suite"].unique()))
        raise UserError(f"plots.{function}: the table has several suites ({names}). Select one of them.")
    is_full = frame["fork"].map(lambda fork: not Fork.parse(fork).is_cost_matched)
    has_value = frame[column].notna() if column in frame else False
    rows = frame[(frame["split"] == split) & has_value & is_full]
    if rows.empty:
        splits = ", ".join(sorted(frame["split"].dropna().unique())) or "none, because no cell was measured"
        raise UserError(f"plots.{function}: the table has no {column} on split {split!r}. Splits: {splits}.")
    return rows
