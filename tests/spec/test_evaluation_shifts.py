"""Names of evaluation transforms: what they mean and what is refused."""

import pytest

from lmcbench.errors import UserError
from lmcbench.spec.evaluation_shifts import Transformation, parse_transform, transform_table


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gaussian_noise-3", Transformation("gaussian_noise", 3)),
        ("rotate-15", Transformation("rotate", 15.0)),
        ("rotate--22.5", Transformation("rotate", -22.5)),
        ("translate-2", Transformation("translate", 2)),
        ("channels-2+0+2", Transformation("channels", (0, 2))),
    ],
)
def test_names_parse(name, expected):
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
def test_bad_names_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        parse_transform(name)


def test_the_table_lists_sixteen_corruptions_and_three_geometries():
    table = transform_table()
    assert len(table) == 19
    assert {"gaussian_noise-1..5", "rotate-DEGREES"} <= {row["name"] for row in table}
    assert all(row["summary"] and row["source"] for row in table)
