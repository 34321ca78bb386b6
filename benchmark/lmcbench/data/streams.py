"""Streams: which items a network sees at which step, as a function of the step alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lmcbench.errors import UserError
from lmcbench.spec.seeds import random_words
from lmcbench.spec.shift_rules import Indices
from lmcbench.spec.shifts import Noise


@dataclass
class Stream:
    """The endless sequence of full batches of one network; step t is the same whoever asks first.

    A pass orders the view by random words, one a key. Own noise keys by data set index, so a subset is
    passed in the full set's order with holes; shared noise keys by position in the view (design 3.7).
    Batches are full and the tail of a pass is dropped (design 3.5).

    Attributes:
        items: positions in the pool, `[m]`.
        keys: what order and augmentation are keyed by, `[m]`.
    """

    items: Indices
    keys: Indices
    order_seed: int
    augment_seed: int
    batch_size: int
    _order: tuple[int, Indices] = field(default=(-1, np.empty(0, np.int64)), init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.items) < self.batch_size:
            raise UserError(f"A view of {len(self.items)} images holds no full batch of {self.batch_size}.")

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for two streams of one pool that give the same batches."""
        seen = self.items.tobytes(), self.keys.tobytes()
        return *seen, self.order_seed, self.augment_seed, self.batch_size

    @property
    def steps_per_pass(self) -> int:
        """Full batches in one pass over the view."""
        return len(self.items) // self.batch_size

    def rows(self, step: int) -> tuple[int, Indices]:
        """Pass number and rows of the view in batch `step`, `[B]`."""
        passed, position = divmod(step, self.steps_per_pass)
        start = position * self.batch_size
        return passed, self._pass_order(passed)[start : start + self.batch_size]

    def _pass_order(self, passed: int) -> Indices:
        if self._order[0] != passed:
            words = random_words(self.order_seed, passed, int(self.keys.max()) + 1)
            self._order = (passed, np.argsort(words[self.keys], kind="stable"))
        return self._order[1]


def stream(
    items: Indices,
    source: Indices,
    noise: Noise,
    order_seed: int,
    augment_seed: int,
    batch_size: int,
    nested: bool = False,
) -> Stream:
    """The stream of a view: `items` in the pool, whose data set indices are `source[items]`.

    Views that are `nested` in one another share noise by data set index, which is the same order with
    holes; others share it by position.
    """
    by_position = noise == "shared" and not nested
    keys = np.arange(len(items)) if by_position else source[items]
    return Stream(items, keys, order_seed, augment_seed, batch_size)
