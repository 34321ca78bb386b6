"""A network of a fleet: what it trains on, from where to where, and how far it is."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError

from lmcbench.data.batches import Stream
from lmcbench.results.run_folder import RunFolder
from lmcbench.train.train_state import TrainState, flatten_state, load_tensors, save_tensors, unflatten_state


@dataclass
class Member:
    """One network of the fleet: the trunk, or a sibling of a cell.

    Attributes:
        name: of its file while it is being trained.
        length: steps that its schedule is stretched over; it trains from `start` to `stop` of them.
        origin: where its first state comes from: the seed of an initialisation, the sha256 of a given
            checkpoint, or the trunk (None).
        losses: mini-batch losses in nats from `start` on.
        at: the step that `state` is at.
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

    def retire(self) -> None:
        """Let go of the optimizer's state: the network is trained to its end."""
        if self.state is not None:
            self.state = replace(self.state, slots={})

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for two members of a family whose trainings are the same to the last bit."""
        return self.start, self.stop, self.length, self.origin, self.layer_seed, self.stream.identity


INTERVAL = 600.0
"""Seconds of training between two storings, at least."""

SHARE = 0.05
"""Of a training's time, that storing may take at most: large fleets are stored less often."""


class Interim:
    """The networks of a family that are not trained to their end, each in a file of its own.

    A network's state at a step is the same bits whoever trains beside it (design 3.11), so that each file
    is taken up by itself, at the step it was stored at.

    Args:
        how: names what changes its bits and is in no key of family or cell: engine, device, data.
        reserve: bytes that the disk must still have free after storing, for what training leaves.
    """

    def __init__(
        self,
        folder: RunFolder,
        family: str,
        how: str,
        reserve: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.family = family
        self.how = how
        self.reserve = reserve
        self.clock = clock
        self.stored: dict[str, int] = {}
        self.took, self.last = 0.0, clock()

    def resume(self, member: Member, until: int) -> None:
        """Put `member` where it was stored, if that is after its start and not after step `until`."""
        try:
            found = load_tensors(self._path(member.name))
        except (OSError, SafetensorError):  # never stored, or torn by what ended the run
            return
        at, losses, seconds = int(found.pop("at")), found.pop("losses").clone(), float(found.pop("seconds"))
        if member.start < at <= until:
            member.state = unflatten_state(found).copy()
            # the trunk was stored at a fork since, and starts from there now
            member.losses, member.at = [losses[-(at - member.start) :]], at
            member.seconds = seconds * (at - member.start) / len(losses)
            self.stored[member.name] = at

    def store(self, members: Iterable[Member]) -> None:
        """Store every network that has gone on since it was stored, if it is time to."""
        began = self.clock()
        if began - self.last < max(INTERVAL, self.took / SHARE):
            return
        for member in members:
            if member.state is None or self.stored.get(member.name, member.start) == member.at:
                continue
            parts = {
                "at": torch.tensor(member.at),
                "losses": torch.cat(member.losses),
                "seconds": torch.tensor(member.seconds, dtype=torch.float64),
            }
            tensors = flatten_state(member.state) | parts
            try:
                if self._free() < self.reserve + sum(t.nbytes for t in tensors.values()):
                    continue
                save_tensors(tensors, self._path(member.name))
            except (OSError, SafetensorError):  # a full disk, say: training needs no interim state to go on
                continue
            self.stored[member.name] = member.at
        self.last = self.clock()
        self.took = self.last - began

    def drop(self, cells: Iterable[str]) -> None:
        """Remove what is kept of networks trained to their end: those of `cells` (keys), however trained."""
        for name in self.stored:
            self._path(name).unlink(missing_ok=True)
        for key in cells:
            others = self.folder.interim(self.family, "*", f"{key}-*")
            for path in others.parent.glob(others.name):
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder.interim(self.family, self.how, name)

    def _free(self) -> int:
        return shutil.disk_usage(self.folder.root).free
