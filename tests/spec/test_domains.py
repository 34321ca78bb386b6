"""Training shifts by domain: what views hold, their sizes, and refusals with the domains and their counts."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import SUITE_TOML, toy_suite
from lmcbench.errors import UserError
from lmcbench.spec import suite_files
from lmcbench.spec.domains import Domains, parse_groups, sort_names
from lmcbench.spec.shifts import Shift
from lmcbench.spec.suite_files import load_suite

NAMES = ("art", "photo", "sketch", "toon")
COUNTS = {"art": 20, "photo": 30, "sketch": 40}
many = settings(max_examples=30, deadline=None)


@st.composite
def images(draw, least=2, most=4):
    """Labels and domains of shuffled images: every domain has every class, in numbers that differ."""
    names, classes = NAMES[: draw(st.integers(least, most))], draw(st.integers(2, 4))
    sizes = draw(st.lists(st.integers(8, 30), min_size=len(names) * classes, max_size=len(names) * classes))
    pairs = list(itertools.product(names, range(classes)))
    rows = np.repeat(np.arange(len(pairs)), sizes)
    rows = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).permutation(rows)
    return np.array([pairs[r][1] for r in rows]), Domains.of([pairs[r][0] for r in rows])


def views(name, labels, domains, k, seed=7, replicate=0, **params):
    found = Shift.parse(name, params).views(labels, k, seed, replicate, domains)
    return [view.indices for view in found]


@many
@given(images())
def test_a_view_holds_its_domain_alone_and_all_of_it(data):
    labels, domains = data
    for name, view in zip(domains.names, views("domains", labels, domains, len(domains.names)), strict=True):
        assert set(domains.texts[view]) == {name}
        assert len(view) == domains.counts[name]
        order = list(zip(labels[view], view, strict=True))
        assert order == sorted(order)


@many
@given(images(least=3), st.booleans(), st.integers(0, 2**63 - 1))
def test_mixed_parts_have_the_sizes_of_the_views_and_the_shares_of_every_stratum(data, grouped, seed):
    labels, domains = data
    names = domains.names
    k = 2 if grouped else len(names)
    params = {"groups": f"{names[2]}+{names[0]}/{names[1]}"} if grouped else {}
    own, mixed = (views(name, labels, domains, k, seed, **params) for name in ("domains", "mixed(domains)"))
    assert [len(view) for view in mixed] == [len(view) for view in own]
    assert sorted(np.concatenate(mixed)) == sorted(np.concatenate(own))
    pool = np.concatenate(own)
    for view in mixed:
        assert set(domains.texts[view]) == set(domains.texts[pool])
        share = len(view) / len(pool)
        for domain, label in itertools.product(np.unique(domains.codes[pool]), np.unique(labels)):
            whole = ((domains.codes[pool] == domain) & (labels[pool] == label)).sum()
            part = ((domains.codes[view] == domain) & (labels[view] == label)).sum()
            assert abs(part - share * whole) <= 2


@many
@given(images(), st.integers(0, 2**63 - 1), st.integers(0, 3))
def test_the_control_has_one_view_and_all_are_drawn_again_alike(data, seed, replicate):
    labels, domains = data
    k = len(domains.names)
    for name in ("domains", "mixed(domains)"):
        first, again = (views(name, labels, domains, k, seed, replicate) for _ in range(2))
        control = views(f"same({name})", labels, domains, k, seed, replicate)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert all(np.array_equal(view, first[replicate % k]) for view in control)


def test_other_seeds_deal_other_parts():
    labels, domains = np.arange(60) % 2, Domains.of(["art", "photo", "sketch"] * 20)
    first, second = (views("mixed(domains)", labels, domains, 3, seed) for seed in (1, 2))
    assert not np.array_equal(first[0], second[0])


def test_names_are_in_order_of_numbers_or_text_and_survive_selection():
    assert sort_names(["10", "9", "10"]) == ("9", "10")
    assert sort_names(["10", "9", "b"]) == ("10", "9", "b")
    domains = Domains.of(["b", "a", "c", "a"])
    assert domains.names == ("a", "b", "c")
    assert domains.codes.tolist() == [1, 0, 2, 0]
    part = domains.take(np.array([2, 0]))
    assert part.names == ("b", "c")
    assert part.texts.tolist() == ["c", "b"]
    joined = Domains.join(part, domains)
    assert joined.texts.tolist() == ["c", "b", "b", "a", "c", "a"]
    assert joined.counts == {"a": 2, "b": 2, "c": 2}


@pytest.mark.parametrize(
    ("groups", "k", "says"),
    [
        ("", 2, "2 siblings and 3 domains"),
        ("", 4, "4 siblings and 3 domains"),
        ("art+photo/sketch", 3, "2 groups for 3 siblings"),
        ("art", 2, "1 group for 2 siblings in 'art'. The training"),
        ("art//sketch", 3, "group 1 of 'art//sketch' is empty"),
        ("art+/sketch", 2, "group 0 of"),
        ("art/art", 2, "'art' is in two groups"),
        ("art+art/photo", 2, "'art' is twice in one group"),
        ("art+photo/photo", 2, "'photo' is in two groups"),
        ("art/photos", 2, "Did you mean 'photo'?"),
    ],
)
def test_a_refusal_is_one_line_with_the_domains_and_their_counts(groups, k, says):
    with pytest.raises(UserError, match="art 20, photo 30, sketch 40") as refused:
        parse_groups("domains", groups, COUNTS, k)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_one_domain_is_no_shift_and_many_are_abridged():
    with pytest.raises(UserError, match=r"at least two domains.*art 20\."):
        parse_groups("domains", "", {"art": 20}, 2)
    writers = {f"writer{i:04}": 5 for i in range(3000)}
    with pytest.raises(UserError, match=r"writer0011 5 and 2,988 more") as refused:
        parse_groups("mixed(domains)", "", writers, 2)
    assert len(str(refused.value)) < 700


@pytest.mark.parametrize(
    ("groups", "known", "expected"),
    [
        ("St. Mary/North+B", ["B", "St. Mary/North"], [("St. Mary/North", "B")]),
        ("a+b/c/d", ["a+b", "c/d"], [("a+b",), ("c/d",)]),
        ("a+b/c", ["a", "b", "a+b", "c"], [("a", "b"), ("c",)]),  # as without such a name
        ("a/b/c", ["a/b", "a/b/c"], [("a/b/c",)]),
        ("a/bc", ["a/b", "a", "bc"], [("a",), ("bc",)]),
    ],
)
def test_a_name_may_have_the_signs_between_names(groups, known, expected):
    counts = {**dict.fromkeys(known, 5), "other": 5}
    assert parse_groups("domains", groups, counts, len(expected)) == expected


def test_a_domain_without_a_class_of_the_others_is_refused_unless_grouped():
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    domains = Domains.of(["a", "a", "a", "b", "b", "b", "c", "c"])
    named = Domains(domains.names, domains.codes, ("cat", "dog", "owl"))
    with pytest.raises(UserError, match=r"c has no image of class 'owl'.*\(a 1, b 1\).*a 3, b 3, c 2"):
        views("domains", labels, named, 3)
    with pytest.raises(UserError, match="no image of class 2"):
        views("mixed(domains)", labels, domains, 3)
    assert [len(view) for view in views("domains", labels, domains, 2, groups="a/b+c")] == [3, 5]


def test_a_part_that_would_miss_a_domain_is_refused():
    labels = np.array([0, 1] * 20 + [0, 1])
    domains = Domains.of(["big"] * 40 + ["small"] * 2)
    with pytest.raises(UserError, match=r"part of sibling 1, 2 images, has none of domain 'small'"):
        views("mixed(domains)", labels, domains, 2)


def test_data_without_domains_are_refused_by_the_suite():
    for changed in (
        {"shifts": ["domains"]},
        {"shifts": ["same(mixed(domains))"]},
        {"evaluations": ["domain:art"]},
        {"data": {"name": "digits", "hold_out": ["art"]}},
    ):
        with pytest.raises(ValueError, match=r"needs data with domains.*domain = \"hospital\""):
            toy_suite(**changed)
    with pytest.raises(ValueError, match="'a' is listed twice"):
        toy_suite(data={"name": "./mine", "domain": "folder", "hold_out": ["a", "a"]})


def test_domains_are_part_of_the_digest_and_absent_from_others():
    plain = toy_suite(data={"name": "./mine"})
    by_folder = toy_suite(data={"name": "./mine", "domain": "folder"})
    held = toy_suite(data={"name": "./mine", "domain": "folder", "hold_out": ["a"]})
    assert len({suite.digest for suite in (plain, by_folder, held)}) == 3
    assert not Shift.parse("domains").is_control
    assert Shift.parse("mixed(domains)").is_control
    assert not Shift.parse("mixed(domains)").has_one_view
    assert Shift.parse("same(domains)").is_control
    assert Shift.parse("same(domains)").has_one_view
    assert Shift.parse("domains", {"groups": "a+b/c"}).label == "domains[groups=a+b/c]"


def test_a_published_suite_cannot_have_a_users_shift(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules.py").write_text("def half(labels, domains, siblings, generator): ...\n")
    text = SUITE_TOML.replace('"label-skew"', '"rules.py:half", "same(rules.py:half)"')
    (tmp_path / "toy-v1.toml").write_text(text)
    own = load_suite("toy-v1.toml")
    assert [spec.shift.label for spec in own.shifts[-2:]] == ["rules.py:half", "same(rules.py:half)"]
    assert own.shifts[-1].shift.has_one_view
    monkeypatch.setattr(suite_files, "read_suite", lambda name: (text.encode(), f"{name}.toml"))
    with pytest.raises(UserError, match=r"toy-v1 has the shift rules\.py:half of a user's file"):
        load_suite("toy-v1")
