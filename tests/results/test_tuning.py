"""The choice rule on tables of accuracies, and what a tuning file refuses."""

import json
from importlib.resources import files

import pytest

from builders import toy_suite
from lmcbench.errors import UserError
from lmcbench.results import tuning as module
from lmcbench.results.tuning import choose, committed_tunings, is_tuned, parse_tuning, read_tuning
from lmcbench.spec.recipe import Recipe
from lmcbench.spec.suite_files import load_suite
from tunings import make_tuning, setting

SWEEP = {
    "batch_size": 32,
    "epochs": 4,
    "optimizers": [
        {"optimizer": "sgd", "lr": [0.1, 0.2], "weight_decay": [0.0, 0.001]},
        {"optimizer": "adamw", "lr": [0.003]},
    ],
}
SUITE = toy_suite(sweep=SWEEP)
MLP = SUITE.architectures[1]
FIVE = [[900, 910, 920], [901, 911, 921], [950, 960, 970], [900, 905, 910], [940, 950, 960]]


def sgd(lr, decay=0.0, optimizer="sgd"):
    return Recipe(optimizer=optimizer, lr=lr, weight_decay=decay, batch_size=32, epochs=4)


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        # the best mean, where every difference is larger than its standard error
        ([(sgd(0.1), [900, 910, 920]), (sgd(0.2), [800, 812, 820])], 0),
        # difference (20, -10, 5): mean 5, standard error 8.7; a tie, and the larger learning rate wins
        ([(sgd(0.1), [920, 900, 915]), (sgd(0.2), [900, 910, 910])], 1),
        ([(sgd(0.2), [900, 910, 910]), (sgd(0.1), [920, 900, 915])], 0),
        # difference (10, 10, 4): mean 8, standard error 2; no tie
        ([(sgd(0.1), [920, 900, 915]), (sgd(0.2), [910, 890, 911])], 0),
        # a mean of exactly one standard error is no tie: (0, 0, 3), mean 1, standard error 1
        ([(sgd(0.1), [900, 900, 903]), (sgd(0.2), [900, 900, 900])], 0),
        # equal learning rates: the larger weight decay
        ([(sgd(0.1), [920, 900, 915]), (sgd(0.1, 0.1), [900, 910, 910])], 1),
        # the learning rate is compared before the weight decay
        ([(sgd(0.1, 0.1), [900] * 3), (sgd(0.2), [900] * 3), (sgd(0.1), [900] * 3)], 1),
        # equal in every replicate, standard error 0
        ([(sgd(0.1), [900] * 3), (sgd(0.2), [900] * 3)], 1),
        # equal in both: file order
        ([(sgd(0.1), [900] * 3), (sgd(0.1).model_copy(update={"nesterov": True}), [900] * 3)], 0),
        # ties are within an optimizer only: adamw's larger rate would tie
        ([(sgd(0.1), [920, 900, 915]), (sgd(1.0, optimizer="adamw"), [900, 910, 910])], 0),
        # the same mean in two optimizers: file order decides the best, then its ties
        (
            [
                (sgd(0.001, optimizer="adamw"), [900, 901, 902]),
                (sgd(0.9), [902, 901, 900]),
                (sgd(0.002, optimizer="adamw"), [899, 900, 904]),
            ],
            2,
        ),
        # one replicate that failed or did not learn excludes a setting
        ([(sgd(0.1), [900] * 3), (sgd(0.2), [990, 990, "did-not-learn"])], 0),
        ([(sgd(0.1), ["diverged", 990, 990]), (sgd(0.2), [900] * 3)], 1),
        ([(sgd(0.1), [990, "failed", 990]), (sgd(0.2), [900] * 3)], 1),
        ([(sgd(0.1), [990, "failed", 990])], None),
        ([(sgd(0.1), ["did-not-learn"] * 3), (sgd(0.2), ["diverged", 990, 990])], None),
        # ties are with the best alone: (34, 20, -5) is none; the second and the third differ by (14, 30, -10)
        ([(sgd(0.1), [920, 900, 915]), (sgd(0.2), [900, 910, 910]), (sgd(0.4), [886, 880, 920])], 1),
    ],
)
def test_the_choice_follows_the_rule(rows, chosen):
    assert choose([setting(recipe, rights) for recipe, rights in rows]) == chosen


def test_a_file_is_read_as_it_was_written(tmp_path):
    tuning = make_tuning(SUITE, MLP, FIVE)
    assert tuning.choice == 2
    assert tuning.recipe == sgd(0.2)
    (tmp_path / "tuning.json").write_text(tuning.to_json())
    assert read_tuning(tmp_path) == read_tuning(tmp_path / "tuning.json") == tuning
    with pytest.raises(UserError, match="lmcbench tune"):
        read_tuning(tmp_path / "other.json")


def change(path, value):
    table = json.loads(make_tuning(SUITE, MLP, FIVE).to_json())
    place = table
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(table).encode()


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (["choice"], 1, "by the rule it is 2"),
        (["choice"], None, "by the rule it is 2"),
        (["settings", 0, "trainings", 0, "accuracy"], 0.99999, "not a share of 1000"),
        (["settings", 0, "trainings", 0, "accuracy"], 1.5, "less than or equal to 1"),
        (["settings", 0, "trainings", 0, "accuracy"], None, "given where a training ended"),
        (["settings", 0, "trainings", 0, "train_loss"], 2.29, "does not follow"),
        (["settings", 0, "trainings", 0, "status"], "did-not-learn", "does not follow"),
        (["settings", 0, "trainings", 0, "replicate"], 1001, "in order"),
        (["settings", 0, "trainings", 0, "replicate"], 0, "greater than or equal to 1000"),
        (["settings", 0, "trainings"], [], "at least 3"),
        (["settings", 0, "extra"], 1, "unknown key"),
        (["settings", 0, "recipe", "lr"], "0.1", "valid number"),
        (["architecture", "kwargs"], {"a": "x" * 5000}, "4,000"),
        (["suite", "digest"], "0", "match"),
        (["cost", "train_s"], -1.0, "greater than or equal"),
        (["schema"], "lmcbench/tuning/2", "Upgrade"),
        (["schema"], "lmcbench/cell/1", "not a lmcbench/tuning"),
    ],
)
def test_damaged_files_are_refused_by_name(path, value, reason):
    with pytest.raises(UserError, match=reason) as refused:
        parse_tuning(change(path, value), "their.json")
    assert "their.json" in str(refused.value)


def test_large_files_are_refused():
    with pytest.raises(UserError, match="at most"):
        parse_tuning(b" " * 300_000, "their.json")


def test_another_suite_digest_sweep_or_network_is_refused():
    tuning = make_tuning(SUITE, MLP, FIVE)
    tuning.check(SUITE, "their.json")
    with pytest.raises(UserError, match="digest"):
        tuning.check(toy_suite(sweep=SWEEP, forks=[0, 1]), "their.json")
    forged = json.loads(tuning.to_json())
    forged["settings"][0]["recipe"]["lr"] = 0.11
    with pytest.raises(UserError, match="sweep"):
        parse_tuning(json.dumps(forged).encode(), "their.json").check(SUITE, "their.json")
    tuning.check_architecture(MLP.identity(), MLP.label, "their.json")
    other = MLP.model_copy(update={"kwargs": {"width": 8}})
    for wrong in (SUITE.architectures[0], other):
        with pytest.raises(UserError, match="not of"):
            tuning.check_architecture(wrong.identity(), wrong.label, "their.json")
    edited = MLP.identity() | {"fingerprint": "0" * 16}
    with pytest.raises(UserError, match="another version"):
        tuning.check_architecture(edited, MLP.label, "their.json")


def test_without_a_choice_there_is_no_recipe():
    tuning = make_tuning(SUITE, MLP, [["diverged", 1, 1]] * 5)
    assert tuning.choice is None
    with pytest.raises(UserError, match="no tuned recipe"):
        _ = tuning.recipe


def test_tuned_recipes_are_those_named_so_and_the_committed_choices(monkeypatch):
    tuning = make_tuning(SUITE, MLP, FIVE)
    monkeypatch.setattr(module, "committed_tunings", lambda name: iter([tuning]))
    mine = MLP.label, MLP.fingerprint
    chosen = {"name": "mlp", **sgd(0.2).model_dump(mode="json")}
    assert is_tuned(SUITE, *mine, chosen)
    assert is_tuned(SUITE, *mine, {"name": "tuned", **sgd(0.1).model_dump(mode="json")})
    assert not is_tuned(SUITE, *mine, chosen | {"lr": 0.1})
    assert not is_tuned(SUITE, *mine, chosen | {"lr": "x"})
    assert not is_tuned(SUITE, "lmc_linear", MLP.fingerprint, chosen)
    assert not is_tuned(SUITE, MLP.label, "0" * 16, chosen)
    assert not is_tuned(toy_suite(sweep=SWEEP, forks=[0, 1]), *mine, chosen)
    assert not is_tuned(toy_suite(), *mine, chosen | {"name": "tuned"})


@pytest.mark.parametrize(
    "name", sorted(f.name for f in (files("lmcbench.suites") / "tuning").iterdir() if f.is_dir())
)
def test_committed_files_belong_to_their_suite(name):
    suite = load_suite(name)
    found = list(committed_tunings(name))
    assert found
    for tuning in found:
        tuning.check(suite, name)
        assert tuning.choice is not None
