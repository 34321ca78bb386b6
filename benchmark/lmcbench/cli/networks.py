"""A network of one's own: a file to start from, and whether it is ready."""

from __future__ import annotations

from typing import Annotated

import typer

from lmcbench.cli.app import EXIT_CHECK, EXIT_INTERRUPTED, DataDir, Json, app, print_json


@app.command()
def check(
    arch: Annotated[
        str,
        typer.Argument(
            metavar="ARCH",
            help="timm's name, module:function or file.py:function; +small-stem or +patch4 adapts it, "
            "(K=V,...) gives it arguments.",
        ),
    ],
    suite: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Be ready for this suite's images (repeatable); default: digits."),
    ] = None,
    arch_kwargs: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Argument of the architecture (repeatable)."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Pixels a side, instead of the suite's.")
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Channels of the images, instead of the suite's.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Number of classes, instead of the suite's.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Say whether an architecture is ready to be run.

    In under a minute on a CPU and without data it builds it, trains it for a few steps on made-up images,
    forks it, blends two siblings, and says what to do about what fails. Exits 0 if it is ready and 1 if
    it is not.
    """
    from lmcbench.check import check as checking
    from lmcbench.check import text as view
    from lmcbench.spec.architectures import parse_architecture, parse_settings

    asked = parse_architecture(arch, "none", parse_settings(arch_kwargs or ()))
    sizes = checking.targets(suite or ("digits",), image_size, channels, classes, data_dir)
    verdicts = []
    try:
        for size in sizes:
            verdict = checking.Verdict(asked, size)
            verdicts.append(verdict)
            found = checking.check(verdict)
            if as_json:
                list(found)
                continue
            for number, row in enumerate(view.row_texts(found)):
                typer.echo(row if number else f"{view.heading(verdict)}\n{row}")
            typer.echo(view.conclusion(verdict) + ("\n" if size != sizes[-1] else ""))
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    ready = all(verdict.ready for verdict in verdicts)
    if as_json:
        print_json({"name": arch, "ready": ready, "sizes": [verdict.to_json() for verdict in verdicts]})
    raise typer.Exit(0 if ready else EXIT_CHECK)


@app.command("new-arch")
def new_arch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A function's name, as in my_net.")],
) -> None:
    """Write NAME.py, a small commented network to start from."""
    from pathlib import Path

    from lmcbench.check.new_network import next_commands, write_network

    path = write_network(name, Path())
    typer.echo(f"Wrote {path}, a network that works as it is. Change it, then:\n")
    typer.echo("\n".join(f"  {command}" for command in next_commands(name)))
