"""Landscapes: the toy with its closed form, planes and paths of a run's siblings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmcbench.cli.app import app

landscape = typer.Typer(rich_markup_mode=None)
app.add_typer(landscape, name="landscape")
Picture = Annotated[Path | None, typer.Option(metavar="FILE", help="Picture to write: .png, .svg or .pdf.")]
Key = Annotated[
    str, typer.Argument(metavar="KEY", help="Key of a cell, or its first digits (the names in RUN/records).")
]


@landscape.callback(invoke_without_command=True)
def _help(context: typer.Context) -> None:
    """Draw landscapes: a toy, and planes and paths of siblings."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@landscape.command()
def toy(
    distance: Annotated[float, typer.Option(help="Between the two minima A and B, in weights.")] = 2.0,
    sharpness_a: Annotated[
        float, typer.Option(help="Curvature of A's own well along the line to B (loss / weight^2).")
    ] = 1.0,
    sharpness_b: Annotated[float, typer.Option(help="Of B's.")] = 1.0,
    roundness: Annotated[
        float, typer.Option(help="Curvature across the line as a multiple of that along it; 1: round wells.")
    ] = 1.0,
    turn: Annotated[float, typer.Option(help="Degrees by which the axes of B's well are turned.")] = 0.0,
    out: Picture = None,
) -> None:
    """The toy landscape of Singh et al. with its closed form.

    The product q_A q_B of two local quadratic wells, each zero at its own minimum (arXiv 2406.16300).
    With d = B - A and s_i = d' A_i d (A_i: the curvature matrix of a well), the loss on the line is
    a^2 (1-a)^2 s_A s_B / 4, so the barrier is s_A s_B / 64. The published second-order prediction is
    a (1-a) s_A s_B / 4: 4 times the truth at the middle. Sharper wells and more distance raise the barrier
    (by the fourth power of the distance); curvature across the line matters only once the wells are turned.
    """
    from lmcbench import draw_landscapes as landscapes
    from lmcbench.results.run_folder import write_atomic

    target = out if out is not None else Path("landscape-toy.png")
    kind = landscapes.kind_of(target)
    chosen = landscapes.Toy(distance, sharpness_a, sharpness_b, roundness, turn)
    said = landscapes.toy_text(chosen)
    write_atomic(target, landscapes.draw_toy(chosen, kind))
    typer.echo(f"{said}\nWrote {target}.")


@landscape.command()
def plane(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    key: Key,
    out: Picture = None,
) -> None:
    """Loss on the plane through a cell's fork and siblings.

    Of a cell that was run with --measure plane.
    """
    _draw_cell(run_folder, key, "plane", out)


@landscape.command()
def siblings(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    key: Key,
    out: Picture = None,
) -> None:
    """The line between siblings at every logged epoch.

    Of a cell that was run with --measure landscape.
    """
    _draw_cell(run_folder, key, "siblings", out)


def _draw_cell(run_folder: Path, key: str, what: str, out: Path | None) -> None:
    from lmcbench import draw_landscapes as landscapes
    from lmcbench.results.run_folder import write_atomic

    record = landscapes.find_record(run_folder, key)
    target = out if out is not None else Path(f"{what}-{record.key}.png")
    write_atomic(target, landscapes.draw_cell(record, what, landscapes.kind_of(target)))
    typer.echo(f"Wrote {target}.")
