"""The sentences above a report: their numbers, and what is not said where nothing was measured."""

from builders import make_record, toy_cell, toy_suite
from lmcbench.report.conclusion import conclude
from lmcbench.report.findings import collect_findings
from lmcbench.stats.cells import Cells

SUITE = toy_suite(
    recipes={name: {"lr": 0.1, "batch_size": 32, "epochs": 10} for name in ("slow", "fast")},
    forks=[0, "10%", "30%", "independent"],
)


def run(heights, shift="none", replicates=3, **more):
    return [
        make_record(toy_cell("lmc_mlp", shift, fork, r, SUITE), barrier_error=height, **more)
        for fork, height in heights.items()
        for r in range(replicates)
    ]


def sentences(records):
    return conclude(collect_findings(Cells(records)))


def test_connected_means_at_all_later_forks():
    early = {"0": 0.2, "10%": 0.01, "30%": 0.005}
    [first, *_] = sentences(run(early))
    assert first == (
        "Siblings that leave the trunk at initialisation have an error barrier of 20.0 points (lmc_mlp) "
        "between them (means, n = 3); from 10 % of training on it is connected, below 2 points."
    )
    [first, *_] = sentences(run({**early, "30%": 0.05}))
    assert first.endswith("at 30 % of training 0 of 1 networks are connected (below 2 points).")


def test_what_ensembles_gain_is_beside_independent_networks_of_the_same_cells():
    records = [
        *run({"30%": 0.0}, member_error=0.10, ensemble_error=0.09),
        *run({"independent": 0.9}, member_error=0.10, ensemble_error=0.07),
    ]
    assert sentences(records)[-1] == (
        "The ensemble of 2 siblings that part at 30 % of training gains +1.0 ± 0.0 points of accuracy over "
        "one of them; an ensemble of independent networks gains +3.0 ± 0.0 points."
    )
    alone = sentences(records[:3])[-1]
    assert alone.endswith("points of accuracy over one of them.")


def test_the_baseline_and_failed_cells_say_nothing():
    convex = [make_record(toy_cell("lmc_linear", "none", "0", r, SUITE)) for r in range(3)]
    assert sentences(convex) == []
    assert sentences([make_record(status="diverged")]) == []
