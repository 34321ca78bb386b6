"""What siblings of a run see, by hashes of the batches they are trained on (design 3.7)."""

from __future__ import annotations

import hashlib
from itertools import chain

import pytest
import torch

from lmcbench.data.batches import Feed
from lmcbench.data.selection import open_suite_data
from lmcbench.running.family_data import prepare
from lmcbench.running.run import expand_views
from lmcbench.running.siblings import make_siblings
from lmcbench.spec.cells import expand, families
from lmcbench.spec.suite_files import parse_suite

SUITE = """
name = "seen"
version = 1
description = "for tests"
shifts = [{shift}]
forks = [0]
replicates = 1
[data]
name = "digits"
train_size = 240
test_size = 40
[protocol]
alphas = 3
calibration = 20
[recipes.short]
lr = 0.1
batch_size = 12
epochs = 2
augmentation = [{augmentation}]
[[architectures]]
name = "lmc_linear"
recipe = "short"
"""


def batches(shift, augmentation=""):
    """Per sibling, one list of `HASH LABEL` a step, in the order of the batch."""
    suite = parse_suite(SUITE.format(shift=shift, augmentation=augmentation).encode(), "seen.toml")
    [family] = families(expand(suite))
    [cell] = family.cells
    dataset = open_suite_data(suite)
    views = expand_views([family], dataset)[0]
    bench = prepare(family, views, dataset, torch.device("cpu"))
    members = make_siblings(family, cell, bench)
    feed = Feed(bench.train, [m.stream for m in members], cell.recipe.augmentation)
    found = []
    for i, member in enumerate(members):
        steps = feed([i], member.start, member.stop)
        found.append(
            [
                [
                    f"{hashlib.sha256(x.numpy().tobytes()).hexdigest()} {y}"
                    for x, y in zip(images[0], labels[0], strict=True)
                ]
                for images, labels in steps
            ]
        )
        assert len(found[-1]) == 2 * (240 // 12)
    return found


@pytest.mark.parametrize("augmentation", ["", '"flip", "shift1"'])
def test_shared_noise_shows_siblings_the_same_batches_and_own_noise_others(augmentation):
    first, second = batches('{ name = "none", noise = "shared" }', augmentation)
    assert first == second
    first, second = batches('"none"', augmentation)
    assert all(a != b for a, b in zip(first, second, strict=True))
    if not augmentation:  # the same images in another order: all of them in a pass
        one_pass = 240 // 12
        assert sorted(chain(*first[:one_pass])) == sorted(chain(*second[:one_pass]))


@pytest.mark.parametrize("noise", ["own", "shared"])
def test_disjoint_halves_show_siblings_disjoint_samples_and_their_control_the_same(noise):
    first, second = batches(f'{{ name = "disjoint-halves", noise = "{noise}" }}')
    assert not set(chain(*first)) & set(chain(*second))
    first, second = batches(f'{{ name = "same-half", noise = "{noise}" }}')
    assert set(chain(*first)) == set(chain(*second))
    assert (first == second) == (noise == "shared")


def test_shared_noise_draws_disjoint_halves_alike_by_class():
    """One permutation of positions in views sorted by class: siblings see the same classes at every place."""
    first, second = batches('{ name = "disjoint-halves", noise = "shared" }')
    alike = [a.split()[1] == b.split()[1] for a, b in zip(chain(*first), chain(*second), strict=True)]
    assert sum(alike) > 0.9 * len(alike)  # a class of odd size moves those behind it by one
