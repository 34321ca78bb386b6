"""Whether the disk has room for the weights that a family leaves: asked before it is trained for hours."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.filesize import decimal
from torch import Tensor, nn

from lmcbench.errors import UserError, counted
from lmcbench.results.run_folder import RunFolder
from lmcbench.spec.cells import Cell, Family
from lmcbench.train.optimizer import slot_names
from lmcbench.train.train_state import initial_state


def check_room(family: Family, cells: Sequence[Cell], model: nn.Module, n: int, folder: RunFolder) -> None:
    """Refuse to train `cells` of a family where the disk of `folder` has no room for what they leave.

    Raises:
        UserError: with what is needed, what is free and what to do.
    """
    needed = weights_bytes(family, cells, model, n, folder)
    there = next(p for p in (folder.root, *folder.root.resolve().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"{folder.root} needs {decimal(needed)} for the weights of {counted(len(cells), 'cell')} of "
            f"{family.architecture.label}, replicate {family.replicate}; {decimal(free)} are free. Make "
            "room, choose another folder with --out, or ask for fewer cells (--shift, --fork)."
        )


def weights_bytes(family: Family, cells: Sequence[Cell], model: nn.Module, n: int, folder: RunFolder) -> int:
    """Bytes of the tensors that training `cells` on `n` images puts into `folder`, less what is there.

    These are all siblings, those of probe cells on their way too, and the trunk's whole state at each fork.
    """
    per_epoch, length = family.recipe.steps_per_epoch(n), family.recipe.length(n)
    state = initial_state(model, slot_names(family.recipe))
    sibling = _bytes(model.state_dict().values())
    trunk = _bytes(t for part in (state.params, state.buffers, *state.slots.values()) for t in part.values())
    siblings: list[Path] = []
    trunks: set[Path] = set()
    for cell in cells:
        start = cell.fork.step(per_epoch)
        logged = cell.suite.probe.logged(start, length, per_epoch) if cell.has_analyses else []
        for i in range(cell.networks):
            siblings += [
                folder.sibling(cell.key, i),
                *(folder.snapshot(cell.key, i, step) for step in logged),
            ]
        if cell.fork.epoch is not None:
            trunks.add(folder.trunk(family.key, start))
    return sibling * _missing(siblings) + trunk * _missing(trunks)


def _missing(files: Iterable[Path]) -> int:
    return sum(not file.exists() for file in files)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
