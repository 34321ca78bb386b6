"""What is read off a network's logits, and how they are kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lmcbench.connect.blending import Stack
from lmcbench.connect.interpolation import Scores, score_states, scores_from_logits
from lmcbench.connect.network import Images, Network
from lmcbench.data.selection import select_stratified
from lmcbench.ensemble.predictions import expected_calibration_error, softmax
from lmcbench.ensemble.rescore import Logits
from lmcbench.results.curves import Array, Curve
from lmcbench.results.record import Score
from lmcbench.running.family_data import Seen, Workbench
from lmcbench.spec.cells import Cell
from lmcbench.spec.evaluation_shifts import EVALUATION
from lmcbench.spec.shift_rules import Indices

FP16_MAX = float(np.finfo(np.float16).max)


def score_logits(logits: Tensor, labels: Tensor) -> Score:
    """Error, loss and calibration of one network from its logits `[n, classes]`."""
    # half precision would round each loss to 3 digits, where a curve's (`scores_from_logits`) are not
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    loss = F.cross_entropy(logits, labels, reduction="none").double().mean()
    wrong = (logits.argmax(-1) != labels).double().mean()
    ece = expected_calibration_error(softmax(logits.cpu().numpy()), labels.cpu().numpy())
    return Score(error=float(wrong), loss=float(loss), ece=ece)


def stored_logits(logits: Tensor) -> Logits:
    """Logits as they are kept: fp16; an image's that go beyond its range are counted from the largest.

    That changes no probability, where cut off at the range's end two classes would be equally likely.
    """
    beyond = logits.abs().amax(-1, keepdim=True) > FP16_MAX
    within = torch.where(beyond, logits - logits.amax(-1, keepdim=True), logits)
    kept: Logits = within.clamp(-FP16_MAX, FP16_MAX).half().cpu().numpy()
    return kept


LEAST = 10
"""Images of each view among a pinned part of the training images; all of a view that has fewer."""

Split = tuple[Images, Tensor]
"""Images and their labels `[n]`."""


@dataclass(frozen=True)
class Splits:
    """What the siblings of a cell are measured on (design 3.2).

    Attributes:
        items: positions in the pool of the train split: everything that siblings see, or a pinned part.
        train: those images and labels.
        own: each network's rows among them.
        tests: the test set through every transform that is asked for, as it is (None), and shifted ones.
        named: the splits that every network is measured on: `test`, evaluation shifts -> key of `tests`.
        views: what each sibling's images pass through, None where nothing does.
    """

    items: Indices
    train: Split
    own: list[Tensor]
    tests: Mapping[str | None, Split]
    named: Mapping[str, str | None]
    views: Sequence[str | None]

    def of_pair(self, i: int, j: int) -> dict[str, str | None]:
        """The test splits of a pair: for shifts that transform images, also through either's view."""
        if not any(self.views):
            return dict(self.named)
        return {**self.named, "test_a": self.views[i], "test_b": self.views[j]}


def open_splits(cell: Cell, bench: Workbench, seen: Seen) -> Splits:
    """The splits of a cell; images become floating when they are passed."""
    protocol = cell.suite.protocol
    union = np.unique(np.concatenate(seen.items))
    if protocol.train_eval is not None and protocol.train_eval < len(union):
        union = pinned_part(union, seen.items, bench.pool.labels, protocol.train_eval)
    shown = seen.items if cell.networks > 1 else [union]
    named = {"test": None} | {f"{EVALUATION}{name}": name for name in cell.suite.evaluations}
    views = seen.transforms if cell.networks > 1 else []
    return Splits(
        items=union,
        train=bench.train.split(torch.as_tensor(union)),
        own=[torch.as_tensor(np.searchsorted(union, items[np.isin(items, union)])) for items in shown],
        tests={transform: bench.tests[transform].split() for transform in {*named.values(), *views}},
        named=named,
        views=views,
    )


def pinned_part(union: Indices, views: Sequence[Indices], labels: Indices, n: int) -> Indices:
    """`n` of `union`, stratified, and more where a small view would hardly be among them, sorted.

    Args:
        union: positions in the pool, sorted.
        views: each sibling's, parts of the union.
        labels: of the whole pool.
        n: less than there are.
    """
    part: Indices = union[select_stratified(labels[union], n)]
    for view in views:
        rest = np.setdiff1d(view, part)
        lacking = min(LEAST, len(view)) - (len(view) - len(rest))
        if lacking > 0:
            part = np.union1d(part, rest[select_stratified(labels[rest], lacking)])
    return part


@dataclass(frozen=True)
class Passed:
    """What S states make of the splits.

    Attributes:
        train: of every image of the train split.
        tests: logits by transform, `[S, n, classes]`.
        train_logits: `[S, n, classes]`, where they were kept.
    """

    train: Scores
    tests: dict[str | None, Tensor]
    train_logits: Tensor | None = None

    def between(self, i: int, j: int, path: Sequence[Passed]) -> Passed:
        """The whole line: state i, the points of `path` one stretch after another, state j."""
        return Passed(
            Scores.join(self.train.of(i), *(part.train for part in path), self.train.of(j)),
            {
                t: torch.cat([ends[i : i + 1], *(part.tests[t] for part in path), ends[j : j + 1]])
                for t, ends in self.tests.items()
            },
        )

    def curves(self, splits: Splits, grid: Array, i: int, j: int) -> dict[str, Curve]:
        """Of the states of a line from i to j, on every split; a view is left out where it is the whole."""
        found = {"train": self.train.curve(grid)}
        for name, rows in (("train_a", splits.own[i]), ("train_b", splits.own[j])):
            if 0 < len(rows) < len(splits.train[1]):
                found[name] = self.train.curve(grid, rows)
        for name, transform in splits.of_pair(i, j).items():
            if transform in self.tests:
                labels = splits.tests[transform][1]
                found[name] = scores_from_logits(self.tests[transform], labels, name).curve(grid)
        return found


def pass_members(
    network: Network, states: Stack, splits: Splits, tests: Collection[str | None] | None = None
) -> Passed:
    """Pass a few `states` through the train split and the tests (those named, or all), keeping all logits.

    Raises:
        UserError: where an output is not finite.
    """
    images, labels = splits.train
    logits = network.logits(states, images)
    return Passed(
        scores_from_logits(logits, labels, "train"), _test_logits(network, states, splits, tests), logits
    )


def pass_path(
    network: Network,
    states: Stack,
    splits: Splits,
    alphas: Array,
    tests: Collection[str | None] | None = None,
) -> Passed:
    """The same for the many states of a path, at `alphas`, whose logits on the train split are not kept."""
    train = score_states(network, states, *splits.train, "train", alphas)
    return Passed(train, _test_logits(network, states, splits, tests))


def _test_logits(
    network: Network, states: Stack, splits: Splits, tests: Collection[str | None] | None
) -> dict[str | None, Tensor]:
    return {
        transform: network.logits(states, images)
        for transform, (images, _) in splits.tests.items()
        if tests is None or transform in tests
    }
