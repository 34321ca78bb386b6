"""Prepare what the cells of a family share in memory: the network, the images, and the siblings' views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from lmcbench.data.batches import DeviceImages
from lmcbench.data.dataset import Dataset, Statistics
from lmcbench.data.pool import Pool, build_pool, digest_shown, statistics_shown
from lmcbench.data.transforms import apply_transform, channel_fill
from lmcbench.errors import UserError
from lmcbench.spec.cells import Family
from lmcbench.spec.seeds import derive_seed
from lmcbench.spec.shift_rules import Indices, View, views_digest
from lmcbench.train.build import build
from lmcbench.train.checkpoints import load_checkpoint


@dataclass(frozen=True)
class SiblingViews:
    """The views of a cell's siblings in the family's pool.

    Attributes:
        items: each sibling's positions in the pool.
        transforms: name of the transform of each sibling's images, or None.
        nested: whether views are parts of one another.
        digest: over the views' indices, labels and names of transforms.
        pixels: per transform, the sha256 of the transformed images in the order of the view.
        statistics: channel statistics by which each sibling's images are standardised; None: those of the
            whole training set.
    """

    items: list[Indices]
    transforms: list[str | None]
    nested: bool
    digest: str
    pixels: dict[str, str]
    statistics: list[Statistics] | None = None

    @property
    def union(self) -> Indices:
        """Positions of all images that any sibling sees, sorted."""
        return np.unique(np.concatenate(self.items))

    def items_of(self, networks: int) -> list[Indices]:
        """Return the items of each network: a single one sees the union of the siblings' views."""
        return self.items if networks > 1 else [self.union]

    def statistics_of(self, networks: int) -> list[Statistics] | None:
        """Return the channel statistics of each network; None: those of the whole training set.

        A single network has the siblings' if these are equal. Views that differ make up the training set.
        """
        own = self.statistics
        if own is None or networks > 1:
            return own
        same = all(np.array_equal(a, b) for other in own for a, b in zip(own[0], other, strict=True))
        return own[:1] if same else None


@dataclass(frozen=True)
class FamilyData:
    """What the cells of a family share in memory.

    Attributes:
        pool: every distinct training item of the family.
        train: the pool on the device.
        tests: the test set as it is (`None`), through every transform used, and the shifted test sets.
        views: the siblings' views, by cell key.
        model: the network; its weights are scratch.
    """

    dataset: Dataset
    device: torch.device
    pool: Pool
    train: DeviceImages
    tests: dict[str | None, DeviceImages]
    views: dict[str, SiblingViews]
    model: nn.Module


def prepare(
    family: Family, views: Mapping[str, Sequence[View]], dataset: Dataset, device: torch.device
) -> FamilyData:
    """Return what the cells of `family` share, with the images on `device`; `views` are by shift label.

    Raises:
        UserError: if the network cannot be built, a shift does not suit the data, or a given checkpoint does
            not fit the network.
    """
    suite, seeds = family.suite, family.seeds
    mean = dataset.statistics[0]
    used = {cell.shift.label: views[cell.shift.label] for cell in family.cells}
    pool, placed = build_pool(
        dataset.train,
        list(used.values()),
        partial(apply_transform, seed=seeds.shift, mean=mean),
        partial(channel_fill, channels=dataset.shape[0], mean=mean),
    )
    of_shift = {
        label: SiblingViews(
            items,
            [view.transform for view in of_siblings],
            any(view.nested for view in of_siblings),
            views_digest(of_siblings, dataset.train.labels),
            {
                view.transform: digest_shown(pool, i)
                for view, i in zip(of_siblings, items, strict=True)
                if view.transform
            },
            _own_statistics(label, of_siblings, items, pool),
        )
        for (label, of_siblings), items in zip(used.items(), placed, strict=True)
    }
    # test images are the same in every replicate
    test_seed = derive_seed(suite.name, suite.version, 0, "shift")

    def test(name: str | None) -> DeviceImages:
        split = dataset.test if name is None else dataset.shifted.get(name, dataset.test)
        images, values = split.images, None
        if name is not None and name not in dataset.shifted:
            values = channel_fill(name, channels=dataset.shape[0], mean=mean)
            if values is None:
                images = apply_transform(name, images, np.arange(len(images)), test_seed, mean)
        # whole channels are filled batch by batch, without a copy of the images
        fills, row = (None, None) if values is None else (values[None], np.zeros(len(images), np.int64))
        return DeviceImages(images, split.labels, dataset.statistics, device, fills=fills, fill=row)

    transforms = [t for shift in of_shift.values() for t in shift.transforms]
    tests = {name: test(name) for name in dict.fromkeys([None, *suite.evaluations, *transforms])}
    model = build(family.architecture, dataset.shape, len(dataset.classes), seeds.init[0])
    for checkpoint in {cell.fork.checkpoint for cell in family.cells}:
        if checkpoint is not None:
            load_checkpoint(checkpoint, model)  # raises before anything is written
    return FamilyData(
        dataset,
        device,
        pool,
        DeviceImages(pool.images, pool.labels, dataset.statistics, device, pool.image, pool.fills, pool.fill),
        tests,
        {cell.key: of_shift[cell.shift.label] for cell in family.cells},
        model.to(device),
    )


def _own_statistics(
    label: str, views: Sequence[View], items: Sequence[Indices], pool: Pool
) -> list[Statistics] | None:
    """Return the channel statistics of each view, if the shift standardises by them.

    Raises:
        UserError: if a channel of a view is constant.
    """
    if not any(view.own_statistics for view in views):
        return None
    found = []
    for i, shown in enumerate(items):
        try:
            found.append(statistics_shown(pool, shown))
        except UserError as error:
            raise UserError(f"Shift {label}, sibling {i}: {error}.") from None
    return found
