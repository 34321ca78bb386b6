import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from builders import make_record, toy_cell, toy_suite
from lmcbench.results.frame import build_frame
from lmcbench.results.instability import instability
from lmcbench.results.record_parser import parse_record
from lmcbench.stats.cells import average_pairs
from lmcbench.stats.instability_area import areas_by_shift, instability_area, instability_areas

TEN = toy_suite(
    recipes={name: {"lr": 0.1, "batch_size": 32, "epochs": 10} for name in ("slow", "fast")},
    forks=[0, 1, 3, 6, "independent"],
    siblings=3,
)
FORKS = ("0", "1", "3", "6", "independent")


def run(replicate, excess, shift="disjoint-halves", suite=TEN, **status):
    """Records of one replicate with D as given, by fork."""
    return [
        make_record(
            toy_cell(shift=shift, fork=fork, replicate=replicate, suite=suite),
            barrier_loss=value,
            barrier_error=value / 4,
            status=status.get(f"fork_{fork}", "ok"),
        )
        for fork, value in zip(FORKS, excess, strict=True)
    ]


def trapezoid(shares, values):
    u = np.sqrt(shares)
    return float(np.trapezoid(values, u)) / math.sqrt(0.3)


# --- B and the area ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("excess", "independent", "expected"),
    [
        (0.3, 1.5, 0.2),
        (-0.3, 1.5, 0.0),  # better than its ends is connected, and no more
        (3.0, 1.5, 1.0),
        (1.5, 1.5, 1.0),
        (0.01, 0.02, None),  # the floor is exclusive
        (0.01, 0.0201, 0.01 / 0.0201),
        (-0.5, -0.5, None),
        (0.1, None, None),
        (None, 1.0, None),
        (float("nan"), 1.0, None),
        (0.1, float("nan"), None),
    ],
)
def test_instability_of_a_fork(excess, independent, expected):
    assert instability(excess, independent) == (
        None if expected is None else pytest.approx(expected, abs=1e-15)
    )


def test_area_by_hand():
    # u: 0, sqrt(.1), sqrt(.3); B: 0.5, 0.25, 0
    by_hand = (0.375 * math.sqrt(0.1) + 0.125 * (math.sqrt(0.3) - math.sqrt(0.1))) / math.sqrt(0.3)
    assert instability_area({0.0: 1.0, 0.1: 0.5, 0.3: -0.4, 0.6: 2.0}, 2.0) == pytest.approx(
        by_hand, abs=1e-15
    )


@given(
    st.lists(st.floats(0.001, 0.299), unique=True, max_size=5),
    st.floats(0.1, 10),
    st.floats(0.1, 10),
)
def test_area_of_a_constant_is_the_constant_whatever_the_forks(inner, height, scale):
    shares = [0.0, *inner, 0.3]
    area = instability_area(dict.fromkeys(shares, height), scale)
    assert area == pytest.approx(min(height / scale, 1), abs=1e-12)
    # independent networks are 1 by definition
    assert instability_area(dict.fromkeys(shares, scale), scale) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("excess", "independent"),
    [
        ({0.0: 1.0, 0.1: 0.5}, 2.0),
        ({0.1: 1.0, 0.3: 0.5}, 2.0),
        ({0.0: 1.0, 0.1: None, 0.3: 0.5}, 2.0),
        ({0.0: 1.0, 0.3: 0.5}, None),
        ({0.0: 1.0, 0.3: 0.5}, 0.02),
        ({0.0: -1.0, 0.3: -0.5}, -0.1),
        ({}, 2.0),
    ],
)
def test_area_is_undefined_without_its_forks_or_its_scale(excess, independent):
    assert instability_area(excess, independent) is None


def test_a_missing_fork_after_the_last_does_not_matter():
    assert instability_area({0.0: 1.0, 0.3: 1.0, 0.5: None}, 2.0) == 0.5


# --- the table of records ------------------------------------------------------------------------


def test_columns_of_the_table():
    records = run(0, [1.0, 0.5, -0.2, 0.0, 2.0])
    rows = build_frame(records).query("split == 'test'")
    by_fork = rows.groupby("fork")[["midpoint_excess", "instability"]].mean()
    assert by_fork["midpoint_excess"].to_dict() == pytest.approx(
        {"0": 1.0, "1": 0.5, "3": -0.2, "6": 0.0, "independent": 2.0}
    )
    assert by_fork["instability"].to_dict() == pytest.approx(
        {"0": 0.5, "1": 0.25, "3": 0, "6": 0, "independent": 1}
    )
    # shares are exact: averaging over three pairs does not move them over the end of the area
    shares = average_pairs(build_frame(records)).set_index("fork")["fork_share"]
    assert shares.drop("independent").to_dict() == {"0": 0.0, "1": 0.1, "3": 0.3, "6": 0.6}
    assert math.isnan(shares["independent"])


def with_pairs(record, excess):
    """The record with a D for each pair."""
    table = json.loads(record.to_json())
    for pair, value in zip(table["pairs"], excess, strict=True):
        for split in ("train", "test"):
            loss = pair["curves"][split]["loss"]
            loss[len(loss) // 2] = 0.2 + value
            for name in ("chord", "chord_interior", "mid", "mean"):
                pair["barriers"][split][f"loss_{name}"] = value
    return parse_record(json.dumps(table), "x")


def test_pairs_are_averaged_before_the_ratio():
    records = run(0, [1.0, 0.5, 0.0, 0.0, 2.0])
    records[0] = with_pairs(records[0], [0.3, 1.2, 1.5])
    records[-1] = with_pairs(records[-1], [1.0, 2.0, 3.0])
    rows = build_frame(records).query("split == 'test'")
    # a pair is divided by the mean over the pairs of independent networks
    assert rows.query("fork == '0'")["instability"].tolist() == pytest.approx([0.15, 0.6, 0.75])
    [area] = instability_areas(build_frame(records))["area"]
    assert area == pytest.approx(trapezoid([0, 0.1, 0.3], [0.5, 0.25, 0]))


def test_shared_noise_is_compared_with_independent_networks_of_own_noise():
    own = run(0, [1.0, 0.5, 0.0, 0.0, 2.0])
    shared = [
        parse_record(
            json.dumps(
                json.loads(r.to_json())
                | {"key": f"{i:016x}", "shift": {"name": "disjoint-halves", "params": {}, "noise": "shared"}}
            ),
            "x",
        )
        for i, r in enumerate(run(0, [0.4, 0.0, 0.0, 0.0, 9.0]))
    ]
    rows = build_frame([*own, *shared]).query("split == 'test' and fork == '0'")
    assert rows.groupby("noise_mode")["instability"].mean().to_dict() == pytest.approx(
        {"own": 0.5, "shared": 0.2}
    )
    # shared noise is no part of the headline
    [area] = instability_areas(build_frame([*own, *shared]))["area"]
    assert area == pytest.approx(trapezoid([0, 0.1, 0.3], [0.5, 0.25, 0]))
    alone = build_frame(shared).query("split == 'test'")
    assert alone["instability"].isna().all()


def test_areas_are_averaged_over_shifts_that_are_no_controls():
    records = [
        r
        for replicate in range(2)
        for shift, height in (
            ("none", 0.0),
            ("same-half", 2.0),
            ("disjoint-halves", 1.0),
            ("label-skew", 0.5),
        )
        for r in run(replicate, [height + replicate / 2, height, 0.0, 0.0, 2.0], shift)
    ]
    rows = build_frame(records)
    found = instability_areas(rows).set_index("replicate")["area"]
    first = (trapezoid([0, 0.1, 0.3], [0.5, 0.5, 0]) + trapezoid([0, 0.1, 0.3], [0.25, 0.25, 0])) / 2
    assert found[0] == pytest.approx(first)
    assert found[1] > found[0]
    assert len(areas_by_shift(rows)) == 8
    # without any shift it is the area of what there is
    plain = build_frame(run(0, [1.0, 0.5, 0.0, 0.0, 2.0], "none"))
    assert instability_areas(plain)["area"].tolist() == pytest.approx(
        [trapezoid([0, 0.1, 0.3], [0.5, 0.25, 0])]
    )


@pytest.mark.parametrize("fork", FORKS)
@pytest.mark.parametrize("how", ["diverged", "missing"])
def test_a_replicate_without_one_of_the_forks_has_no_area(fork, how):
    whole = run(0, [1.0, 0.5, 0.0, 0.0, 2.0])
    holed = run(1, [1.0, 0.5, 0.0, 0.0, 2.0], **({f"fork_{fork}": how} if how == "diverged" else {}))
    if how == "missing":
        del holed[FORKS.index(fork)]
    found = instability_areas(build_frame([*whole, *holed])).set_index("replicate")["area"]
    assert not math.isnan(found[0])
    assert math.isnan(found[1]) is (fork != "6")  # 60 % of training is after the end of the area


def test_a_replicate_without_one_of_the_shifts_has_no_area():
    records = [
        *run(0, [1.0, 0.5, 0.0, 0.0, 2.0]),
        *run(0, [1.0, 0.5, 0.0, 0.0, 2.0], "label-skew"),
        *run(1, [1.0, 0.5, 0.0, 0.0, 2.0]),
    ]
    found = instability_areas(build_frame(records)).set_index("replicate")["area"]
    assert not math.isnan(found[0])
    assert math.isnan(found[1])


def test_a_convex_network_has_no_instability():
    """Averages of its independent networks are never worse than these: there is no scale, and no verdict."""
    rows = build_frame(run(0, [-0.03, -0.02, -0.01, 0.0, -0.03]))
    assert rows["instability"].isna().all()
    assert instability_areas(rows)["area"].isna().all()


def test_area_from_errors():
    [area] = instability_areas(build_frame(run(0, [1.0, 0.5, 0.0, 0.0, 2.0])), "error_mid")["area"]
    assert area == pytest.approx(trapezoid([0, 0.1, 0.3], [0.5, 0.25, 0]))
    # independent networks whose errors are 0.02 apart define no scale
    near = build_frame(run(0, [0.04, 0.02, 0.0, 0.0, 0.0799]))
    assert instability_areas(near, "error_mid")["area"].isna().all()
    assert instability_areas(near)["area"].notna().all()


@pytest.mark.parametrize("scale", [0.25, 8.0])
def test_rescaled_logits_move_the_area_of_losses_and_not_that_of_errors(scale):
    """A network whose logits are multiplied by c makes the same predictions with another confidence."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 200)
    heights = {"0": 0.4, "1": 0.7, "3": 0.9, "independent": 0.2}

    def scores(logits):
        loss = float(-log_softmax(logits, axis=-1)[np.arange(200), labels].mean())
        return loss, float((logits.argmax(axis=-1) != labels).mean())

    def records(c):
        found = []
        for fork, height in heights.items():
            noise = np.random.default_rng(1).normal(size=(3, 200, 5))
            signal = np.eye(5)[labels] * 4
            a, b, middle = (scores(c * (k * signal + n)) for k, n in zip((1, 1, height), noise, strict=True))
            losses, errors = (middle[i] - (a[i] + b[i]) / 2 for i in range(2))
            cell = toy_cell(shift="disjoint-halves", fork=fork, suite=PAIR)
            found.append(make_record(cell, barrier_loss=losses, barrier_error=errors, member_error=0.1))
        return build_frame(found)

    plain, scaled = records(1.0), records(scale)
    errors = [instability_areas(rows, "error_mid")["area"].tolist() for rows in (plain, scaled)]
    assert errors[0] == errors[1] != [0.0]
    losses = [instability_areas(rows)["area"].tolist() for rows in (plain, scaled)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


PAIR = toy_suite(
    recipes={name: {"lr": 0.1, "batch_size": 32, "epochs": 10} for name in ("slow", "fast")},
    forks=[0, 1, 3, "independent"],
)
