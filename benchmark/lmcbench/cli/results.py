"""What came out: two checkpoints measured, a run reported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lmcbench.cli.app import DataDir, Device, Json, app, parse_channels, print_json


@app.command()
def measure(
    a: Annotated[
        Path,
        typer.Argument(metavar="A", help="Weights of the first network: .safetensors, or .pt and its kin."),
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="Weights of the second.")],
    arch: Annotated[
        str, typer.Option(metavar="NAME", help="timm's name, module:function or file.py:function.")
    ],
    data: Annotated[
        str, typer.Option(metavar="NAME|PATH", help="A name (see 'lmcbench data'), or a path such as ./own.")
    ],
    arch_kwargs: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Argument of the architecture (repeatable)."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Resize images to this; default: as they are.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="M[,M,M]", help="Mean of pixels scaled to 0..1, per channel; default: the training set's."
        ),
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="S[,S,S]", help="Their standard deviation, likewise.")
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="test|train", help="Split to measure on (repeatable); default: test."),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Use so many images of a split, stratified; default: all."),
    ] = None,
    calibration: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Training images for normalisation statistics; 0: blend them as they are.",
        ),
    ] = 1000,
    fork: Annotated[
        Path | None, typer.Option(metavar="CKPT", help="The state that both networks left, for the geometry.")
    ] = None,
    further: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            metavar="all|NAME",
            help="Further measures (repeatable): curvature, layers, plane (needs --fork), repair, align,"
            " features.",
        ),
    ] = None,
    alphas: Annotated[int, typer.Option(metavar="N", help="Points on the line, odd.")] = 21,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Measure the line between two checkpoints of your own.

    Nothing in a checkpoint is executed: safetensors, or torch.save's format with tensors alone. Nor does
    it say how images were normalised in training: --mean and --std do. Taking statistics anew makes up for a
    mistake there, so networks whose error it changes by much are warned of.
    """
    from lmcbench import measure as two
    from lmcbench.measure_text import measured_text, warnings_of
    from lmcbench.spec.architectures import parse_settings

    request = two.Request(
        a,
        b,
        arch,
        data,
        parse_settings(arch_kwargs or ()),
        image_size,
        parse_channels(mean, "--mean"),
        parse_channels(std, "--std"),
        split or ("test",),
        images,
        calibration,
        fork,
        further or (),
        alphas,
    )
    found = two.measure(request, data_dir, device.value)
    print_json(found) if as_json else typer.echo(measured_text(found))
    if as_json or not sys.stdout.isatty():
        # beside a document or a file; a person who reads the table on a terminal has read them there
        for warning in warnings_of(found):
            typer.echo(f"Warning: {warning}", err=True)


@app.command()
def report(
    run_folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, as 'lmcbench run' made it.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write; default: into the run folder.")
    ] = None,
    findings: Annotated[
        bool, typer.Option("--findings", help="Hold the papers' claims against the records: findings.md.")
    ] = False,
) -> None:
    """Write a run's report: one page with every figure.

    report.html needs no other file; report.md refers to figures/.
    """
    from lmcbench.results.run_folder import read_records, write_atomic

    records = read_records(run_folder)
    target = out if out is not None else run_folder
    if findings:
        from lmcbench.report.findings import render_findings

        first = records[0].suite
        title = f"# Findings: {first.name} version {first.version}"
        write_atomic(target / "findings.md", f"{title}\n\n{render_findings(records)}")
        typer.echo(render_findings(records, "simple"), nl=False)
        typer.echo(f"\nWrote {target / 'findings.md'}.")
        return
    from lmcbench.report.document import make_report

    made = make_report(records)
    for name, content in made.figures.items():
        write_atomic(target / "figures" / name, content)
    write_atomic(target / "report.md", made.markdown)
    write_atomic(target / "report.html", made.html)
    typer.echo(f"Wrote {target / 'report.html'}, {target / 'report.md'} and {len(made.figures)} figures.")
