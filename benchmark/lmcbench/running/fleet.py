"""Networks that advance together: by one engine, as many at once as the device's memory holds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from lmcbench.data.batches import Feed
from lmcbench.running.bench import Workbench
from lmcbench.running.member import Member
from lmcbench.spec.engine import EngineName
from lmcbench.spec.recipe import Recipe
from lmcbench.train.engines import advance
from lmcbench.train.memory import device_budget, fleet_limit


class Fleet:
    """Advances members of a family, and learns on its way how many fit into one pass.

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

    def train(self, members: Sequence[Member], start: int, stop: int, piece: int) -> Iterator[int]:
        """Train `members` from step `start` to `stop`, yielding what was done after each `piece` of steps.

        Yields:
            Steps of all members together.
        """
        feed = Feed(self.bench.train, [m.stream for m in members], self.recipe.augmentation)
        for first in range(start, stop, piece):
            last = min(first + piece, stop)
            began = time.perf_counter()
            self._advance(members, feed, first, last)
            share = (time.perf_counter() - began) / len(members)
            for member in members:
                member.seconds += share
            yield (last - first) * len(members)

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
