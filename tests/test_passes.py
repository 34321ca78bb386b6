"""What siblings are measured on: a pinned part of the training images shows something of every view."""

import numpy as np
import pytest

from lmcbench.data.subset import stratified
from lmcbench.results.store import RunFolder, read_records
from lmcbench.running.passes import LEAST, pinned_part
from lmcbench.running.run import plan_run, run_plan
from lmcbench.spec.cells import expand
from lmcbench.spec.published import parse_suite

LABELS = np.arange(1000) % 10
EVERYTHING = np.arange(1000)


def test_where_every_view_is_shown_the_part_is_the_stratified_one():
    views = [EVERYTHING[::2], EVERYTHING[1::2]]
    part = pinned_part(EVERYTHING, views, LABELS, 50)
    np.testing.assert_array_equal(part, stratified(LABELS, 50))


@pytest.mark.parametrize("size", [3, 10, 40])
def test_of_a_view_that_is_missed_ten_images_are_added_or_all_it_has(size):
    plain = stratified(LABELS, 50)
    small = np.setdiff1d(EVERYTHING, plain)[7::3][:size]
    views = [np.setdiff1d(EVERYTHING, small), small]
    part = pinned_part(EVERYTHING, views, LABELS, 50)
    assert np.isin(small, part).sum() == min(size, LEAST)
    assert len(part) == 50 + min(size, LEAST)
    np.testing.assert_array_equal(part, np.unique(part))
    assert set(plain) <= set(part)


def test_what_a_view_has_already_counts():
    plain = stratified(LABELS, 50)
    small = np.concatenate([plain[:4], np.setdiff1d(EVERYTHING, plain)[:30]])
    part = pinned_part(EVERYTHING, [EVERYTHING, small], LABELS, 50)
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
