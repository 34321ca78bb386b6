"""Train the networks of a family together: the trunk and all siblings of its cells."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmcbench.data.batches import Feed
from lmcbench.machine import device_name, strictly
from lmcbench.results.atomic_files import write_atomic
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.checkpointing import TrainingCheckpoints, fork_siblings, make_trunk, store_trunk
from lmcbench.running.family_data import FamilyData
from lmcbench.running.outcome import judge_training
from lmcbench.running.siblings import Sibling, make_siblings, merge_duplicates, set_initial_states
from lmcbench.spec.canonical import digest
from lmcbench.spec.cells import Cell, Family
from lmcbench.spec.learning import count_entropy
from lmcbench.spec.recipe import EngineName, Recipe
from lmcbench.train.choice import choose_engine
from lmcbench.train.cost import FleetMemory, device_budget, fleet_memory, resident_bytes, step_flop
from lmcbench.train.engines import advance
from lmcbench.train.stackability import try_step
from lmcbench.train.train_state import TrainState, named_tensors, save_tensors, state_dict

CHUNK_S = 2.0
"""Approximate seconds of training between two progress reports; checkpoints can be stored only then."""


def train_family(
    family: Family,
    cells: Sequence[Cell],
    data: FamilyData,
    folder: RunFolder,
    engine: EngineName | None = None,
    reserve: int = 0,
    memory_share: float = 1.0,
) -> Iterator[float]:
    """Train the siblings of `cells`, store their weights in `folder`, and yield the fraction done.

    Each network resumes from its last checkpoint. The trunk is stored at every fork, and all networks at
    intervals of at least `checkpointing.INTERVAL`. The training file of a cell is written last, so that it
    exists only if the siblings are complete.

    Args:
        family: the family of `cells`.
        cells: the cells to train.
        data: the family's images and network.
        folder: the run folder.
        engine: the engine to use if the network supports it; None: chosen by `choose_engine`.
        reserve: bytes to keep free on the disk for what training writes.
        memory_share: share of the device's memory that may be filled.
    """
    n = len(data.dataset.train)
    length, per_epoch = family.recipe.length(n), family.recipe.steps_per_epoch(n)
    siblings = merge_duplicates({cell.key: make_siblings(family, cell, data) for cell in cells})
    distinct = list({id(sibling): sibling for of_cell in siblings.values() for sibling in of_cell}.values())
    # before training, which may leave tensors on the network that cannot be copied
    flop = step_flop(data.model, data.dataset.shape, family.recipe.batch_size)
    engine = _engine(family, data, engine)
    logged = {
        cell.key: cell.suite.probe.logged(cell.fork_step(n), length, per_epoch)
        for cell in cells
        if cell.has_analyses
    }
    checkpoints = TrainingCheckpoints(folder, family.key, _conditions(engine, data), reserve)
    for sibling in distinct:
        checkpoints.resume(sibling, _last_resumable(sibling, siblings, logged, folder))
    set_initial_states(family, siblings, cells, data)
    trained_by = _trained_by(engine, data)
    forks = [sibling.start for sibling in distinct if sibling.state is None]
    trunk = make_trunk(family, data, folder, checkpoints, forks, trained_by)
    networks = [trunk, *distinct] if trunk is not None else distinct

    total, done = sum(network.stop - network.at for network in networks), 0
    snapshots = {step for steps in logged.values() for step in steps}
    boundaries = {step for network in networks for step in (network.at, network.stop)} | snapshots
    deterministic = True
    if data.device.type == "cuda":  # after building networks, which runs a user's code: flags are set again
        tried = data.dataset.shape, family.recipe.precision
        deterministic = strictly(data.device, lambda: try_step(engine, data.model, *tried))[1]
    fleet = Fleet(engine, family.recipe, data, memory_share)
    with checkpoints.stored_on_interruption(networks):
        for start, stop in pairwise(sorted(boundaries)):
            fork_siblings(family, distinct, trunk, folder, start, trained_by)
            for key in (key for key, steps in logged.items() if start in steps):
                for i, sibling in enumerate(siblings[key]):
                    if sibling.at == start:  # a sibling resumed past this step has already saved its snapshot
                        _save_weights(sibling, data, folder.snapshot(key, i, start))
            active = [network for network in networks if network.at == start < network.stop]
            if not active:  # between the end of short trainings and a late fork
                continue
            for steps in fleet.train(active, start, stop):
                checkpoints.store(networks)
                done += steps
                yield done / total
            for network in active:
                if network is not trunk and network.at == network.stop:
                    network.free_optimizer_state()
    step_s = sum(x.seconds for x in networks) / max(sum(x.stop - x.start for x in networks), 1)
    for cell in cells:
        _store_cell(cell, siblings[cell.key], fleet, folder, flop, step_s, deterministic)
    checkpoints.remove(siblings)


def train_trunk(
    family: Family,
    cells: Sequence[Cell],
    data: FamilyData,
    folder: RunFolder,
    engine: EngineName | None = None,
    memory_share: float = 1.0,
) -> Iterator[float]:
    """Train the trunk of `cells`, store it at their forks, and yield the fraction done.

    Siblings that are trained by other processes afterwards equal those of `train_family`, bit for bit, if the
    engine's results do not depend on the fleet. Arguments as in `train_family`.
    """
    recipe, n = family.recipe, len(data.dataset.train)
    engine = _engine(family, data, engine)
    forks = sorted({cell.fork_step(n) for cell in cells if cell.fork.has_trunk})
    missing = [step for step in forks if not folder.trunk(family.key, step).exists()]
    checkpoints = TrainingCheckpoints(folder, family.key, _conditions(engine, data))
    trained_by = _trained_by(engine, data)
    trunk = make_trunk(family, data, folder, checkpoints, forks, trained_by)
    if trunk is None:
        return
    begun, fleet = trunk.at, Fleet(engine, recipe, data, memory_share)
    with checkpoints.stored_on_interruption([trunk]):
        for step in missing:
            for _ in fleet.train([trunk], trunk.at, step):
                checkpoints.store([trunk])
                yield (trunk.at - begun) / (missing[-1] - begun)
            store_trunk(trunk, family, folder, step, trained_by)
    checkpoints.remove(())


def _engine(family: Family, data: FamilyData, asked: EngineName | None) -> EngineName:
    """Return the engine that trains the family: the one asked for, if the network supports it."""
    recipe, shape = family.recipe, data.dataset.shape
    device, precision, size = data.device.type, recipe.precision, recipe.batch_size
    return choose_engine(family.architecture, data.model, shape, device, asked, precision, size)


def _trained_by(engine: EngineName, data: FamilyData) -> dict[str, str]:
    """Return what a stored trunk must have in common with its siblings: engine, device and its model."""
    return {"engine": engine, "device": data.device.type, "device_name": device_name(data.device)}


class Fleet:
    """Train networks of a family with one engine.

    Between calls their states are in host memory: a family may have eighty networks, and the reference engine
    needs only one at a time on the device.

    Attributes:
        largest: the most networks advanced in one pass so far.
    """

    def __init__(
        self, engine: EngineName, recipe: Recipe, data: FamilyData, memory_share: float = 1.0
    ) -> None:
        self.engine = engine
        self.recipe = recipe
        self.data = data
        self.largest = 0
        self._memory_share = memory_share
        self._memory: FleetMemory | None = None
        self._limit: int | None = None  # after running out of memory
        self._pace: float | None = None  # seconds per step in the last chunk, for all its networks
        self._count = 0  # number of networks in that chunk

    def train(self, siblings: Sequence[Sibling], start: int, stop: int) -> Iterator[int]:
        """Train `siblings` from step `start` to `stop` in chunks, whose sizes do not affect the result.

        The stacked engine trains all of them together, the reference engine one after another.

        Yields:
            After each chunk, about every `CHUNK_S` seconds: its steps, summed over networks.
        """
        for some in [siblings] if self.engine == "stacked" else [[sibling] for sibling in siblings]:
            _move(some, self.data.device)
            feed = Feed(self.data.train, [s.stream for s in some], self.recipe.augmentation)
            at = start
            while at < stop:
                last = min(at + self._chunk(len(some)), stop)
                began = time.perf_counter()
                self._advance(some, feed, at, last)
                seconds = time.perf_counter() - began  # complete: the losses were copied from the device
                for sibling in some:
                    sibling.seconds += seconds / len(some)
                self._pace, self._count = seconds / (last - at), len(some)
                yield (last - at) * len(some)
                at = last
            _move(some, torch.device("cpu"))

    def _chunk(self, count: int) -> int:
        """Return the number of steps that `count` networks finish within `CHUNK_S`, from the last chunk.

        The estimate is cautious for both engines: more networks take proportionally longer, but fewer
        networks are not assumed to be faster.
        """
        if self._pace is None:
            return 1
        return max(int(CHUNK_S / (self._pace * max(count / self._count, 1.0))), 1)

    def _advance(self, siblings: Sequence[Sibling], feed: Feed, first: int, last: int) -> None:
        states = [sibling.state for sibling in siblings if sibling.state is not None]
        model, recipe = self.data.model, self.recipe
        lengths, seeds = [s.length for s in siblings], [s.layer_seed for s in siblings]
        limit = self._fitting(states, feed)
        done = advance(self.engine, model, states, feed, recipe, lengths, seeds, first, last, limit)
        if done.limit != limit:
            self._limit = done.limit
        self.largest = max(self.largest, done.fleet)
        for sibling, state, losses in zip(siblings, done.states, done.losses, strict=True):
            sibling.state, sibling.at = state, last
            sibling.losses.append(losses)

    def _fitting(self, states: Sequence[TrainState], feed: Feed) -> int | None:
        """Return the largest number of `states` in one pass; None for all.

        It depends on the kind of device, the images, the network and the number of states only, so that a
        rerun gets the same fleets.
        """
        device, model = self.data.device, self.data.model
        if device.type != "cuda" or self.engine != "stacked":
            return self._limit
        if self._memory is None:
            self._memory = fleet_memory(model, states[0], feed, self.recipe)
        resident = resident_bytes(model, [self.data.train, *self.data.tests.values()])
        budget = device_budget(device, resident, self._memory_share)
        limit = self._memory.limit(budget, len(states))
        return limit if self._limit is None else min(limit, self._limit)


def _move(siblings: Sequence[Sibling], device: torch.device) -> None:
    for sibling in siblings:
        if sibling.state is not None:
            sibling.state = sibling.state.to(device)


def _conditions(engine: EngineName, data: FamilyData) -> str:
    """Return a hash (16 hex digits) of what affects training but is part of no key.

    Data may change that the suite does not pin, and so may code that a user's network imports.
    """
    parts = {
        "engine": engine,
        "device": data.device.type,
        "device_name": device_name(data.device),  # kinds of GPU choose different kernels
        "data": data.dataset.train.sha256,
        "tensors": {name: list(tensor.shape) for name, tensor in named_tensors(data.model).items()},
    }
    return digest(parts)[:16]


def _last_resumable(
    sibling: Sibling,
    siblings: Mapping[str, Sequence[Sibling]],
    logged: Mapping[str, Sequence[int]],
    folder: RunFolder,
) -> int:
    """Return the last step at which `sibling` may resume so that no snapshot of a probe cell is missing.

    They are missing if an earlier run asked only for another cell that shares the sibling.
    """
    missing = (
        step
        for key, steps in logged.items()
        for i, other in enumerate(siblings[key])
        if other is sibling
        for step in steps
        if not folder.snapshot(key, i, step).exists()
    )
    return min(missing, default=sibling.stop)


def _store_cell(
    cell: Cell,
    siblings: Sequence[Sibling],
    fleet: Fleet,
    folder: RunFolder,
    flop: int,
    step_s: float,
    deterministic: bool,
) -> None:
    """Store a cell's siblings and its training file; a step costs `flop` FLOPs and takes `step_s` seconds."""
    data, n = fleet.data, len(fleet.data.dataset.train)
    per_epoch, views = cell.recipe.steps_per_epoch(n), fleet.data.views[cell.key]
    fork = cell.fork_step(n) if cell.fork.has_trunk else None
    steps = (fork or 0) + sum(sibling.stop - sibling.start for sibling in siblings)
    training = {
        "engine": fleet.engine,
        "fleet": fleet.largest or None,  # None if all networks were resumed at their end
        "device": device_name(data.device),
        "deterministic": deterministic,
        "params": sum(p.numel() for p in data.model.parameters() if p.requires_grad),
        "train_steps": steps,
        "train_flop": float(flop * steps),
        "train_s": step_s * steps,
        "views_digest": views.digest,
        "views_pixels": views.pixels,
        "step": fork,
        "fraction": None if fork is None else fork / cell.recipe.length(n),
        "learning_rate": None if fork is None else cell.recipe.lr_at(fork, cell.recipe.length(n)),
        **_outcome(siblings, per_epoch, data),
    }
    for i, sibling in enumerate(siblings):
        _save_weights(sibling, data, folder.sibling(cell.key, i))
    write_atomic(folder.training(cell.key), json.dumps(training, allow_nan=False) + "\n")


def _save_weights(sibling: Sibling, data: FamilyData, path: Path) -> None:
    assert sibling.state is not None
    save_tensors(state_dict(data.model, sibling.state), path)


def _outcome(siblings: Sequence[Sibling], per_epoch: int, data: FamilyData) -> dict[str, Any]:
    """Return whether training succeeded and the reason if not, and every sibling's final loss and labels.

    A final training loss is the mean over the mini-batches of the last `per_epoch` steps.
    """
    counts = [_label_counts(sibling, data) for sibling in siblings]
    outcomes = []
    for sibling, of_view in zip(siblings, counts, strict=True):
        assert sibling.state is not None
        losses, entropy = torch.cat(sibling.losses), count_entropy(of_view)
        outcomes.append(judge_training(losses, per_epoch, entropy, sibling.state.finite, sibling.start))
    diverged = [f"sibling {i}: {one.reason}" for i, one in enumerate(outcomes) if one.status == "diverged"]
    idle = [f"sibling {i} {one.reason}" for i, one in enumerate(outcomes) if one.status == "did-not-learn"]
    return {
        "status": "diverged" if diverged else "did-not-learn" if idle else "ok",
        "reason": "; ".join(diverged + idle) or None,
        "train_losses": [one.train_loss for one in outcomes],
        "label_counts": counts,
        **_domain_counts(siblings, data),
    }


def _label_counts(sibling: Sibling, data: FamilyData) -> list[int]:
    """Return the number of images of every class in a sibling's view."""
    labels = data.pool.labels[sibling.stream.items]
    return list(map(int, np.bincount(labels, minlength=len(data.dataset.classes))))


def _domain_counts(siblings: Sequence[Sibling], data: FamilyData) -> dict[str, Any]:
    """Return the images of every domain in each sibling's view; nothing for data without domains."""
    domains = data.dataset.train.domains
    if domains is None:
        return {}
    views = [data.pool.source[sibling.stream.items] for sibling in siblings]
    return {"domain_counts": [domains.take(view).counts for view in views]}
