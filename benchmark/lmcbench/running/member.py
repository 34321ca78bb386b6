"""A network of a fleet: what it trains on, from where to where, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from lmcbench.data.streams import Stream
from lmcbench.train.state import TrainState


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
