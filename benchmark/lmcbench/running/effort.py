"""How the time of a family divides between training and measuring, by images passed: for the bar alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

from torch import nn

from lmcbench.running.bench import Workbench
from lmcbench.spec.cells import Cell

BACKWARD = 3
"""An image that is trained on costs as much as so many that are only passed: backward takes two forward."""


def training_share(cells: Sequence[Cell], bench: Workbench) -> float:
    """The share of training in the time of `cells`, all of one family, in (0, 1).

    Not counted: what a device does faster in larger batches, and what several cells share but the trunk.
    """
    trained = BACKWARD * _trained(cells, len(bench.dataset.train))
    return trained / (trained + sum(_measured(cell, bench) for cell in cells))


def _trained(cells: Sequence[Cell], images: int) -> int:
    """Images that the siblings of `cells` and their trunk are trained on."""
    recipe = cells[0].recipe
    forks = [cell.fork.step(recipe.steps_per_epoch(images)) for cell in cells]
    alone = sum(cell.networks * (cell.length(images) - at) for cell, at in zip(cells, forks, strict=True))
    return recipe.batch_size * (max(forks) + alone)


def _measured(cell: Cell, bench: Workbench) -> int:
    """Images that are passed to measure `cell`: siblings, the inner points of their lines, the soup."""
    protocol = cell.suite.protocol
    points = cell.networks + comb(cell.networks, 2) * (protocol.alphas - 2) + 1
    train, test = len(bench.dataset.train), len(bench.dataset.test)
    usual = min(protocol.train_eval or train, train) + test
    again = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in bench.model.modules())
    return points * (usual * (1 + again) + test * len(cell.suite.evaluations))
