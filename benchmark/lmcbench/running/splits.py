"""The images a cell is evaluated on, and what networks output on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lmcbench.connect.blending import Stack
from lmcbench.connect.interpolation import Scores, scores_from_logits
from lmcbench.connect.network import Network
from lmcbench.data.batches import NormalisedImages
from lmcbench.data.dataset import Statistics
from lmcbench.data.selection import select_stratified
from lmcbench.ensemble.predictions import expected_calibration_error, softmax
from lmcbench.ensemble.rescore import Logits
from lmcbench.results.curves import Array, Curve, NotFiniteError, blend
from lmcbench.results.record import Score
from lmcbench.running.family_data import FamilyData
from lmcbench.spec.cells import Cell
from lmcbench.spec.evaluation_shifts import EVALUATION
from lmcbench.spec.shift_rules import Indices

FP16_MAX = float(np.finfo(np.float16).max)

LEAST = 10
"""Least images of each view in a subset of the training images; all of a smaller view."""

Split = tuple[NormalisedImages, Tensor]
"""Images and their labels `[n]`."""


@dataclass(frozen=True)
class TestSet:
    """A test set as a network sees it.

    Attributes:
        name: a transform or a shifted test set; None: the plain test set.
        sibling: number of the sibling by whose channel statistics it is standardised at every point of a
            line; None: by those of the point.
    """

    name: str | None = None
    sibling: int | None = None

    __test__ = False  # for pytest, which collects classes by their names


@dataclass(frozen=True)
class Splits:
    """The images that the siblings of a cell are evaluated on.

    Attributes:
        items: positions of the train split in the pool: all that siblings see, or a fixed subset.
        train: images and labels of the train split.
        own: rows of the train split in each sibling's view.
        tests: the test sets, plain, transformed and shifted.
        named: key of `tests` for the splits of every network: `test` and evaluation shifts.
        views: the test set through each sibling's view; empty for a single network.
        statistics: channel statistics by which each network's images are standardised; None: the same for
            all.
    """

    items: Indices
    train: Split
    own: list[Tensor]
    tests: Mapping[TestSet, Split]
    named: Mapping[str, TestSet]
    views: Sequence[TestSet]
    statistics: Sequence[Statistics] | None = None

    @classmethod
    def of(cls, cell: Cell, data: FamilyData) -> Splits:
        """Return the splits of a cell; images are converted to floats when they are passed."""
        protocol, views = cell.suite.protocol, data.views[cell.key]
        union = views.union
        if protocol.train_eval is not None and protocol.train_eval < len(union):
            union = select_items(union, views.items, data.pool.labels, protocol.train_eval)
        of_siblings = views.items if cell.networks > 1 else [union]
        statistics = views.statistics_of(cell.networks)
        named = {"test": TestSet()} | {
            f"{EVALUATION}{name}": TestSet(name) for name in cell.suite.evaluations
        }
        transforms = views.transforms if cell.networks > 1 else []
        through = [TestSet(t, None if statistics is None else i) for i, t in enumerate(transforms)]

        def test(which: TestSet) -> Split:
            images, labels = data.tests[which.name].split()
            if which.sibling is None or statistics is None:
                return images, labels
            return images.standardised(statistics[which.sibling]), labels

        return cls(
            items=union,
            train=data.train.split(torch.as_tensor(union)),
            own=[
                torch.as_tensor(np.searchsorted(union, items[np.isin(items, union)])) for items in of_siblings
            ],
            tests={which: test(which) for which in dict.fromkeys([*named.values(), *through])},
            named=named,
            views=through,
            statistics=statistics,
        )

    def of_pair(self, i: int, j: int) -> dict[str, TestSet]:
        """Return the test splits of a pair; if views change images, also the test set through either."""
        if all(view == TestSet() for view in self.views):
            return dict(self.named)
        return {**self.named, "test_a": self.views[i], "test_b": self.views[j]}

    def standardised(self, statistics: Statistics) -> Splits:
        """Return the splits with images standardised by these channel statistics, but for fixed test sets."""
        images, labels = self.train
        tests = {
            which: split if which.sibling is not None else (split[0].standardised(statistics), split[1])
            for which, split in self.tests.items()
        }
        return replace(self, train=(images.standardised(statistics), labels), tests=tests, statistics=None)


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
        tests: logits by test set, `[S, n, classes]`.
        train_logits: `[S, n, classes]`, if they were kept.
    """

    train: Scores
    tests: dict[TestSet, Tensor]
    train_logits: Tensor | None = None

    @staticmethod
    def join(parts: Sequence[Outputs]) -> Outputs:
        """Concatenate the states of several outputs."""
        kept = [part.train_logits for part in parts if part.train_logits is not None]
        return Outputs(
            Scores.join(*(part.train for part in parts)),
            {name: torch.cat([part.tests[name] for part in parts]) for name in parts[0].tests},
            torch.cat(kept) if kept else None,
        )

    def of(self, i: int) -> Outputs:
        """Return the outputs of one state."""
        kept = None if self.train_logits is None else self.train_logits[i : i + 1]
        return Outputs(self.train.of(i), {name: found[i : i + 1] for name, found in self.tests.items()}, kept)

    def line(self, i: int, j: int, inner: Sequence[Outputs]) -> Outputs:
        """Return the outputs on a whole line: state i, the `inner` points, state j."""
        names = inner[0].tests if inner else self.tests
        ends = (replace(self.of(k), train_logits=None) for k in (i, j))
        first, last = (replace(end, tests={name: end.tests[name] for name in names}) for end in ends)
        return Outputs.join([first, *inner, last])

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


def pass_states(
    network: Network,
    states: Stack,
    splits: Splits,
    *,
    statistics: Sequence[Statistics] | None = None,
    tests: Collection[TestSet] | None = None,
    alphas: Array | None = None,
    keep: bool = False,
) -> Outputs:
    """Pass states through the train split and `tests` (default: all).

    Args:
        network: the network.
        states: stacked states, of siblings or of points on a line.
        splits: the images.
        statistics: channel statistics by which each state's images are standardised; None: as they are.
        tests: keys of `splits.tests`.
        alphas: positions of the states on a line, for messages.
        keep: keep the logits on the train split too; for a few states.

    Raises:
        NotFiniteError: if an output is not finite.
    """
    if statistics is not None:
        return Outputs.join(
            [
                pass_states(
                    network,
                    state_at(states, k),
                    splits.standardised(own),
                    tests=tests,
                    alphas=None if alphas is None else alphas[k : k + 1],
                    keep=keep,
                )
                for k, own in enumerate(statistics)
            ]
        )
    # None: the train split
    passed: dict[TestSet | None, NormalisedImages] = {None: splits.train[0]} | {
        which: images for which, (images, _) in splits.tests.items() if tests is None or which in tests
    }
    found: dict[TestSet | None, list[Tensor]] = {which: [] for which in passed}
    scores: list[Scores] = []
    for which, start, logits in network.batches_of(states, passed):
        if which is None:
            target = splits.train[1][start : start + logits.shape[1]]
            scores.append(scores_from_logits(logits, target, "train", alphas))
        if which is not None or keep:
            found[which].append(logits)
    kept = found.pop(None)
    return Outputs(
        Scores.join_images(scores),
        {which: torch.cat(parts, 1) for which, parts in found.items() if which is not None},
        torch.cat(kept, 1) if keep else None,
    )


def logits_on_tests(
    network: Network, states: Stack, splits: Splits, statistics: Statistics | None = None
) -> dict[str, Tensor]:
    """Return the logits of states on the splits that every network has, `[S, n, classes]`, by their names.

    The train split is not passed.

    Args:
        network: the network.
        states: stacked states.
        splits: the images.
        statistics: channel statistics by which images are standardised; None: as they are.

    Raises:
        NotFiniteError: if an output is not finite.
    """
    shown = splits if statistics is None else splits.standardised(statistics)
    found = {name: network.logits(states, shown.tests[which][0]) for name, which in splits.named.items()}
    for name, logits in found.items():
        if not bool(torch.isfinite(logits).all()):
            raise NotFiniteError(f"Split {name!r}: an output is not finite.")
    return found


def state_at(states: Stack, k: int) -> Stack:
    """Return state k of a stack, as a stack of one."""
    return {name: value[k : k + 1] for name, value in states.items()}


def blend_statistics(a: Statistics, b: Statistics, alpha: float) -> Statistics:
    """Return channel statistics on the line from a to b: means and standard deviations are interpolated."""
    return blend(a[0], b[0], alpha), blend(a[1], b[1], alpha)


def average_statistics(given: Sequence[Statistics]) -> Statistics:
    """Return the mean of channel statistics, in the form of their midpoint for two."""
    if len(given) == 2:
        return blend_statistics(given[0], given[1], 0.5)
    return np.mean([mean for mean, _ in given], axis=0), np.mean([std for _, std in given], axis=0)


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
