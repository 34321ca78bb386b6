"""Does every cell that is to be run fit the data? Asked before the first one is trained (torch-free)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from lmcbench.data.dataset import Dataset
from lmcbench.data.transforms import apply_transform
from lmcbench.errors import UserError, counted
from lmcbench.spec.cells import Cell
from lmcbench.spec.seeds import Seeds
from lmcbench.spec.shift_rules import View


def check_fit(cells: Sequence[Cell], dataset: Dataset) -> None:
    """Refuse cells of one suite whose views hold no full batch, or whose images a transform does not suit.

    Raises:
        UserError: naming suite, shift, and recipe with network.
    """
    suite = cells[0].suite
    views: dict[tuple[str, int], list[View]] = {}
    shown: set[str] = set()
    for name in (name for name in suite.evaluations if name not in dataset.shifted):
        with _of(f"Suite {suite.name}, evaluation shift {name}"):
            _transform(name, dataset)
    for cell in cells:
        shift, recipe = cell.shift, cell.architecture.recipe
        place = shift.label, cell.replicate
        if place not in views:
            seed = Seeds.of(suite.name, suite.version, cell.replicate, suite.siblings).shift
            with _of(f"Suite {suite.name}, shift {shift.label}"):
                found = shift.views(dataset.train.labels, suite.siblings, seed, cell.replicate)
                for name in {v.transform for v in found if v.transform is not None} - shown:
                    _transform(name, dataset)
                    shown.add(name)
            views[place] = found
        least = min(len(view.indices) for view in views[place])
        if least < cell.recipe.batch_size and cell.networks > 1:
            raise UserError(
                f"Suite {suite.name}, shift {shift.label}, replicate {cell.replicate}: a sibling sees "
                f"{counted(least, 'image')}, which hold no full batch of recipe {recipe} "
                f"({cell.recipe.batch_size} images), that {cell.architecture.label} is trained with. "
                "Choose a smaller batch, more training images, or other shifts (--shift)."
            )


def _transform(name: str, dataset: Dataset) -> None:
    """Pass one image, which is refused as all of them would be."""
    apply_transform(name, dataset.train.images[:1], np.arange(1), 0, dataset.statistics[0])


@contextmanager
def _of(what: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}", exit_code=error.exit_code) from None
