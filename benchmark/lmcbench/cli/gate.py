"""The regression gate."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lmcbench.cli.app import (
    EXIT_CHECK,
    EXIT_INCONCLUSIVE,
    DataDir,
    Device,
    Json,
    app,
    name_damaged,
    print_json,
)
from lmcbench.errors import UserError
from lmcbench.output import print_text


class Inconclusive(StrEnum):
    """Exit code of an inconclusive comparison: failure or warning."""

    fail = "fail"
    warn = "warn"


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="The run to compare with.")],
    head: Annotated[Path, typer.Argument(metavar="HEAD", help="The run to judge.")],
    across: Annotated[
        list[str] | None,
        typer.Option(
            metavar="architecture|recipe|suite|seeds",
            help="Match cells that differ in this field (repeatable).",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="Take the gate's tests and margins from this suite or .toml file."
        ),
    ] = None,
    inconclusive: Annotated[
        Inconclusive, typer.Option(help="Exit code of an inconclusive result: 3 (fail) or 0 (warn).")
    ] = Inconclusive.fail,
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
) -> None:
    """Compare the results of two runs and give a verdict.

    Cells of both are compared replicate by replicate. Exit codes: 0 identical, equivalent or improved; 1
    regressed or changed; 3 inconclusive; 4 not comparable; 5 cells missing or failed on one side, or records
    that cannot be read.
    """
    from lmcbench.gate import compare as gate
    from lmcbench.gate import comparison
    from lmcbench.gate import render as gate_text
    from lmcbench.results.record_files import scan_records

    if as_json and markdown:
        raise UserError("Choose either --json or --markdown.")
    (old, damaged_base), (new, damaged_head) = scan_records(base), scan_records(head)
    tests, origin = gate.select_gate(new, suite)
    found = gate.compare(
        old, new, tests, across or (), (str(base), str(head)), (len(damaged_base), len(damaged_head))
    )
    code = found.exit_code
    written = not as_json and (markdown or bool(found.tests) or code == 0)
    if as_json:
        print_json(comparison.as_json(found))
    elif written:
        print_text(gate_text.render(found, origin, markdown), nl=False)
    name_damaged(base, damaged_base)
    name_damaged(head, damaged_head)
    # on a terminal the rendered text has said it already
    if code > EXIT_CHECK and not (written and sys.stdout.isatty()):
        print_text(f"lmcbench compare: {gate_text.headline(found)}", err=True)
    raise typer.Exit(0 if code == EXIT_INCONCLUSIVE and inconclusive is Inconclusive.warn else code)


@app.command()
def calibrate(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="A published suite or a .toml file.")],
    arch: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only these architectures (glob, repeatable).")
    ] = None,
    shift: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB", help="Only these shifts (glob, repeatable); default: those that the gate tests."
        ),
    ] = None,
    fork: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORK",
            help="Only these forks (repeatable); default: those that the gate tests, or the first.",
        ),
    ] = None,
    replicates: Annotated[
        str, typer.Option(metavar="N|A:B", help="Replicates to repeat: 0 to N-1, or A to B-1.")
    ] = "3",
    repeats: Annotated[
        int, typer.Option(min=2, metavar="N", help="Number of runs; engine, threads or device differ.")
    ] = 3,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the runs; default: runs/SUITE-calibration.")
    ] = None,
    device: Annotated[
        Device, typer.Option(help="Where to compute; auto includes CUDA if available.")
    ] = Device.auto,
    jobs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes; each trains one family at a time.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print tables in Markdown.")] = False,
) -> None:
    """Measure run-to-run noise by repeating cells.

    Cells are repeated under other engines, threads and devices, and the deviation of every measure is
    reported. The accuracy of the convex baseline without shift is reported too, for a floor of the form
    "baseline+x".
    """
    from lmcbench.calibrate import measure_baseline, repeat_runs
    from lmcbench.errors import counted
    from lmcbench.gate import calibration
    from lmcbench.spec.cells import Selection, parse_replicates
    from lmcbench.spec.gate_tests import DEFAULT_GATE
    from lmcbench.spec.suite_files import load_suite

    chosen = load_suite(suite)
    selection = Selection(arch or (), shift or (), fork or (), parse_replicates(replicates))
    root = out if out is not None else Path("runs") / f"{chosen.name}-calibration"
    runs = []
    for text, records in repeat_runs(
        chosen, selection, repeats, root, data_dir=data_dir, device=device.value, jobs=jobs
    ):
        print_text(f"{counted(len(records), 'cell')}: {text}", err=True)
        runs.append(records)
    baseline = measure_baseline(chosen, selection.replicates, root, data_dir=data_dir, jobs=jobs)
    found = calibration.calibrate(runs, chosen.gate or DEFAULT_GATE, baseline)
    if as_json:
        print_json(calibration.as_json(found))
    else:
        print_text(calibration.render(found, "github" if markdown else "simple"), nl=False)
