import os
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmcbench.errors import UserError
from lmcbench.spec.forks import COMPARATORS, EQUAL_COST, INDEPENDENT, WHOLE_BUDGET, Fork, equal_share


@pytest.mark.parametrize(
    ("text", "name", "epoch"),
    [
        *[(0, "0", 0.0), ("2", "2", 2.0), (2.0, "2", 2.0), ("0.5", "0.5", 0.5)],
        *[
            ("10%", "10%", None),
            ("3.0%", "3%", None),
            ("0.50%", "0.5%", None),
            ("0.000001%", "0.000001%", None),
        ],
        *[("0%", "0", 0.0), (INDEPENDENT, INDEPENDENT, None)],
    ],
)
def test_names_of_one_fork_agree(text, name, epoch):
    fork = Fork.parse(text)
    assert (fork.name, fork.epoch) == (name, epoch)
    assert Fork.parse(fork.name) == fork


@pytest.mark.parametrize(
    "text",
    [-1, "-1", "", "x", True, float("nan"), float("inf"), "1e3", "Independent", "100%", "-3%", "3 %", "%"],
)
def test_anything_else_is_refused_with_what_is_allowed(text):
    with pytest.raises(
        UserError, match=r"Unknown fork .*Allowed: an epoch \(0, 2, 0\.5\), a share .*or 'independent'"
    ):
        Fork.parse(text)


def test_whole_epochs_fall_on_full_passes():
    assert [Fork.parse(e).step(44, 440) for e in (0, 1, 3, 0.5, INDEPENDENT)] == [0, 44, 132, 22, 0]


@example(29, 100)  # 28.999999999999996 in floating point
@given(st.integers(0, 999), st.integers(1, 500))
def test_steps_of_a_part_of_an_epoch_are_exact(hundredths, steps):
    fork = Fork.parse(f"{hundredths / 100:.2f}")
    assert fork.step(steps, 10 * steps) == Fraction(hundredths, 100) * steps // 1


@example(29.0, 100)
@given(st.integers(1, 99_999).map(lambda hundredths: hundredths / 1000), st.integers(1, 5000))
def test_steps_of_a_share_of_training_are_exact_and_rounded_down(percent, length):
    fork = Fork.parse(f"{percent:.3f}%")
    assert fork.step(7, length) == Fraction(f"{percent:.3f}") * length // 100 < length
    assert fork.share(10) == float(Fraction(f"{percent:.3f}") / 100)
    assert Fork.parse(fork.name) == fork


@pytest.mark.parametrize(("epoch", "epochs", "share"), [("2.7", 9, 0.3), ("0.7", 7, 0.1), ("0.3", 3, 0.1)])
def test_a_share_is_the_float_nearest_to_the_quotient(epoch, epochs, share):
    """2.7 / 9 is 0.30000000000000004 in floating point, which is after the end of the area."""
    assert float(epoch) / epochs != share
    assert Fork.parse(epoch).share(epochs) == share
    assert Fork.parse(epoch).share(float("nan")) is None


def test_a_share_does_not_depend_on_the_length_of_a_recipe_and_an_epoch_does():
    assert [Fork.parse(name).share(20) for name in ("3%", "2", "0", INDEPENDENT)] == [0.03, 0.1, 0.0, None]
    assert [Fork.parse(name).step(44, 440) for name in ("3%", "2", "0", INDEPENDENT)] == [13, 88, 0, 0]


def test_forks_sort_by_epoch_and_independent_is_last():
    names = [
        WHOLE_BUDGET,
        EQUAL_COST,
        INDEPENDENT,
        "from:b.safetensors@00000000",
        "10",
        "30%",
        "2",
        "0.5",
        "3%",
        "0",
    ]
    assert [f.name for f in sorted(map(Fork.parse, names), key=lambda f: f.order(10))] == names[::-1]


def test_epochs_and_shares_are_in_the_order_of_training():
    """Epoch 2 of 16 is before 30 %, and of 4 after it."""

    def order(epochs):
        found = map(Fork.parse, ["50%", "30%", "2", "1", "0"])
        return [fork.name for fork in sorted(found, key=lambda fork: fork.order(epochs))]

    assert order(16) == ["0", "1", "2", "30%", "50%"]
    assert order(5) == ["0", "1", "30%", "2", "50%"]
    assert order(float("nan")) == ["0", "30%", "50%", "1", "2"]


# --- comparators and checkpoints -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "siblings", "length", "networks", "steps"),
    [
        (0, 2, 44, 2, 44),
        (22, 2, 44, 2, 33),
        (22, 2, 44, 1, 66),
        (0, 3, 44, 1, 132),
        # 1 + 2 * 4 = 9 in two: halves go up
        (1, 2, 5, 2, 5),
        # 10 + 3 * 34 = 112 in three: 37.3
        (10, 3, 44, 3, 37),
    ],
)
def test_comparators_cost_what_siblings_and_their_trunk_do(k, siblings, length, networks, steps):
    assert equal_share(k, siblings, length, networks) == steps


@given(st.integers(0, 500), st.integers(2, 9), st.integers(1, 500))
def test_equal_cost_is_missed_by_half_a_step_a_network_at_most(k, siblings, more):
    total = k + siblings * more
    share = equal_share(k, siblings, k + more, siblings)
    assert abs(siblings * share - total) <= siblings / 2
    assert equal_share(k, siblings, k + more, 1) == total


@pytest.mark.parametrize("name", COMPARATORS)
def test_comparators_have_no_fork(name):
    fork = Fork.parse(name)
    assert (fork.name, fork.identity, fork.epoch, fork.step(44, 440)) == (name, name, None, 0)
    assert fork.is_cost_matched is (name != INDEPENDENT)


def test_a_checkpoint_is_what_is_in_it(tmp_path):
    (tmp_path / "a").mkdir()
    first, moved, other = (tmp_path / name for name in ("w.safetensors", "a/w.safetensors", "v.safetensors"))
    for path, content in ((first, b"\x80abc"), (moved, b"\x80abc"), (other, b"\x80abd")):
        path.write_bytes(content)
    fork, same, different = (Fork.parse(f"from:{p}") for p in (first, moved, other))
    assert fork.sha256 == "c859a028b07317054d1a389f69a54f4346bcfec69ca42ad832644fc5460d15ed"
    assert fork.identity == same.identity == f"from:{fork.sha256}" != different.identity
    # no folder of this machine in the name, and enough to tell two files of one name apart
    assert fork.name == same.name == "from:w.safetensors@c859a028"
    assert (fork.epoch, fork.step(44, 440), fork.is_cost_matched) == (None, 0, False)
    first.unlink()
    known = Fork.parse("from:w.safetensors@c859a028")
    assert known.name == "from:w.safetensors@c859a028"


def test_a_checkpoint_that_is_not_there_is_refused_by_name(tmp_path):
    fork = Fork.parse(f"from:{tmp_path}/no.safetensors")
    with pytest.raises(UserError, match=r"no\.safetensors cannot be read: No such file"):
        _ = fork.identity
    assert Fork.parse("from:model_best.pth.tar@00000000").name == "from:model_best.pth.tar@00000000"
    (tmp_path / "index").write_text('{"weight_map": {}}')
    with pytest.raises(UserError, match="does not identify its weights"):
        _ = Fork.parse(f"from:{tmp_path}/index").identity
    for name in ("from:", "from:..", "from:/", "weights.pt"):
        with pytest.raises(UserError, match="on the command line also from:FILE"):
            Fork.parse(name)
    with pytest.raises(UserError, match="the index of a checkpoint in parts does not identify its weights"):
        Fork.parse("from:model.safetensors.index.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello", "is not a checkpoint"),
        (b"\x1f\x8b\x08", "gunzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_a_large_file_that_is_no_checkpoint_is_refused_before_it_is_read(tmp_path, content, message):
    file = tmp_path / "model.pt"
    file.write_bytes(content)
    if content:
        os.truncate(file, 2**36)  # sparse; hashing it takes half a minute
    with pytest.raises(UserError, match=rf"Fork from:{file} .*{message}"):
        _ = Fork.parse(f"from:{file}").identity
