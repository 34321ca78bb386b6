"""What training writes: checkpoints to resume from, the trunk at its forks, and the disk space for it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from rich.filesize import decimal
from safetensors import SafetensorError

from lmcbench.data.batches import make_stream
from lmcbench.errors import UserError, counted
from lmcbench.results.atomic_files import WriteError
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.family_data import FamilyData
from lmcbench.running.siblings import Sibling, new_state
from lmcbench.spec.cells import Cell, Family
from lmcbench.train.optimizer import slot_names
from lmcbench.train.train_state import (
    TrainState,
    flatten_state,
    initial_state,
    load_state,
    load_tensors,
    read_metadata,
    save_state,
    save_tensors,
    unflatten_state,
)

INTERVAL = 600.0
"""Least seconds of training between two training checkpoints."""

SHARE = 0.05
"""Largest share of the training time spent on writing checkpoints: large fleets are stored less often."""


class TrainingCheckpoints:
    """Stores the networks of a family during training, one file each, and resumes from these files.

    A network's state at a step does not depend on the networks trained beside it, so that each file is
    resumed by itself, from the step it was stored at. Exception: on CUDA the last bits of stacked networks
    depend on the fleet, and an interrupted run equals another one to rounding only.

    Args:
        conditions: digest of what changes the bits of a network and is part of no key: engine, device, data.
        reserve: bytes that must stay free on the disk for what training writes in the end.
    """

    def __init__(
        self,
        folder: RunFolder,
        family: str,
        conditions: str,
        reserve: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.family = family
        self.conditions = conditions
        self.reserve = reserve
        self.clock = clock
        self.stored: dict[str, int] = {}
        self.took, self.last = 0.0, clock()

    def resume(self, sibling: Sibling, until: int) -> None:
        """Set `sibling` to its stored state, if that is after its start and not after step `until`."""
        try:
            found = load_tensors(self._path(sibling.name))
        except (OSError, SafetensorError):  # never stored, or damaged when the run was interrupted
            return
        at, losses, seconds = int(found.pop("at")), found.pop("losses").clone(), float(found.pop("seconds"))
        if sibling.start < at <= until:
            sibling.state = unflatten_state(found).copy()
            # the file may begin earlier: the trunk was stored at a fork since and now starts there
            sibling.losses, sibling.at = [losses[-(at - sibling.start) :]], at
            sibling.seconds = seconds * (at - sibling.start) / len(losses)
            self.stored[sibling.name] = at

    @contextmanager
    def stored_on_interruption(self, siblings: Sequence[Sibling]) -> Iterator[None]:
        """Store all networks when the block is interrupted: by Ctrl-C, or a signal that ends the process."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            self.store(siblings, now=True)
            raise

    def store(self, siblings: Iterable[Sibling], *, now: bool = False) -> None:
        """Store every network that advanced since it was last stored, if enough time has passed or `now`."""
        began = self.clock()
        if not now and began - self.last < max(INTERVAL, self.took / SHARE):
            return
        for sibling in siblings:
            if sibling.state is None or self.stored.get(sibling.name, sibling.start) == sibling.at:
                continue
            if sum(map(len, sibling.losses)) != sibling.at - sibling.start:
                continue  # interrupted between its state and its losses
            tensors = flatten_state(sibling.state) | {
                "at": torch.tensor(sibling.at),
                "losses": torch.cat(sibling.losses),
                "seconds": torch.tensor(sibling.seconds, dtype=torch.float64),
            }
            try:
                free = shutil.disk_usage(self.folder.root).free
                if free < self.reserve + sum(t.nbytes for t in tensors.values()):
                    continue
                save_tensors(tensors, self._path(sibling.name))
            except (OSError, WriteError):  # such as a full disk: training continues without
                continue
            self.stored[sibling.name] = sibling.at
        self.last = self.clock()
        self.took = self.last - began

    def remove(self, cells: Iterable[str]) -> None:
        """Remove the files of networks trained to their end, and all files of `cells` (keys)."""
        for name in self.stored:
            self._path(name).unlink(missing_ok=True)
        for key in cells:
            pattern = self.folder.interim(self.family, "*", f"{key}-*")
            for path in pattern.parent.glob(pattern.name):
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder.interim(self.family, self.conditions, name)


# --- the trunk -----------------------------------------------------------------------------------


class DamagedStateError(Exception):
    """A stored state that cannot be read."""


def make_trunk(
    family: Family,
    data: FamilyData,
    folder: RunFolder,
    checkpoints: TrainingCheckpoints,
    forks: Sequence[int],
    trained_by: Mapping[str, str],
) -> Sibling | None:
    """Return the trunk up to the last of `forks` (steps), at the last stored state before a missing one.

    Returns None if the trunk is stored at all forks.

    Raises:
        UserError: if the trunk was stored by another engine or on another kind of device; with exit code 5
            if on another model of the same kind.
    """
    if forks and max(forks) > 0:
        _check_trained_by(trained_by, family, folder)
    missing = sorted({step for step in forks if not folder.trunk(family.key, step).exists()})
    if not missing:
        return None
    n, seeds = len(data.dataset.train), family.seeds
    stored = {step: path for step, path in _stored_trunk(family, folder) if 0 < step < missing[0]}
    start = max(stored, default=0)
    state = _load_trunk(stored[start]) if stored else new_state(family, data, seeds.init[0])
    sequence = make_stream(
        np.arange(n), data.pool.source, "own", seeds.order[0], seeds.augment[0], family.recipe.batch_size
    )
    length = family.recipe.length(n)
    trunk = Sibling("trunk", start, missing[-1], length, sequence, seeds.layer[0], seeds.init[0], state)
    checkpoints.resume(trunk, missing[0])
    return trunk


def fork_siblings(
    family: Family,
    siblings: Sequence[Sibling],
    trunk: Sibling | None,
    folder: RunFolder,
    step: int,
    trained_by: Mapping[str, str],
) -> None:
    """Give the siblings that start at `step` the trunk's whole state, which is stored first.

    The file names engine and device, `trained_by`.
    """
    leaving = [sibling for sibling in siblings if sibling.start == step and sibling.state is None]
    if not leaving:
        return
    path = folder.trunk(family.key, step)
    if not path.exists():
        assert trunk is not None
        store_trunk(trunk, family, folder, step, trained_by)
    state = _load_trunk(path)
    for sibling in leaving:
        sibling.state = state  # shared: training does not modify the state it is given


def store_trunk(
    trunk: Sibling, family: Family, folder: RunFolder, step: int, trained_by: Mapping[str, str]
) -> None:
    """Store the trunk's whole state at `step`, where it is; the file names `trained_by`."""
    assert trunk.state is not None
    save_state(trunk.state, folder.trunk(family.key, step), trained_by)


def _stored_trunk(family: Family, folder: RunFolder) -> Iterator[tuple[int, Path]]:
    """Yield the steps at which the trunk is stored, and its files."""
    for path in folder.trunk(family.key, 0).parent.glob(f"trunk-{family.key}-*.safetensors"):
        yield int(path.stem.rpartition("-")[2]), path


def _check_trained_by(trained_by: Mapping[str, str], family: Family, folder: RunFolder) -> None:
    """Raise if the stored trunk has another engine, device or model of it: a record names one of each."""
    for step, path in _stored_trunk(family, folder):
        before = read_metadata(path) if step > 0 else {}  # at step 0 nothing was trained
        # files of earlier versions do not say everything
        differing = {name for name, value in before.items() if value != trained_by.get(name)}
        if differing == {"device_name"}:
            # not the user's error: on a cluster, another attempt may run where the first one did
            raise UserError(
                f"{folder.root} holds the trunk of {family.architecture.label}, replicate "
                f"{family.replicate}, trained on {before['device_name']}; its siblings would be trained on "
                f"{trained_by['device_name']}, whose bits differ. Run on the same kind of device, or into "
                "another folder: --out DIR",
                exit_code=5,
            )
        if differing:
            then, now = (f"the {how['engine']} engine on {how['device']}" for how in (before, trained_by))
            raise UserError(
                f"{folder.root} holds the trunk of {family.architecture.label}, replicate {family.replicate}"
                f", trained by {then}; its siblings would be trained by {now}. Resume with "
                f"--engine {before['engine']} --device {before['device']}, or run into another folder: "
                "--out DIR"
            )


def _load_trunk(path: Path) -> TrainState:
    """Return the trunk's state in memory of its own; loaded tensors are mapped from the file.

    Raises:
        DamagedStateError: if the file is damaged.
    """
    try:
        return load_state(path).copy()
    except SafetensorError as error:
        name = f"{path.parent.name}/{path.name}"  # goes into a record, which names no folder of this machine
        raise DamagedStateError(f"{name} is damaged ({error}). Remove it to train the trunk again") from None


# --- disk space ----------------------------------------------------------------------------------


def check_disk_space(family: Family, cells: Sequence[Cell], data: FamilyData, folder: RunFolder) -> int:
    """Return the bytes that training `cells` writes into `folder`, less what is there already.

    Counted are all siblings, the snapshots of probe cells, and the trunk's whole state at each fork.

    Raises:
        UserError: if the disk has less free space.
    """
    recipe, n = family.recipe, len(data.dataset.train)
    per_epoch, length = recipe.steps_per_epoch(n), recipe.length(n)
    weights: list[Path] = []
    trunks: set[Path] = set()
    for cell in cells:
        start = cell.fork_step(n)
        logged = cell.suite.probe.logged(start, length, per_epoch) if cell.has_analyses else []
        for i in range(cell.networks):
            weights.append(folder.sibling(cell.key, i))
            weights += [folder.snapshot(cell.key, i, step) for step in logged]
        if cell.fork.has_trunk:
            trunks.add(folder.trunk(family.key, start))
    of_weights: int = sum(t.nbytes for t in data.model.state_dict().values())
    of_trunk: int = sum(
        t.nbytes for t in flatten_state(initial_state(data.model, slot_names(recipe))).values()
    )
    needed = of_weights * sum(not path.exists() for path in weights)
    needed += of_trunk * sum(not path.exists() for path in trunks)
    existing = next(p for p in (folder.root, *folder.root.resolve().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f"{folder.root} needs {decimal(needed)} of disk space for the weights of "
            f"{counted(len(cells), 'cell')} of {family.architecture.label}, replicate {family.replicate}; "
            f"{decimal(free)} are free. Free some, choose another folder (--out), or ask for fewer cells "
            "(--shift, --fork)."
        )
    return needed
