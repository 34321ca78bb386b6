"""The networks of a fleet made: the trunk and every sibling, with their first states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from lmcbench.data.batches import make_stream
from lmcbench.errors import UserError
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.checkpointing import Interim, Member
from lmcbench.running.family_data import Workbench
from lmcbench.spec.cells import Cell, Family
from lmcbench.spec.forks import Fork
from lmcbench.train.build import build
from lmcbench.train.checkpoints import load_checkpoint
from lmcbench.train.optimizer import slot_names
from lmcbench.train.train_state import TrainState, initial_state, load_state, read_metadata, save_state


class TornError(Exception):
    """A stored state that cannot be gone on from, said with its file."""


def make_siblings(family: Family, cell: Cell, bench: Workbench) -> list[Member]:
    """The networks of a cell, without a state yet."""
    seeds, noise, seen = family.seeds, cell.shift.noise, bench.seen[cell.key]
    n = len(bench.dataset.train)
    start, length = cell.fork.step(family.recipe.steps_per_epoch(n)), cell.length(n)
    # a single network sees everything that siblings would see
    views = seen.items if cell.networks > 1 else [np.unique(np.concatenate(seen.items))]
    members = []
    for i, view in enumerate(views):
        # shared noise: everyone draws as the first sibling does (design 3.7)
        drawn = 1 if noise == "shared" else i + 1
        sequence = make_stream(
            view,
            bench.pool.source,
            noise,
            seeds.order[drawn],
            seeds.augment[drawn],
            family.recipe.batch_size,
            seen.nested,
        )
        origin: int | str | None = None
        if cell.fork.checkpoint is not None:
            origin = cell.fork.sha256
        elif cell.fork.epoch is None:
            origin = seeds.init[i + 1]
        name = f"{cell.key}-{i}"
        members.append(Member(name, start, length, length, sequence, seeds.layer[drawn], origin))
    return members


def distinct(siblings: Mapping[str, Sequence[Member]]) -> dict[str, list[Member]]:
    """Per cell its members, one object for all that are the same training.

    Cells share some: both siblings of a control see one half that a sibling of the shift sees too, and a
    network that is given everything sees the same whatever the shift.
    """
    first: dict[tuple[object, ...], Member] = {}
    return {
        key: [first.setdefault(member.identity, member) for member in members]
        for key, members in siblings.items()
    }


def start_members(
    family: Family, siblings: Mapping[str, Sequence[Member]], cells: Sequence[Cell], bench: Workbench
) -> None:
    """Give those that start without a trunk their state: an initialisation, or the cell's checkpoint."""
    for cell in cells:
        for member in siblings[cell.key]:
            if member.state is None and cell.fork.checkpoint is not None:
                member.state = _given(family, bench, cell.fork)
            elif member.state is None and isinstance(member.origin, int):
                member.state = _initial(family, bench, member.origin)


def make_trunk(
    family: Family,
    bench: Workbench,
    folder: RunFolder,
    interim: Interim,
    forks: Sequence[int],
    by: Mapping[str, str],
) -> Member | None:
    """The trunk up to the last of `forks` (steps), from the last state stored before a missing one.

    Raises:
        UserError: where a state that is stored was not trained `by` this engine and kind of device.
    """
    if not forks:
        return None
    seeds = family.seeds
    if max(forks) > 0:  # nothing was trained before step 0
        _check_trained_by(by, family, folder)
    missing = sorted({step for step in forks if not folder.trunk(family.key, step).exists()})
    if not missing:
        return None
    start, state = 0, None
    earlier = {step: path for step, path in _stored_trunk(family, folder) if 0 < step < missing[0]}
    if earlier:
        start = max(earlier)
        state = _stored(earlier[start])
    everything = np.arange(len(bench.dataset.train))
    sequence = make_stream(
        everything,
        bench.pool.source,
        "own",
        seeds.order[0],
        seeds.augment[0],
        family.recipe.batch_size,
    )
    length = family.recipe.length(len(bench.dataset.train))
    state = state or _initial(family, bench, seeds.init[0])
    trunk = Member("trunk", start, missing[-1], length, sequence, seeds.layer[0], seeds.init[0], state)
    interim.resume(trunk, missing[0])
    return trunk


def _stored_trunk(family: Family, folder: RunFolder) -> Iterator[tuple[int, Path]]:
    """The steps at which the trunk is stored, and its files."""
    for path in folder.trunk(family.key, 0).parent.glob(f"trunk-{family.key}-*.safetensors"):
        yield int(path.stem.rpartition("-")[2]), path


def _check_trained_by(by: Mapping[str, str], family: Family, folder: RunFolder) -> None:
    """Refuse siblings of one engine or kind of device on the trunk of another: a record names one of each."""
    for step, path in _stored_trunk(family, folder):
        # those of earlier versions do not say it
        if step > 0 and (was := read_metadata(path)) and was != by:
            then, now = (f"the {how['engine']} engine on {how['device']}" for how in (was, by))
            raise UserError(
                f"{folder.root} holds the trunk of {family.architecture.label}, replicate {family.replicate}"
                f", by {then}; its siblings would be by {now}, and their records would not tell. Go on with "
                f"--engine {was['engine']} --device {was['device']}, or run into another folder: --out DIR"
            )


def fork_members(
    family: Family,
    fleet: Sequence[Member],
    trunk: Member | None,
    bench: Workbench,
    folder: RunFolder,
    step: int,
    by: Mapping[str, str],
) -> None:
    """Give the siblings that start at `step` the trunk's whole state there, by way of its file.

    That says `by` which engine and kind of device it was trained.
    """
    leaving = [m for m in fleet if m.start == step and m.state is None]
    if not leaving:
        return
    path = folder.trunk(family.key, step)
    if not path.exists():
        assert trunk is not None
        assert trunk.state is not None
        save_state(trunk.state, path, by)
    state = _stored(path)
    for member in leaving:
        member.state = state  # one for all: training changes none that it is given


def _stored(path: Path) -> TrainState:
    """The trunk's state in `path`, in memory of its own: what is loaded is mapped, and may be written to.

    Raises:
        TornError: where it was cut off or changed since it was written.
    """
    try:
        return load_state(path).copy()
    except SafetensorError as error:
        name = f"{path.parent.name}/{path.name}"  # a record's reason, which names no folder of the machine
        raise TornError(f"{name} is torn ({error}). Remove it, and the trunk is trained again") from None


def _initial(family: Family, bench: Workbench, seed: int) -> TrainState:
    model = build(family.architecture, bench.dataset.shape, len(bench.dataset.classes), seed)
    return initial_state(model, slot_names(family.recipe))


def _given(family: Family, bench: Workbench, fork: Fork) -> TrainState:
    """The weights of a checkpoint with fresh optimizer state.

    Raises:
        UserError: where the file is another than its sha256, which stands in key and record, was taken of.
    """
    assert fork.checkpoint is not None
    model = build(family.architecture, bench.dataset.shape, len(bench.dataset.classes), 0)
    model.load_state_dict(load_checkpoint(fork.checkpoint, model))
    if (found := Fork(None, checkpoint=fork.checkpoint).sha256) != fork.sha256:  # once it has been read
        raise UserError(
            f"{fork.checkpoint} was changed since the run began (sha256 {fork.sha256[:8]}, now {found[:8]}). "
            "Name a copy that nothing writes to."
        )
    return initial_state(model, slot_names(family.recipe))
