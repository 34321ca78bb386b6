"""The states a cell has left in its run folder: siblings, their fork, and their way from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lmcbench.results.run_folder import RunFolder
from lmcbench.spec.cells import Cell, families
from lmcbench.train.train_state import Tensors, load_state, load_tensors, state_dict


@dataclass(frozen=True)
class Passage:
    """The siblings of a cell at one logged step of their training.

    Attributes:
        step: optimizer steps since the beginning of training, the trunk's included.
        states: one per sibling.
    """

    step: int
    states: list[Tensors]


def siblings(cell: Cell, folder: RunFolder, model: nn.Module) -> list[Tensors]:
    """The trained siblings, their tensors in the order of `model`'s state dict."""
    return [_ordered(load_tensors(folder.sibling(cell.key, i)), model) for i in range(cell.networks)]


def fork_state(cell: Cell, step: int | None, folder: RunFolder, model: nn.Module) -> Tensors | None:
    """The trunk where the siblings left it; None for independent networks, and where it was not kept."""
    if step is None:
        return None
    path = folder.trunk(families([cell])[0].key, step)
    return state_dict(model, load_state(path)) if path.exists() else None


def passages(cell: Cell, steps: Sequence[int], folder: RunFolder, model: nn.Module) -> list[Passage] | None:
    """The siblings at the logged `steps`; None where they were not stored on the way."""
    found = []
    for step in steps:
        paths = [folder.snapshot(cell.key, i, step) for i in range(cell.suite.siblings)]
        if not all(path.exists() for path in paths):
            return None
        found.append(Passage(step, [_ordered(load_tensors(path), model) for path in paths]))
    return found


def _ordered(state: Tensors, model: nn.Module) -> dict[str, Tensor]:
    """The same tensors as the model lists them: files keep names sorted."""
    return {name: state[name] for name in model.state_dict() if name in state} | state
