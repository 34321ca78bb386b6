"""Run a suite from Python."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from lmcbench.data.selection import open_suite_data
from lmcbench.errors import UserError, counted
from lmcbench.report.tables import make_tables
from lmcbench.results.frame import load_records
from lmcbench.results.record import Record
from lmcbench.results.record_files import read_records
from lmcbench.running.job import Job, prepare_job, run_job
from lmcbench.running.place import LOCAL, parse_place
from lmcbench.running.plan import Event, Finished, Progress
from lmcbench.running.progress import write_table
from lmcbench.spec.architectures import Architecture
from lmcbench.spec.cells import Selection, parse_replicates
from lmcbench.spec.forks import Fork
from lmcbench.spec.suite import Suite
from lmcbench.spec.suite_files import load_suite
from lmcbench.train.session_network import session_network
from lmcbench.values import as_integer, as_number, as_path, as_texts, check_bool, check_choice, shown

DEVICES = ("auto", "cpu", "cuda")

Network = str | Callable[..., Any]
"""A name as on the command line, or a function or class that builds the network."""


def run(
    suite: str | Path | Suite,
    *,
    architectures: Network | Sequence[Network] | None = None,
    recipe: str | None = None,
    shifts: str | Sequence[str] | None = None,
    forks: str | float | Sequence[str | float] | None = None,
    replicates: int | str | range | None = None,
    measure: str | Sequence[str] = (),
    out: str | Path | None = None,
    device: str = "auto",
    jobs: int | None = None,
    data_dir: str | Path | None = None,
    on: str = "local",
    progress: bool = True,
) -> pd.DataFrame:
    """Run a suite, or a part of it, and return its records as a table.

    It is `lmcbench run` as a function: either resumes and extends what is in the folder `out`.

    Args:
        suite: name of a published suite, path of a `.toml` file, or a `Suite`, as `load_suite` returns it.
        architectures: names or patterns as on the command line, and functions or classes that build a
            network. They get the number of classes, channels and image size under the names that their
            signature has (`num_classes`, `in_chans`, `img_size`, and others in use). What no file defines, as
            in a notebook, runs in this process, is identified by its source and initial weights, and cannot
            be submitted. None: those of the suite.
        recipe: the suite's recipe to train with; needed for architectures that the suite does not list.
        shifts: names or patterns of training shifts. None: all.
        forks: epochs, shares of training (`"3%"`), names of comparators, `"from:FILE"`. None: all.
        replicates: a number of replicates, a range, or `"A:B"` (half-open). None: the suite's number.
        measure: names of analyses for the suite's probe cells, or `"all"`.
        out: the run folder. None: a temporary one, removed at the end.
        device: `auto`, `cpu` or `cuda`.
        jobs: processes, one family each. None: one a core; a single one on CUDA, or if a network is known in
            this process only.
        data_dir: folder with data sets. None: the environment variable LMCBENCH_DATA, or the usual places.
        on: where families run, as for `--on`; `local`: on this machine. Another place needs `out`, a folder
            that it can reach.
        progress: show a progress bar, on standard error or as a widget in a notebook.

    Returns:
        The DataFrame of `load_records(out)`: a row for each cell, pair of siblings and split, of all cells in
        the folder.

    Raises:
        UserError: for bad input, before anything is trained; or if a worker died or the disk is full, where
            `out` keeps the finished cells.

    Examples:
        >>> import torch
        >>> def tiny_mlp(num_classes, in_chans, img_size):
        ...     return torch.nn.Sequential(
        ...         torch.nn.Flatten(),
        ...         torch.nn.Linear(in_chans * img_size**2, 16),
        ...         torch.nn.ReLU(),
        ...         torch.nn.Linear(16, num_classes),
        ...     )
        >>> frame = run("digits", architectures=tiny_mlp, recipe="mlp", shifts="none", forks=0,
        ...             replicates=1, device="cpu", progress=False)
        >>> frame[frame["split"] == "test"][["architecture", "shift", "fork", "replicate"]].values.tolist()
        [['python:tiny_mlp', 'none', '0', 0]]
    """
    check_choice(device, "device", DEVICES)
    check_bool(progress, "progress")
    for name, text in (("on", on), ("recipe", "" if recipe is None else recipe)):
        if not isinstance(text, str):
            raise UserError(f"{name} must be a name, found {shown(text)}.")
    parse_place(on)
    if on != LOCAL and out is None:
        raise UserError(f"on={on!r} needs a run folder that the other machines can reach: give out=FOLDER.")
    workers = None if jobs is None else as_integer(jobs, "jobs", 1)
    chosen = suite if isinstance(suite, Suite) else load_suite(suite)
    folder = None if data_dir is None else as_path(data_dir, "data_dir")
    run_folder = None if out is None else as_path(out, "out")
    selection = Selection(
        architectures=_architectures(chosen, _as_list(architectures), recipe, folder),
        shifts=as_texts(_as_list(shifts), "shifts"),
        forks=[_fork(fork) for fork in _as_list(forks)],
        replicates=_replicates(replicates),
        recipe=recipe,
        recipe_option="recipe=",
    )
    with _run_folder(run_folder) as root, _threads_kept():
        job = prepare_job(chosen, selection, root, measure=as_texts(_as_list(measure), "measure"))
        events = run_job(job, data_dir=folder, device=device, jobs=workers, on=on)
        _carry_out(job, events, progress)
        if out is not None:
            held = read_records(root)
            write_table(job.folder, held, make_tables(held, job.suite.floor, root))
        return load_records(root)


def _carry_out(job: Job, events: Iterable[Event], progress: bool) -> None:
    """Go through the events of a job with a progress bar, and warn of cells that failed."""
    from tqdm.auto import tqdm

    cells, failed = len(job.plan.cells), list[Record]()
    done = len(job.plan.finished)
    bar_format = "{desc}: {percentage:3.0f}% |{bar}| {postfix[0]} [{elapsed}<{remaining}]"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # without ipywidgets it is text
        bar = tqdm(
            total=float(cells),
            initial=float(done),
            desc=job.suite.name,
            disable=not progress,
            mininterval=0.5,
            bar_format=bar_format,
            postfix=[f"{done} of {counted(cells, 'cell')}"],
        )
    with bar:
        for event in events:
            if isinstance(event, Finished):
                done += 1
                bar.postfix = [f"{done} of {counted(cells, 'cell')}"]
                failed += [event.record] if event.record.status == "failed" else []
            elif isinstance(event, Progress):
                bar.update(min(event.cells, cells - bar.n))
            else:
                warnings.warn(event.text, stacklevel=3)
    if failed:
        reasons = "; ".join(dict.fromkeys(str(record.reason) for record in failed))
        warnings.warn(f"{counted(len(failed), 'cell')} failed: {reasons}", stacklevel=3)


def _architectures(
    suite: Suite, given: Sequence[Any], recipe: str | None, data_dir: Path | None
) -> list[str | Architecture]:
    """Return names unchanged, and an architecture for each function or class.

    Raises:
        UserError: for anything else, without a recipe, or if two different ones have the same name.
    """
    chosen: list[str | Architecture] = []
    by_label: dict[str, Architecture] = {}
    for network in given:
        if isinstance(network, str):
            chosen.append(network)
            continue
        if not callable(network):
            raise UserError(
                "architectures must be names, or functions or classes that build a network; found "
                f"{type(network).__name__}."
            )
        if recipe is None:
            called = getattr(network, "__name__", type(network).__name__)
            raise UserError(
                f"{called} is not an architecture that suite {suite.name} lists: choose the recipe it is "
                f"trained with, recipe={' or '.join(map(repr, suite.recipes))}."
            )
        dataset = open_suite_data(suite, data_dir)
        architecture = session_network(network, recipe, dataset.shape, len(dataset.classes))
        same = by_label.setdefault(architecture.label, architecture)
        if same.fingerprint != architecture.fingerprint:
            raise UserError(f"Two different networks are called {same.label}. Rename one of them.")
        chosen.append(architecture)
    return chosen


def _as_list(value: Any) -> list[Any]:
    """Return several values as a list, and a single one as a list of one; None is none."""
    if value is None:
        return []
    if isinstance(value, str) or callable(value) or not isinstance(value, Iterable):
        return [value]
    return list(value)


def _replicates(value: int | str | range | None) -> range | None:
    if value is None:
        return None
    if isinstance(value, range) and value.step == 1 and len(value):
        return parse_replicates(f"{value.start}:{value.stop}")
    if isinstance(value, str):
        return parse_replicates(value)
    if isinstance(value, Integral) and not isinstance(value, bool):
        return parse_replicates(str(as_integer(value, "replicates", 1)))
    raise UserError(f"replicates must be a number, a range or 'A:B', found {shown(value)}.")


def _fork(value: object) -> str:
    """Return the name of a fork as on the command line."""
    return value if isinstance(value, str) else Fork.parse(as_number(value, "forks")).name


@contextmanager
def _run_folder(out: Path | None) -> Iterator[Path]:
    """Yield the run folder; a temporary one is removed at the end."""
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="lmcbench-") as folder:
        yield Path(folder) / "run"


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Restore torch's number of threads, which a run sets to 1 on a CPU."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
