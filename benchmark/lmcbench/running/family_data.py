"""What the cells of a family share in memory: the network, the data on a device, and views of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from lmcbench.data.batches import DeviceImages
from lmcbench.data.dataset import Dataset
from lmcbench.data.pool import Pool, build_pool, digest_shown
from lmcbench.data.transforms import apply_transform, channel_fill
from lmcbench.spec.cells import Cell, Family
from lmcbench.spec.seeds import derive_seed
from lmcbench.spec.shift_rules import Indices, View, views_digest
from lmcbench.train.build import build
from lmcbench.train.checkpoints import load_checkpoint


@dataclass(frozen=True)
class Seen:
    """What the siblings of a cell see, in the family's pool.

    Attributes:
        items: each sibling's positions in the pool.
        transforms: what each sibling's images pass through, or None.
        nested: whether views are parts of one another.
        digest: over the views' indices, labels and names of transforms.
        pixels: per transform, the sha256 of the images that come out of it, in the order of the view.
    """

    items: list[Indices]
    transforms: list[str | None]
    nested: bool
    digest: str
    pixels: dict[str, str]


@dataclass
class Workbench:
    """What the cells of a family share in memory: network, data on the device, and views of it.

    Attributes:
        pool: every distinct training item of the family.
        tests: the test set as it is (`None`), through every transform that is asked for, and shifted ones.
        seen: per cell key, what its siblings see.
        model: the network; its weights are scratch.
    """

    dataset: Dataset
    device: torch.device
    pool: Pool
    train: DeviceImages
    tests: dict[str | None, DeviceImages]
    seen: dict[str, Seen]
    model: nn.Module


def prepare(family: Family, cells: Sequence[Cell], dataset: Dataset, device: torch.device) -> Workbench:
    """Everything the cells of a family share, with the data on `device`.

    Raises:
        UserError: where the network cannot be built, a shift does not suit the data, or a given
            checkpoint does not fit the network.
    """
    suite, labels, seeds = family.suite, dataset.train.labels, family.seeds
    mean = dataset.statistics[0]
    views: dict[str, list[View]] = {
        cell.shift.label: cell.shift.views(labels, suite.siblings, seeds.shift, family.replicate)
        for cell in cells
    }
    pool, placed = build_pool(
        dataset.train,
        list(views.values()),
        partial(apply_transform, seed=seeds.shift, mean=mean),
        partial(channel_fill, channels=dataset.shape[0], mean=mean),
    )
    seen = {
        label: Seen(
            items,
            [v.transform for v in vs],
            any(v.nested for v in vs),
            views_digest(vs, labels),
            {v.transform: digest_shown(pool, i) for v, i in zip(vs, items, strict=True) if v.transform},
        )
        for (label, vs), items in zip(views.items(), placed, strict=True)
    }
    shown = {
        None: None,
        **dict.fromkeys([*suite.evaluations, *(t for s in seen.values() for t in s.transforms)]),
    }
    # every replicate is tested on the same images, whatever its own seeds
    test_seed = derive_seed(suite.name, suite.version, 0, "shift")

    def test(name: str | None) -> DeviceImages:
        shown = dataset.test if name is None else dataset.shifted.get(name, dataset.test)
        images, values = shown.images, None
        if name is not None and name not in dataset.shifted:
            values = channel_fill(name, channels=dataset.shape[0], mean=mean)
            if values is None:
                images = apply_transform(name, images, np.arange(len(images)), test_seed, mean)
        # whole channels are replaced batch by batch, without a copy of the images
        fills, row = (None, None) if values is None else (values[None], np.zeros(len(images), np.int64))
        return DeviceImages(images, shown.labels, dataset.statistics, device, fills=fills, fill=row)

    model = build(family.architecture, dataset.shape, len(dataset.classes), seeds.init[0])
    for checkpoint in {cell.fork.checkpoint for cell in cells if cell.fork.checkpoint is not None}:
        load_checkpoint(checkpoint, model)  # refused before anything is written
    return Workbench(
        dataset,
        device,
        pool,
        DeviceImages(pool.images, pool.labels, dataset.statistics, device, pool.image, pool.fills, pool.fill),
        {name: test(name) for name in shown},
        {cell.key: seen[cell.shift.label] for cell in cells},
        model.to(device),
    )
