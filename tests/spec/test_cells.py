import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import toy_cell, toy_suite
from lmcbench.errors import UserError
from lmcbench.spec.canonical import digest
from lmcbench.spec.cells import Selection, expand, families, parse_replicates
from lmcbench.spec.seeds import Seeds
from lmcbench.spec.suite_files import load_suite


def named(cells):
    return [(c.replicate, c.architecture.label, c.shift.label, c.fork.name) for c in cells]


ALL = list(
    itertools.product(
        range(2),
        ["lmc_linear", "lmc_mlp"],
        ["none", "same-half", "disjoint-halves", "label-skew"],
        ["0", "2", "independent"],
    )
)

# --- expansion -----------------------------------------------------------------------------------


def test_a_suite_expands_replicate_by_replicate_in_its_own_order():
    assert named(expand(toy_suite())) == ALL


PRICED = [0, 2, "independent", "independent-equal-cost", "whole-budget"]


def test_comparators_that_are_not_asked_for_are_left_out_where_the_suite_has_none():
    suite = toy_suite(forks=PRICED, comparator_shifts=["none"])
    assert len(expand(suite)) == 2 * 2 * (4 * 3 + 2)
    assert {c.fork.name for c in expand(suite, Selection(shifts=["label-skew"]))} == {"0", "2", "independent"}
    globbed = expand(suite, Selection(shifts=["*"], forks=["0", "whole-budget"]))
    assert {c.shift.label for c in globbed if c.fork.name == "whole-budget"} == {"none"}
    assert {c.shift.label for c in globbed} == {"none", "same-half", "disjoint-halves", "label-skew"}
    both = expand(suite, Selection(shifts=["none", "label-skew"], forks=["0", "whole-budget"]))
    assert len(both) == 2 * 2 * (2 + 1)


@pytest.mark.parametrize(
    ("shifts", "forks", "message"),
    [
        (["label-skew"], ["whole-budget"], "has whole-budget only under none, same-half, none of which is"),
        (["label-skew"], ["0", "whole-budget"], "has whole-budget only under none, same-half, none of which"),
        (["label-*"], PRICED, "has independent-equal-cost and whole-budget only under none, same-half, none"),
        (["none", "label-skew"], ["whole-budget"], "none, same-half, so --shift label-skew selects no cell."),
        (
            ["none", "same(label-skew)"],
            ["independent-equal-cost", "whole-budget"],
            "has independent-equal-cost and whole-budget only under none, same-half, so "
            "--shift same(label-skew) selects no cell.",
        ),
    ],
)
def test_each_shift_and_fork_that_is_asked_for_has_a_cell_or_is_refused(shifts, forks, message):
    listed = ["none", "same-half", "same(label-skew)", "label-skew"]
    suite = toy_suite(shifts=listed, forks=PRICED, comparator_shifts=["none", "same-half"])
    with pytest.raises(UserError) as refused:
        expand(suite, Selection(shifts=shifts, forks=[str(fork) for fork in forks]))
    assert message in str(refused.value)


OWN = {"name": "label-skew", "noise": "shared", "forks": [0, "30%"]}


def test_a_shift_may_have_forks_of_its_own():
    suite = toy_suite(shifts=["none", OWN], forks=[*PRICED, "3%"], comparator_shifts=["none"])
    label = "label-skew[noise=shared]"
    assert [f.name for f in suite.fork_list] == [*map(str, PRICED), "3%", "30%"]
    places = [(s.label, f.name) for s, f in suite.conditions]
    assert places == [("none", f) for f in (*map(str, PRICED), "3%")] + [(label, "0"), (label, "30%")]
    later = expand(suite, Selection(["lmc_mlp"], forks=["30%"], replicates=range(1)))
    assert [(c.shift.label, c.fork.name) for c in later] == [(label, "30%")]
    # digits has 1437 images: 44 batches of 32 an epoch, 4 epochs
    assert (later[0].fork_step(1437), later[0].length(1437)) == (52, 176)
    with pytest.raises(UserError, match=r"has 3% only under none, none of which is selected"):
        expand(suite, Selection(shifts=[label], forks=["3%"]))
    with pytest.raises(ValueError, match=r"'label-skew\[noise=shared\]' has forks of its own"):
        toy_suite(shifts=["none", OWN], forks=PRICED, comparator_shifts=["none", label])


def test_cost_matched_networks_cost_what_siblings_of_the_latest_fork_do_for_each_recipe():
    """The latest of a share and an epoch depends on the recipe's length."""
    recipes = {
        "slow": {"lr": 0.1, "batch_size": 32, "epochs": 4},
        "fast": {"lr": 0.1, "batch_size": 32, "epochs": 40},
    }
    suite = toy_suite(forks=[0, "30%", 2, "whole-budget"], recipes=recipes)
    for name, latest in (("lmc_linear", 88), ("lmc_mlp", 528)):
        [cell] = expand(suite, Selection([name], ["none"], ["whole-budget"], range(1)))
        full = cell.recipe.length(1437)
        assert cell.length(1437) == latest + 2 * (full - latest)


def test_keys_are_distinct_and_16_hex_digits():
    keys = [cell.key for cell in expand(toy_suite())]
    assert len(set(keys)) == len(ALL) == 48
    assert all(len(key) == 16 and set(key) <= set("0123456789abcdef") for key in keys)


@given(
    st.lists(st.sampled_from(["lmc_linear", "lmc_mlp", "lmc_*"]), max_size=2),
    st.lists(st.sampled_from(["none", "same*", "*half*", "label-skew"]), max_size=2),
    st.lists(st.sampled_from(["0", "2", "2.0", "independent"]), max_size=3),
    st.none() | st.tuples(st.integers(0, 3), st.integers(1, 3)).map(lambda r: range(r[0], r[0] + r[1])),
)
def test_a_selection_is_a_part_of_the_whole_in_the_same_order(architectures, shifts, forks, replicates):
    suite = toy_suite(replicates=6)
    everything = expand(suite)
    chosen = expand(suite, Selection(architectures, shifts, forks, replicates))
    place = [everything.index(cell) for cell in chosen]
    by_suite = [everything.index(c) for c in everything if c in chosen]
    assert chosen
    assert sorted(place) == by_suite
    assert len(set(place)) == len(place)
    if replicates is not None:
        assert {c.replicate for c in chosen} == set(replicates)
    if forks:
        assert {c.fork.name for c in chosen} == {f.removesuffix(".0") for f in forks}


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        (Selection(), 48),
        (Selection(architectures=["*mlp"]), 24),
        (Selection(shifts=["same-*", "none"]), 24),
        (Selection(forks=["independent"]), 16),
        (Selection(replicates=range(1000, 1003)), 72),
        (Selection(architectures=["lmc_mlp"], shifts=["none"], forks=["0"], replicates=range(1)), 1),
        (Selection(replicates=range(0)), 0),
    ],
)
def test_selections_count(selection, count):
    assert len(expand(toy_suite(), selection)) == count


def test_a_shift_with_settings_is_matched_by_its_label():
    suite = toy_suite(shifts=["none", {"name": "label-skew", "params": {"share": 0.9}, "noise": "shared"}])
    [cell] = expand(suite, Selection(["lmc_mlp"], ["label-skew[share=0.9,noise=shared]"], ["0"], range(1)))
    assert cell.shift.params == {"share": 0.9}


@pytest.mark.parametrize(
    "written",
    [
        "nf_resnet26(depths=[1,1],channels=[32,64],stem_type=3x3)",
        "nf_resnet26( stem_type='3x3', channels=[32, 64], depths=[1, 1] )",
    ],
)
def test_a_network_of_the_suite_is_found_however_its_arguments_are_written(written):
    found = expand(load_suite("digits"), Selection([written], ["none"], ["0"], range(1)))
    assert [(c.architecture.name, c.recipe.lr) for c in found] == [("nf_resnet26", 0.03)]
    with pytest.raises(UserError, match="recipe"):
        expand(load_suite("digits"), Selection(["nf_resnet26(depths=[2,1])"], ["none"], ["0"], range(1)))


def test_an_unlisted_architecture_comes_with_a_recipe():
    cells = expand(toy_suite(), Selection(["resnet18"], ["none"], ["0"], range(1), recipe="slow"))
    assert [c.summary() | {"key": None} for c in cells] == [
        {
            "key": None,
            "architecture": "resnet18",
            "recipe": "slow",
            "shift": "none",
            "fork": "0",
            "replicate": 0,
        }
    ]


def test_a_recipe_replaces_those_of_the_suite():
    cells = expand(toy_suite(), Selection(recipe="slow"))
    assert {(c.architecture.label, c.architecture.recipe) for c in cells} == {
        ("lmc_linear", "slow"),
        ("lmc_mlp", "slow"),
    }
    assert {c.recipe.lr for c in cells} == {0.01}


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(["lmc_mpl"]), "Unknown architecture 'lmc_mpl'. Did you mean 'lmc_mlp'"),
        (Selection(["lmc_mpl"]), "choose a recipe: --recipe slow|fast."),
        (Selection(["lmc_mpl"], recipe_option="recipe="), "choose a recipe: recipe=slow|fast."),
        (Selection(["vit*"]), "No architecture of suite toy matches 'vit*'. Known: lmc_linear, lmc_mlp."),
        (Selection(recipe="fasst"), "Unknown recipe of suite toy 'fasst'. Did you mean 'fast'?"),
        (
            Selection(shifts=["label_skew"]),
            "Unknown shift of suite toy 'label_skew'. Did you mean 'label-skew'?",
        ),
        (Selection(shifts=["none", "x*"]), "Unknown shift of suite toy 'x*'. Known: disjoint-halves,"),
        (Selection(forks=["1"]), "Suite toy has no fork 1. It has 0, 2, independent."),
        (Selection(forks=["first"]), "Unknown fork 'first'"),
        (Selection(["a/net.py:f", "b/net.py:f"], recipe="fast"), "have the same label net.py:f"),
    ],
)
def test_what_matches_nothing_is_refused(selection, message):
    with pytest.raises(UserError) as refused:
        expand(toy_suite(), selection)
    assert message in str(refused.value)


# --- replicates ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [("3", range(3)), ("0:2", range(2)), ("5:7", range(5, 7)), ("1000:1006", range(1000, 1006))],
)
def test_replicates_are_half_open(text, found):
    assert parse_replicates(text) == found


@pytest.mark.parametrize("text", ["0", "3:3", "7:5"])
def test_an_empty_range_is_refused(text):
    with pytest.raises(UserError, match=f"'{text}' are an empty range"):
        parse_replicates(text)


def test_a_slip_of_the_finger_fills_no_memory():
    assert len(parse_replicates("10000")) == len(parse_replicates("90000:100000")) == 10_000
    for text in ("10001", "0:99999999999999999999999"):
        with pytest.raises(UserError, match=f"Replicates '{text}' are more than 10,000"):
            parse_replicates(text)


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "1:2:3", ":3", "3:", " 3"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(UserError, match="half-open range A:B"):
        parse_replicates(text)


# --- keys ----------------------------------------------------------------------------------------


def test_a_key_is_of_what_changes_the_numbers():
    cell = toy_cell(shift="label-skew", fork="2", replicate=1)
    content = {
        "suite": cell.suite.digest,
        "architecture": {"name": "lmc_mlp", "kwargs": {}, "fingerprint": cell.architecture.fingerprint},
        "recipe": "fast",
        "shift": {"name": "label-skew"},
        "fork": "2",
        "replicate": 1,
    }
    assert cell.key == digest(content)[:16]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "description": st.text(),
            "citation": st.text(),
            "cost": st.text(),
            "floor": st.floats(0, 1),
            "replicates": st.integers(1, 9),
            "architectures": st.just([{"name": "lmc_mlp", "recipe": "fast"}]),
        },
    )
)
def test_a_key_does_not_depend_on_the_rest(changes):
    assert toy_cell(suite=toy_suite(**changes)).key == toy_cell().key


@pytest.mark.parametrize(
    "changes",
    [{"version": 2}, {"name": "tox"}, {"siblings": 3}, {"protocol": {"alphas": 11}}, {"forks": [0]}],
)
def test_a_key_depends_on_the_digest(changes):
    assert toy_cell(suite=toy_suite(**changes)).key != toy_cell().key


def test_noise_parameters_and_settings_of_the_network_have_their_own_keys():
    plain = toy_cell()
    shared = toy_suite(shifts=["none", {"name": "none", "noise": "shared"}])
    mine = toy_suite(shifts=["none"])
    wide = [
        {"name": "lmc_mlp", "recipe": "fast"},
        {"name": "lmc_mlp", "recipe": "fast", "kwargs": {"width": 9}},
    ]
    keys = {
        plain.key,
        *(c.key for c in expand(shared, Selection(["lmc_mlp"], (), ["0"], range(1)))),
        *(c.key for c in expand(mine, Selection(["lmc_mlp"], (), ["0"], range(1)))),
        *(c.key for c in expand(toy_suite(architectures=wide), Selection((), ["none"], ["0"], range(1)))),
    }
    # the plain cell is the same in the last suite, whose digest does not know its architectures
    assert len(keys) == 1 + 2 + 1 + 1


# --- families ------------------------------------------------------------------------------------


def test_a_family_is_all_cells_that_share_a_trunk():
    cells = expand(toy_suite())
    groups = families(cells)
    assert [(g.replicate, g.architecture.label, len(g.cells)) for g in groups] == [
        (0, "lmc_linear", 12),
        (0, "lmc_mlp", 12),
        (1, "lmc_linear", 12),
        (1, "lmc_mlp", 12),
    ]
    assert [cell for g in groups for cell in g.cells] == cells
    assert len({g.key for g in groups}) == 4
    assert groups[3].recipe == toy_suite().recipes["fast"]
    assert groups[3].seeds == Seeds.of("toy", 1, 1, 2)


def test_a_family_keeps_its_key_whichever_cells_are_asked_for():
    whole = families(expand(toy_suite()))[1]
    [part] = families(expand(toy_suite(), Selection(["lmc_mlp"], ["label-skew"], ["2"], range(1))))
    assert len(part.cells) == 1
    assert part.key == whole.key


def test_two_recipes_of_one_network_are_two_families():
    both = [{"name": "lmc_mlp", "recipe": recipe} for recipe in ("slow", "fast")]
    groups = families(expand(toy_suite(architectures=both, replicates=1)))
    assert [g.architecture.recipe for g in groups] == ["slow", "fast"]
    assert len({g.key for g in groups}) == 2


def test_cells_pass_to_other_processes():
    cell = toy_cell()
    again = pickle.loads(pickle.dumps(cell))
    assert again == cell
    assert again.key == cell.key


@pytest.mark.parametrize("kind", ["architectures", "shifts", "forks"])
def test_long_patterns_are_refused_before_they_are_matched(kind):
    with pytest.raises(UserError, match="has 60,008 characters") as refused:
        expand(toy_suite(), Selection(**{kind: ["lmc_mlp(" + "[" * 60_000]}))
    assert len(str(refused.value)) < 1000
