"""Read a trained cell back from its run folder, and add analyses of its stored weights to its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lmcbench.connect.arguments import Split
from lmcbench.data.batches import DeviceImages
from lmcbench.data.selection import select_calibration, select_stratified
from lmcbench.errors import UserError
from lmcbench.results.record import PairRecord, Record
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.analyses import ANALYSES, AnalysisInput, Snapshot, analyze
from lmcbench.running.family_data import FamilyData
from lmcbench.spec.cells import Cell, families
from lmcbench.spec.evaluation_shifts import EVALUATION
from lmcbench.spec.shift_rules import Indices
from lmcbench.train.train_state import Tensors, load_state, load_tensors, state_dict
from lmcbench.untrusted import parse_json, read_bytes

TRAINING = {"status", "reason", "step", "learning_rate", "train_losses", "label_counts"}
"""Keys that the training file of a cell has."""


def read_training(cell: Cell, folder: RunFolder) -> dict[str, Any] | None:
    """Return how the cell's siblings were trained; None if they are not all stored."""
    path = folder.training(cell.key)
    try:
        training = parse_json(read_bytes(path), str(path))
    except UserError:  # missing, or damaged when the run was interrupted
        return None
    if not isinstance(training, dict) or not training.keys() >= TRAINING:
        return None
    complete = all(folder.sibling(cell.key, i).exists() for i in range(cell.networks))
    return training if complete else None


def load_siblings(cell: Cell, folder: RunFolder, model: nn.Module) -> list[Tensors]:
    """Return the trained siblings' state dicts, ordered as `model`'s."""
    return [_ordered(load_tensors(folder.sibling(cell.key, i)), model) for i in range(cell.networks)]


def load_fork(cell: Cell, step: int | None, folder: RunFolder, model: nn.Module) -> Tensors | None:
    """Return the trunk's state dict at the fork; None for independent networks or if it is not stored."""
    if step is None:
        return None
    path = folder.trunk(families([cell])[0].key, step)
    return state_dict(model, load_state(path)) if path.exists() else None


def load_snapshots(
    cell: Cell, steps: Sequence[int], folder: RunFolder, model: nn.Module
) -> list[Snapshot] | None:
    """Return the siblings at the logged `steps`; None if a snapshot is not stored."""
    found = []
    for step in steps:
        paths = [folder.snapshot(cell.key, i, step) for i in range(cell.suite.siblings)]
        if not all(path.exists() for path in paths):
            return None
        found.append(Snapshot(step, [_ordered(load_tensors(path), model) for path in paths]))
    return found


def missing_analyses(record: Record, names: Sequence[str]) -> list[str]:
    """Return those of `names` that a cell's record lacks; none if the record has no pair."""
    if record.status != "ok" or not record.pairs:
        return []
    existing = record.pairs[0].model_extra or {}
    return [name for name in names if name not in existing]


def add_analyses(
    record: Record, names: Sequence[str], cell: Cell, data: FamilyData, folder: RunFolder
) -> Record:
    """Return `record` with the analyses it lacks, of its first pair; nothing else changes.

    Raises:
        UserError: if the cell's weights are not stored.
    """
    missing = missing_analyses(record, names)
    if not missing:
        return record
    given = analysis_input(cell, data, folder)
    values = record.pairs[0].model_dump() | {name: analyze(name, given) for name in missing}
    # in the order of the table, whichever was asked for first
    ordered = {key: value for key, value in values.items() if key not in ANALYSES}
    ordered |= {name: values[name] for name in ANALYSES if name in values}
    pairs = [PairRecord.model_validate(ordered), *record.pairs[1:]]
    return record.model_copy(update={"pairs": pairs})


def analysis_input(cell: Cell, data: FamilyData, folder: RunFolder) -> AnalysisInput:
    """Return the first two siblings of a trained cell with fixed subsets of the training and test images.

    Subsets are stratified; training images alternate between the siblings' views, as for calibration.

    Raises:
        UserError: if the weights are not stored.
    """
    training = read_training(cell, folder)
    if training is None:
        raise UserError(
            f"The weights of cell {cell.key} are not in {folder.root}, and analyses need them. Remove the "
            "cell's record to train it again."
        )
    states = load_siblings(cell, folder, data.model)
    views, protocol, probe = data.views[cell.key], cell.suite.protocol, cell.suite.probe
    n = len(data.dataset.train)
    per_epoch, length = cell.recipe.steps_per_epoch(n), cell.recipe.length(n)
    steps = probe.logged(cell.fork_step(n), length, per_epoch)
    snapshots = load_snapshots(cell, steps, folder, data.model)

    def train(count: int) -> Split:
        items = select_calibration(views.items, data.pool.source, data.pool.labels, count)
        return _tensors(data.train, items)

    def test(name: str | None) -> Split:
        labels = data.tests[name].labels.cpu().numpy()
        return _tensors(data.tests[name], select_stratified(labels, min(probe.images, len(labels))))

    has_norms = any(name.endswith("running_mean") for name in data.model.state_dict())
    return AnalysisInput(
        model=data.model,
        a=states[0],
        b=states[1],
        fork=load_fork(cell, training["step"], folder, data.model),
        splits={"train": train(probe.images), "test": test(None)},
        calibration=train(protocol.calibration)[0] if has_norms else None,
        alphas=protocol.alphas,
        snapshots=None if snapshots is None else [*snapshots, Snapshot(length, states)],
        per_epoch=per_epoch,
        device=data.device,
        shifted={f"{EVALUATION}{name}": test(name) for name in cell.suite.evaluations},
    )


def _ordered(state: Tensors, model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors in the order of the model's state dict; files sort them by name."""
    return {name: state[name] for name in model.state_dict() if name in state} | state


def _tensors(images: DeviceImages, items: Indices) -> Split:
    """Return a few images as floats at once: they are passed many times."""
    pixels, labels = images.split(torch.as_tensor(items))
    return pixels.whole(), labels
