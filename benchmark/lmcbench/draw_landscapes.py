"""Pictures of landscapes: [S]'s toy, and what a stored cell's siblings stand in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm

from lmcbench.connect.toy_landscape import ProductLandscape, Well
from lmcbench.errors import UserError, counted
from lmcbench.report.figures.landscape import draw_plane, heat_maps
from lmcbench.report.figures.style import COLOURS, panels, picture, styled
from lmcbench.results.cell_values import architecture_label, shift_label
from lmcbench.results.curves import chord_excess
from lmcbench.results.record import Record, read_record
from lmcbench.results.run_folder import RunFolder
from lmcbench.spec.suite_files import command_name
from lmcbench.stats.cells import Cells, analysis, has_analysis

KINDS = ("png", "svg", "pdf")
GRID = 201
"""Points a side of a picture, and on the line, of the toy."""


@dataclass(frozen=True)
class Toy:
    """The parameters of [S]'s toy landscape in two dimensions: two wells on a horizontal line.

    Attributes:
        distance: between the minima.
        sharpness_a: curvature of the first well along that line.
        sharpness_b: of the second.
        roundness: curvature across the line, as a multiple of that along it.
        turn: angle by which the second well's axes are turned, degrees.
    """

    distance: float = 2.0
    sharpness_a: float = 1.0
    sharpness_b: float = 1.0
    roundness: float = 1.0
    turn: float = 0.0

    def landscape(self) -> ProductLandscape:
        """The product of both wells.

        Raises:
            UserError: for a distance or a curvature that is not above 0.
        """
        for name in ("distance", "sharpness_a", "sharpness_b", "roundness"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise UserError(f"--{name.replace('_', '-')} must be above 0, found {value:g}.")
        if not np.isfinite(self.turn):
            raise UserError(f"--turn must be a number of degrees, found {self.turn:g}.")
        angle = np.radians(self.turn)
        turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        half = self.distance / 2
        a = self.sharpness_a * np.diag([1.0, self.roundness])
        b = self.sharpness_b * turned @ np.diag([1.0, self.roundness]) @ turned.T
        return ProductLandscape(Well([-half, 0.0], a), Well([half, 0.0], b))


def toy_text(toy: Toy) -> str:
    """The barrier in closed form, as measured on the line, and as the second-order form predicts it."""
    landscape = toy.landscape()
    alphas = np.linspace(0, 1, GRID)
    measured = chord_excess(alphas, landscape.path(alphas)).max()
    predicted = landscape.predicted(alphas).max()
    return (
        f"barrier, closed form s_a s_b / 64: {landscape.barrier:.10g}\n"
        f"barrier, measured at {GRID} points:   {measured:.10g}\n"
        f"second-order prediction [S]:      {predicted:.10g} ({predicted / landscape.barrier:.3g} times)"
    )


def draw_toy(toy: Toy, kind: str) -> bytes:
    """The landscape seen from above, and the line between its minima."""
    landscape = toy.landscape()
    with styled():
        figure, axes = panels(1, 2, width=3.6, height=3.0)
        reach = 0.75 * toy.distance
        x, y = np.linspace(-1.5 * reach, 1.5 * reach, GRID), np.linspace(-reach, reach, GRID)
        loss = landscape.loss(np.stack(np.meshgrid(x, y), -1))
        norm = LogNorm(max(landscape.barrier / 100, 1e-300), max(float(loss.max()), landscape.barrier * 10))
        half = toy.distance / 2
        found = {"x": x, "y": y, "loss": loss, "anchors": [[np.nan, np.nan], [-half, 0], [half, 0]]}
        levels = [landscape.barrier * factor for factor in (0.25, 1.0, 4.0)]
        mesh = draw_plane(axes[0][0], found, norm, levels)
        figure.colorbar(mesh, ax=axes[0][0], label="loss", shrink=0.8, extend="min")
        axes[0][0].set_xlabel("first weight")
        axes[0][0].set_ylabel("second weight")
        alphas = np.linspace(0, 1, GRID)
        for k, (name, values, dashes) in enumerate(
            (
                ("measured", landscape.path(alphas), "-"),
                ("second order [S]", landscape.predicted(alphas), "--"),
                ("closed form", landscape.curve(alphas), ":"),
            )
        ):
            axes[0][1].plot(alphas, values, dashes, label=name, color=COLOURS[k])
        axes[0][1].set_xlabel("alpha (0: A, 1: B)")
        axes[0][1].set_ylabel("loss above the chord")
        axes[0][1].legend()
        return picture(figure, kind)


def kind_of(path: Path) -> str:
    """The kind of picture that a file name asks for.

    Raises:
        UserError: for one that is not drawn.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in KINDS:
        raise UserError(f"{path}: pictures are {', '.join(KINDS)}; give a name with one of these endings.")
    return kind


# --- stored cells --------------------------------------------------------------------------------


def find_record(run: Path, key: str) -> Record:
    """The record of the cell whose key begins with `key`.

    Raises:
        UserError: where there is none or more than one.
    """
    folder = RunFolder(run)
    if not folder.records.is_dir():
        raise UserError(f"No records in {run}. Give a run folder, as 'lmcbench run' made it.")
    found = sorted(p for p in folder.records.glob("*.json") if p.stem.startswith(key) and key)
    if len(found) != 1:
        count = "no record" if not found else f"{len(found)} records"
        raise UserError(
            f"{run} has {count} whose key begins with {key!r}. Keys are the names in {folder.records}."
        )
    return read_record(found[0])


def draw_cell(record: Record, what: str, kind: str) -> bytes:
    """A cell's `plane` or its `siblings`' landscape, from what its record holds.

    Raises:
        UserError: where that was not measured.
    """
    name = {"plane": "plane", "siblings": "landscape"}[what]
    if not has_analysis(record, name):
        raise UserError(_absent(record, name))
    found = analysis(record, name)
    if what == "siblings":
        drawing = heat_maps(Cells([record]))
        assert drawing is not None
        return picture(drawing.figure, kind)
    with styled():
        figure, axes = panels(1, 1, width=4.6, height=3.8)
        mesh = draw_plane(axes[0][0], found, LogNorm(1e-3, 10))
        figure.colorbar(mesh, ax=axes[0][0], label=f"{found['split']} loss (nats)", extend="both")
        axes[0][0].set_xlabel("fork to A (weights' units)")
        axes[0][0].set_ylabel("across (weights' units)")
        axes[0][0].set_title(
            f"{architecture_label(record)}, {shift_label(record)}, fork {record.fork.name}, "
            f"replicate {record.replicate}\n{counted(found['n'], 'image')}"
        )
        return picture(figure, kind)


def _absent(record: Record, name: str) -> str:
    """Why a record lacks a measure, and what to do."""
    taken: Sequence[Any] = [(p.model_extra or {}).get(name) for p in record.pairs[:1]]
    if taken and taken[0] is not None:
        return f"Cell {record.key} has no {name}: {taken[0]['skipped']}"
    if record.status != "ok":
        return f"Cell {record.key} has no {name}: it {record.status}."
    suite = command_name(record.suite.name, record.suite.version, record.suite.digest)
    return (
        f"Cell {record.key} has no {name} measured. On the suite's probe cells, "
        f"'lmcbench run {suite} --measure {name}' takes it from the stored weights."
    )
