"""What siblings are measured on: a pinned part of the training images shows something of every view."""

import numpy as np
import pytest
import torch

from lmcbench.data.dataset import Dataset, ImageSet
from lmcbench.data.selection import select_stratified
from lmcbench.data.transforms import apply_transform
from lmcbench.results.record_files import read_records
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.family_data import prepare
from lmcbench.running.plan import plan_run
from lmcbench.running.run import expand_views, run_plan
from lmcbench.running.splits import LEAST, select_items
from lmcbench.spec.cells import expand, families
from lmcbench.spec.seeds import derive_seed
from lmcbench.spec.suite_files import parse_suite

LABELS = np.arange(1000) % 10
EVERYTHING = np.arange(1000)


def test_where_every_view_is_shown_the_part_is_the_stratified_one():
    views = [EVERYTHING[::2], EVERYTHING[1::2]]
    part = select_items(EVERYTHING, views, LABELS, 50)
    np.testing.assert_array_equal(part, select_stratified(LABELS, 50))


@pytest.mark.parametrize("size", [3, 10, 40])
def test_of_a_view_that_is_missed_ten_images_are_added_or_all_it_has(size):
    plain = select_stratified(LABELS, 50)
    small = np.setdiff1d(EVERYTHING, plain)[7::3][:size]
    views = [np.setdiff1d(EVERYTHING, small), small]
    part = select_items(EVERYTHING, views, LABELS, 50)
    assert np.isin(small, part).sum() == min(size, LEAST)
    assert len(part) == 50 + min(size, LEAST)
    np.testing.assert_array_equal(part, np.unique(part))
    assert set(plain) <= set(part)


def test_what_a_view_has_already_counts():
    plain = select_stratified(LABELS, 50)
    small = np.concatenate([plain[:4], np.setdiff1d(EVERYTHING, plain)[:30]])
    part = select_items(EVERYTHING, [EVERYTHING, small], LABELS, 50)
    assert len(part) == 50 + LEAST - 4
    assert np.isin(small, part).sum() == LEAST


SUITE = """
name = "uneven"
version = 1
description = "three very uneven views, and a small part of them for the training curves"
siblings = 3
forks = [0]
replicates = 1
[[shifts]]
name = "dirichlet"
params = { concentration = 0.05 }
[data]
name = "digits"
[protocol]
alphas = 3
calibration = 50
train_eval = 10
[recipes.short]
lr = 0.1
batch_size = 8
epochs = 1
[[architectures]]
name = "lmc_linear"
recipe = "short"
"""


def test_a_small_part_of_uneven_views_measures_every_sibling(tmp_path):
    folder = RunFolder(tmp_path / "run")
    plan = plan_run(expand(parse_suite(SUITE.encode(), "uneven.toml")), folder)
    list(run_plan(plan, folder, data_dir=None, device="cpu", jobs=1))
    [record] = read_records(folder.root)
    assert (record.status, record.reason) == ("ok", None)
    assert all({"train", "view", "test"} == set(s.splits) for s in record.siblings)
    for pair in record.pairs:
        assert {pair.curves[split].n for split in ("train_a", "train_b")} >= {LEAST}
    assert record.protocol["train_eval"]["n"] == record.pairs[0].curves["train"].n > 10


COLOURS = (
    SUITE.replace('name = "dirichlet"\nparams = { concentration = 0.05 }', 'name = "channels"')
    .replace("siblings = 3", "siblings = 2")
    .replace("replicates = 1", 'replicates = 1\nevaluations = ["channels-0+2", "rotate-15"]')
)


def test_tests_of_some_channels_take_no_pixels_and_show_what_the_transform_makes():
    rng = np.random.default_rng(0)
    splits = [
        ImageSet(rng.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8), np.arange(40) % 10) for _ in range(2)
    ]
    dataset = Dataset("colours", *splits, classes=tuple("abcdefghij"))
    [family] = families(expand(parse_suite(COLOURS.encode(), "colours.toml")))
    bench = prepare(family, expand_views([family], dataset)[0], dataset, torch.device("cpu"))
    items, everything = torch.arange(40), np.arange(40)
    assert {"channels-0", "channels-0+2", "rotate-15"} < bench.tests.keys()
    for name, shown in bench.tests.items():
        images = dataset.test.images
        seed = derive_seed("uneven", 1, 0, "shift")
        expected = (
            images if name is None else apply_transform(name, images, everything, seed, dataset.statistics[0])
        )
        np.testing.assert_array_equal(shown.shown(items).numpy(), expected, err_msg=str(name))
        assert np.shares_memory(shown.pixels.numpy(), images) == (name != "rotate-15"), name
