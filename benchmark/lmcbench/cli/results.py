"""Commands that report results: two checkpoints measured, a run summarised."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
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
from lmcbench.errors import printable
from lmcbench.output import escape_markdown, print_text


@app.command(
    epilog="Example: lmcbench measure a.pth b.pth c.pth --arch resnet18 --data cifar10 --soup s.safetensors"
)
def measure(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            metavar="CKPT CKPT [CKPT ...]",
            help="Files with the weights of two or more networks, as training scripts leave them: torch.save "
            "of any kind, safetensors, also in parts.",
            show_default=False,
        ),
    ],
    arch: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="A timm name (also as timm/NAME), torchvision.models:NAME, module:function or "
            "file.py:function.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(metavar="NAME|PATH", help="A data set (see 'lmcbench data'), or a path as ./own."),
    ],
    arch_kwargs: ArchKwargs = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|ema", help="Which weights of a file to read; default: the plain ones, not averaged."
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Resize images to N x N pixels; default: no resizing."),
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN|folder",
            help="Where the data's domains are named; 'folder': the data are folders DOMAIN/CLASS.",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="M[,M,M]",
            help="Mean per channel, of pixels scaled to 0..1; default: that of the network's published "
            "weights (timm), else of the training set.",
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(metavar="S[,S,S]", help="Standard deviation per channel; default: as for --mean."),
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
        typer.Option(
            metavar="CKPT",
            help="The checkpoint that the networks were trained from, such as a pretrained one; adds "
            "distances and angles.",
        ),
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
    soup: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the uniform average to FILE.safetensors, recalibrated."),
    ] = None,
    greedy_soup: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the greedy soup (Wortsman et al., 2022) to FILE.safetensors, chosen on --select.",
        ),
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(
            metavar="held-out|train",
            help="Images that choose the greedy soup: a stratified tenth of the training set (default), or "
            "all of it.",
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw curves and barriers to FILE.png, .pdf or .svg."),
    ] = None,
    alphas: Annotated[int, typer.Option(metavar="N", help="Points on the line, an odd number.")] = 21,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Measure checkpoints of your own: lines, soups, ensemble.

    Measures the lines between all pairs, their average (soup) and their ensemble, and ends with one sentence
    on whether to average them. Nothing in a checkpoint is executed. A checkpoint does not say how images
    were normalised in training: state it with --mean and --std. Recalibration of BatchNorm can hide a mistake
    there, so a large change of the error by recalibration is reported as a warning.
    """
    from lmcbench.measure.checkpoints import Request
    from lmcbench.measure.checkpoints import measure as measure_checkpoints
    from lmcbench.measure.text import measured_text, warnings_of
    from lmcbench.results.atomic_files import write_atomic
    from lmcbench.spec.architectures import parse_settings

    request = Request(
        checkpoints=checkpoints,
        architecture=arch,
        data=data,
        arch_kwargs=parse_settings(arch_kwargs or ()),
        weights=weights,
        image_size=image_size,
        mean=parse_channels(mean, "--mean"),
        std=parse_channels(std, "--std"),
        splits=split or ("test",),
        images=images,
        calibration=calibration,
        fork=fork,
        measures=analyses or (),
        alphas=alphas,
        soup=soup,
        greedy_soup=greedy_soup,
        select=select,
        domain=domain,
    )
    if figure is not None:
        from lmcbench.measure.figure import check_figure, draw_measured  # loads matplotlib

        check_figure(figure)
    with progress_bar() as report_progress:
        result = measure_checkpoints(request, data_dir, device.value, report_progress)
    if figure is not None:
        write_atomic(figure, draw_measured(result, figure.suffix[1:].lower()))
    print_json(result) if as_json else print_text(measured_text(result))
    for note in result["notes"]:
        print_text(f"Note: {note}", err=True)
    if as_json or not sys.stdout.isatty():  # on a terminal the text already contains them
        for warning in warnings_of(result):
            print_text(f"Warning: {warning}", err=True)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows a bar on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(
            task, description=printable(what, 60), completed=done, total=total
        )


class FigureFormat(StrEnum):
    """Format of a report's figures."""

    png = "png"
    pdf = "pdf"
    svg = "svg"


@app.command(epilog="Example: lmcbench report runs/digits --format pdf")
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of 'lmcbench run'.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write to; default: the run folder.")
    ] = None,
    findings: Annotated[
        bool, typer.Option("--findings", help="Write findings.md: the papers' claims tested on the records.")
    ] = False,
    figure_format: Annotated[
        FigureFormat, typer.Option("--format", help="Format of the figures in figures/.")
    ] = FigureFormat.png,
) -> None:
    """Write the report of a run, with tables and figures.

    report.html is one self-contained file; report.md refers to the figures in figures/. The same records give
    the same bytes.
    """
    from lmcbench.results.atomic_files import remove_orphans, write_atomic
    from lmcbench.results.record_files import scan_records

    records, damaged = scan_records(run_folder)
    target = out if out is not None else run_folder
    remove_orphans(target)
    if findings:
        from lmcbench.report.findings import collect_findings, render_findings
        from lmcbench.report.provenance import provenance_of
        from lmcbench.stats.cells import Cells

        first = records[0].suite
        title = f"# Findings: {escape_markdown(first.name)} version {first.version}"
        found = collect_findings(Cells(records))
        how = provenance_of(records, run_folder).markdown()
        write_atomic(target / "findings.md", f"{title}\n\n{render_findings(found)}\n{how}")
        print_text(render_findings(found, "simple"), nl=False)
        print_text(f"\nWrote {target / 'findings.md'}.")
        exit_if_damaged(run_folder, damaged)
        return
    from lmcbench.report.document import make_report

    made = make_report(records, run_folder, figure_format.value)
    for name, content in made.figures.items():
        write_atomic(target / "figures" / name, content)
    write_atomic(target / "report.md", made.markdown)
    write_atomic(target / "report.html", made.html)
    print_text(f"Wrote {target / 'report.html'}, {target / 'report.md'} and {len(made.figures)} figures.")
    exit_if_damaged(run_folder, damaged)
