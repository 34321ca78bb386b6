"""A suite's sweep: its settings, its limits, and its place in digests and keys."""

import pytest
from pydantic import ValidationError

from builders import toy_suite
from lmcbench.errors import UserError
from lmcbench.spec.cells import Family, Selection, expand
from lmcbench.spec.recipe import Recipe
from lmcbench.spec.sweep import TUNED, Sweep, setting_text

SWEEP = {
    "batch_size": 32,
    "epochs": 4,
    "augmentation": ["shift1"],
    "optimizers": [
        {"optimizer": "adamw", "lr": [0.003, 0.001], "weight_decay": [0.05]},
        {"optimizer": "sgd", "lr": [0.1], "weight_decay": [0, 0.0005], "nesterov": True},
    ],
}


def swept(**changes):
    return toy_suite(sweep=SWEEP | changes)


def test_settings_are_in_file_order_and_share_length_and_batch_size():
    settings = swept().sweep.settings
    assert [(s.optimizer, s.lr, s.weight_decay, s.nesterov) for s in settings] == [
        ("adamw", 0.003, 0.05, False),
        ("adamw", 0.001, 0.05, False),
        ("sgd", 0.1, 0.0, True),
        ("sgd", 0.1, 0.0005, True),
    ]
    assert {(s.batch_size, s.epochs, s.augmentation) for s in settings} == {(32, 4, ("shift1",))}
    assert setting_text(settings[3]) == "sgd, lr 0.1, weight decay 0.0005, nesterov True"


def test_a_setting_equals_the_recipe_written_out():
    common = {"batch_size": 32, "epochs": 4, "augmentation": ("shift1",)}
    assert swept().sweep.settings[0] == Recipe(optimizer="adamw", lr=0.003, weight_decay=0.05, **common)


@pytest.mark.parametrize(
    ("optimizers", "reason"),
    [
        ([{"lr": [0.1 + i for i in range(5)], "weight_decay": [0.1 * i for i in range(5)]}], "at most 24"),
        ([{"lr": [0.1, 0.1]}], "listed twice"),
        ([{"lr": [0.1]}, {"lr": [0.1], "weight_decay": [0.0]}], "listed twice"),
        ([{"lr": [0.0]}], "greater than 0"),
        ([{"lr": []}], "at least 1"),
        ([{"lr": [0.1], "batch_size": 8}], "Extra inputs"),
        ([], "at least 1"),
    ],
)
def test_other_sweeps_are_refused(optimizers, reason):
    with pytest.raises(ValidationError, match=reason):
        Sweep.model_validate(SWEEP | {"optimizers": optimizers})


def test_a_sweep_is_part_of_the_digest():
    plain, first = toy_suite(), swept()
    digests = {plain.digest, first.digest, swept(epochs=5).digest, swept(batch_size=16).digest}
    other = [SWEEP["optimizers"][1], SWEEP["optimizers"][0]]
    digests |= {swept(optimizers=other).digest, swept(optimizers=other[:1]).digest}
    assert len(digests) == 6


def test_the_tuning_digest_changes_with_what_tuning_depends_on_only():
    first = swept().tuning_digest
    same = toy_suite(sweep=SWEEP, replicates=7, forks=[0], shifts=["none"]).tuning_digest
    assert same == first
    data = {"name": "digits", "test_size": 100}
    assert toy_suite(sweep=SWEEP, data=data).tuning_digest == first
    data = {"name": "digits", "train_size": 1000}
    others = [swept(epochs=5), toy_suite(sweep=SWEEP, version=2), toy_suite(sweep=SWEEP, data=data)]
    assert len({first, *(suite.tuning_digest for suite in others)}) == 4


def test_the_name_of_tuned_recipes_is_reserved_and_forks_lie_inside_the_sweeps_length():
    with pytest.raises(ValidationError, match="reserved"):
        toy_suite(recipes={TUNED: {"lr": 0.1, "batch_size": 32, "epochs": 4}})
    with pytest.raises(ValidationError, match="fork 2 is not before the end of training in the sweep"):
        swept(epochs=2)


def test_a_tuned_recipe_keeps_the_digest_and_its_settings_are_in_the_keys():
    suite = swept()
    first, second = (suite.with_tuned(suite.sweep.settings[i]) for i in (0, 1))
    assert suite.digest == first.digest == second.digest
    choose = Selection(["lmc_mlp"], ["none"], ["0"], range(1), recipe=TUNED)
    cells = [expand(s, choose)[0] for s in (first, second)]
    assert [cell.recipe for cell in cells] == suite.sweep.settings[:2]
    assert cells[0].key != cells[1].key
    families = [Family(c.suite, c.architecture, 0, (c,)) for c in cells]
    assert families[0].key != families[1].key
    with pytest.raises(UserError, match="--tuning"):
        expand(suite, choose)
