"""Networks that advance by one engine: stacked, as many at once as the device's memory holds, or in turn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch

from lmcbench.data.batches import Feed
from lmcbench.running.bench import Workbench
from lmcbench.running.member import Member
from lmcbench.spec.engine import EngineName
from lmcbench.spec.recipe import Recipe
from lmcbench.train.engines import advance
from lmcbench.train.memory import device_budget, fleet_limit

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
