"""Training shifts: partitions, shares, nesting, determinism, refusals."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcbench.errors import UserError
from lmcbench.spec.cells import Selection, expand
from lmcbench.spec.shift_rules import SHIFTS, views_digest
from lmcbench.spec.shifts import Shift
from lmcbench.spec.suite_files import load_suite

PARTITIONS = ["disjoint-halves", "label-skew", "dirichlet"]
SAMPLES = [*SHIFTS, "same-half", "same(corruption)"]


@st.composite
def label_arrays(draw):
    classes = draw(st.integers(2, 6))
    counts = draw(st.lists(st.integers(20, 60), min_size=classes, max_size=classes))
    labels = np.repeat(np.arange(classes), counts)
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1))).permutation(labels)


seeds = st.integers(0, 2**63 - 1)
many = settings(max_examples=40, deadline=None)


def views(shift, labels, k=2, seed=7, replicate=0, **params):
    return Shift.parse(shift, params).views(labels, k, seed, replicate)


@pytest.mark.parametrize("name", PARTITIONS)
@many
@given(labels=label_arrays(), seed=seeds)
def test_a_split_is_a_partition_in_class_order(name, labels, seed):
    parts = [
        v.indices for v in views(name, labels, 2, seed, **({"share": 0.7} if name == "label-skew" else {}))
    ]
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    for part in parts:
        order = list(zip(labels[part], part, strict=True))
        assert order == sorted(order)


@many
@given(labels=label_arrays(), seed=seeds, k=st.integers(2, 4))
def test_disjoint_parts_are_balanced_in_size_and_class(labels, seed, k):
    parts = [v.indices for v in views("disjoint-halves", labels, k, seed)]
    assert np.ptp([len(p) for p in parts]) <= 1
    for c in np.unique(labels):
        assert np.ptp([(labels[p] == c).sum() for p in parts]) <= 1


@many
@given(labels=label_arrays(), seed=seeds, k=st.integers(2, 4), share=st.floats(0.5, 0.95))
def test_label_skew_shares_are_exact_to_one_example(labels, seed, k, share):
    parts = [v.indices for v in views("label-skew", labels, k, seed, share=share)]
    homes = []
    for c in np.unique(labels):
        counts = np.array([(labels[p] == c).sum() for p in parts])
        n = (labels == c).sum()
        assert abs(counts.max() - share * n) <= 1
        assert np.ptp(np.delete(counts, counts.argmax())) <= 1
        homes.append(counts.argmax())
    if share > 0.6:
        assert np.bincount(homes, minlength=k).max() <= -(-len(homes) // k) or len(homes) < k


def test_label_skew_of_published_share():
    parts = [v.indices for v in views("label-skew", np.repeat(np.arange(10), 100))]
    table = np.array([np.bincount(p // 100, minlength=10) for p in parts])
    assert sorted(map(tuple, table.T)) == [(20, 80)] * 5 + [(80, 20)] * 5


@many
@given(labels=label_arrays(), seed=seeds)
def test_dirichlet_gives_everybody_ten_images(labels, seed):
    assert min(len(v.indices) for v in views("dirichlet", labels, 2, seed, concentration=1.0)) >= 10


def test_dirichlet_proportions_have_the_moments_of_a_symmetric_dirichlet():
    labels = np.repeat(np.arange(20), 100)
    shares = []
    for seed in range(40):
        first = views("dirichlet", labels, 2, seed, concentration=0.5)[0].indices
        shares.extend(np.bincount(labels[first], minlength=20) / 100)
    # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)) = 1/8 at a = 1/2; 800 draws.
    assert np.mean(shares) == pytest.approx(0.5, abs=4 * np.sqrt(0.125 / 800))
    assert np.var(shares) == pytest.approx(0.125, rel=0.1)


def test_dirichlet_tends_to_even_with_concentration():
    labels = np.repeat(np.arange(10), 1000)
    counts = np.bincount(labels[views("dirichlet", labels, 2, 3, concentration=1e6)[0].indices])
    assert np.abs(counts - 500).max() < 5


@many
@given(labels=label_arrays(), seed=seeds, fraction=st.floats(0.2, 0.9))
def test_subsets_are_nested_and_stratified(labels, seed, fraction):
    outer, inner, innermost = views("subset", labels, 3, seed, fraction=fraction)
    assert list(outer.indices) == sorted(range(len(labels)), key=lambda i: (labels[i], i))
    assert set(inner.indices) <= set(outer.indices)
    assert set(innermost.indices) <= set(inner.indices)
    assert all(v.nested for v in (outer, inner, innermost))
    for c in np.unique(labels):
        n = (labels == c).sum()
        assert abs((labels[inner.indices] == c).sum() - fraction * n) <= 0.5
        assert abs((labels[innermost.indices] == c).sum() - fraction**2 * n) <= 0.5


@many
@given(labels=label_arrays(), seed=seeds, fraction=st.floats(0.05, 1))
def test_label_noise_flips_an_exact_share_of_each_class_to_other_classes(labels, seed, fraction):
    shown = views("label-noise", labels, 2, seed, fraction=fraction)
    for view in shown:
        true = labels[view.indices]
        assert sorted(view.indices) == list(range(len(labels)))
        assert set(view.labels) <= set(labels)
        for c in np.unique(labels):
            assert (view.labels[true == c] != c).sum() == round(fraction * (true == c).sum())


def test_label_noise_is_independent_between_siblings_and_uniform_over_other_classes():
    labels = np.repeat(np.arange(10), 2000)
    a, b = views("label-noise", labels, 2, fraction=0.5)
    wrong_a, wrong_b = a.labels != labels[a.indices], b.labels != labels[b.indices]
    assert (wrong_a & wrong_b).mean() == pytest.approx(0.25, abs=0.01)
    steps = (a.labels - labels[a.indices])[wrong_a] % 10
    assert np.bincount(steps, minlength=10)[1:] == pytest.approx(10000 / 9, rel=0.15)


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("corruption", {"name": "fog", "severity": 5}, [None, "fog-5", "fog-5"]),
        ("corruption", {}, [None, "gaussian_noise-3", "gaussian_noise-3"]),
        ("rotation", {"degrees": 22.5}, [None, "rotate-22.5", "rotate-45"]),
        ("rotation", {"degrees": -15}, [None, "rotate--15", "rotate--30"]),
        ("rotation", {"degrees": 0.0001}, [None, "rotate-0.0001", "rotate-0.0002"]),
        ("rotation", {"degrees": 33.3333}, [None, "rotate-33.3333", "rotate-66.6666"]),
        ("channels", {}, ["channels-0", "channels-1", "channels-2"]),
        ("channels", {"groups": "0+1/2/3+4"}, ["channels-0+1", "channels-2", "channels-3+4"]),
    ],
)
def test_views_through_transforms_see_every_image(name, params, expected):
    labels = np.array([1, 0, 1, 0])
    shown = views(name, labels, 3, **params)
    assert [v.transform for v in shown] == expected
    assert all(list(v.indices) == [1, 3, 0, 2] for v in shown)


@pytest.mark.parametrize("name", SAMPLES)
def test_views_depend_on_seed_and_labels_alone(name):
    labels = np.random.default_rng(0).integers(0, 10, 500)
    once = views_digest(views(name, labels, seed=11), labels)
    for other in SHIFTS:
        views(other, labels, seed=11)
    np.random.default_rng(1)
    assert views_digest(views(name, labels, seed=11), labels) == once
    drawn = name not in ("none", "channels", "corruption", "rotation", "same(corruption)")
    assert (views_digest(views(name, labels, seed=12), labels) != once) == drawn


def test_digests_are_frozen():
    """Views are part of what makes results comparable: these never change within a suite version."""
    labels = np.arange(600) * 7 % 10
    found = {name: views_digest(views(name, labels, seed=1), labels)[:8] for name in SHIFTS}
    assert found == FROZEN


FROZEN = {
    "none": "e1402e55",
    "disjoint-halves": "3af29b6a",
    "label-skew": "4ca52f55",
    "dirichlet": "8c2be87c",
    "subset": "74e4a1ae",
    "channels": "06dea0fc",
    "corruption": "b05456ad",
    "rotation": "4f8ae220",
    "label-noise": "e355388d",
    "own-normalisation": "9ac3bbd4",
}


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize("replicate", [0, 1, 2])
def test_the_same_control_gives_all_siblings_view_r_mod_k(name, replicate):
    labels = np.random.default_rng(0).integers(0, 5, 200)
    plain = views(name, labels, 2)
    control = views(f"same({name})", labels, 2, replicate=replicate)
    for view in control:
        assert views_digest([view], labels) == views_digest([plain[replicate % 2]], labels)


def test_two_spellings_of_a_control_are_one_shift():
    """Digests and keys use the short name."""
    assert Shift.parse("same(disjoint-halves)") == Shift.parse("same-half")
    assert Shift.parse("same(disjoint-halves)").definition() == {"name": "same-half"}
    assert Shift.parse("same(label-skew)").definition() == {"name": "same(label-skew)"}
    chosen = expand(load_suite("digits"), Selection(shifts=["same(disjoint-halves)"]))
    assert {cell.shift.name for cell in chosen} == {"same-half"}


def test_any_shift_takes_shared_noise():
    for name in SHIFTS:
        assert Shift.parse(name, noise="shared").label == f"{name}[noise=shared]"


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("label-skew", {"share": 1.5}, "share must lie between 1/K and 1, found 1.5"),
        ("label-skew", {"share": "a"}, "share must be of type float, found 'a'"),
        (
            "label-skew",
            {"shares": 0.8},
            "Unknown parameter of shift label-skew 'shares'. Did you mean 'share'",
        ),
        ("dirichlet", {"concentration": 0.0}, "concentration must lie between 0.001 and 1e6, found 0.0"),
        ("dirichlet", {"concentration": float("nan")}, "found nan"),
        ("subset", {"fraction": 1.0}, "fraction must be greater than 0 and less than 1, found 1.0"),
        ("label-noise", {"fraction": 0.0}, "fraction must be greater than 0"),
        ("rotation", {"degrees": 0.0}, "degrees must lie between -180 and 180, not be 0"),
        ("rotation", {"degrees": 1e-5}, "at most four decimals, found 1e-05"),
        ("rotation", {"degrees": 22.12345}, "at most four decimals, found 22.12345"),
        ("rotation", {"degrees": True}, "degrees must be of type float, found True"),
        (
            "corruption",
            {"name": "gaussian_nose"},
            "Unknown corruption 'gaussian_nose'. Did you mean 'gaussian_noise'",
        ),
        ("corruption", {"severity": 6}, "takes a severity from 1 to 5"),
        ("corruption", {"severity": 2.0}, "severity must be of type int, found 2.0"),
        ("channels", {"groups": "0,1"}, "must list the channels of each sibling"),
        ("channels", {"groups": "0+1/1+0"}, "are equal, which is not a shift"),
        ("none", {"share": 0.5}, "Unknown parameter of shift none"),
        ("dirichle", {}, "Did you mean 'dirichlet'"),
    ],
)
def test_bad_parameters_are_refused_when_the_suite_is_read(name, params, message):
    with pytest.raises(UserError, match=message):
        Shift.parse(name, params)


@pytest.mark.parametrize(
    ("name", "params", "k", "message"),
    [
        ("label-skew", {"share": 0.4}, 2, "share must be at least 1/K = 0.5, found 0.4"),
        ("rotation", {"degrees": 100.0}, 3, "3 siblings in steps of 100 degrees exceed 180"),
        ("channels", {"groups": "0/1"}, 3, "2 groups for 3 siblings"),
        ("dirichlet", {}, 3, "at least 10 images for each of 3 siblings, but there are only 20"),
        ("disjoint-halves", {}, 21, "leaves sibling 20 of 21 without training images"),
    ],
)
def test_parameters_that_do_not_suit_the_siblings_are_refused(name, params, k, message):
    with pytest.raises(UserError, match=message):
        views(name, np.arange(20) % 2, k, **params)


def test_a_hopeless_dirichlet_says_so():
    with pytest.raises(UserError, match="no draw in 1000 gives each of 2 siblings 10 images"):
        views("dirichlet", np.zeros(20, int), 2, concentration=0.001)


def test_label_noise_needs_two_classes():
    with pytest.raises(UserError, match="at least two classes"):
        views("label-noise", np.zeros(20, int))


def test_shift_kinds_state_what_they_are():
    for kind, other in itertools.combinations(SHIFTS.values(), 2):
        assert kind.summary
        assert kind.source
        assert kind.summary != other.summary
