"""`lmcbench tune`: choose one network's recipe from a suite's sweep (docs/design.md, section 9.4)."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lmcbench.data.dataset import Dataset
from lmcbench.data.selection import open_suite_data
from lmcbench.errors import UserError, counted
from lmcbench.machine import choose_device, device_name, usable_cores
from lmcbench.results.atomic_files import remove_orphans, write_atomic
from lmcbench.results.provenance import versions
from lmcbench.results.tuning import (
    TUNING,
    TUNING_SCHEMA,
    Setting,
    Training,
    Tuning,
    TuningArchitecture,
    TuningCost,
    TuningData,
    TuningSuite,
    choose,
    read_tuning,
)
from lmcbench.running.tune_training import (
    StoredTraining,
    Trained,
    TuningEvent,
    TuningTask,
    data_suite,
    group_members,
    held_out_split,
    train_settings,
    training_file,
    training_key,
)
from lmcbench.spec.architectures import Architecture
from lmcbench.spec.cells import Selection, expand
from lmcbench.spec.recipe import EngineName, Recipe
from lmcbench.spec.suite import Suite
from lmcbench.spec.sweep import TUNED, TUNING_REPLICATES
from lmcbench.untrusted import parse_json, read_bytes

Member = tuple[int, int]
"""Setting (index into the sweep's settings) and replicate."""


@dataclass
class TuningRun:
    """The work of `tune` for one network: what is finished and what is to do.

    Attributes:
        whole: a task with all trainings; its `members` are in the order of settings and replicates.
        previous: the folder's tuning file, if there is one; its trainings are not repeated.
        finished: the other finished trainings, by setting and replicate; their cost is not in `previous`.
        failed: trainings that ended with an error, by setting and replicate.
    """

    whole: TuningTask
    dataset: Dataset
    previous: Tuning | None
    finished: dict[Member, StoredTraining]
    failed: dict[Member, Training]

    @property
    def suite(self) -> Suite:
        """The suite."""
        return self.whole.suite

    @property
    def settings(self) -> list[Recipe]:
        """The settings of the sweep."""
        return self.whole.settings

    @property
    def file(self) -> Path:
        """The tuning file."""
        return self.whole.folder / TUNING

    @property
    def trainings(self) -> dict[Member, Training]:
        """Every finished training."""
        before = {
            (i, one.replicate): one
            for i, setting in enumerate(self.previous.settings if self.previous is not None else ())
            for one in setting.trainings
            if one.status != "failed"
        }
        return before | {member: stored.training for member, stored in self.finished.items()}

    @property
    def remaining(self) -> list[Member]:
        """The trainings without a result, in file order."""
        found = self.trainings
        return [member for member in self.whole.members if member not in found]

    def run(self, jobs: int | None) -> Iterator[TuningEvent]:
        """Do the remaining trainings and yield events; a result is on disk before its event.

        Args:
            jobs: worker processes; None: one per core, and one on CUDA.

        Raises:
            UserError: for bad input; with exit code 5 if a worker died or a file cannot be written.
        """
        groups = group_members(self.settings, self.remaining, self.whole.engine)
        if not groups:
            return
        self.whole.folder.mkdir(parents=True, exist_ok=True)
        remove_orphans(self.whole.folder)
        if jobs is None:
            jobs = 1 if choose_device(self.whole.device).type == "cuda" else usable_cores()
        jobs = min(jobs, len(groups))
        tasks = [replace(self.whole, members=group, jobs=jobs) for group in groups]
        if jobs > 1:
            from lmcbench.running.workers import run_in_processes

            events: Iterator[TuningEvent] = run_in_processes(tasks, jobs)
        else:
            events = (event for task in tasks for event in train_settings(task, self.dataset))
        for event in events:
            if isinstance(event, Trained):
                member = event.setting, event.training.replicate
                if event.stored is not None:
                    self.finished[member] = event.stored
                else:
                    self.failed[member] = event.training
            yield event

    def conclude(self) -> Tuning:
        """Write the tuning file, unless it is up to date, and return it."""
        found = self.failed | self.trainings
        settings = [
            Setting(recipe=recipe, trainings=[found[i, r] for r in TUNING_REPLICATES])
            for i, recipe in enumerate(self.settings)
        ]
        trained_on, held_out = held_out_split(self.suite, self.dataset, TUNING_REPLICATES[0])
        train, network = self.dataset.identity()[0], self.whole.architecture
        tuning = Tuning(
            schema=TUNING_SCHEMA,
            suite=TuningSuite(**self.suite.identity(), tuning_digest=self.suite.tuning_digest),
            architecture=TuningArchitecture(label=network.label, **network.identity()),
            data=TuningData(
                name=self.suite.data.name,
                sha256=train["sha256"],
                trained_on=len(trained_on),
                held_out=len(held_out),
            ),
            settings=settings,
            choice=choose(settings),
            cost=self._cost(),
        )
        text = tuning.to_json()
        if self.previous is None or text != self.previous.to_json():
            write_atomic(self.file, text)
        if not self.failed:
            shutil.rmtree(self.whole.folder / "trainings", ignore_errors=True)
        return tuning

    def _cost(self) -> TuningCost:
        """Return the cost of all trainings, those of the previous file included."""
        before, new = (None if self.previous is None else self.previous.cost), self.finished.values()
        if before is not None and not new:
            return before
        return TuningCost(
            engine=self.whole.engine,
            device=device_name(choose_device(self.whole.device)),
            train_flop=(before.train_flop if before else 0.0) + sum(one.train_flop for one in new),
            train_s=(before.train_s if before else 0.0) + sum(one.train_s for one in new),
            versions=versions(),
        )


def plan_tuning(
    suite: Suite,
    arch: str,
    folder: Path | None,
    *,
    data_dir: Path | None,
    device: str = "auto",
    engine: EngineName | None = None,
) -> TuningRun:
    """Check the request and find what is finished; nothing is written.

    Args:
        suite: the suite, which must have a sweep.
        arch: one of its architectures, or any other one, as in `run`.
        folder: the results' folder; None: runs/SUITE-tuning/ARCH.
        data_dir: the user's data folder, if any.
        device: `auto`, `cpu` or `cuda`.
        engine: None: by `choose_engine`.

    Raises:
        UserError: if the suite has no sweep, `arch` is not one network, or the folder belongs to another
            network or sweep.
    """
    if suite.sweep is None:
        raise UserError(
            f"Suite {suite.name} has no [sweep], so no recipe can be tuned on it. Run it with one of its "
            f"recipes: {', '.join(suite.recipes)}."
        )
    architecture = _one_network(suite, arch)
    folder = folder if folder is not None else default_folder(suite, architecture)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file. Choose a folder with --out.")
    dataset = open_suite_data(data_suite(suite), data_dir)
    _check_batches(suite, dataset, suite.sweep.batch_size)
    data = tuple(part["sha256"] for part in dataset.identity())
    previous = _previous(suite, architecture, folder, data[0])
    if previous is not None and engine in (None, previous.cost.engine):
        chosen = previous.cost.engine
    else:
        chosen = _engine(architecture, dataset, choose_device(device).type, engine, suite.sweep.batch_size)
        if previous is not None and chosen != previous.cost.engine:
            raise UserError(
                f"{folder} was tuned with engine {previous.cost.engine}, not {chosen}; results of engines "
                "differ. Choose another folder with --out."
            )
    members = tuple((i, r) for i in range(len(suite.sweep.settings)) for r in TUNING_REPLICATES)
    whole = TuningTask(suite, architecture, folder, members, chosen, device, data_dir, data)
    run = TuningRun(whole, dataset, previous, {}, {})
    known = run.trainings  # their cost is in the previous file
    run.finished = {member: found for member, found in _stored(whole) if member not in known}
    return run


def default_folder(suite: Suite, architecture: Architecture) -> Path:
    """Return runs/SUITE-tuning/ARCH; characters of the label that paths should not have become `_`."""
    name = re.sub(r"[^\w.+=,()\[\]-]", "_", architecture.label)[:150]
    return Path("runs") / f"{suite.name}-tuning" / name


def _one_network(suite: Suite, arch: str) -> Architecture:
    """Return the network that `arch` names, with the recipe's name TUNED."""
    assert suite.sweep is not None
    stand_in = suite.with_tuned(suite.sweep.settings[0])
    cells = expand(stand_in, Selection([arch], [suite.shifts[0].name], replicates=range(1), recipe=TUNED))
    found = {cell.architecture.label: cell.architecture for cell in cells}
    if len(found) > 1:
        raise UserError(
            f"--arch {arch!r} matches {', '.join(found)}. A recipe is tuned for one: name it in full."
        )
    [architecture] = found.values()
    return architecture


def _check_batches(suite: Suite, dataset: Dataset, batch_size: int) -> None:
    trained_on, held_out = held_out_split(suite, dataset, TUNING_REPLICATES[0])
    if len(trained_on) < batch_size or not len(held_out):
        raise UserError(
            f"Suite {suite.name}: four fifths of the training set are {counted(len(trained_on), 'image')}, "
            f"fewer than one batch of the sweep ({batch_size}). Choose a smaller batch or more images."
        )


def _engine(
    architecture: Architecture, dataset: Dataset, device: str, asked: EngineName | None, batch_size: int
) -> EngineName:
    from lmcbench.train.build import build
    from lmcbench.train.choice import choose_engine

    model = build(architecture, dataset.shape, len(dataset.classes), 0)
    return choose_engine(architecture, model, dataset.shape, device, asked, batch_size=batch_size)


def _previous(suite: Suite, architecture: Architecture, folder: Path, data: str) -> Tuning | None:
    """Return the folder's tuning file.

    A file of the same sweep under another suite digest counts: recipes, shifts or forks of the suite were
    changed, which its results do not depend on.

    Raises:
        UserError: if it is of another network, sweep or data.
    """
    path = folder / TUNING
    if not path.exists():
        return None
    found = read_tuning(path)
    found.check_architecture(architecture.identity(), architecture.label, str(path))
    listed = suite.sweep.settings if suite.sweep is not None else []
    is_same = found.suite.tuning_digest == suite.tuning_digest and found.data.sha256 == data
    if not is_same or [setting.recipe for setting in found.settings] != listed:
        raise UserError(
            f"{path} is of another sweep, version or data set than those of suite {suite.name} version "
            f"{suite.version}. Choose another folder with --out, or remove the file."
        )
    return found


def _stored(whole: TuningTask) -> Iterator[tuple[Member, StoredTraining]]:
    """Yield the trainings that an interrupted run finished; files that cannot be read are repeated."""
    for setting, replicate in whole.members:
        file = training_file(whole.folder, training_key(whole, setting, replicate))
        if file.exists():
            try:
                found = StoredTraining.model_validate(parse_json(read_bytes(file), str(file)))
            except ValueError:
                continue
            if found.training.replicate == replicate:
                yield (setting, replicate), found
