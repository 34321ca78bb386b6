"""The command line: parse, call, print."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lmcbench.errors import UserError

EXIT_CHECK, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED = 1, 3, 130

app = typer.Typer(
    name="lmcbench",
    help="Measure linear mode connectivity of image classifiers under data shift.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Inconclusive(StrEnum):
    """What a comparison that cannot tell is to its caller."""

    fail = "fail"
    warn = "warn"


Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
DataDir = Annotated[
    Path | None, typer.Option(envvar="LMCBENCH_DATA", help="Folder of data sets as parquet files.")
]


@app.callback(invoke_without_command=True)
def _help(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"lmcbench {installed('lmcbench')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


# --- what there is -------------------------------------------------------------------------------


@app.command()
def suites(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A published suite or a .toml file; none: all.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the published suites, or what one of them runs and on which data."""
    from lmcbench import catalogue
    from lmcbench.spec.suite import load_suite

    if name is None:
        listed = catalogue.list_suites()
        _print_json(listed) if as_json else typer.echo(catalogue.suites_text(listed))
    else:
        suite = load_suite(name)
        if as_json:
            _print_json(catalogue.describe_suite(suite))
            return
        from lmcbench.data.listing import whereabouts

        typer.echo(catalogue.suite_text(suite, whereabouts(suite.data.name, data_dir)))


@app.command()
def shifts(as_json: Json = False) -> None:
    """List the training shifts and the evaluation transforms: what each does and where it comes from."""
    from lmcbench import catalogue
    from lmcbench.spec.transforms import transform_table

    listed, transforms = catalogue.list_shifts(), transform_table()
    if as_json:
        _print_json({"shifts": listed, "transforms": transforms})
    else:
        typer.echo(catalogue.shifts_text(listed, transforms))


@app.command()
def archs(
    pattern: Annotated[
        str | None, typer.Argument(metavar="GLOB", help="Search timm's registry too, as in 'resnet*'.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List architectures: our own small networks and, with a pattern, timm's."""
    from lmcbench import catalogue

    listed = catalogue.list_architectures(pattern)
    _print_json(listed) if as_json else typer.echo(catalogue.architectures_text(listed, pattern))


data_app = typer.Typer(rich_markup_mode=None)
app.add_typer(data_app, name="data")


@data_app.callback(invoke_without_command=True)
def data(context: typer.Context, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List every data set: where it was found, size, licence, and what to do if it is missing."""
    if context.invoked_subcommand is not None:
        return
    from lmcbench import catalogue
    from lmcbench.data.listing import list_datasets

    listed = list_datasets(data_dir)
    if as_json:
        _print_json([asdict(listing) for listing in listed])
    else:
        typer.echo(catalogue.datasets_text(listed))


@data_app.command()
def fetch(name: Annotated[str, typer.Argument(help="A data set, as 'lmcbench data' lists it.")]) -> None:
    """Download a data set from the Hugging Face hub at its pinned revision, and decode it into the cache."""
    from lmcbench.data.sources import fetch_dataset

    found = fetch_dataset(name)
    sizes = f"{len(found.train):,} training and {len(found.test):,} test images"
    typer.echo(f"{name} is here: {sizes} from {found.source}.")


@app.command()
def doctor(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show the device, the versions and the data that a run would use."""
    from lmcbench.doctor import examine, report_text

    found = examine(data_dir)
    _print_json(found) if as_json else typer.echo(report_text(found))


# --- the main job --------------------------------------------------------------------------------


@app.command()
def run(
    suite: Annotated[
        str,
        typer.Argument(metavar="SUITE", help="A published suite (see 'lmcbench suites') or a .toml file."),
    ],
    arch: Annotated[
        list[str] | None,
        typer.Option(help="Only these architectures (glob, repeatable), or one the suite does not list."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Train with this recipe of the suite; needed for an unlisted --arch.")
    ] = None,
    shift: Annotated[list[str] | None, typer.Option(help="Only these shifts (glob, repeatable).")] = None,
    fork: Annotated[list[str] | None, typer.Option(help="Only these forks (repeatable).")] = None,
    replicates: Annotated[
        str | None,
        typer.Option(metavar="N|A:B", help="Replicates 0 to N-1, or A to B-1; the suite's number."),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(metavar="all|NAME", help="Further measures on the suite's probe cells (repeatable)."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/SUITE.")] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes, one family each; default: one a core, one on CUDA.")
    ] = None,
    data_dir: DataDir = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run, and stop.")] = False,
) -> None:
    """Train siblings, measure the lines between them, and show the leaderboard.

    The same command again goes on where it was stopped; asking for more extends the run.
    """
    from lmcbench.results.store import RunFolder
    from lmcbench.run import plan_run, run_plan
    from lmcbench.runview import RunView
    from lmcbench.spec.cells import Selection, expand, parse_replicates
    from lmcbench.spec.suite import load_suite

    chosen = load_suite(suite)
    selection = Selection(
        architectures=arch or (),
        shifts=shift or (),
        forks=fork or (),
        replicates=None if replicates is None else parse_replicates(replicates),
        recipe=recipe,
    )
    folder = RunFolder(out if out is not None else Path("runs") / chosen.name)
    plan = plan_run(expand(chosen, selection), folder, measure or ())
    view = RunView(chosen, plan, folder)
    view.introduce()
    if dry_run:
        return
    try:
        with view.progress():
            for event in run_plan(plan, folder, data_dir=data_dir, device=device.value, jobs=jobs):
                view.show(event)
    except KeyboardInterrupt:
        typer.echo(view.interrupted(), err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    raise typer.Exit(view.conclude())


@app.command()
def measure(
    a: Annotated[
        Path, typer.Argument(help="Weights of the first network: .safetensors, or .pt and its kin.")
    ],
    b: Annotated[Path, typer.Argument(help="Weights of the second.")],
    arch: Annotated[str, typer.Option(help="timm's name, module:function or file.py:function.")],
    data: Annotated[str, typer.Option(help="Data set: a name (see 'lmcbench data') or a path of your own.")],
    arch_kwargs: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Argument of the architecture (repeatable)."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Resize images to this; default: as they are.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="M[,M,M]", help="Of pixels scaled to 0..1, per channel; default: the training set's."
        ),
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="S[,S,S]", help="Likewise.")] = None,
    split: Annotated[
        list[str] | None, typer.Option(metavar="test|train", help="Where (repeatable); default: test.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Use so many images of a split, stratified; default: all.")
    ] = None,
    calibration: Annotated[
        int,
        typer.Option(min=0, help="Training images for normalisation statistics; 0: blend them as they are."),
    ] = 1000,
    fork: Annotated[
        Path | None, typer.Option(metavar="CKPT", help="The state that both networks left, for the geometry.")
    ] = None,
    further: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            metavar="all|NAME",
            help="Further measures (repeatable): curvature, layers, plane (needs --fork), repair, align.",
        ),
    ] = None,
    alphas: Annotated[int, typer.Option(help="Points on the line, odd.")] = 21,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="LMCBENCH_DATA", help="Folder of data sets as parquet files.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the line between two checkpoints of your own.

    Nothing in a checkpoint is executed: safetensors, or torch.save's format with tensors alone.
    """
    from lmcbench import measure as two

    request = two.Request(
        a,
        b,
        arch,
        data,
        two.parse_settings(arch_kwargs or ()),
        image_size,
        two.parse_channels(mean, "--mean"),
        two.parse_channels(std, "--std"),
        split or ("test",),
        images,
        calibration,
        fork,
        further or (),
        alphas,
    )
    found = two.measure(request, data_dir, device.value)
    _print_json(found) if as_json else typer.echo(two.measured_text(found))


@app.command()
def leaderboard(
    path: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Print the table of this run folder instead.")
    ] = None,
    board_dir: Annotated[Path, typer.Option("--leaderboard", help="The leaderboard's folder.")] = Path(
        "leaderboard"
    ),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 when what is committed is out of date.")
    ] = False,
) -> None:
    """Render the leaderboard from its submissions, or print the table of one run."""
    from lmcbench.board import page

    if path is not None:
        typer.echo(page.run_table(path, "simple"), nl=False)
        return
    content = page.render(board_dir)
    target = board_dir / "README.md"
    if check:
        current = target.read_text(encoding="utf-8") if target.exists() else None
        if current != content:
            typer.echo(f"{target} is out of date. Run 'lmcbench leaderboard' and commit it.", err=True)
            raise typer.Exit(EXIT_CHECK)
        typer.echo(f"{target} is up to date.")
        return
    from lmcbench.results.store import write_atomic

    write_atomic(target, content)
    typer.echo(f"Wrote {target}.")


@app.command()
def report(
    run_folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, as 'lmcbench run' made it.")
    ],
    out: Annotated[Path | None, typer.Option(help="Where to write; default: into the run folder.")] = None,
    findings: Annotated[
        bool, typer.Option("--findings", help="Hold the papers' claims against the records: findings.md.")
    ] = False,
) -> None:
    """Write report.md, report.html (one page that needs nothing else) and its figures."""
    from lmcbench.results.record import read_record
    from lmcbench.results.store import find_records, write_atomic

    records = [read_record(file) for file in find_records(run_folder)]
    target = out if out is not None else run_folder
    if findings:
        from lmcbench.board.findings import render_findings

        first = records[0].suite
        title = f"# Findings: {first.name} version {first.version}"
        write_atomic(target / "findings.md", f"{title}\n\n{render_findings(records)}")
        typer.echo(render_findings(records, "simple"), nl=False)
        typer.echo(f"\nWrote {target / 'findings.md'}.")
        return
    from lmcbench.board.report import make_report

    made = make_report(records)
    for name, content in made.figures.items():
        write_atomic(target / "figures" / name, content)
    write_atomic(target / "report.md", made.markdown)
    write_atomic(target / "report.html", made.html)
    typer.echo(f"Wrote {target / 'report.html'}, {target / 'report.md'} and {len(made.figures)} figures.")


# --- landscapes ----------------------------------------------------------------------------------

landscape = typer.Typer(
    help="Draw landscapes: the toy with its closed form, planes and paths of a run's siblings.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(landscape, name="landscape")
Picture = Annotated[Path | None, typer.Option(help="File to write: .png, .svg or .pdf.")]
Key = Annotated[str, typer.Argument(help="Key of a cell, or its first digits (the names in RUN/records).")]


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
    """[S]'s toy landscape: the product of two local quadratic wells q_A q_B, each zero at its own minimum.

    With d = B - A and s_i = d' A_i d (A_i: the curvature matrix of a well), the loss on the line is
    a^2 (1-a)^2 s_A s_B / 4, so the barrier is s_A s_B / 64. The published second-order prediction is
    a (1-a) s_A s_B / 4: 4 times the truth at the middle. Sharper wells and more distance raise the barrier
    (by the fourth power of the distance); curvature across the line matters only once the wells are turned.
    """
    from lmcbench import landscapes
    from lmcbench.results.store import write_atomic

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
    """Loss on the plane through a stored cell's fork and two siblings (run with --measure plane)."""
    _draw_cell(run_folder, key, "plane", out)


@landscape.command()
def siblings(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    key: Key,
    out: Picture = None,
) -> None:
    """The line between a stored cell's siblings at every logged epoch (run with --measure landscape)."""
    _draw_cell(run_folder, key, "siblings", out)


def _draw_cell(run_folder: Path, key: str, what: str, out: Path | None) -> None:
    from lmcbench import landscapes
    from lmcbench.results.store import write_atomic

    record = landscapes.find_record(run_folder, key)
    target = out if out is not None else Path(f"{what}-{record.key}.png")
    write_atomic(target, landscapes.draw_cell(record, what, landscapes.kind_of(target)))
    typer.echo(f"Wrote {target}.")


# --- the gate ------------------------------------------------------------------------------------


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="The run to compare with.")],
    head: Annotated[Path, typer.Argument(metavar="HEAD", help="The run in question.")],
    across: Annotated[
        list[str] | None,
        typer.Option(
            metavar="architecture|recipe|suite|seeds",
            help="Match cells over this field on purpose (repeatable).",
        ),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Take the gate's tests and margins from this suite or .toml file.")
    ] = None,
    inconclusive: Annotated[
        Inconclusive, typer.Option(help="Exit 3 (fail) or 0 (warn) where the replicates cannot tell.")
    ] = Inconclusive.fail,
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="For a pull request comment.")] = False,
) -> None:
    """Say whether results changed between two runs of the same cells.

    Exit codes: 0 identical, equivalent or improved; 1 regressed or changed; 3 inconclusive;
    4 not comparable; 5 cells missing or failed on one side.
    """
    from lmcbench.board import compare as gate
    from lmcbench.board import comparison, gate_text

    if as_json and markdown:
        raise UserError("Choose either --json or --markdown.")
    old, new = gate.read_side(base), gate.read_side(head)
    tests, origin = gate.gate_of(new, suite)
    found = gate.compare(old, new, tests, across or (), (str(base), str(head)))
    if as_json:
        _print_json(comparison.as_json(found))
    elif markdown or found.tests or found.exit_code == 0:
        typer.echo(gate_text.render(found, origin, markdown), nl=False)
    code = found.exit_code
    if code > EXIT_CHECK:
        typer.echo(f"lmcbench compare: {gate_text.headline(found)}", err=True)
    raise typer.Exit(0 if code == EXIT_INCONCLUSIVE and inconclusive is Inconclusive.warn else code)


@app.command()
def calibrate(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="A published suite or a .toml file.")],
    arch: Annotated[list[str] | None, typer.Option(help="Only these architectures (glob).")] = None,
    shift: Annotated[
        list[str] | None, typer.Option(help="These shifts (glob); default: those the gate tests.")
    ] = None,
    fork: Annotated[
        list[str] | None, typer.Option(help="These forks; default: those the gate tests, or the first.")
    ] = None,
    replicates: Annotated[str, typer.Option(metavar="N|A:B", help="Replicates to repeat.")] = "3",
    repeats: Annotated[int, typer.Option(min=2, help="Runs, each under other conditions.")] = 3,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs; default runs/SUITE-calibration.")
    ] = None,
    device: Annotated[Device, typer.Option(help="auto: CUDA too, where there is one.")] = Device.auto,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes, one family each.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="LMCBENCH_DATA", help="Folder of data sets as parquet files.")
    ] = None,
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables in Markdown.")] = False,
) -> None:
    """Repeat cells under other engines, threads and devices: the run-to-run noise of every measure."""
    from lmcbench.board import calibration
    from lmcbench.calibrate import repeat_runs
    from lmcbench.spec.cells import Selection, parse_replicates
    from lmcbench.spec.gate import DEFAULT_GATE
    from lmcbench.spec.suite import load_suite

    chosen = load_suite(suite)
    selection = Selection(arch or (), shift or (), fork or (), parse_replicates(replicates))
    root = out if out is not None else Path("runs") / f"{chosen.name}-calibration"
    runs = []
    for text, records in repeat_runs(
        chosen, selection, repeats, root, data_dir=data_dir, device=device.value, jobs=jobs
    ):
        typer.echo(f"{len(records)} cells: {text}", err=True)
        runs.append(records)
    found = calibration.calibrate(runs, chosen.gate or DEFAULT_GATE)
    if as_json:
        _print_json(calibration.as_json(found))
    else:
        typer.echo(calibration.render(found, "github" if markdown else "simple"), nl=False)


# --- entry ---------------------------------------------------------------------------------------


def main() -> None:
    """Run the command line and exit with its code: one message, no traceback, on bad input."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(prog_name="lmcbench")
    except UserError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, allow_nan=False))
