"""Commands for a network of the user's own: a file to start from, and the readiness check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmcbench.cli.app import EXIT_CHECK, EXIT_INTERRUPTED, ArchKwargs, DataDir, Json, app, print_json
from lmcbench.output import print_text


@app.command(epilog="Example: lmcbench check my_net.py:my_net")
def check(
    arch: Annotated[
        str,
        typer.Argument(
            metavar="ARCH",
            help="A timm name, module:function or file.py:function, optionally with an adaptation "
            "(+small-stem, +patch4) and arguments '(K=V,...)'.",
        ),
    ],
    suite: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Suite whose image size is checked (repeatable); default: digits."),
    ] = None,
    arch_kwargs: ArchKwargs = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Images of N x N pixels; default: the suite's.")
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Channels of the images; default: the suite's.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Number of classes; default: the suite's.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Check whether an architecture is ready to be run.

    Needs no data, and usually less than a minute on a CPU. Builds the network, trains it for a few steps on
    synthetic images, forks it, interpolates two siblings, and gives advice on each check that fails. Exits
    with 0 if the network is ready and with 1 if it is not.
    """
    from lmcbench.check.check import Readiness, conclusion, find_targets, row_texts, run_checks
    from lmcbench.spec.architectures import parse_architecture, parse_settings

    asked = parse_architecture(arch, "none", parse_settings(arch_kwargs or ()))
    targets = find_targets(suite or ("digits",), image_size, channels, classes, data_dir)
    sizes = [Readiness(asked, target) for target in targets]
    try:
        for size in sizes:
            results = run_checks(size)
            if as_json:
                list(results)
                continue
            for number, row in enumerate(row_texts(results)):  # the first row may raise an error
                print_text(row if number else f"{asked.label} for images {size.target}\n{row}")
            print_text(conclusion(size) + ("\n" if size is not sizes[-1] else ""))
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    is_ready = all(size.is_ready for size in sizes)
    if as_json:
        print_json({"name": arch, "ready": is_ready, "sizes": [size.to_json() for size in sizes]})
    raise typer.Exit(0 if is_ready else EXIT_CHECK)


@app.command("new-arch", epilog="Example: lmcbench new-arch my_net")
def new_arch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the file and its function.")],
) -> None:
    """Write NAME.py, a small commented network to start from."""
    from lmcbench.check.new_network import next_commands, write_network

    path = write_network(name, Path())
    print_text(f"Wrote {path}, a network that is ready to run. Change it, then:\n")
    print_text("\n".join(f"  {command}" for command in next_commands(name)))
