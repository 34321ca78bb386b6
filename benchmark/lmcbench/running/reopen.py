"""A stored cell opened again: its states and pinned images in, further measures into its record out."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from lmcbench.connect.arguments import Split
from lmcbench.data.batches import DeviceImages
from lmcbench.data.selection import select_calibration, select_stratified
from lmcbench.errors import UserError
from lmcbench.results.record import Record, read_record
from lmcbench.results.run_folder import RunFolder, write_atomic
from lmcbench.running.analyses import MEASURES, Probed, take
from lmcbench.running.family_data import Workbench
from lmcbench.running.stored_states import Passage, fork_state, passages, siblings
from lmcbench.running.train_family import trained
from lmcbench.spec.cells import Cell
from lmcbench.spec.evaluation_shifts import EVALUATION
from lmcbench.spec.shift_rules import Indices


def lacking(record: Record, measures: Sequence[str]) -> list[str]:
    """Those of `measures` that the record of a cell does not hold yet; none where there is no pair."""
    if record.status != "ok" or not record.pairs:
        return []
    held = record.pairs[0].model_extra or {}
    return [name for name in measures if name not in held]


def add_measures(cell: Cell, bench: Workbench, folder: RunFolder, measures: Sequence[str]) -> None:
    """Take what the cell's record lacks of `measures`, of its first pair; nothing else in it changes.

    Raises:
        UserError: where the weights that are needed are gone.
    """
    path = folder.record(cell.key)
    missing = lacking(read_record(path), measures)
    if not missing:
        return
    probed = open_cell(cell, bench, folder)
    for name in missing:
        table = json.loads(path.read_bytes())
        pair = table["pairs"][0]
        found = {**pair, name: take(name, probed)}
        # in the order of the table, whichever was asked for first
        table["pairs"][0] = {k: v for k, v in found.items() if k not in MEASURES} | {
            k: found[k] for k in MEASURES if k in found
        }
        write_atomic(path, json.dumps(table, indent=1, allow_nan=False) + "\n")


def open_cell(cell: Cell, bench: Workbench, folder: RunFolder) -> Probed:
    """The first two siblings of a trained cell, and a pinned subset of what they saw and of the test set.

    The images are stratified and the same whenever they are asked for; training images are shown as the
    siblings see them, in turns (design 3.3).

    Raises:
        UserError: where the weights are gone.
    """
    training = trained(cell, folder)
    if training is None:
        raise UserError(
            f"The weights of cell {cell.key} are not in {folder.root}, and measures are taken from them. "
            "Remove its record to have it trained again."
        )
    states = siblings(cell, folder, bench.model)
    seen, protocol, probe = bench.seen[cell.key], cell.suite.protocol, cell.suite.probe
    n = len(bench.dataset.train)
    per_epoch, length = cell.recipe.steps_per_epoch(n), cell.recipe.length(n)
    steps = probe.logged(cell.fork.step(per_epoch), length, per_epoch)
    trail = passages(cell, steps, folder, bench.model)

    def listed(count: int) -> Split:
        items = select_calibration(seen.items, bench.pool.source, bench.pool.labels, count)
        return _tensors(bench.train, items)

    def tested(name: str | None) -> Split:
        labels = bench.tests[name].labels.cpu().numpy()
        return _tensors(bench.tests[name], select_stratified(labels, min(probe.images, len(labels))))

    norms = any(name.endswith("running_mean") for name in bench.model.state_dict())
    return Probed(
        model=bench.model,
        a=states[0],
        b=states[1],
        fork=fork_state(cell, training["step"], folder, bench.model),
        splits={"train": listed(probe.images), "test": tested(None)},
        calibration=listed(protocol.calibration)[0] if norms else None,
        alphas=protocol.alphas,
        trail=None if trail is None else [*trail, Passage(length, states)],
        per_epoch=per_epoch,
        device=bench.device,
        shifted={f"{EVALUATION}{name}": tested(name) for name in cell.suite.evaluations},
    )


def _tensors(images: DeviceImages, items: Indices) -> Split:
    """A small part of some images, floating at once: it is passed many times."""
    pixels, labels = images.split(torch.as_tensor(items))
    return pixels.whole(), labels
