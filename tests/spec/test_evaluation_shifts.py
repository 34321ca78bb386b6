"""Names of evaluation shifts: grammar, refusals, and which suites may list them."""

import subprocess
import sys

import pytest

from builders import toy_suite
from lmcbench.errors import UserError
from lmcbench.spec.evaluation_shifts import (
    CIFAR_C,
    CORRUPTIONS,
    SHIFTED,
    ShiftedName,
    Transform,
    is_shifted,
    parse_shifted,
    parse_transform,
    shifted_table,
    shown_split,
    transform_table,
)
from lmcbench.spec.suite_tables import DataSpec


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gaussian_noise-3", Transform("gaussian_noise", 3)),
        ("rotate-15", Transform("rotate", 15.0)),
        ("rotate--22.5", Transform("rotate", -22.5)),
        ("translate-2", Transform("translate", 2)),
        ("channels-2+0+2", Transform("channels", (0, 2))),
    ],
)
def test_names_of_transforms_parse(name, expected):
    assert parse_transform(name) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gaussian_noise", "takes a severity from 1 to 5, as in gaussian_noise-3"),
        ("gaussian_noise-0", "takes a severity from 1 to 5"),
        ("gaussian_noise-33", "takes a severity from 1 to 5"),
        ("gausian_noise-3", "Unknown transform 'gausian_noise'. Did you mean 'gaussian_noise'"),
        ("rotate-200", "degrees from -180 to 180"),
        ("rotate-a", "degrees from -180 to 180"),
        ("translate-1.5", "whole pixels"),
        ("channels-", "channel numbers"),
    ],
)
def test_bad_names_of_transforms_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        parse_transform(name)


def test_the_table_lists_sixteen_corruptions_and_three_geometries():
    table = transform_table()
    assert len(table) == 19
    assert {"gaussian_noise-1..5", "rotate-DEGREES"} <= {row["name"] for row in table}
    assert all(row["summary"] and row["source"] for row in table)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10-c:fog-3", ShiftedName("cifar10-c", "fog", 3)),
        ("cifar10-c:gaussian_noise-5", ShiftedName("cifar10-c", "gaussian_noise", 5)),
        ("cifar100-c:frost-1", ShiftedName("cifar100-c", "frost", 1)),
        ("cifar10.1:v6", ShiftedName("cifar10.1", "v6")),
    ],
)
def test_names_of_shifted_sets_parse(name, expected):
    assert is_shifted(name)
    assert parse_shifted(name) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar10-c", "a corruption and a severity from 1 to 5, as in cifar10-c:fog-3"),
        ("cifar10-c:fog", "a corruption and a severity from 1 to 5"),
        ("cifar10-c:fog-6", "a corruption and a severity from 1 to 5"),
        ("cifar10-c:fog-33", "a corruption and a severity from 1 to 5"),
        ("cifar10-c:forst-3", "Unknown corruption of cifar10-c 'forst'. Did you mean 'frost'"),
        ("cifar10.1", "Known: cifar10.1:v4, cifar10.1:v6"),
        ("cifar10.1:v5", "Known: cifar10.1:v4, cifar10.1:v6"),
        ("cifar10.1-v6", "Unknown shifted test set 'cifar10.1-v6'. Did you mean 'cifar10.1'"),
        ("cifar10-d:fog-1", "Unknown shifted test set 'cifar10-d'. Did you mean 'cifar10-c'"),
    ],
)
def test_bad_names_are_refused_by_grammar_and_suite(name, message):
    with pytest.raises(UserError, match=message):
        parse_shifted(name)
    with pytest.raises(ValueError, match=message):
        toy_suite(data={"name": "cifar10"}, evaluations=[name])


def test_transforms_are_not_taken_for_sets():
    assert not any(map(is_shifted, ["fog-3", "rotate--22.5", "channels-0+2", "cifar-3"]))


def test_the_published_arrays_have_three_corruptions_more_than_we_draw():
    assert set(CIFAR_C) - set(CORRUPTIONS) == {"frost", "saturate", "spatter"}
    assert len(CIFAR_C) == 19
    assert [row["name"] for row in shifted_table()] == [
        "cifar10-c:CORRUPTION-1..5",
        "cifar100-c:CORRUPTION-1..5",
        "cifar10.1:v4|v6",
    ]


@pytest.mark.parametrize(
    ("data", "name", "allowed"),
    [
        ("cifar10", "cifar10.1:v6", True),
        ("cifar10-jpeg", "cifar10-c:fog-3", True),
        ("cifar100", "cifar100-c:fog-3", True),
        ("cifar100", "cifar10-c:fog-3", False),
        ("cifar10", "cifar100-c:fog-3", False),
        ("digits", "cifar10.1:v6", False),
    ],
)
def test_a_set_belongs_to_the_data_sets_of_its_classes(data, name, allowed):
    if allowed:
        assert toy_suite(data={"name": data}, evaluations=["fog-3", name]).evaluations == ["fog-3", name]
    else:
        bases = " and ".join(SHIFTED[name.partition(":")[0]].bases)
        with pytest.raises(ValueError, match=f"has the classes of {bases}; .*is '{data}'"):
            toy_suite(data={"name": data}, evaluations=["fog-3", name])


def test_a_suite_may_pin_the_sets_it_lists_and_no_others():
    pinned = {"name": "cifar10", "shifted_sha256": {"cifar10.1:v6": "0" * 64}}
    listed = toy_suite(data=pinned, evaluations=["cifar10.1:v6"])
    assert listed.digest != toy_suite(data={"name": "cifar10"}, evaluations=["cifar10.1:v6"]).digest
    assert hash(listed.data) != hash(DataSpec(name="cifar10"))
    for other in ("cifar10.1:v4", "fog-3"):
        with pytest.raises(ValueError, match=r"'cifar10.1:v6' has an expected sha256, but"):
            toy_suite(data=pinned, evaluations=[other])


def test_only_shifted_sets_show_images_of_their_own():
    shown = {
        "train": "train",
        "view": "train",
        "train_b": "train",
        "test": "test",
        "test_a": "test",
        "test:fog-3": "test",
        "test:cifar10.1:v6": "test:cifar10.1:v6",
    }
    assert {split: shown_split(split) for split in shown} == shown


def test_the_grammar_needs_no_numpy():
    code = "import sys, lmcbench.spec.evaluation_shifts; print('numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"
