import json

import pytest

from builders import make_record, toy_cell, toy_suite
from lmcbench.results.frame import build_frame
from lmcbench.results.record_parser import parse_record
from lmcbench.stats.stability import stability_points, stability_table

FORKS = toy_suite(forks=[0, 1, 2, 3, "independent"])


def run(replicate, barriers, shift="none", statuses=None):
    """Records of forks 0, 1, 2, 3 with these error barriers."""
    return [
        make_record(
            toy_cell(shift=shift, fork=str(fork), replicate=replicate, suite=FORKS),
            barrier_error=value,
            status=(statuses or {}).get(fork, "ok"),
        )
        for fork, value in enumerate(barriers)
    ]


def only(records):
    [point] = stability_points(build_frame(records))
    return point


@pytest.mark.parametrize(
    ("barriers", "onset"),
    [
        ([0.01, 0.01, 0.01, 0.01], 0.0),
        ([0.3, 0.1, 0.01, 0.0], 0.5),
        # connected once is not stable: it must stay so
        ([0.01, 0.3, 0.01, 0.01], 0.5),
        ([0.01, 0.01, 0.01, 0.3], None),
        # the criterion is strict
        ([0.02, 0.02, 0.02, 0.0199], 0.75),
    ],
)
def test_earliest_fork_from_which_all_later_ones_are_connected(barriers, onset):
    point = only(run(0, barriers))
    assert point.points == {0: onset}
    assert point.line == ("lmc_mlp", "fast", "none")
    assert (point.median, point.interval, point.coverage) == (onset, None, None)


def test_interval_over_replicates_counts_never_as_latest():
    early, late, never = [0, 0, 0, 0], [0.3, 0.3, 0.3, 0], [0.3] * 4
    point = only([*run(0, late), *run(1, never), *run(2, early)])
    assert point.points == {0: 0.75, 1: None, 2: 0.0}
    assert point.median == 0.75
    assert point.interval == (0.0, None)
    assert point.coverage == 0.75
    assert (point.n, point.never, point.incomplete) == (3, 1, 0)
    # of two, the later one
    assert only([*run(0, late), *run(1, never)]).median is None


def test_a_fork_that_diverged_or_is_missing_leaves_the_replicate_without_a_point():
    good = run(0, [0] * 4)
    diverged = run(1, [0] * 4, statuses={0: "diverged"})
    point = only([*good, *diverged, *run(2, [0] * 4)[1:]])
    assert point.points == {0: 0.0}
    assert point.incomplete == 2
    none = only(diverged)
    assert (none.n, none.median, none.interval) == (0, None, None)


def test_independent_networks_are_no_fork_and_lines_are_apart():
    independent = make_record(toy_cell(fork="independent", suite=FORKS), barrier_error=0.9)
    points = stability_points(
        build_frame([*run(0, [0] * 4), independent, *run(0, [0.5] * 4, shift="label-skew")])
    )
    assert [(p.line.shift, p.points) for p in points] == [
        ("label-skew", {0: None}),
        ("none", {0: 0.0}),
    ]


def test_the_table_says_never_and_how_sure_it_is():
    records = [
        *run(0, [0.3, 0.3, 0.01, 0.01]),
        *run(1, [0.3] * 4),
        *run(2, [0] * 4, statuses={0: "diverged"}),
    ]
    row = stability_table(build_frame(records)).splitlines()[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        *["lmc_mlp", "fast", "none", "0 %, 25 %, 50 %, 75 %", "never", "50 % to never"],
        *["never", "50 % to never", "50 %", "2 (1 left out)"],
    ]


def test_the_mean_form_has_a_verdict_of_its_own():
    def asymmetric(record):
        table = json.loads(record.to_json())
        # an end that is 10 points worse: never below its floor of 5
        table["pairs"][0]["barriers"]["test"] |= {"error_mean": 0.05, "error_floor": 0.05}
        return parse_record(json.dumps(table), "x")

    records = [asymmetric(r) if r.fork.epoch == 3 else r for r in run(0, [0.3, 0.01, 0.01, 0.01])]
    assert only(records).points == {0: 0.25}
    [beside] = stability_points(build_frame(records), "error_mean")
    assert beside.points == {0: None}
    header, _, row = stability_table(build_frame(records)).splitlines()
    cells = dict(zip(*([c.strip() for c in x.strip("|").split("|")] for x in (header, row)), strict=True))
    assert (cells["median"], cells["median, mean form"]) == ("25 %", "never")
