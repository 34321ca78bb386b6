"""The commands leaderboard, submit and verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmcbench.cli.app import EXIT_CHECK, EXIT_INPUT, DataDir, Device, Json, app, exit_if_damaged, print_json
from lmcbench.errors import UserError
from lmcbench.output import print_text, to_csv

STDOUT = Path("-")
"""The file name that means standard output."""


@app.command()
def leaderboard(
    path: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Print the table of this run folder instead.")
    ] = None,
    board_dir: Annotated[
        Path, typer.Option("--leaderboard", metavar="DIR", help="The leaderboard's folder.")
    ] = Path("leaderboard"),
    beside: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Show and rank the entries of another leaderboard too, such as a clone's.",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit 1 when what is committed is out of date."),
    ] = False,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write all numbers there as CSV (-: print them), and nothing else."
        ),
    ] = None,
    latex: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the tables there as LaTeX (booktabs, graphicx; -: print them)."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Render the leaderboard, or print the table of one run.

    Writes README.md, index.html and a summary of each submission under results/. --check recomputes
    everything from the records. --csv, --latex and --json export the numbers instead and write nothing to the
    folder; --csv and --latex do so for RUN too.
    """
    if check and (as_json or csv is not None or latex is not None):
        raise typer.BadParameter("--check writes nothing; leave out --csv, --latex and --json")
    if [csv == STDOUT, latex == STDOUT, as_json].count(True) > 1:
        raise typer.BadParameter(
            "only one of --json, --csv - and --latex - can print; give a file to the others"
        )
    if csv is not None and latex is not None and csv.resolve() == latex.resolve():
        raise typer.BadParameter(f"--csv and --latex are both {csv}; give two files")
    if path is not None:
        if check or as_json:
            raise typer.BadParameter("--check and --json are of the leaderboard, not of one run")
        _show_run(path, csv, latex)
    elif as_json or csv is not None or latex is not None:
        _export(board_dir, csv, latex, as_json, beside)
    else:
        _render(board_dir, check, beside)


def _show_run(path: Path, csv: Path | None, latex: Path | None) -> None:
    from lmcbench.report.tables import floor_of, run_table
    from lmcbench.results.record_files import scan_records

    records, damaged = scan_records(path)
    if csv is None and latex is None:
        print_text(run_table(records, path, "simple"), nl=False)
    else:
        from lmcbench.report.export import run_latex, run_rows

        floor = floor_of(records, path)
        if csv is not None:
            _write(csv, to_csv(run_rows(records, path)))
        if latex is not None:
            _write(latex, run_latex(records, path, floor))
    exit_if_damaged(path, damaged)


def _write(file: Path, text: str) -> None:
    from lmcbench.results.atomic_files import write_atomic

    if file == STDOUT:
        print_text(text, nl=False)
    else:
        write_atomic(file, text)
        print_text(f"Wrote {file}.", err=True)


def _export(
    board_dir: Path, csv: Path | None, latex: Path | None, as_json: bool, beside: Path | None
) -> None:
    from lmcbench.leaderboard.ranking_table import make_tables
    from lmcbench.leaderboard.render import export_entries, export_rows, read_others, to_latex
    from lmcbench.leaderboard.summary_cache import read_rows

    found = read_rows(board_dir)
    found += [] if beside is None else read_others(beside, found)
    tables = make_tables((row.entry for row in found), {row.entry.slug: row.basis for row in found})
    about = {row.entry.slug: (row.submission.meta, row.trust) for row in found}
    if csv is not None:
        _write(csv, to_csv(export_rows(tables, about)))
    if latex is not None:
        _write(latex, to_latex(tables, about))
    if as_json:
        print_json(export_entries(tables, about))


def _render(board_dir: Path, check: bool, beside: Path | None) -> None:
    from lmcbench.leaderboard.render import render_leaderboard

    # a stored summary may have been changed
    rendered = render_leaderboard(board_dir, afresh=check, beside=beside)
    if not check:
        written = rendered.write()
        for file in written:
            print_text(f"{'Wrote' if file.exists() else 'Removed'} {file}.")
        if not written:
            print_text(f"{board_dir} is up to date.")
        return
    outdated = rendered.outdated()
    if outdated:
        for file in outdated:
            print_text(f"{file} is out of date.", err=True)
        print_text("Run 'lmcbench leaderboard' and commit what it writes.", err=True)
        raise typer.Exit(EXIT_CHECK)
    print_text(f"{board_dir} is up to date.")


SuiteFile = Annotated[
    Path | None,
    typer.Option("--suite", metavar="FILE.toml", help="The suite, if it is not a published one."),
]


@app.command()
def submit(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of 'lmcbench run'.")],
    name: Annotated[str, typer.Option(metavar="SLUG", help="Name of the submission: a-z, 0-9, hyphens.")],
    arch: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL", help="Which of the run's architectures, as tables show it, if it has several."
        ),
    ] = None,
    title: Annotated[
        str | None, typer.Option(metavar="TEXT", help="One line; default: architecture and suite.")
    ] = None,
    author: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Who made it (repeatable).")
    ] = None,
    licence: Annotated[
        str, typer.Option(metavar="SPDX", help="Licence of records and predictions, an SPDX name.")
    ] = "CC-BY-4.0",
    pretraining: Annotated[
        str, typer.Option(metavar="TEXT", help="What the network was pretrained on.")
    ] = "none",
    extra_data: Annotated[
        str, typer.Option(metavar="TEXT", help="Data beyond the suite's that it was trained on.")
    ] = "none",
    notes: Annotated[str, typer.Option(metavar="TEXT", help="Anything a reader should know.")] = "",
    source: Annotated[
        Path | None, typer.Option(metavar="FILE.py", help="The network's source, if it was moved.")
    ] = None,
    reproduces: Annotated[
        str | None,
        typer.Option(metavar="SLUG", help="The submission that it reproduces (with --nonce)."),
    ] = None,
    nonce: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The maintainer's nonce that chose the replicates.")
    ] = None,
    board_dir: Annotated[
        Path | None,
        typer.Option(
            "--leaderboard",
            metavar="DIR",
            help="An existing leaderboard's folder; default: leaderboard, which is created if need be.",
        ),
    ] = None,
    suite: SuiteFile = None,
) -> None:
    """Make a submission of a run for the leaderboard.

    Writes one new folder, verifies it, and prints how to send it. Fewer cells than the suite has are
    accepted; such a submission is shown without a rank.
    """
    from lmcbench.leaderboard.trust import ANONYMOUS
    from lmcbench.submission.submit import Declaration
    from lmcbench.submission.submit import submit as make
    from lmcbench.submission.text import next_steps, summary

    if (reproduces is None) != (nonce is None):
        raise UserError("--reproduces SLUG and --nonce TEXT go together.")
    declared = Declaration(
        title,
        author or [ANONYMOUS],
        licence,
        pretraining,
        extra_data,
        notes,
        None if reproduces is None or nonce is None else (reproduces, nonce),
    )
    board = board_dir if board_dir is not None else Path("leaderboard")
    made = make(
        run_folder, name, declared, board, found=board_dir is None, arch=arch, source=source, suite_file=suite
    )
    print_text(summary(made))
    print_text(f"\n{next_steps(made)}")


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A submission: leaderboard/submissions/SLUG.")],
    rerun: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Train N cells again and compare (with --nonce).")
    ] = None,
    nonce: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="A word announced after submission, which chooses the cells."),
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let --rerun import the submitted network. Read it first.")
    ] = False,
    reproduce: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Print how another author reproduces it on N replicates."),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The predictions to rescore; default: those in PATH, if any."),
    ] = None,
    record: Annotated[
        bool,
        typer.Option("--record", help="Write the verifier's statement to results/SLUG/ (maintainers)."),
    ] = False,
    suite: SuiteFile = None,
    device: Annotated[Device, typer.Option(help="Device of --rerun.")] = Device.auto,
    jobs: Annotated[int | None, typer.Option(min=1, metavar="N", help="Processes of --rerun.")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Check a submission without executing anything of it.

    Reports every fault and exits with 1 if there is one. Its predictions are rescored if they are there;
    without them the submission is claimed. With --rerun, some of its cells are trained again.
    """
    from lmcbench.leaderboard import trust
    from lmcbench.submission import verify as checks
    from lmcbench.submission.text import explain, reproduction

    if nonce is None and (rerun is not None or reproduce is not None):
        raise UserError("Give --nonce TEXT too, a word that the author could not know when submitting.")
    if rerun is None and reproduce is None and (nonce is not None or allow_code):
        raise UserError("--nonce and --allow-code go with --rerun N (or --nonce with --reproduce N).")
    results = _results(path) if record else None
    found = checks.verify(path, suite, predictions=predictions)
    shown = found.as_json()
    if not as_json:
        print_text(explain(found), nl=False, err=not found.sound)
    elif not found.sound:
        print_json(shown)
    if not found.sound:
        raise typer.Exit(EXIT_INPUT if found.newer else EXIT_CHECK)
    # a re-run needs no predictions: it makes them again
    if results is not None and (found.level == "rescored" or rerun is None):
        _keep(results / found.slug / trust.VERIFIED, found.statement().to_json(), as_json)
    outside = False
    if reproduce is not None and nonce is not None:
        commands = reproduction(path, found, nonce, reproduce)
        shown["reproduction"] = commands
        if not as_json:
            print_text("\nAnother author repeats it with:\n\n" + "\n".join(f"  {c}" for c in commands))
    if rerun is not None and nonce is not None:
        from lmcbench.leaderboard.submission_file import read_submission
        from lmcbench.submission.rerun import render
        from lmcbench.submission.rerun import rerun as train_again

        submission = read_submission(path)
        report = train_again(
            submission,
            checks.suite_of(submission, suite),
            rerun,
            nonce,
            allow_code=allow_code,
            data_dir=data_dir,
            device=device.value,
            jobs=jobs,
        )
        outside = any(cell.verdict == "outside" for cell in report.cells)
        shown["rerun"] = report.model_dump(by_alias=True)
        if not as_json:
            print_text("\n" + render(report), nl=False)
        if results is not None:
            _keep(results / found.slug / trust.rerun_file(nonce), report.to_json(), as_json)
    if as_json:
        print_json(shown)
    if outside:
        raise typer.Exit(EXIT_CHECK)


def _results(path: Path) -> Path:
    """Return the folder of results, beside that of submissions."""
    submissions = path.resolve().parent
    if submissions.name != "submissions":
        raise UserError(f"--record writes beside a leaderboard's submissions; {path} is not in one.")
    return submissions.parent / "results"


def _keep(file: Path, content: str, quiet: bool) -> None:
    from lmcbench.results.atomic_files import write_atomic

    write_atomic(file, content)
    print_text(f"Wrote {file}.", err=quiet)
