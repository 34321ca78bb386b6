"""How the time of a family divides between training and measuring, by images passed: for the bar alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from math import comb
from pathlib import Path

import torch
from safetensors.numpy import save as to_safetensors
from torch import nn

from lmcbench.connect.isolation import copy_model
from lmcbench.data.dataset import Dataset
from lmcbench.data.selection import select
from lmcbench.data.shifted_sets import open_all_shifted
from lmcbench.data.sources import open_dataset
from lmcbench.errors import UserError, describe
from lmcbench.machine import choose_device, compute_exactly, give_back_memory
from lmcbench.results.curves import NotFiniteError
from lmcbench.results.record import Record, Status
from lmcbench.results.run_folder import RunFolder, write_atomic
from lmcbench.running.build_record import build_record
from lmcbench.running.cell_measures import Measured, measure_cell
from lmcbench.running.disk_space import check_room
from lmcbench.running.family_data import Workbench, prepare
from lmcbench.running.reopen import add_measures
from lmcbench.running.stored_states import fork_state, siblings
from lmcbench.running.tasks import Event, Finished, Progress, Task
from lmcbench.running.train_family import train_family, trained
from lmcbench.spec.canonical import digest_bytes
from lmcbench.spec.cells import Cell
from lmcbench.spec.suite import DataSpec

BACKWARD = 3
"""An image that is trained on costs as much as so many that are only passed: backward takes two forward."""


def training_share(cells: Sequence[Cell], bench: Workbench) -> float:
    """The share of training in the time of `cells`, all of one family, in (0, 1).

    Not counted: what a device does faster in larger batches, and what several cells share but the trunk.
    """
    trained = BACKWARD * _trained(cells, len(bench.dataset.train))
    return trained / (trained + sum(_measured(cell, bench) for cell in cells))


def _trained(cells: Sequence[Cell], images: int) -> int:
    """Images that the siblings of `cells` and their trunk are trained on."""
    recipe = cells[0].recipe
    forks = [cell.fork.step(recipe.steps_per_epoch(images)) for cell in cells]
    alone = sum(cell.networks * (cell.length(images) - at) for cell, at in zip(cells, forks, strict=True))
    return recipe.batch_size * (max(forks) + alone)


def _measured(cell: Cell, bench: Workbench) -> int:
    """Images that are passed to measure `cell`: siblings, the inner points of their lines, the soup."""
    protocol = cell.suite.protocol
    points = cell.networks + comb(cell.networks, 2) * (protocol.alphas - 2) + 1
    train, test = len(bench.dataset.train), len(bench.dataset.test)
    usual = min(protocol.train_eval or train, train) + test
    again = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in bench.model.modules())
    return points * (usual * (1 + again) + test * len(cell.suite.evaluations))


def run_task(task: Task) -> Iterator[Event]:
    """Train and measure the cells of a family, one record each, saying what was done.

    Failures of a cell become records; bad input does not, and nothing is written then.

    Raises:
        UserError: for bad input: no such data or device, a network that cannot be built.
    """
    device = choose_device(task.device)
    if device.type == "cpu":
        # one, unless asked: the same sums in the same order on every machine (design 3.11)
        torch.set_num_threads(task.conditions.threads)
    compute_exactly(device)
    family, folder = task.family, task.folder
    dataset = _dataset(family.suite.data, tuple(family.suite.evaluations), task.data_dir, task.data)
    bench = prepare(family, family.cells, dataset, device)
    dataset.check_unchanged()  # the bench has its copy of them now
    _check_params(task, bench)
    unrecorded = [cell for cell in family.cells if folder.finished(cell.key) is None]
    untrained = [cell for cell in unrecorded if trained(cell, folder) is None]
    check_room(family, untrained, bench.model, len(dataset.train), folder)
    folder.claim(family.suite.identity(), dataset.identity())
    measuring, failure = bench, None
    training = training_share(untrained, bench) if untrained else 0.0
    if untrained:
        done = 0.0
        try:
            # what training leaves on a network and saves nowhere, nobody has who loads the weights
            measuring = replace(bench, model=copy_model(bench.model))
            for share in train_family(family, untrained, bench, folder, task.conditions.engine):
                yield Progress((share - done) * len(untrained) * training)
                done = share
        except UserError:
            raise
        except Exception as error:
            failure = f"training failed: {describe(error)}"
        yield Progress((1 - done) * len(untrained) * training)
    for cell in family.cells:
        give_back_memory()
        if cell in unrecorded:
            record = _record_cell(cell, measuring, folder, failure)
            write_atomic(folder.record(cell.key), record.to_json())
        if task.measures and cell.has_analyses:
            add_measures(cell, measuring, folder, task.measures)
        yield Progress(1 - training if cell in untrained else 1.0)
        yield Finished(cell.key)


def _check_params(task: Task, bench: Workbench) -> None:
    """Refuse a network that is not the one of the records which the folder has of it already."""
    found = sum(p.numel() for p in bench.model.parameters() if p.requires_grad)
    if task.params is not None and found != task.params:
        network = task.family.architecture
        beside = f"beside {network.path.name}" if network.path is not None else "that it is made of"
        raise UserError(
            f"{network.label} has {found:,} parameters, its records in {task.folder.root} {task.params:,}: "
            f"code {beside} was changed. Run into another folder: --out DIR"
        )


def _record_cell(cell: Cell, bench: Workbench, folder: RunFolder, failure: str | None) -> Record:
    training = trained(cell, folder)
    began = time.perf_counter()
    measured: Measured | None = None
    evidence = None
    status: Status
    if training is None:
        status, reason = "failed", failure or "its siblings were not trained"
    elif training["status"] == "diverged":
        status, reason = "diverged", training["reason"]
    else:
        status, reason = "ok", None
        try:
            states = siblings(cell, folder, bench.model)
            fork = fork_state(cell, training["step"], folder, bench.model)
            measured = measure_cell(cell, bench, states, fork, training["train_losses"])
            evidence = _keep(measured, cell, folder)
        except NotFiniteError:
            status, reason = "diverged", "the loss is not finite on the path between two siblings"
        except Exception as error:
            status, reason = "failed", f"measuring failed: {describe(error)}"
    return build_record(
        cell,
        training,
        measured if evidence is not None else None,
        status=status,
        reason=reason,
        data=bench.dataset.identity(),
        evidence=evidence,
        eval_s=time.perf_counter() - began,
        device=bench.device,
    )


def _keep(measured: Measured, cell: Cell, folder: RunFolder) -> dict[str, object]:
    """Store the predictions; where they and the weights are, relative to the run folder."""
    content = to_safetensors(measured.predictions)
    path = folder.predictions(cell.key)
    write_atomic(path, content)
    weights = [folder.sibling(cell.key, i) for i in range(cell.networks)]
    return {
        "predictions": {"path": str(path.relative_to(folder.root)), "sha256": digest_bytes(content)},
        "checkpoints": [
            {"path": str(p.relative_to(folder.root)), "sha256": digest_bytes(p.read_bytes())} for p in weights
        ],
    }


@cache
def _dataset(
    spec: DataSpec, evaluations: tuple[str, ...], data_dir: Path | None, seen: tuple[str, ...] | None
) -> Dataset:
    """The part of the data set that a suite uses, with the shifted test sets among its evaluation shifts.

    Opened once for all families of a process, by the sha256 of its splits too: a later run in the process
    may mean other data by the same name.

    Raises:
        UserError: where it is another than the run has `seen` when it began.
    """
    whole = replace(open_dataset(spec.name, data_dir), shifted=open_all_shifted(evaluations, data_dir))
    dataset = select(whole, spec)
    found = tuple(part["sha256"] for part in dataset.identity())
    if seen is not None and found != seen:
        raise UserError(f"Data set {spec.name} was changed since the run began. Run again when it stays.")
    return dataset
