"""Run one family: train its networks, then evaluate each cell and write its record."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import comb

import torch
from safetensors.numpy import save as to_safetensors
from torch import nn

from lmcbench.connect.isolation import copy_model
from lmcbench.data.dataset import Dataset
from lmcbench.data.selection import open_suite_data
from lmcbench.errors import UserError, describe
from lmcbench.machine import choose_device, compute_exactly, release_memory, strictly
from lmcbench.output import print_text
from lmcbench.results.atomic_files import WriteError, write_atomic
from lmcbench.results.curves import NotFiniteError
from lmcbench.results.record import Record, Status
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.build_record import build_record
from lmcbench.running.checkpointing import check_disk_space
from lmcbench.running.evaluate import Evaluation, evaluate
from lmcbench.running.family_data import FamilyData, prepare
from lmcbench.running.plan import Event, Finished, Progress, Task
from lmcbench.running.stored_cells import add_analyses, load_fork, load_siblings, read_training
from lmcbench.running.train_family import train_family, train_trunk
from lmcbench.spec.canonical import digest_bytes
from lmcbench.spec.cells import Cell


def run_family(task: Task, dataset: Dataset) -> Iterator[Event]:
    """Train and evaluate the cells of a family, write a record for each, and yield events.

    A cell that fails gets a record with status `failed` and the reason.

    Raises:
        UserError: for bad input (no such device, a network that cannot be built), before anything is written.
    """
    device = choose_device(task.device)
    if device.type == "cpu":
        torch.set_num_threads(task.conditions.threads)  # with 1, sums have one order on every machine
    compute_exactly(device)
    family, folder = task.family, task.folder
    data = prepare(family, task.views, dataset, device)
    compute_exactly(device)  # again: building the network runs a user's code, which may set other flags
    dataset.check_unchanged()  # after its images were copied, so that a change before that is detected
    _check_params(task, data)
    records = {cell.key: folder.finished(cell.key) for cell in family.cells}
    untrained = [
        cell for cell in family.cells if records[cell.key] is None and read_training(cell, folder) is None
    ]
    space = check_disk_space(family, untrained, data, folder)
    folder.claim(family.suite.identity(), dataset.identity())

    if task.trunk_only:
        yield from _train_trunk(task, data)
        return
    evaluated, failure, share = data, None, 0.0
    if untrained:
        share = training_share(untrained, data)
        done = 0.0
        try:
            # training may leave state on the network that no checkpoint holds: evaluate a clean copy
            evaluated = replace(data, model=copy_model(data.model))
            for now in train_family(
                family, untrained, data, folder, task.conditions.engine, space, task.memory_share
            ):
                yield Progress((now - done) * len(untrained) * share)
                done = now
        except UserError:
            raise
        except Exception as error:
            failure = f"training failed: {describe(error)}"
        yield Progress((1 - done) * len(untrained) * share)

    for cell in family.cells:
        release_memory()
        record = records[cell.key] or _record(cell, evaluated, folder, failure)
        if cell.has_analyses:
            record = add_analyses(record, task.measures, cell, evaluated, folder)
        if record is not records[cell.key]:
            write_atomic(folder.record(cell.key), record.to_json())
        yield Progress(1 - share if cell in untrained else 1.0)
        yield Finished(record)


def _train_trunk(task: Task, data: FamilyData) -> Iterator[Event]:
    """Train and store the trunk. Errors are recorded when the cells are trained."""
    family, folder = task.family, task.folder
    try:
        for _ in train_trunk(family, family.cells, data, folder, task.conditions.engine, task.memory_share):
            yield Progress(0.0)
    except UserError:
        raise
    except Exception as error:
        print_text(f"The trunk was not trained: {describe(error)}", err=True)


def reopen_data(task: Task) -> Dataset:
    """Open the data set in a worker process.

    Raises:
        UserError: if it differs from the one that the run began with.
    """
    suite = task.family.suite
    dataset = open_suite_data(suite, task.data_dir)
    if tuple(part["sha256"] for part in dataset.identity()) != task.data:
        raise UserError(f"Data set {suite.data.name} was changed since the run began. Run again.")
    return dataset


def _check_params(task: Task, data: FamilyData) -> None:
    """Raise if the number of parameters differs from that in the folder's records."""
    found = sum(p.numel() for p in data.model.parameters() if p.requires_grad)
    if task.params is not None and found != task.params:
        network = task.family.architecture
        code = "that it is built from" if network.path is None else f"that {network.path.name} imports"
        raise UserError(
            f"{network.label} has {found:,} parameters, but {task.params:,} in the records in "
            f"{task.folder.root}: the code {code} was changed. Run into another folder: --out DIR"
        )


def _record(cell: Cell, data: FamilyData, folder: RunFolder, failure: str | None) -> Record:
    """Evaluate a trained cell and build its record; `failure` is the reason if training failed."""
    training = read_training(cell, folder)
    began = time.perf_counter()
    evaluation: Evaluation | None = None
    evidence, deterministic = None, True
    status: Status = "ok"
    reason = None
    if training is None:
        status, reason = "failed", failure or "its siblings were not trained"
    elif training["status"] != "ok":
        status, reason = training["status"], training["reason"]
    else:
        try:
            states = load_siblings(cell, folder, data.model)
            fork = load_fork(cell, training["step"], folder, data.model)
            found, deterministic = strictly(
                data.device,
                lambda: evaluate(
                    cell, data, states, fork, training["train_losses"], training["label_counts"]
                ),
            )
            evidence = _write_predictions(cell, found, folder)
            evaluation = found
        except WriteError:
            raise
        except NotFiniteError:
            status, reason = "diverged", "the loss is not finite on the path between two siblings"
        except Exception as error:
            status, reason = "failed", f"measuring failed: {describe(error)}"
    return build_record(
        cell,
        training,
        evaluation if evidence is not None else None,
        status=status,
        reason=reason,
        data=data.dataset.identity(),
        evidence=evidence,
        eval_s=time.perf_counter() - began,
        device=data.device,
        deterministic=deterministic,
    )


def _write_predictions(cell: Cell, evaluation: Evaluation, folder: RunFolder) -> dict[str, object]:
    """Write the predictions; return paths and hashes of predictions and weights, relative to the folder."""
    content = to_safetensors(evaluation.predictions)
    predictions = folder.predictions(cell.key)
    write_atomic(predictions, content)
    weights = [folder.sibling(cell.key, i) for i in range(cell.networks)]
    return {
        "predictions": {"path": str(predictions.relative_to(folder.root)), "sha256": digest_bytes(content)},
        "checkpoints": [
            {"path": str(path.relative_to(folder.root)), "sha256": digest_bytes(path.read_bytes())}
            for path in weights
        ],
    }


TRAINING_PASSES = 3
"""Cost of training on one image, in forward passes: one forward pass, and a backward pass worth two."""


def training_share(cells: Sequence[Cell], data: FamilyData) -> float:
    """Return the fraction of the run time of `cells` that is training; for the progress bar only.

    Time is estimated by the number of images passed. All cells are of one family. The trunk counts once, but
    a sibling that several cells share counts once per cell.
    """
    train, test, recipe = len(data.dataset.train), len(data.dataset.test), cells[0].recipe
    forks = [cell.fork_step(train) for cell in cells]
    steps = sum(cell.networks * (cell.length(train) - at) for cell, at in zip(cells, forks, strict=True))
    training = TRAINING_PASSES * recipe.batch_size * (max(forks) + steps)
    has_norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in data.model.modules())
    evaluating = 0
    for cell in cells:
        protocol, k = cell.suite.protocol, cell.networks
        points = k + comb(k, 2) * (protocol.alphas - 2) + 1  # siblings, inner points of lines, soup
        plain = min(protocol.train_eval or train, train) + test
        evaluating += points * (plain * (1 + has_norms) + test * len(cell.suite.evaluations))
    return training / (training + evaluating)
