"""How far a run says it is: training weighed against measuring by the images that pass."""

from types import SimpleNamespace

import pytest
from torch import nn

from builders import toy_cell, toy_suite
from lmcbench.running.family import training_share

TRAIN, TEST = 320, 100
PLAIN, NORMED = nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))


def share(cells, model=PLAIN):
    dataset = SimpleNamespace(train=range(TRAIN), test=range(TEST))
    return training_share(cells, SimpleNamespace(dataset=dataset, model=model))


def test_a_pair_is_trained_on_two_networks_images_and_measured_on_a_line():
    """4 epochs of 320 images, thrice as dear; 21 points, of which the ends are siblings, and the soup."""
    trained, measured = 3 * 2 * 4 * 320, (2 + 19 + 1) * (320 + 100)
    assert share([toy_cell(fork="0")]) == pytest.approx(trained / (trained + measured))


def test_cells_of_a_family_share_their_trunk():
    suite = toy_suite(forks=[1, 2])
    cells = [toy_cell(fork=fork, suite=suite) for fork in ("1", "2")]
    trained, measured = 3 * 320 * (2 + 2 * 3 + 2 * 2), 2 * 22 * 420
    assert share(cells) == pytest.approx(trained / (trained + measured))


def test_statistics_are_measured_twice_and_shifted_tests_once():
    """Blended statistics are not passed through shifted tests; curves on 50 items take no more than those."""
    suite = toy_suite(evaluations=["fog-1", "fog-2"], protocol={"train_eval": 50, "alphas": 5})
    trained, points = 3 * 2 * 4 * 320, 2 + 3 + 1
    for model, times in ((PLAIN, 1), (NORMED, 2)):
        measured = points * (times * (50 + 100) + 2 * 100)
        assert share([toy_cell(suite=suite)], model) == pytest.approx(trained / (trained + measured))


def test_a_single_network_has_no_line():
    suite = toy_suite(forks=[0, "whole-budget"])
    cell = toy_cell(fork="whole-budget", suite=suite)
    trained, measured = 3 * 32 * cell.length(TRAIN), 2 * 420
    assert share([cell]) == pytest.approx(trained / (trained + measured))
