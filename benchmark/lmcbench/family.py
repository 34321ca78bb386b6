"""Train a family: the trunk once, and every sibling from where it leaves the trunk."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lmcbench.data.batches import DeviceImages, Feed
from lmcbench.data.dataset import Dataset
from lmcbench.data.pool import Pool, build_pool
from lmcbench.data.streams import Stream, stream
from lmcbench.data.transforms import apply as transform
from lmcbench.results.store import RunFolder, write_atomic
from lmcbench.spec.cells import Cell, Family
from lmcbench.spec.seeds import derive_seed
from lmcbench.spec.shifts import Indices, View, views_digest
from lmcbench.train.build import build
from lmcbench.train.checkpoints import load_checkpoint
from lmcbench.train.choice import choose_engine
from lmcbench.train.engines import EngineName, advance
from lmcbench.train.memory import device_budget, fleet_limit
from lmcbench.train.optimizer import slot_names
from lmcbench.train.state import (
    TrainState,
    from_model,
    load_state,
    save_state,
    save_tensors,
    state_dict,
)

DEAD = 0.98
"""A sibling whose final training loss is at least this share of ln(classes) learned nothing (design 3.9)."""


@dataclass(frozen=True)
class Seen:
    """What the siblings of a cell see, in the family's pool.

    Attributes:
        items: each sibling's positions in the pool.
        transforms: what each sibling's images pass through, or None.
        nested: whether views are parts of one another.
        digest: over what the views show.
    """

    items: list[Indices]
    transforms: list[str | None]
    nested: bool
    digest: str


@dataclass
class Workbench:
    """What the cells of a family share in memory: network, data on the device, and views of it.

    Attributes:
        pool: every distinct training item of the family.
        tests: the test set as it is (`None`) and through every transform that is asked for.
        seen: per cell key, what its siblings see.
        model: the network; its weights are scratch.
    """

    dataset: Dataset
    device: torch.device
    pool: Pool
    train: DeviceImages
    tests: dict[str | None, DeviceImages]
    seen: dict[str, Seen]
    model: nn.Module


@dataclass
class Member:
    """One network of the fleet: the trunk, or a sibling of a cell.

    Attributes:
        length: steps that its schedule is stretched over; it trains from `start` to `stop` of them.
    """

    start: int
    stop: int
    length: int
    stream: Stream
    layer_seed: int
    state: TrainState | None
    losses: list[torch.Tensor] = field(default_factory=list)


def prepare(family: Family, cells: Sequence[Cell], dataset: Dataset, device: torch.device) -> Workbench:
    """Everything the cells of a family share, with the data on `device`.

    Raises:
        UserError: where the network cannot be built, a shift does not suit the data, or a given
            checkpoint does not fit the network.
    """
    suite, labels, seeds = family.suite, dataset.train.labels, family.seeds
    mean = dataset.statistics[0]
    views: dict[str, list[View]] = {
        cell.shift.label: cell.shift.views(labels, suite.siblings, seeds.shift, family.replicate)
        for cell in cells
    }
    pool, placed = build_pool(
        dataset.train, list(views.values()), partial(transform, seed=seeds.shift, mean=mean)
    )
    seen = {
        label: Seen(items, [v.transform for v in vs], any(v.nested for v in vs), views_digest(vs, labels))
        for (label, vs), items in zip(views.items(), placed, strict=True)
    }
    shown = {
        None: None,
        **dict.fromkeys([*suite.evaluations, *(t for s in seen.values() for t in s.transforms)]),
    }
    # every replicate is tested on the same images, whatever its own seeds
    test_seed = derive_seed(suite.name, suite.version, 0, "shift")

    def test(name: str | None) -> DeviceImages:
        images = dataset.test.images
        if name is not None:
            images = transform(name, images, np.arange(len(images)), test_seed, mean)
        return DeviceImages(images, dataset.test.labels, dataset.statistics, device)

    model = build(family.architecture, dataset.shape, len(dataset.classes), seeds.init[0])
    for checkpoint in {cell.fork.checkpoint for cell in cells if cell.fork.checkpoint is not None}:
        load_checkpoint(checkpoint, model)  # refused before anything is written
    return Workbench(
        dataset,
        device,
        pool,
        DeviceImages(pool.images, pool.labels, dataset.statistics, device, pool.image),
        {name: test(name) for name in shown},
        {cell.key: seen[cell.shift.label] for cell in cells},
        model.to(device),
    )


def train_family(
    family: Family,
    cells: Sequence[Cell],
    bench: Workbench,
    folder: RunFolder,
    engine: EngineName | None = None,
) -> Iterator[float]:
    """Train the siblings of `cells` and leave their weights in `folder`, yielding the share done.

    The trunk goes on from its last stored fork, if there is one. A cell's siblings are vouched for by
    its training file, which is written last; what was cut off before that is trained again. `engine` goes
    before the committed choice.
    """
    recipe = family.recipe
    n = len(bench.dataset.train)
    length, per_epoch = recipe.length(n), recipe.steps_per_epoch(n)
    siblings = {cell.key: _siblings(family, cell, bench) for cell in cells}
    fleet = [member for members in siblings.values() for member in members]
    trunk = _trunk(family, bench, folder, [m.start for m in fleet if m.state is None])
    engine = choose_engine(family.architecture, bench.model, bench.dataset.shape, bench.device.type, engine)
    everyone = [trunk, *fleet] if trunk is not None else fleet
    total = sum(m.stop - m.start for m in everyone)
    began, done = time.perf_counter(), 0
    logged = {
        cell.key: cell.suite.probe.logged(cell.fork.step(per_epoch), length, per_epoch)
        for cell in cells
        if cell.probed
    }
    stops = {step for steps in logged.values() for step in steps}
    boundaries = sorted({m.start for m in everyone} | {m.stop for m in everyone} | stops)
    budget = device_budget(bench.device) if engine == "stacked" else None
    limit: int | None = None
    largest = 0
    for start, stop in pairwise(boundaries):
        _fork(family, fleet, trunk, bench, folder, start)
        for key in (key for key, steps in logged.items() if start in steps):
            for i, member in enumerate(siblings[key]):
                assert member.state is not None
                save_tensors(state_dict(bench.model, member.state), folder.snapshot(key, i, start))
        training_now = [m for m in everyone if m.start <= start < m.stop]
        # those of one length have one learning rate at every step, and advance together
        for shared in sorted({m.length for m in training_now}):
            active = [m for m in training_now if m.length == shared]
            feed = Feed(bench.train, [m.stream for m in active], recipe.augmentation)
            seeds = [m.layer_seed for m in active]
            # in pieces of about an epoch, so that a progress bar moves
            for first in range(start, stop, per_epoch):
                last = min(first + per_epoch, stop)
                states = [m.state for m in active if m.state is not None]
                if limit is None:
                    limit = fleet_limit(bench.model, states[0], feed, recipe, budget)
                result = advance(engine, bench.model, states, feed, recipe, shared, seeds, first, last, limit)
                limit, largest = result.limit, max(largest, result.fleet)
                for member, state, losses in zip(active, result.states, result.losses, strict=True):
                    member.state = state
                    member.losses.append(losses)
                done += (last - first) * len(active)
                yield done / total
    seconds = time.perf_counter() - began
    flop = step_flop(bench.model, bench.dataset.shape, recipe.batch_size)
    for cell in cells:
        fork_step = cell.fork.step(per_epoch)
        steps = fork_step + sum(m.stop - m.start for m in siblings[cell.key])
        training = {
            "engine": engine,
            "fleet": largest,
            "params": sum(p.numel() for p in bench.model.parameters() if p.requires_grad),
            "step": None if cell.fork.epoch is None else fork_step,
            "fraction": None if cell.fork.epoch is None else fork_step / length,
            "train_steps": steps,
            "train_flop": float(flop * steps),
            "train_s": seconds * steps / max(total, 1),
            "views_digest": bench.seen[cell.key].digest,
            **_outcome(siblings[cell.key], per_epoch, len(bench.dataset.classes)),
        }
        for i, member in enumerate(siblings[cell.key]):
            assert member.state is not None
            save_tensors(state_dict(bench.model, member.state), folder.sibling(cell.key, i))
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


def step_flop(model: nn.Module, shape: tuple[int, int, int], batch_size: int) -> int:
    """Floating point operations of one training step of one network (matrix products and convolutions)."""
    device = next(model.parameters()).device
    images = torch.zeros(batch_size, *shape, device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        scratch = {n: t.clone() for n, t in model.state_dict().items()}
        with FlopCounterMode(display=False) as counter:
            model.train()(images).logsumexp(-1).sum().backward()
        model.zero_grad(set_to_none=True)
        model.load_state_dict(scratch)
    return int(counter.get_total_flops())


# --- members -------------------------------------------------------------------------------------


def _siblings(family: Family, cell: Cell, bench: Workbench) -> list[Member]:
    """The networks of a cell; those of a fork get their state when the trunk reaches it."""
    seeds, noise, seen = family.seeds, cell.shift.noise, bench.seen[cell.key]
    n = len(bench.dataset.train)
    start, length = cell.fork.step(family.recipe.steps_per_epoch(n)), cell.length(n)
    # a single network sees everything that siblings would see
    views = seen.items if cell.networks > 1 else [np.unique(np.concatenate(seen.items))]
    members = []
    for i, view in enumerate(views):
        # shared noise: everyone draws as the first sibling does (design 3.7)
        drawn = 1 if noise == "shared" else i + 1
        sequence = stream(
            view,
            bench.pool.source,
            noise,
            seeds.order[drawn],
            seeds.augment[drawn],
            family.recipe.batch_size,
            seen.nested,
        )
        state = None
        if cell.fork.checkpoint is not None:
            state = _given(family, bench, cell.fork.checkpoint)
        elif cell.fork.epoch is None:
            state = _initial(family, bench, seeds.init[i + 1])
        members.append(Member(start, length, length, sequence, seeds.layer[drawn], state))
    return members


def _trunk(family: Family, bench: Workbench, folder: RunFolder, forks: Sequence[int]) -> Member | None:
    """The trunk up to the last of `forks` (steps), from the last state stored before a missing one."""
    if not forks:
        return None
    seeds = family.seeds
    missing = sorted({step for step in forks if not folder.trunk(family.key, step).exists()})
    if not missing:
        return None
    start, state = 0, None
    for path in (folder.root / "checkpoints").glob(f"trunk-{family.key}-*.safetensors"):
        step = int(path.stem.rpartition("-")[2])
        if start < step < missing[0]:
            start, state = step, load_state(path).to(bench.device)
    everything = np.arange(len(bench.dataset.train))
    sequence = stream(
        everything,
        bench.pool.source,
        "own",
        seeds.order[0],
        seeds.augment[0],
        family.recipe.batch_size,
    )
    length = family.recipe.length(len(bench.dataset.train))
    state = state or _initial(family, bench, seeds.init[0])
    return Member(start, missing[-1], length, sequence, seeds.layer[0], state)


def _fork(
    family: Family,
    fleet: Sequence[Member],
    trunk: Member | None,
    bench: Workbench,
    folder: RunFolder,
    step: int,
) -> None:
    """Give the siblings that start at `step` the trunk's whole state there, by way of its file."""
    leaving = [m for m in fleet if m.start == step and m.state is None]
    if not leaving:
        return
    path = folder.trunk(family.key, step)
    if not path.exists():
        assert trunk is not None
        assert trunk.state is not None
        save_state(trunk.state, path)
    state = load_state(path)
    for member in leaving:
        member.state = state.copy().to(bench.device)


def _initial(family: Family, bench: Workbench, seed: int) -> TrainState:
    model = build(family.architecture, bench.dataset.shape, len(bench.dataset.classes), seed)
    return from_model(model, slot_names(family.recipe)).to(bench.device)


def _given(family: Family, bench: Workbench, checkpoint: Path) -> TrainState:
    """The weights of a checkpoint with fresh optimizer state."""
    model = build(family.architecture, bench.dataset.shape, len(bench.dataset.classes), 0)
    model.load_state_dict(load_checkpoint(checkpoint, model))
    return from_model(model, slot_names(family.recipe)).to(bench.device)


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
