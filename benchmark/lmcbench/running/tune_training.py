"""Train some settings of a suite's sweep on part of the training set and score them on the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from lmcbench.connect.network import Network
from lmcbench.data.batches import DeviceImages, Feed, make_stream
from lmcbench.data.dataset import Dataset
from lmcbench.data.selection import open_suite_data, split_held_out
from lmcbench.errors import UserError, describe
from lmcbench.machine import choose_device, compute_exactly
from lmcbench.results.atomic_files import WriteError, write_atomic
from lmcbench.results.tuning import Table, Training, canonical_lines
from lmcbench.running.outcome import judge_training
from lmcbench.running.train_family import CHUNK_S
from lmcbench.spec.architectures import Architecture
from lmcbench.spec.canonical import digest
from lmcbench.spec.learning import label_entropy
from lmcbench.spec.recipe import EngineName, Recipe
from lmcbench.spec.seeds import Seeds
from lmcbench.spec.shift_rules import Indices
from lmcbench.spec.suite import Suite
from lmcbench.spec.sweep import HELD_OUT
from lmcbench.train.build import build
from lmcbench.train.cost import device_budget, fleet_memory, resident_bytes, step_flop
from lmcbench.train.engines import advance
from lmcbench.train.optimizer import slot_names
from lmcbench.train.train_state import TrainState, initial_state, state_dict


class StoredTraining(Table):
    """A finished training with its cost; kept until the sweep's results are complete."""

    schema_: Literal["lmcbench/tuning-training/1"] = Field(
        default="lmcbench/tuning-training/1", alias="schema"
    )
    training: Training
    train_flop: float
    train_s: float


@dataclass(frozen=True)
class TuningTask:
    """Trainings that are advanced together.

    Attributes:
        members: setting (index into the sweep's settings) and replicate of each training.
        device: `auto`, `cpu` or `cuda`.
        data: sha256 of the splits as in `Dataset.identity`.
        jobs: number of processes that share the device.
    """

    suite: Suite
    architecture: Architecture
    folder: Path
    members: tuple[tuple[int, int], ...]
    engine: EngineName
    device: str
    data_dir: Path | None
    data: tuple[str, ...]
    jobs: int = 1

    @property
    def settings(self) -> list[Recipe]:
        """All settings of the sweep."""
        assert self.suite.sweep is not None
        return self.suite.sweep.settings


@dataclass(frozen=True)
class Trained:
    """A training is finished; `stored` is None if it failed with an error and is repeated next time."""

    setting: int
    training: Training
    stored: StoredTraining | None


@dataclass(frozen=True)
class TuningProgress:
    """Work done since the last event, in trainings."""

    trainings: float


TuningEvent = Trained | TuningProgress


def data_suite(suite: Suite) -> Suite:
    """Return the suite without evaluation shifts, whose data tuning does not need."""
    data = suite.data.model_copy(update={"shifted_sha256": {}})
    return suite.model_copy(update={"evaluations": [], "data": data})


def reopen_tuning_data(task: TuningTask) -> Dataset:
    """Open the data set in a worker process; raises `UserError` if it was changed since tuning began."""
    dataset = open_suite_data(data_suite(task.suite), task.data_dir)
    if tuple(part["sha256"] for part in dataset.identity()) != task.data:
        raise UserError(f"Data set {task.suite.data.name} was changed since tuning began. Run again.")
    return dataset


def replicate_seeds(suite: Suite, replicate: int) -> Seeds:
    """Return the seeds of an independent network of a replicate, at index 1 of each role."""
    return Seeds.of(suite.name, suite.version, replicate, 1)


def held_out_split(suite: Suite, dataset: Dataset, replicate: int) -> tuple[Indices, Indices]:
    """Return the training images of a replicate that are trained on, and those held out."""
    return split_held_out(dataset.train.labels, HELD_OUT, replicate_seeds(suite, replicate).shift)


def training_key(task: TuningTask, setting: int, replicate: int) -> str:
    """Return 16 hex digits that depend on everything that changes a training's bits."""
    content = {
        "tuning": task.suite.tuning_digest,
        "architecture": task.architecture.identity(),
        "recipe": task.settings[setting].model_dump(mode="json", exclude_defaults=True),
        "replicate": replicate,
        "data": task.data[0],
        "engine": task.engine,
        "device": choose_device(task.device).type,
    }
    return digest(content)[:16]


def training_file(folder: Path, key: str) -> Path:
    """Return the file of a finished training."""
    return folder / "trainings" / f"{key}.json"


def train_settings(task: TuningTask, dataset: Dataset) -> Iterator[TuningEvent]:
    """Train the members of a task, which differ in learning rate and replicate; store and yield each.

    Raises:
        UserError: for bad input, or a file that cannot be written.
    """
    device = choose_device(task.device)
    if device.type == "cpu":
        torch.set_num_threads(1)  # sums have one order on every machine
    compute_exactly(device)
    done = 0.0
    stored: set[tuple[int, int]] = set()
    try:
        for event in _train(task, dataset, device):
            if isinstance(event, TuningProgress):
                done += event.trainings
            else:
                assert event.stored is not None
                key = training_key(task, event.setting, event.training.replicate)
                text = canonical_lines(event.stored.model_dump(by_alias=True, mode="json"))
                write_atomic(training_file(task.folder, key), text)
                stored.add((event.setting, event.training.replicate))
            yield event
    except (UserError, WriteError):
        raise
    except Exception as error:
        for setting, replicate in (member for member in task.members if member not in stored):
            entropy = label_entropy(dataset.train.labels[held_out_split(task.suite, dataset, replicate)[0]])
            training = Training(
                replicate=replicate,
                status="failed",
                reason=f"training failed: {describe(error)}"[:2000],
                label_entropy=entropy,
            )
            yield Trained(setting, training, None)
        yield TuningProgress(len(task.members) - done)


def _train(task: TuningTask, dataset: Dataset, device: torch.device) -> Iterator[TuningEvent]:
    recipe = task.settings[task.members[0][0]]
    rates = [task.settings[setting].lr for setting, _ in task.members]
    seeds = [replicate_seeds(task.suite, replicate) for _, replicate in task.members]
    splits = {r: held_out_split(task.suite, dataset, r) for _, r in task.members}
    images = DeviceImages(dataset.train.images, dataset.train.labels, dataset.statistics, device)
    everything = np.arange(len(dataset.train))
    streams = [
        make_stream(splits[r][0], everything, "own", s.order[1], s.augment[1], recipe.batch_size)
        for (_, r), s in zip(task.members, seeds, strict=True)
    ]
    models = {
        s.init[1]: build(task.architecture, dataset.shape, len(dataset.classes), s.init[1]) for s in seeds
    }
    compute_exactly(device)  # again: building the network runs a user's code, which may set other flags
    states = [initial_state(models[s.init[1]], slot_names(recipe)).to(device) for s in seeds]
    model = models[seeds[0].init[1]].to(device)
    # before training, which may leave state on the network: it is copied for the evaluation
    network = Network(model, device)
    flop = step_flop(model, dataset.shape, recipe.batch_size)
    feed = Feed(images, streams, recipe.augmentation)
    limit = _fitting(task, device, model, states, images, feed)
    count, trained_on = len(states), len(streams[0].items)
    length, per_epoch = recipe.length(trained_on), recipe.steps_per_epoch(trained_on)
    lengths, layer_seeds = [length] * count, [s.layer[1] for s in seeds]
    losses: list[torch.Tensor] = []
    at, steps, seconds = 0, 1, 0.0
    while at < length:  # the size of a chunk does not affect the result
        last = min(at + steps, length)
        began = time.perf_counter()
        now = advance(task.engine, model, states, feed, recipe, lengths, layer_seeds, at, last, limit, rates)
        took = time.perf_counter() - began
        states, limit = now.states, now.limit
        losses.append(now.losses)
        yield TuningProgress(count * (last - at) / length)
        steps, seconds, at = max(int(CHUNK_S * (last - at) / took), 1), seconds + took, last
    every = torch.cat(losses, dim=1)
    for i, (setting, replicate) in enumerate(task.members):
        training = _score(network, states[i], every[i], per_epoch, images, splits[replicate], replicate)
        stored = StoredTraining(
            training=training,
            train_flop=float(flop * length),
            train_s=seconds / count,
        )
        yield Trained(setting, training, stored)


def _fitting(
    task: TuningTask,
    device: torch.device,
    model: torch.nn.Module,
    states: Sequence[TrainState],
    images: DeviceImages,
    feed: Feed,
) -> int | None:
    """Return the largest number of `states` in one pass; None for all."""
    if device.type != "cuda" or task.engine != "stacked":
        return None
    budget = device_budget(device, resident_bytes(model, [images]), 1 / task.jobs)
    recipe = task.settings[task.members[0][0]]
    return fleet_memory(model, states[0], feed, recipe).limit(budget, len(states))


def _score(
    network: Network,
    state: TrainState,
    losses: torch.Tensor,
    per_epoch: int,
    images: DeviceImages,
    split: tuple[Indices, Indices],
    replicate: int,
) -> Training:
    """Return the outcome of a training, with its accuracy on the held-out images in eval mode.

    `network` is a copy that was not trained, `losses` `[steps]` are of mini-batches, and `split` has the
    positions trained on and those held out.
    """
    trained_on, held_out = split
    entropy = label_entropy(images.labels.cpu().numpy()[trained_on])
    found = judge_training(losses, per_epoch, entropy, state.finite)
    accuracy: float | None = None
    if found.status != "diverged":
        shown, labels = images.split(torch.as_tensor(held_out))
        logits = network.logits(network.prepare([state_dict(network.model, state)]), shown)[0]
        accuracy = int((logits.argmax(-1) == labels).sum()) / len(labels)
        outputs = bool(torch.isfinite(logits).all())
        found = judge_training(losses, per_epoch, entropy, state.finite, outputs=outputs)
    ended = found.status != "diverged"
    return Training(
        replicate=replicate,
        status=found.status,
        reason=found.reason,
        accuracy=accuracy if ended else None,
        train_loss=found.train_loss if ended else None,
        label_entropy=entropy,
    )


def group_members(
    settings: Sequence[Recipe], remaining: Sequence[tuple[int, int]], engine: EngineName
) -> list[tuple[tuple[int, int], ...]]:
    """Return the trainings that are advanced together, in file order.

    The stacked engine takes all settings and replicates that differ in the learning rate only; the reference
    engine one training.
    """
    if engine != "stacked":
        return [(member,) for member in remaining]
    groups: dict[Recipe, list[tuple[int, int]]] = {}
    for setting, replicate in remaining:
        groups.setdefault(settings[setting].model_copy(update={"lr": 1.0}), []).append((setting, replicate))
    return [tuple(group) for group in groups.values()]
