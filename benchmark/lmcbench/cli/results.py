"""Commands that report results: two checkpoints measured, a run summarised."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lmcbench.cli.app import (
    ArchKwargs,
    DataDir,
    Device,
    Json,
    app,
    exit_if_damaged,
    parse_channels,
    print_json,
)
from lmcbench.output import escape_markdown, print_text


@app.command(
    epilog="Example: lmcbench measure a.safetensors b.safetensors --arch resnet18 --data cifar10 "
    "--measure curvature"
)
def measure(
    a: Annotated[
        Path,
        typer.Argument(metavar="A", help="Weights of the first network: .safetensors, or .pt, .pth, .bin."),
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="Weights of the second network.")],
    arch: Annotated[
        str, typer.Option(metavar="NAME", help="A timm name, module:function or file.py:function.")
    ],
    data: Annotated[
        str,
        typer.Option(metavar="NAME|PATH", help="A data set (see 'lmcbench data'), or a path as ./own."),
    ],
    arch_kwargs: ArchKwargs = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Resize images to N x N pixels; default: no resizing."),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="M[,M,M]",
            help="Mean per channel, of pixels scaled to 0..1; default: that of the training set.",
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            metavar="S[,S,S]", help="Standard deviation per channel; default: that of the training set."
        ),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="test|train", help="Split to measure on (repeatable); default: test."),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Use a stratified subset of N images a split; default: all."),
    ] = None,
    calibration: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Recalibrate normalisation statistics on N training images; 0: interpolate the statistics.",
        ),
    ] = 1000,
    fork: Annotated[
        Path | None,
        typer.Option(metavar="CKPT", help="The checkpoint that both networks were trained from."),
    ] = None,
    analyses: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            metavar="all|NAME",
            help="Further analyses (repeatable): curvature, layers, plane (needs --fork), repair, align, "
            "features.",
        ),
    ] = None,
    alphas: Annotated[int, typer.Option(metavar="N", help="Points on the line, an odd number.")] = 21,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Measure the line between two checkpoints of your own.

    Nothing in a checkpoint is executed: files are safetensors, or torch.save files that contain only
    tensors. A checkpoint does not say how images were normalised in training: state it with --mean and
    --std. Recalibration of BatchNorm can hide a mistake there, so a large change of the error by
    recalibration is reported as a warning.
    """
    from lmcbench.measure import Request
    from lmcbench.measure import measure as measure_checkpoints
    from lmcbench.measure_text import measured_text, warnings_of
    from lmcbench.spec.architectures import parse_settings

    request = Request(
        checkpoints=(a, b),
        architecture=arch,
        data=data,
        arch_kwargs=parse_settings(arch_kwargs or ()),
        image_size=image_size,
        mean=parse_channels(mean, "--mean"),
        std=parse_channels(std, "--std"),
        splits=split or ("test",),
        images=images,
        calibration=calibration,
        fork=fork,
        measures=analyses or (),
        alphas=alphas,
    )
    result = measure_checkpoints(request, data_dir, device.value)
    print_json(result) if as_json else print_text(measured_text(result))
    if as_json or not sys.stdout.isatty():  # on a terminal the text already contains them
        for warning in warnings_of(result):
            print_text(f"Warning: {warning}", err=True)


@app.command(epilog="Example: lmcbench report runs/digits")
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of 'lmcbench run'.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write to; default: the run folder.")
    ] = None,
    findings: Annotated[
        bool, typer.Option("--findings", help="Write findings.md: the papers' claims tested on the records.")
    ] = False,
) -> None:
    """Write the report of a run, with tables and figures.

    report.html is one self-contained file; report.md refers to the pictures in figures/.
    """
    from lmcbench.results.partial_files import remove_orphans
    from lmcbench.results.run_folder import scan_records, write_atomic

    records, damaged = scan_records(run_folder)
    target = out if out is not None else run_folder
    remove_orphans(target)
    if findings:
        from lmcbench.report.findings import render_findings

        first = records[0].suite
        title = f"# Findings: {escape_markdown(first.name)} version {first.version}"
        write_atomic(target / "findings.md", f"{title}\n\n{render_findings(records)}")
        print_text(render_findings(records, "simple"), nl=False)
        print_text(f"\nWrote {target / 'findings.md'}.")
        exit_if_damaged(run_folder, damaged)
        return
    from lmcbench.report.document import make_report

    made = make_report(records)
    for name, content in made.figures.items():
        write_atomic(target / "figures" / name, content)
    write_atomic(target / "report.md", made.markdown)
    write_atomic(target / "report.html", made.html)
    print_text(f"Wrote {target / 'report.html'}, {target / 'report.md'} and {len(made.figures)} figures.")
    exit_if_damaged(run_folder, damaged)
