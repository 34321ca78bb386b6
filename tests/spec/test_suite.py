import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from builders import SUITE_TOML, toy_cell, toy_suite
from lmcbench.errors import UserError
from lmcbench.spec import suite_files
from lmcbench.spec.canonical import digest
from lmcbench.spec.cells import expand
from lmcbench.spec.recipe import Recipe
from lmcbench.spec.shift_rules import SHIFTS
from lmcbench.spec.suite_files import command_name, load_suite, parse_suite, published_suites, read_suite
from lmcbench.spec.suite_tables import Probe, Protocol


def parse(text):
    return parse_suite(text.encode(), "my/toy.toml")


def edited(old, new):
    assert old in SUITE_TOML
    return SUITE_TOML.replace(old, new, 1)


def changed(path, value):
    """The toy suite's table with the field at `path` replaced."""
    table = tomllib.loads(SUITE_TOML)
    holder = table
    for part in path[:-1]:
        holder = holder.setdefault(part, {}) if isinstance(holder, dict) else holder[part]
    holder[path[-1]] = value
    return table


# --- reading -------------------------------------------------------------------------------------


def test_every_field_arrives():
    suite = parse(SUITE_TOML)
    assert suite == toy_suite()
    assert (suite.name, suite.version, suite.siblings, suite.replicates) == ("toy", 1, 2, 2)
    assert suite.data.name == "digits"
    assert suite.recipes["fast"] == Recipe(lr=0.1, batch_size=32, epochs=4)
    assert [(a.name, a.recipe) for a in suite.architectures] == [("lmc_linear", "slow"), ("lmc_mlp", "fast")]
    assert [s.shift.label for s in suite.shifts] == ["none", "same-half", "disjoint-halves", "label-skew"]
    assert [f.name for f in suite.fork_list] == ["0", "2", "independent"]
    assert suite.protocol.grid == [i / 20 for i in range(21)]
    assert suite.protocol.grid[10] == 0.5


def test_a_suite_survives_a_dump_and_keeps_its_digest():
    suite = toy_suite()
    again = type(suite).model_validate_json(suite.model_dump_json())
    assert again == suite
    assert again.digest == suite.digest
    assert suite.identity() == {"name": "toy", "version": 1, "digest": suite.digest}


def test_the_digest_is_of_what_changes_numbers_without_defaults():
    content = {
        "name": "toy",
        "version": 1,
        "data": {"name": "digits"},
        "recipes": {
            "slow": {"lr": 0.01, "batch_size": 32, "epochs": 4},
            "fast": {"lr": 0.1, "batch_size": 32, "epochs": 4},
        },
        "shifts": [
            {"name": "none"},
            {"name": "same-half"},
            {"name": "disjoint-halves"},
            {"name": "label-skew"},
        ],
        "forks": ["0", "2", "independent"],
    }
    assert toy_suite().digest == digest(content)


unimportant = st.one_of(
    st.tuples(st.just(("description",)), st.text()),
    st.tuples(st.just(("citation",)), st.text()),
    st.tuples(st.just(("cost",)), st.text()),
    st.tuples(st.just(("floor",)), st.floats(0, 1)),
    st.tuples(st.just(("replicates",)), st.integers(1, 50)),
    st.tuples(
        st.just(("architectures",)),
        st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["lmc_cnn", "resnet18", "a.py:f"]), "recipe": st.just("slow")}
            ),
            min_size=1,
            max_size=3,
            unique_by=lambda a: a["name"],
        ),
    ),
)
important = st.one_of(
    st.tuples(st.just(("name",)), st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,8}\Z").filter(lambda n: n != "toy")),
    st.tuples(st.just(("version",)), st.integers(2, 10**6)),
    st.tuples(st.just(("data", "train_size")), st.integers(1, 10**6)),
    st.tuples(st.just(("data", "holdout")), st.floats(0, 1, exclude_min=True, exclude_max=True)),
    st.tuples(
        st.just(("recipes", "fast", "lr")),
        st.floats(0, 1e6, exclude_min=True).filter(lambda lr: lr != 0.1),
    ),
    st.tuples(st.just(("recipes", "slow", "epochs")), st.integers(5, 10**4)),
    st.tuples(st.just(("recipes", "slow", "momentum")), st.floats(0, 0.89)),
    st.tuples(st.just(("recipes", "third")), st.just({"lr": 0.1, "batch_size": 32, "epochs": 4})),
    st.tuples(st.just(("shifts",)), st.just(["none"])),
    st.tuples(st.just(("shifts", 0)), st.just({"name": "none", "noise": "shared"})),
    st.tuples(
        st.just(("shifts", 3)),
        st.floats(0.5, 1)
        .filter(lambda s: s != 0.8)
        .map(lambda s: {"name": "label-skew", "params": {"share": s}}),
    ),
    st.tuples(st.just(("forks",)), st.sampled_from([[0], [0, 1, "independent"], [0, 2]])),
    st.tuples(st.just(("forks",)), st.sampled_from([[0, "3%"], [0, 2, "50%", "independent"]])),
    st.tuples(
        st.just(("shifts", 0)),
        st.sampled_from([[0], [0, 2], ["3%"], [0, 2, "independent"]]).map(
            lambda f: {"name": "none", "forks": f}
        ),
    ),
    st.tuples(st.just(("evaluations",)), st.sampled_from([["rotate-15"], ["gaussian_noise-3", "rotate-15"]])),
    st.tuples(st.just(("siblings",)), st.integers(3, 20)),
    st.tuples(
        st.just(("protocol", "alphas")), st.integers(1, 60).map(lambda i: 2 * i + 1).filter(lambda a: a != 21)
    ),
    st.tuples(st.just(("protocol", "calibration")), st.integers(2, 999)),
)


@given(unimportant)
def test_what_does_not_change_numbers_does_not_change_the_digest(change):
    assert type(toy_suite()).model_validate(changed(*change)).digest == toy_suite().digest


@given(important)
def test_what_changes_numbers_changes_the_digest(change):
    assert type(toy_suite()).model_validate(changed(*change)).digest != toy_suite().digest


def defaults():
    yield ("siblings",), 2
    yield ("citation",), ""
    yield ("evaluations",), []
    yield ("data", "holdout"), 0.0
    yield ("data", "holdout"), 0
    for name, field in Protocol.model_fields.items():
        yield ("protocol", name), field.default
    for name, field in Recipe.model_fields.items():
        if not field.is_required() and field.default is not None:
            default = field.default
            yield ("recipes", "fast", name), list(default) if isinstance(default, tuple) else default
    yield ("shifts", 0), {"name": "none", "params": {}, "noise": "own"}
    yield ("shifts", 3), {"name": "label-skew", "params": dict(SHIFTS["label-skew"].defaults)}
    yield ("forks",), ["0", 2.0, "independent"]


@pytest.mark.parametrize(("path", "value"), list(defaults()), ids=str)
def test_writing_a_default_does_not_change_the_digest(path, value):
    assert type(toy_suite()).model_validate(changed(path, value)).digest == toy_suite().digest


def test_a_rule_may_get_another_parameter_without_orphaning_results(monkeypatch):
    before = toy_suite().digest, toy_cell(shift="label-skew").key
    kind = SHIFTS["label-skew"]

    def extended(labels, k, seed, *, share=0.8, ties="low"):
        return kind.rule(labels, k, seed, share=share)

    monkeypatch.setitem(SHIFTS, "label-skew", replace(kind, rule=extended, check=lambda **_: None))
    assert toy_cell(shift="label-skew").shift.params == {"share": 0.8, "ties": "low"}
    assert (toy_suite().digest, toy_cell(shift="label-skew").key) == before


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (edited("replicates = 2", "replicate = 2"), "replicate: unknown key. Did you mean 'replicates'"),
        (
            edited("lr = 0.01", "lr = 0.01\nmomentun = 0.5"),
            "recipes.slow.momentun: unknown key. Did you mean 'momentum'",
        ),
        (
            edited('name = "digits"', 'name = "digits"\ntrain-size = 5'),
            "data.train-size: unknown key. Did you mean 'train_size' or",
        ),
        (
            edited('name = "lmc_mlp"', 'name = "lmc_mlp"\nkwarg = 1'),
            "architectures.1.kwarg: unknown key. Did you mean 'kwargs'?",
        ),
        (edited("version = 1", 'version = "1"'), "version: Input should be a valid integer (found '1')."),
        (edited("version = 1", "version = true"), "version: Input should be a valid integer (found True)."),
        (edited("version = 1\n", ""), "version: required key is missing."),
        (edited('"toy"', '"Toy Suite"'), "name: String should match pattern"),
        (edited('[data]\nname = "digits"', ""), "data: required key is missing."),
        (edited("replicates = 2", 'protocol = "strict"'), "protocol: must be a table, found 'strict'."),
        (edited("lr = 0.01", "lr = -0.01"), "recipes.slow.lr: Input should be greater than 0 (found -0.01)."),
        (edited("[data]", "[protocol]\nalphas = 20\n[data]"), "protocol.alphas: must be odd"),
        (
            edited("[data]", "[protocol]\nalphas = 1\n[data]"),
            "protocol.alphas: Input should be greater than or",
        ),
        (edited("replicates = 2", "siblings = 1"), "siblings: Input should be greater than or equal to 2"),
        (
            edited("replicates = 2", "floor = 1.5"),
            "floor: Input should be less than or equal to 1 (found 1.5).",
        ),
        (
            edited('recipe = "fast"', 'recipe = "fats"'),
            "architecture 'lmc_mlp' asks for recipe 'fats', but the suite has fast, slow.",
        ),
        (
            edited('"lmc_linear"\nrecipe = "slow"', '"lmc_mlp"\nrecipe = "fast"'),
            "architecture 'lmc_mlp with fast' is listed twice.",
        ),
        (edited('"none", "same-half"', '"none", "none"'), "shift 'none' is listed twice."),
        (
            edited('"same-half"', '{name = "label-skew", params = {share = 0.8}}'),
            "shift 'label-skew' is listed twice.",
        ),
        (edited("[0, 2,", "[0, 0.0,"), "fork '0' is listed twice."),
        (
            edited("replicates = 2", 'evaluations = ["rotate-15", "rotate-15.0"]'),
            "evaluation shift 'rotate-15' is listed twice.",
        ),
        (
            edited("replicates = 2", 'evaluations = ["channels-2+0", "fog-1", "channels-0+2"]'),
            "evaluation shift 'channels-0+2' is listed twice.",
        ),
        (edited("[0, 2,", "[0, 4,"), "fork 4 is not before the end of recipe 'slow'."),
        (
            edited("[0, 2,", "[0, -2,"),
            "forks.1: Unknown fork -2. Allowed: an epoch (0, 2, 0.5), a share of training below 100% ('3%') ",
        ),
        (edited("[0, 2,", '["3%", "3.0%",'), "fork '3%' is listed twice."),
        (edited("[0, 2,", '[0, "100%",'), "forks.1: Unknown fork '100%'."),
        (
            edited('"same-half"', '{name = "none", noise = "shared", forks = [0, "0%"]}'),
            "shifts.1: fork of shift none '0' is listed twice.",
        ),
        (
            edited('"same-half"', '{name = "none", noise = "shared", forks = [7]}'),
            "fork 7 is not before the end of recipe 'slow'.",
        ),
        (edited("[0, 2,", "[0, true,"), "forks.1: Unknown fork True."),
        (
            edited('"same-half"', '"same-hlaf"'),
            "shifts.1: Unknown shift 'same-hlaf'. Did you mean 'same-half'",
        ),
        (edited('"same-half"', "7"), "shifts.1: must be a table, found 7."),
        (
            edited('"same-half"', '{name = "label-skew", params = {shaer = 0.9}}'),
            "shifts.1: Unknown parameter of shift label-skew 'shaer'. Did you mean 'share'?",
        ),
        (
            edited('"same-half"', '{name = "label-skew", params = {share = "0.9"}}'),
            "shifts.1: Shift label-skew: share must be of type float, found '0.9'.",
        ),
        (
            edited('"same-half"', '{name = "label-skew", params = {share = nan}}'),
            "shifts.1: Shift label-skew: share must be finite, found nan.",
        ),
        (
            edited('"same-half"', '{name = "none", noise = "none"}'),
            "shifts.1.noise: Input should be 'own' or 'shared' (found 'none').",
        ),
        (
            edited('name = "lmc_mlp"', 'name = "lmc_mlp"\nkwargs = {width = inf}'),
            "architectures.1.kwargs: must be finite numbers, strings",
        ),
        (
            edited('name = "lmc_mlp"', 'name = "lmc_mlp"\nkwargs = {width = 2020-01-01}'),
            "architectures.1.kwargs: must be finite numbers, strings",
        ),
        (
            edited("replicates = 2", 'evaluations = ["gaussian_nois-3"]'),
            "evaluations.0: Unknown",
        ),
        (edited("[data]", "[data"), "is not TOML: "),
    ],
)
def test_a_faulty_file_is_refused_naming_file_and_key(text, message):
    with pytest.raises(UserError) as refused:
        parse(text)
    found = str(refused.value)
    assert found.startswith("my/toy.toml")
    assert message in found
    assert "\n" not in found
    assert "?." not in found
    assert refused.value.exit_code == 2


def test_every_fault_of_a_file_has_its_line():
    faults = SUITE_TOML.replace("lr = 0.01", "lr = 0").replace("version = 1", "version = 0")
    with pytest.raises(UserError) as refused:
        parse(faults)
    lines = str(refused.value).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["my/toy.toml", "version"],
        ["my/toy.toml", "recipes.slow.lr"],
    ]


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(UserError, match=r"bin\.toml is not text in UTF-8"):
        parse_suite(b"\xff\xfe", "bin.toml")


# --- finding -------------------------------------------------------------------------------------


def test_an_older_version_of_a_suite_is_named_with_its_version(tmp_path, monkeypatch):
    text = read_suite("digits")[0].decode()
    for version in (2, 3):
        content = text.replace("version = 3", f"version = {version}", 1)
        (tmp_path / f"digits-v{version}.toml").write_text(content)
    monkeypatch.setattr(suite_files, "files", lambda _: tmp_path)
    assert {name: file.name for name, file in published_suites().items()} == {"digits": "digits-v3.toml"}
    for name, version, named in (("digits", 3, "digits"), ("digits", 2, "digits-v2")):
        digest = load_suite(f"{name}-v{version}").digest
        assert command_name(name, version, digest) == named
        assert load_suite(named).digest == digest
        assert command_name(name, version, "0" * 64) == "FILE.toml"
    assert command_name("mine", 1, "0" * 64) == "FILE.toml"


def test_published_suites_load_by_name_and_by_version():
    assert "digits" in published_suites()
    for name, file in published_suites().items():
        suite = load_suite(name)
        assert suite.name == name
        assert file.name == f"{name}-v{suite.version}.toml"
        assert load_suite(f"{name}-v{suite.version}") == suite


def test_a_path_loads(tmp_path):
    (tmp_path / "toy.toml").write_text(SUITE_TOML)
    assert load_suite(str(tmp_path / "toy.toml")) == toy_suite()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "Unknown suite 'digit'. Did you mean 'digits'"),
        ("digits-v99", "Unknown suite 'digits-v99'. Did you mean"),
        ("nowhere/toy.toml", "No suite file nowhere/toy.toml."),
        # what else lies in the folder of suites is no suite
        ("tuning", "Unknown suite 'tuning'"),
        ("__init__.py", "Unknown suite '__init__.py'"),
        ("", "Unknown suite ''"),
    ],
)
def test_a_suite_that_is_not_there_is_refused(name, message):
    with pytest.raises(UserError) as refused:
        load_suite(name)
    assert message in str(refused.value)


# --- probe cells ---------------------------------------------------------------------------------


def test_which_measures_are_taken_is_not_in_the_digest():
    plain, probed = toy_suite(), toy_suite(probe={"shifts": ["none"], "replicates": 2, "images": 50})
    assert plain.digest == probed.digest
    cells = expand(probed)
    assert [c.key for c in cells] == [c.key for c in expand(plain)]
    assert {(c.shift.label, c.replicate) for c in cells if c.has_analyses} == {("none", 0), ("none", 1)}
    assert not any(c.has_analyses for c in expand(plain))


@pytest.mark.parametrize(
    ("start", "snapshots", "steps"),
    [
        (0, 12, [0, 10, 20, 30]),
        (10, 12, [10, 20, 30]),
        (15, 12, [15, 20, 30]),
        (0, 2, [0, 10, 30]),
        (0, 1, [0, 10]),
        (35, 3, [35]),
    ],
)
def test_siblings_are_kept_where_they_start_and_at_ends_of_epochs(start, snapshots, steps):
    assert Probe(snapshots=snapshots).logged(start, length=40, per_epoch=10) == steps


def test_a_probe_of_an_unknown_shift_is_refused():
    with pytest.raises(
        ValueError, match=r"probe: the suite has no shift 'label-skwe'; it has none, same-half"
    ):
        toy_suite(probe={"shifts": ["label-skwe"]})
    with pytest.raises(UserError, match=r"probe\.image: unknown key\. Did you mean 'images'"):
        parse_suite(SUITE_TOML.encode() + b"[probe]\nimage = 3", "x.toml")


@pytest.mark.parametrize("name", ["independent-equal-cost", "whole-budget"])
def test_comparators_of_equal_cost_need_siblings_to_be_equal_to(name):
    with pytest.raises(UserError, match="list an epoch or a share of training as well"):
        parse(edited('forks = [0, 2, "independent"]', f'forks = ["independent", "{name}"]'))


COMPARED = {"forks": [0, 2, "independent", "independent-equal-cost", "whole-budget"]}


def test_comparators_of_cost_are_trained_under_the_shifts_that_the_suite_names():
    suite = toy_suite(**COMPARED, comparator_shifts=["label-skew", "none"])
    found = {(shift.label, fork.name) for shift, fork in suite.conditions}
    assert {label for label, fork in found if fork == "whole-budget"} == {"none", "label-skew"}
    assert {label for label, fork in found if fork == "independent-equal-cost"} == {"none", "label-skew"}
    assert {label for label, fork in found if fork == "independent"} == {s.shift.label for s in suite.shifts}
    assert len(suite.conditions) == 4 * 3 + 2 * 2


def test_where_comparators_are_trained_is_of_the_digest_and_its_order_is_not():
    every = toy_suite(**COMPARED)
    some = toy_suite(**COMPARED, comparator_shifts=["none", "label-skew"])
    assert some.digest == toy_suite(**COMPARED, comparator_shifts=["label-skew", "none"]).digest
    assert some.digest != every.digest
    assert toy_suite(**COMPARED, comparator_shifts=None).digest == every.digest


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (COMPARED | {"comparator_shifts": ["non"]}, "comparator_shifts: the suite has no shift 'non'"),
        (
            COMPARED | {"comparator_shifts": ["none", "none"]},
            "shift of the comparators 'none' is listed twice",
        ),
        ({"comparator_shifts": ["none"]}, "no fork is 'independent-equal-cost' or 'whole-budget'; list one"),
        (COMPARED | {"comparator_shifts": []}, "at least 1 item"),
        (
            COMPARED
            | {
                "comparator_shifts": ["none"],
                "gate": [
                    {
                        "measure": "ensemble_accuracy",
                        "kind": "non-inferiority",
                        "margin": 0.01,
                        "shifts": ["label-skew"],
                        "forks": ["whole-budget"],
                        "reason": "four images",
                    }
                ],
            },
            "gate: ensemble_accuracy has no cell",
        ),
    ],
)
def test_comparators_under_no_shift_of_the_suite_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        toy_suite(**table)


def test_a_suite_holds_no_checkpoint():
    with pytest.raises(UserError, match=r"forks\.0: .*--fork from:FILE"):
        parse(edited('forks = [0, 2, "independent"]', 'forks = ["from:x.safetensors"]'))


# --- what is published ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", published_suites())
def test_a_published_suite_says_what_it_is_and_can_be_run(name):
    suite = load_suite(name)
    assert suite.description
    assert suite.citation
    assert suite.floor > 0
    assert {a.recipe for a in suite.architectures} == suite.recipes.keys()
    fractions = [f.epoch / r.epochs for f in suite.fork_list if f.epoch for r in suite.recipes.values()]
    assert all(0 < x < 1 for x in fractions)


def test_the_jpeg_copy_has_suites_of_its_own_that_differ_in_name_and_data_alone():
    for kind in ("fork", "shift"):
        ours, theirs = load_suite(f"cifar10-{kind}"), load_suite(f"cifar10-jpeg-{kind}")
        assert (ours.data.name, theirs.data.name) == ("cifar10", "cifar10-jpeg")
        assert "JPEG" in theirs.description
        same = {"recipes", "architectures", "shifts", "forks", "evaluations", "protocol", "floor"}
        assert ours.model_dump(include=same) == theirs.model_dump(include=same)


def test_cifar10_shift_covers_every_kind_of_normalisation():
    names = {a.name for a in load_suite("cifar10-shift").architectures if a.source == "timm"}
    assert names >= {"resnet18", "convnext_atto", "nf_regnet_b0", "vit_tiny_patch16_224", "mixer_s16_224"}
    assert len(names) >= 6
    plain = [a.kwargs.get("norm", True) for a in load_suite("cifar10-shift").architectures if "vgg" in a.name]
    assert plain == [True, False]


TUNING = Path(__file__).parents[2] / "suites" / "tuning"


def test_the_looks_at_the_jpeg_recipes_look_at_the_recipes_of_the_suite():
    """All at full length; some cut to four epochs, with less warm-up and less precision."""
    ours = load_suite("cifar10-jpeg-shift")
    full, short = (load_suite(str(TUNING / f"cifar10-jpeg{name}.toml")) for name in ("", "-short"))
    same = {"recipes", "architectures", "floor"}
    assert full.model_dump(include=same) == ours.model_dump(include=same)
    networks = {a.model_copy(update={"recipe": ""}).label: a.recipe for a in ours.architectures}
    for network in short.architectures:
        recipe, whole = short.recipes[network.recipe], ours.recipes[networks[network.label]]
        cut = {"epochs": 4, "warmup_epochs": min(whole.warmup_epochs, 1), "precision": recipe.precision}
        assert recipe == whole.model_copy(update=cut)


def test_fork_long_has_the_published_length():
    """63k steps of 128 images out of 50,000, divided by ten at 32k and 48k (arXiv 1912.05671, table 1)."""
    recipe = load_suite("cifar10-fork-long").recipes["standard"]
    length = recipe.length(50_000)
    assert length == pytest.approx(63_000, rel=0.005)
    rates = [recipe.lr_at(step, length) for step in (31_500, 32_500, 47_500, 48_500)]
    assert rates == pytest.approx([0.1, 0.01, 0.01, 0.001])


def test_the_noise_grid_is_of_equal_epochs_and_of_equal_steps():
    recipes = load_suite("noise-grid").recipes.values()
    epochs = [r for r in recipes if r.epochs == 12]
    steps = [r for r in recipes if 432 <= r.length(1198) <= 444]
    for group in (epochs, steps):
        assert {r.batch_size for r in group} == {16, 32, 64, 128}
        assert len({(r.batch_size, r.lr) for r in group}) == len(group) == 12
    assert len(recipes) == len({(r.batch_size, r.lr, r.epochs) for r in recipes})


def test_a_floor_may_be_above_the_stored_accuracy_of_the_baseline():
    suite = toy_suite(floor="baseline+0.01", baseline_accuracy=0.95)
    assert suite.floor == 0.96
    assert suite.digest == toy_suite().digest
    assert toy_suite(floor="baseline+0.1", baseline_accuracy=0.95).floor == 1.0
    for floor, reason in (("baseline+0.01", "calibrate"), ("baseline-1", "write a number"), ("0.5", "write")):
        with pytest.raises(ValidationError, match=reason):
            toy_suite(floor=floor)
