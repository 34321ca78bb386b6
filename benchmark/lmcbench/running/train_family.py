"""Networks that advance by one engine: stacked, as many at once as the device's memory holds, or in turn."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from lmcbench.data.batches import Feed
from lmcbench.machine import device_name
from lmcbench.results.run_folder import RunFolder, write_atomic
from lmcbench.running.checkpointing import Interim, Member
from lmcbench.running.disk_space import weights_bytes
from lmcbench.running.family_data import Workbench
from lmcbench.running.sibling import (
    distinct,
    fork_members,
    make_siblings,
    make_trunk,
    start_members,
)
from lmcbench.spec.canonical import digest
from lmcbench.spec.cells import Cell, Family
from lmcbench.spec.recipe import EngineName, Recipe
from lmcbench.train.cost import device_budget, fleet_limit, step_flop
from lmcbench.train.engines import advance
from lmcbench.train.stackability import choose_engine
from lmcbench.train.train_state import holders, save_tensors, state_dict

_HOST = torch.device("cpu")

PIECE = 2.0
"""Seconds of training, about, after which it is said how far it is and may be stored."""


class Fleet:
    """Advances members of a family, and learns on its way how many fit into one pass.

    Their states wait in the host's memory: a family may be of eighty networks, and the reference engine needs
    one at a time on the device.

    Attributes:
        largest: the most members that were in one pass at once, so far.
    """

    def __init__(self, engine: EngineName, recipe: Recipe, bench: Workbench) -> None:
        self.engine = engine
        self.recipe = recipe
        self.bench = bench
        self.largest = 0
        self._budget = device_budget(bench.device) if engine == "stacked" else None
        self._limit: int | None = None
        self._pace: float | None = None  # seconds that a step of all members took last
        self._count = 0  # of how many

    def train(self, members: Sequence[Member], start: int, stop: int) -> Iterator[int]:
        """Train `members` from step `start` to `stop`, in pieces that change no bits.

        Stacked all of them together, else one after the other.

        Yields:
            Steps that were done since, of all members together, every two seconds or so; the first at once.
        """
        for some in [members] if self.engine == "stacked" else [[member] for member in members]:
            _bring(some, self.bench.device)
            yield from self._train(some, start, stop)
            _bring(some, _HOST)

    def _train(self, members: Sequence[Member], start: int, stop: int) -> Iterator[int]:
        feed = Feed(self.bench.train, [m.stream for m in members], self.recipe.augmentation)
        at = start
        while at < stop:
            last = min(at + self._piece(len(members)), stop)
            began = time.perf_counter()
            self._advance(members, feed, at, last)
            seconds = time.perf_counter() - began  # the losses have come from the device: it is done
            for member in members:
                member.seconds += seconds / len(members)
            self._pace, self._count = seconds / (last - at), len(members)
            yield (last - at) * len(members)
            at = last

    def _piece(self, count: int) -> int:
        """Steps of `count` members that take no longer than a piece should, whatever the engine.

        Fewer than last time may take as long (stacked), and more a multiple of it (one after another).
        """
        if self._pace is None:
            return 1
        return max(int(PIECE / (self._pace * max(count / self._count, 1.0))), 1)

    def _advance(self, members: Sequence[Member], feed: Feed, first: int, last: int) -> None:
        states = [m.state for m in members if m.state is not None]
        model, recipe = self.bench.model, self.recipe
        if self._limit is None:
            self._limit = fleet_limit(model, states[0], feed, recipe, self._budget)
        lengths, seeds = [m.length for m in members], [m.layer_seed for m in members]
        done = advance(self.engine, model, states, feed, recipe, lengths, seeds, first, last, self._limit)
        self._limit, self.largest = done.limit, max(self.largest, done.fleet)
        for member, state, losses in zip(members, done.states, done.losses, strict=True):
            member.state, member.at = state, last
            member.losses.append(losses)


def _bring(members: Sequence[Member], device: torch.device) -> None:
    """Have the members' states on `device`."""
    for member in members:
        if member.state is not None:
            member.state = member.state.to(device)


DEAD = 0.98
"""A sibling whose final training loss is at least this share of ln(classes) learned nothing (design 3.9)."""


def train_family(
    family: Family,
    cells: Sequence[Cell],
    bench: Workbench,
    folder: RunFolder,
    engine: EngineName | None = None,
) -> Iterator[float]:
    """Train the siblings of `cells` and leave their weights in `folder`, yielding the share done.

    Each network goes on from where it was stored last: the trunk at its forks, all of them now and then on
    their way. A cell's siblings are vouched for by its training file, which is written last. `engine` goes
    before the committed choice.
    """
    n = len(bench.dataset.train)
    length, per_epoch = family.recipe.length(n), family.recipe.steps_per_epoch(n)
    siblings = distinct({cell.key: make_siblings(family, cell, bench) for cell in cells})
    members = list({id(member): member for every in siblings.values() for member in every}.values())
    # before the network holds what its passes leave on it, which may not be copied
    flop = step_flop(bench.model, bench.dataset.shape, family.recipe.batch_size)
    engine = choose_engine(family.architecture, bench.model, bench.dataset.shape, bench.device.type, engine)
    logged = {
        cell.key: cell.suite.probe.logged(cell.fork.step(per_epoch), length, per_epoch)
        for cell in cells
        if cell.has_analyses
    }
    reserve = weights_bytes(family, cells, bench.model, n, folder)
    interim = Interim(folder, family.key, _how(engine, bench), reserve)
    for member in members:
        interim.resume(member, _resumable(member, siblings, logged, folder))
    start_members(family, siblings, cells, bench)
    by = {"engine": engine, "device": bench.device.type}
    waiting = [member.start for member in members if member.state is None]
    trunk = make_trunk(family, bench, folder, interim, waiting, by)
    everyone = [trunk, *members] if trunk is not None else members
    total, done = sum(m.stop - m.at for m in everyone), 0
    stops = {step for steps in logged.values() for step in steps}
    boundaries = sorted({m.at for m in everyone} | {m.stop for m in everyone} | stops)
    fleet = Fleet(engine, family.recipe, bench)
    for start, stop in pairwise(boundaries):
        fork_members(family, members, trunk, bench, folder, start, by)
        for key in (key for key, steps in logged.items() if start in steps):
            for i, member in enumerate(siblings[key]):
                if member.at == start:  # who was taken up later has left it earlier
                    _keep_weights(member, bench, folder.snapshot(key, i, start))
        active = [m for m in everyone if m.at == start < m.stop]
        if not active:  # between the end of short trainings and a late fork
            continue
        for steps in fleet.train(active, start, stop):
            interim.store(everyone)
            done += steps
            yield done / total
        for member in active:
            if member is not trunk and member.at == member.stop:
                member.retire()
    a_step = sum(m.seconds for m in everyone) / max(sum(m.stop - m.start for m in everyone), 1)
    for cell in cells:
        _finish(cell, siblings[cell.key], fleet, folder, flop, a_step)
    interim.drop(siblings)


def _finish(
    cell: Cell, members: Sequence[Member], fleet: Fleet, folder: RunFolder, flop: int, seconds: float
) -> None:
    """Leave a cell's trained siblings, and how they were trained; a step takes `flop` and `seconds`."""
    bench = fleet.bench
    n = len(bench.dataset.train)
    per_epoch = cell.recipe.steps_per_epoch(n)
    steps = cell.fork.step(per_epoch) + sum(m.stop - m.start for m in members)
    training = {
        "engine": fleet.engine,
        "fleet": fleet.largest or None,  # nothing was left to do but to write the siblings
        "device": device_name(bench.device),
        "params": sum(p.numel() for p in bench.model.parameters() if p.requires_grad),
        "train_steps": steps,
        "train_flop": float(flop * steps),
        "train_s": seconds * steps,
        "views_digest": bench.seen[cell.key].digest,
        "views_pixels": bench.seen[cell.key].pixels,
        **_fork_point(cell, per_epoch, cell.recipe.length(n)),
        **_outcome(members, per_epoch, len(bench.dataset.classes)),
    }
    for i, member in enumerate(members):
        _keep_weights(member, bench, folder.sibling(cell.key, i))
    write_atomic(folder.training(cell.key), json.dumps(training, allow_nan=False) + "\n")


def trained(cell: Cell, folder: RunFolder) -> dict[str, Any] | None:
    """How the cell's stored siblings were trained; None where they are not all there."""
    path = folder.training(cell.key)
    try:
        training: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    there = all(folder.sibling(cell.key, i).exists() for i in range(cell.networks))
    return training if there else None


def _how(engine: EngineName, bench: Workbench) -> str:
    """16 hex digits over what changes a network on its way and stands in no key.

    Data that no suite pins may have been changed since, as may code beside a user's network.
    """
    parts = {
        "engine": engine,
        "device": bench.device.type,
        "data": bench.dataset.train.sha256,
        "tensors": {name: list(tensor.shape) for name, tensor in holders(bench.model).items()},
    }
    return digest(parts)[:16]


def _resumable(
    member: Member,
    siblings: Mapping[str, Sequence[Member]],
    logged: Mapping[str, Sequence[int]],
    folder: RunFolder,
) -> int:
    """The last step that `member` may be taken up at: a probe cell's states on the way are still to be kept.

    Those that are missing after the network was stored: only a cell that shares it was asked for then.
    """
    missing = (
        step
        for key, steps in logged.items()
        for i, other in enumerate(siblings[key])
        if other is member
        for step in steps
        if not folder.snapshot(key, i, step).exists()
    )
    return min(missing, default=member.stop)


def _keep_weights(member: Member, bench: Workbench, path: Path) -> None:
    """Write the member's weights as they are now, as its network's state dict has them."""
    assert member.state is not None
    save_tensors(state_dict(bench.model, member.state), path)


def _fork_point(cell: Cell, per_epoch: int, length: int) -> dict[str, Any]:
    """Where the siblings left the trunk: the step, and its share of all steps; None without a trunk."""
    if cell.fork.epoch is None:
        return {"step": None, "fraction": None}
    step = cell.fork.step(per_epoch)
    return {"step": step, "fraction": step / length}


def _outcome(members: Sequence[Member], per_epoch: int, classes: int) -> dict[str, Any]:
    """Whether the siblings were trained or failed to be (design 3.9), and their final training losses."""
    final: list[float | None] = []
    reasons = []
    for i, member in enumerate(members):
        assert member.state is not None
        losses = torch.cat(member.losses)
        bad = torch.nonzero(~torch.isfinite(losses))
        last = float(losses[-per_epoch:].double().mean())
        if len(bad):
            reasons.append(f"sibling {i}: the loss is not finite at step {member.start + int(bad[0])}")
        elif not member.state.finite:
            reasons.append(f"sibling {i}: a weight is not finite at the end of training")
        elif last >= DEAD * math.log(classes):
            reasons.append(
                f"sibling {i}: the final training loss is {last:.3f}, chance is {math.log(classes):.3f}"
            )
        final.append(last if math.isfinite(last) else None)
    status = "diverged" if reasons else "ok"
    return {"status": status, "reason": "; ".join(reasons) or None, "train_losses": final}
