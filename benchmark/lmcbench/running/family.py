"""Train a family: the trunk once, and every sibling from where it leaves the trunk."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from lmcbench.devices import device_name
from lmcbench.results.store import RunFolder, write_atomic
from lmcbench.running.bench import Workbench
from lmcbench.running.fleet import Fleet
from lmcbench.running.interim import Interim
from lmcbench.running.member import Member
from lmcbench.running.members import (
    distinct,
    fork_members,
    make_siblings,
    make_trunk,
    start_members,
)
from lmcbench.running.room import weights_bytes
from lmcbench.spec.canonical import digest
from lmcbench.spec.cells import Cell, Family
from lmcbench.spec.engine import EngineName
from lmcbench.train.choice import choose_engine
from lmcbench.train.cost import step_flop
from lmcbench.train.state import holders, save_tensors, state_dict

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
        if cell.probed
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
