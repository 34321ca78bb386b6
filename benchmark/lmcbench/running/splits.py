"""The images a cell is evaluated on, and what networks output on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lmcbench.connect.blending import Stack
from lmcbench.connect.interpolation import Scores, score_states, scores_from_logits
from lmcbench.connect.loaders import Images
from lmcbench.connect.network import Network
from lmcbench.data.selection import select_stratified
from lmcbench.ensemble.predictions import expected_calibration_error, softmax
from lmcbench.ensemble.rescore import Logits
from lmcbench.results.curves import Array, Curve
from lmcbench.results.record import Score
from lmcbench.running.family_data import FamilyData
from lmcbench.spec.cells import Cell
from lmcbench.spec.evaluation_shifts import EVALUATION
from lmcbench.spec.shift_rules import Indices

FP16_MAX = float(np.finfo(np.float16).max)

LEAST = 10
"""Least images of each view in a subset of the training images; all of a smaller view."""

Split = tuple[Images, Tensor]
"""Images and their labels `[n]`."""


@dataclass(frozen=True)
class Splits:
    """The images that the siblings of a cell are evaluated on.

    Attributes:
        items: positions of the train split in the pool: all that siblings see, or a fixed subset.
        train: images and labels of the train split.
        own: rows of the train split in each sibling's view.
        tests: the test set by transform (None: as it is), and shifted test sets.
        named: key of `tests` for the splits of every network: `test` and evaluation shifts.
        views: each sibling's transform, or None; empty for a single network.
    """

    items: Indices
    train: Split
    own: list[Tensor]
    tests: Mapping[str | None, Split]
    named: Mapping[str, str | None]
    views: Sequence[str | None]

    @classmethod
    def of(cls, cell: Cell, data: FamilyData) -> Splits:
        """Return the splits of a cell; images are converted to floats when they are passed."""
        protocol, views = cell.suite.protocol, data.views[cell.key]
        union = views.union
        if protocol.train_eval is not None and protocol.train_eval < len(union):
            union = select_items(union, views.items, data.pool.labels, protocol.train_eval)
        of_siblings = views.items if cell.networks > 1 else [union]
        named = {"test": None} | {f"{EVALUATION}{name}": name for name in cell.suite.evaluations}
        transforms = views.transforms if cell.networks > 1 else []
        return cls(
            items=union,
            train=data.train.split(torch.as_tensor(union)),
            own=[
                torch.as_tensor(np.searchsorted(union, items[np.isin(items, union)])) for items in of_siblings
            ],
            tests={name: data.tests[name].split() for name in {*named.values(), *transforms}},
            named=named,
            views=transforms,
        )

    def of_pair(self, i: int, j: int) -> dict[str, str | None]:
        """Return the test splits of a pair; if views transform images, also the test set through either."""
        if not any(self.views):
            return dict(self.named)
        return {**self.named, "test_a": self.views[i], "test_b": self.views[j]}


def select_items(union: Indices, views: Sequence[Indices], labels: Indices, n: int) -> Indices:
    """Return `n` stratified items of `union`, sorted, and more where a view has fewer than `LEAST` in them.

    Args:
        union: positions in the pool, sorted.
        views: each sibling's positions.
        labels: of the whole pool.
        n: fewer than the union has.
    """
    part: Indices = union[select_stratified(labels[union], n)]
    for view in views:
        rest = np.setdiff1d(view, part)
        lacking = min(LEAST, len(view)) - (len(view) - len(rest))
        if lacking > 0:
            part = np.union1d(part, rest[select_stratified(labels[rest], lacking)])
    return part


@dataclass(frozen=True)
class Outputs:
    """What S states output on the splits.

    Attributes:
        train: scores of every image of the train split.
        tests: logits by transform, `[S, n, classes]`.
        train_logits: `[S, n, classes]`, if they were kept.
    """

    train: Scores
    tests: dict[str | None, Tensor]
    train_logits: Tensor | None = None

    def line(self, i: int, j: int, inner: Sequence[Outputs]) -> Outputs:
        """Return the outputs on a whole line: state i, the `inner` points, state j."""
        return Outputs(
            Scores.join(self.train.of(i), *(part.train for part in inner), self.train.of(j)),
            {
                name: torch.cat([ends[i : i + 1], *(part.tests[name] for part in inner), ends[j : j + 1]])
                for name, ends in self.tests.items()
            },
        )

    def curves(self, splits: Splits, grid: Array, i: int, j: int) -> dict[str, Curve]:
        """Return the curves of a line from sibling i to j by split, without views that equal `train`."""
        found = {"train": self.train.curve(grid)}
        for name, rows in (("train_a", splits.own[i]), ("train_b", splits.own[j])):
            if 0 < len(rows) < len(splits.train[1]):
                found[name] = self.train.curve(grid, rows)
        for name, transform in splits.of_pair(i, j).items():
            if transform in self.tests:
                labels = splits.tests[transform][1]
                found[name] = scores_from_logits(self.tests[transform], labels, name).curve(grid)
        return found

    def scores(self, splits: Splits, i: int) -> dict[str, Score]:
        """Return the scores of sibling i on the train split, its own view of it, and the test splits."""
        assert self.train_logits is not None
        logits, labels = self.train_logits[i], splits.train[1]
        own = splits.own[i].to(labels.device)
        found = {"train": score_logits(logits, labels), "view": score_logits(logits[own], labels[own])}
        for name, transform in splits.named.items():
            if transform in self.tests:
                found[name] = score_logits(self.tests[transform][i], splits.tests[transform][1])
        return found


def pass_siblings(
    network: Network, states: Stack, splits: Splits, tests: Collection[str | None] | None = None
) -> Outputs:
    """Pass a few states through the train split and `tests` (default: all), and keep all logits.

    Raises:
        NotFiniteError: if an output is not finite.
    """
    images, labels = splits.train
    logits = network.logits(states, images)
    return Outputs(
        scores_from_logits(logits, labels, "train"), _test_logits(network, states, splits, tests), logits
    )


def pass_line(
    network: Network,
    states: Stack,
    splits: Splits,
    alphas: Array,
    tests: Collection[str | None] | None = None,
) -> Outputs:
    """Pass the many states of a line, at `alphas`, likewise; logits on the train split are not kept."""
    train = score_states(network, states, *splits.train, "train", alphas)
    return Outputs(train, _test_logits(network, states, splits, tests))


def _test_logits(
    network: Network, states: Stack, splits: Splits, tests: Collection[str | None] | None
) -> dict[str | None, Tensor]:
    return {
        transform: network.logits(states, images)
        for transform, (images, _) in splits.tests.items()
        if tests is None or transform in tests
    }


def score_logits(logits: Tensor, labels: Tensor) -> Score:
    """Return error, loss and calibration error of one network from its logits `[n, classes]`."""
    # half precision would round each loss to 3 digits, unlike a curve's losses (`scores_from_logits`)
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    loss = F.cross_entropy(logits, labels, reduction="none").double().mean()
    wrong = (logits.argmax(-1) != labels).double().mean()
    ece = expected_calibration_error(softmax(logits.cpu().numpy()), labels.cpu().numpy())
    return Score(error=float(wrong), loss=float(loss), ece=ece)


def to_stored(logits: Tensor) -> Logits:
    """Return logits in fp16, as they are stored; rows beyond its range are shifted to a maximum of 0.

    Shifting a row changes no probability. Clamping alone could make two classes equally likely.
    """
    beyond = logits.abs().amax(-1, keepdim=True) > FP16_MAX
    within = torch.where(beyond, logits - logits.amax(-1, keepdim=True), logits)
    stored: Logits = within.clamp(-FP16_MAX, FP16_MAX).half().cpu().numpy()
    return stored
