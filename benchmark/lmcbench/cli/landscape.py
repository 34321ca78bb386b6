"""Commands that draw the toy landscape, and planes and paths of a run's siblings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmcbench.cli.app import app
from lmcbench.output import print_text

landscape = typer.Typer(rich_markup_mode=None)
app.add_typer(landscape, name="landscape")
Picture = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Picture to write (.png, .svg or .pdf); default: a .png in this folder."
    ),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
Key = Annotated[
    str,
    typer.Argument(metavar="KEY", help="The cell's key or its first characters (the names in RUN/records)."),
]


@landscape.callback(invoke_without_command=True)
def _help(context: typer.Context) -> None:
    """Draw a toy landscape, or planes and paths of siblings."""
    if context.invoked_subcommand is None:
        print_text(context.get_help())


@landscape.command(epilog="Example: lmcbench landscape toy --roundness 3 --turn 45")
def toy(
    distance: Annotated[float, typer.Option(help="Distance between the minima A and B.")] = 2.0,
    sharpness_a: Annotated[
        float, typer.Option(help="Curvature of A's well along the line to B (loss / weight^2).")
    ] = 1.0,
    sharpness_b: Annotated[float, typer.Option(help="Curvature of B's well along its first axis.")] = 1.0,
    roundness: Annotated[
        float, typer.Option(help="Curvature across the line as a multiple of that along it; 1: round wells.")
    ] = 1.0,
    turn: Annotated[
        float, typer.Option(help="Angle by which the axes of B's well are turned, degrees.")
    ] = 0.0,
    out: Picture = None,
) -> None:
    """Draw a toy landscape whose barrier has a closed form.

    The landscape (Singh et al., 2024, arXiv 2406.16300) is the product q_A q_B of two quadratic wells, each
    zero at its own minimum. With d = B - A and s_i = d' A_i d (A_i: the curvature matrix of a well), the
    loss on the line is a^2 (1-a)^2 s_A s_B / 4, so the barrier is s_A s_B / 64. The published second-order
    prediction is a (1-a) s_A s_B / 4, which is 4 times the barrier at the middle. The barrier grows with
    the sharpness of the wells and the fourth power of the distance; the curvature across the line matters
    only if a well is turned.
    """
    from lmcbench import draw_landscapes as draw
    from lmcbench.results.atomic_files import write_atomic

    target = out if out is not None else Path("landscape-toy.png")
    kind = draw.picture_format(target)
    chosen = draw.toy_landscape(distance, sharpness_a, sharpness_b, roundness, turn)
    write_atomic(target, draw.draw_toy(chosen, kind))
    print_text(f"{draw.toy_text(chosen)}\nWrote {target}.")


@landscape.command()
def plane(run_folder: Run, key: Key, out: Picture = None) -> None:
    """Draw the loss on the plane through a cell's fork and siblings.

    The cell must have been run with --measure plane.
    """
    _draw_cell(run_folder, key, "plane", out)


@landscape.command()
def siblings(run_folder: Run, key: Key, out: Picture = None) -> None:
    """Draw the line between siblings at every logged epoch.

    The cell must have been run with --measure landscape.
    """
    _draw_cell(run_folder, key, "siblings", out)


def _draw_cell(run_folder: Path, key: str, what: str, out: Path | None) -> None:
    from lmcbench import draw_landscapes as draw
    from lmcbench.results.atomic_files import write_atomic

    record = draw.find_record(run_folder, key)
    target = out if out is not None else Path(f"{what}-{record.key}.png")
    write_atomic(target, draw.draw_cell(record, what, draw.picture_format(target)))
    print_text(f"Wrote {target}.")
