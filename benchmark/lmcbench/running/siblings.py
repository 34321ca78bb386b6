"""The networks of a family before training: what each is trained on, and its initial state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from lmcbench.data.batches import Stream, make_stream
from lmcbench.errors import UserError
from lmcbench.running.family_data import FamilyData
from lmcbench.spec.cells import Cell, Family
from lmcbench.spec.forks import Fork
from lmcbench.train.build import build
from lmcbench.train.checkpoints import load_checkpoint
from lmcbench.train.optimizer import slot_names
from lmcbench.train.train_state import TrainState, initial_state


@dataclass
class Sibling:
    """A network in training: a sibling of a cell, or the trunk.

    Attributes:
        name: used in the file name of its training checkpoint.
        start: step at which it leaves the trunk, or 0.
        stop: step at which its training ends.
        length: steps of its learning rate schedule.
        origin: of its first state: the seed of an initialisation, the sha256 of a given checkpoint, or None
            for the trunk's state.
        losses: mini-batch losses in nats, from `start` on.
        at: step of `state`.
        seconds: its share of the wall time of its fleets.
    """

    name: str
    start: int
    stop: int
    length: int
    stream: Stream
    layer_seed: int
    origin: int | str | None
    state: TrainState | None = None
    losses: list[torch.Tensor] = field(default_factory=list)
    at: int = field(init=False)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.at = self.start

    def free_optimizer_state(self) -> None:
        """Drop the optimizer's state at the end of training."""
        if self.state is not None:
            self.state = replace(self.state, slots={})

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for two networks of a family whose trainings are equal bit for bit."""
        return self.start, self.stop, self.length, self.origin, self.layer_seed, self.stream.identity


def make_siblings(family: Family, cell: Cell, data: FamilyData) -> list[Sibling]:
    """Return the networks of a cell, without states."""
    seeds, noise, views = family.seeds, cell.shift.noise, data.views[cell.key]
    n = len(data.dataset.train)
    start, length = cell.fork_step(n), cell.length(n)
    statistics = views.statistics_of(cell.networks)
    siblings = []
    for i, view in enumerate(views.items_of(cell.networks)):
        # with shared noise all siblings use the seeds of the first
        index = 1 if noise == "shared" else i + 1
        sequence = make_stream(
            view,
            data.pool.source,
            noise,
            seeds.order[index],
            seeds.augment[index],
            family.recipe.batch_size,
            views.nested,
            None if statistics is None else statistics[i],
        )
        origin: int | str | None = None
        if cell.fork.checkpoint is not None:
            origin = cell.fork.sha256
        elif not cell.fork.has_trunk:
            origin = seeds.init[i + 1]
        name = f"{cell.key}-{i}"
        siblings.append(Sibling(name, start, length, length, sequence, seeds.layer[index], origin))
    return siblings


def merge_duplicates(siblings: Mapping[str, Sequence[Sibling]]) -> dict[str, list[Sibling]]:
    """Return the siblings by cell key, with one shared object for all whose training is identical.

    For example, the siblings of a control have a view that a sibling of the shift has too.
    """
    first: dict[tuple[object, ...], Sibling] = {}
    return {
        key: [first.setdefault(sibling.identity, sibling) for sibling in of_cell]
        for key, of_cell in siblings.items()
    }


def set_initial_states(
    family: Family, siblings: Mapping[str, Sequence[Sibling]], cells: Sequence[Cell], data: FamilyData
) -> None:
    """Set the states of siblings that start without a trunk: an initialisation or the cell's checkpoint."""
    for cell in cells:
        for sibling in siblings[cell.key]:
            if sibling.state is None and cell.fork.checkpoint is not None:
                sibling.state = _given_state(family, data, cell.fork)
            elif sibling.state is None and isinstance(sibling.origin, int):
                sibling.state = new_state(family, data, sibling.origin)


def new_state(family: Family, data: FamilyData, seed: int) -> TrainState:
    """Return the state of a new network initialised from `seed`."""
    model = build(family.architecture, data.dataset.shape, len(data.dataset.classes), seed)
    return initial_state(model, slot_names(family.recipe))


def _given_state(family: Family, data: FamilyData, fork: Fork) -> TrainState:
    """Return the weights of a checkpoint with new optimizer state.

    Raises:
        UserError: if the file changed since its sha256, which is part of the key, was computed.
    """
    assert fork.checkpoint is not None
    model = build(family.architecture, data.dataset.shape, len(data.dataset.classes), 0)
    model.load_state_dict(load_checkpoint(fork.checkpoint, model))
    # hashed after reading, so that a change in between is detected
    if (found := Fork(None, checkpoint=fork.checkpoint).sha256) != fork.sha256:
        raise UserError(
            f"{fork.checkpoint} was changed since the run began (sha256 {fork.sha256[:8]}, now {found[:8]}). "
            "Give the path of a copy that nothing writes to."
        )
    return initial_state(model, slot_names(family.recipe))
