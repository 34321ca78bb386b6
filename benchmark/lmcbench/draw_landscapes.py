"""Pictures of `lmcbench landscape`: the toy landscape of Singh et al., and the landscapes of stored cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm

from lmcbench.connect.toy_landscape import ProductLandscape, Well
from lmcbench.errors import UserError, counted
from lmcbench.report.figures.landscape import draw_plane, heat_maps
from lmcbench.report.figures.style import COLOURS, panels, picture, styled
from lmcbench.results.cell_values import architecture_label, shift_label
from lmcbench.results.curves import chord_excess
from lmcbench.results.record import Record
from lmcbench.results.record_parser import read_record
from lmcbench.results.run_folder import RunFolder
from lmcbench.spec.suite_files import command_name
from lmcbench.stats.cells import Cells, analysis, has_analysis

FORMATS = ("png", "svg", "pdf")
GRID = 201
"""Points a side of the toy landscape's picture, and on its line."""


def picture_format(path: Path) -> str:
    """Return the format of a picture by its file name.

    Raises:
        UserError: for an unknown ending.
    """
    ending = path.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise UserError(f"{path}: pictures are {', '.join(FORMATS)}; give a name with one of these endings.")
    return ending


# --- the toy landscape ---------------------------------------------------------------------------


def toy_landscape(
    distance: float = 2.0,
    sharpness_a: float = 1.0,
    sharpness_b: float = 1.0,
    roundness: float = 1.0,
    turn: float = 0.0,
) -> ProductLandscape:
    """Return the product of two wells in two dimensions, with minima on a horizontal line.

    Args:
        distance: between the minima.
        sharpness_a: curvature of the first well along the line.
        sharpness_b: curvature of the second well along the line, before it is turned.
        roundness: curvature across the line, as a multiple of that along it.
        turn: angle by which the axes of the second well are turned, degrees.

    Raises:
        UserError: for a distance or curvature that is not above 0, or a `turn` that is not finite.
    """
    positive = {
        "distance": distance,
        "sharpness-a": sharpness_a,
        "sharpness-b": sharpness_b,
        "roundness": roundness,
    }
    for name, value in positive.items():
        if not (np.isfinite(value) and value > 0):
            raise UserError(f"--{name} must be above 0, found {value:g}.")
    if not np.isfinite(turn):
        raise UserError(f"--turn must be a number of degrees, found {turn:g}.")
    angle = np.radians(turn)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    a = sharpness_a * np.diag([1.0, roundness])
    b = sharpness_b * turned @ np.diag([1.0, roundness]) @ turned.T
    return ProductLandscape(Well([-distance / 2, 0.0], a), Well([distance / 2, 0.0], b))


def toy_text(landscape: ProductLandscape) -> str:
    """Return the barrier in closed form, as measured on the line, and by the second-order prediction."""
    alphas = np.linspace(0, 1, GRID)
    measured = chord_excess(alphas, landscape.path(alphas)).max()
    predicted = landscape.predicted(alphas).max()
    return (
        f"barrier, closed form s_a s_b / 64: {landscape.barrier:.10g}\n"
        f"barrier, measured at {GRID} points:   {measured:.10g}\n"
        f"second-order prediction:          {predicted:.10g} ({predicted / landscape.barrier:.3g} times)"
    )


def draw_toy(landscape: ProductLandscape, kind: str) -> bytes:
    """Draw the landscape from above, and its loss on the line between the minima."""
    half = float(landscape.b.centre[0])
    alphas = np.linspace(0, 1, GRID)
    with styled():
        figure, [[above, along]] = panels(1, 2, width=3.6, height=3.0)
        x, y = np.linspace(-2.25 * half, 2.25 * half, GRID), np.linspace(-1.5 * half, 1.5 * half, GRID)
        loss = landscape.loss(np.stack(np.meshgrid(x, y), -1))
        norm = LogNorm(max(landscape.barrier / 100, 1e-300), max(float(loss.max()), landscape.barrier * 10))
        plane = {"x": x, "y": y, "loss": loss, "anchors": [[np.nan, np.nan], [-half, 0], [half, 0]]}
        mesh = draw_plane(above, plane, norm, [landscape.barrier * factor for factor in (0.25, 1.0, 4.0)])
        figure.colorbar(mesh, ax=above, label="loss", shrink=0.8, extend="min")
        above.set(xlabel="first weight", ylabel="second weight")
        lines = {
            "measured": (landscape.path(alphas), "-"),
            "second order": (landscape.predicted(alphas), "--"),
            "closed form": (landscape.curve(alphas), ":"),
        }
        for (name, (values, dashes)), colour in zip(lines.items(), COLOURS, strict=False):
            along.plot(alphas, values, dashes, label=name, color=colour)
        along.set(xlabel="alpha (0: A, 1: B)", ylabel="loss above the chord")
        along.legend()
        return picture(figure, kind)


# --- stored cells --------------------------------------------------------------------------------


def find_record(run: Path, key: str) -> Record:
    """Return the record of the cell whose key begins with `key`.

    Raises:
        UserError: if no key or more than one begins so.
    """
    folder = RunFolder(run)
    if not folder.records.is_dir():
        raise UserError(f"No records in {run}. Give a run folder of 'lmcbench run'.")
    found = sorted(p for p in folder.records.glob("*.json") if p.stem.startswith(key) and key)
    if len(found) != 1:
        count = "no record" if not found else f"{len(found)} records"
        raise UserError(
            f"{run} has {count} whose key begins with {key!r}. Keys are the names in {folder.records}."
        )
    return read_record(found[0])


def draw_cell(record: Record, what: str, kind: str) -> bytes:
    """Draw the `plane` of a cell, or the line between its `siblings` over training.

    Raises:
        UserError: if the record lacks the analysis.
    """
    name = {"plane": "plane", "siblings": "landscape"}[what]
    if not has_analysis(record, name):
        raise UserError(f"Cell {record.key} has no {name}: {_why_absent(record, name)}")
    if what == "siblings":
        drawing = heat_maps(Cells([record]))
        assert drawing is not None
        return picture(drawing.figure, kind)
    with styled():
        figure, [[axis]] = panels(1, 1, width=4.6, height=3.8)
        found = analysis(record, name)
        mesh = draw_plane(axis, found, LogNorm(1e-3, 10))
        figure.colorbar(mesh, ax=axis, label=f"{found['split']} loss (nats)", extend="both")
        axis.set(xlabel="fork to A (weights' units)", ylabel="across (weights' units)")
        axis.set_title(
            f"{architecture_label(record)}, {shift_label(record)}, fork {record.fork.name}, "
            f"replicate {record.replicate}\n{counted(found['n'], 'image')}"
        )
        return picture(figure, kind)


def _why_absent(record: Record, name: str) -> str:
    """Return why a record lacks an analysis, and what to do."""
    if record.status != "ok" or not record.pairs:
        return f"its status is {record.status!r}."
    skipped = (record.pairs[0].model_extra or {}).get(name)
    if skipped is not None:
        return str(skipped["skipped"])
    suite = command_name(record.suite.name, record.suite.version, record.suite.digest)
    return (
        f"it was not measured. 'lmcbench run {suite} --measure {name}' adds it to the suite's probe cells, "
        "from the stored weights."
    )
