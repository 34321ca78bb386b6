"""Barrier against noise scale: groups, what counts, and correlations with known values."""

from __future__ import annotations

import pytest
from scipy.stats import spearmanr

from builders import make_record, toy_suite
from lmcbench.errors import UserError
from lmcbench.report.document import make_report
from lmcbench.report.noise_scale import (
    EPOCHS,
    STEPS,
    correlations,
    noise_points,
    noise_table,
    recipe_table,
)
from lmcbench.results.frame import build_frame
from lmcbench.spec.cells import expand
from lmcbench.stats.estimates import spearman

N = 1437  # training images of the builders' records
GRID = [(b, lr, 20) for b in (16, 32, 64) for lr in (0.01, 0.1)] + [
    (b, lr, e) for b, e in ((16, 10), (64, 40)) for lr in (0.01, 0.1)
]


def grid_suite():
    recipes = {f"b{b}-{lr}-e{e}": {"lr": lr, "batch_size": b, "epochs": e} for b, lr, e in GRID}
    architectures = [{"name": "lmc_mlp", "recipe": name} for name in recipes]
    return toy_suite(
        recipes=recipes, architectures=architectures, forks=[0, 2], shifts=["none", "disjoint-halves"]
    )


def scale(cell, n=N):
    return cell.recipe.lr * (n / cell.recipe.batch_size - 1)


def grid_records(barrier, member_error=lambda cell: 0.01):
    return [
        make_record(cell, barrier_error=barrier(cell), barrier_loss=2.0, member_error=member_error(cell))
        for cell in expand(grid_suite())
    ]


def test_spearman_is_scipys_with_ties_and_absent_where_undefined():
    x, y = [1.0, 2.0, 2.0, 3.0, 5.0, 0.5], [0.0, 0.3, 0.1, 0.1, 0.2, 0.0]
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert spearman([1, 2, 3], [5, 6, 9]) == pytest.approx(1)
    assert spearman([1, 2, 3], [1, 1, 1]) is None
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert spearman([1, 2], [1, 2]) is None


def points(records):
    return noise_points(build_frame(records))


def test_points_are_of_fork_0_with_g_of_the_siblings_view():
    cells = points(grid_records(scale))
    assert len(cells) == 2 * 10 * 2  # shifts, recipes, replicates
    first = cells.iloc[0]
    assert (first.batch_size, first.lr, first.epochs) == GRID[0]
    assert first.g == pytest.approx(0.01 * (N / 16 - 1))
    assert first.length == 20 * (N // 16)
    assert first.error_chord == pytest.approx(0.01 * (N / 16 - 1), rel=1e-6)


def test_a_barrier_that_rises_with_g_correlates_fully_and_one_that_falls_opposes_it():
    for sign, expected in ((1, 1.0), (-1, -1.0)):
        rows = correlations(points(grid_records(lambda cell, s=sign: 0.5 + 0.01 * s * scale(cell))))
        assert [(r.shift, r.equal) for r in rows] == [
            ("none", EPOCHS),
            ("disjoint-halves", EPOCHS),
            ("none", STEPS),
            ("disjoint-halves", STEPS),
        ]
        for row in rows:
            assert (row.error.mean, row.error.half_width) == (pytest.approx(expected), pytest.approx(0))
            assert (row.counted, row.underfit, row.error.n) == (12, 0, 2)
            # the loss barrier is the same everywhere: no correlation, and none made up
            assert (row.loss.mean, row.loss.n) == (None, 0)


def test_equal_steps_are_not_equal_epochs():
    """Of batch 16 at 10 epochs and 64 at 40, batch 32 at 20 is the only one in both groups."""
    chosen = {}

    def barrier(cell):
        # against g at 20 epochs, with g at about 900 steps; what is in both is in the middle
        order = {(16, 20): -1, (64, 20): 1, (32, 20): 0, (16, 10): 1, (64, 40): -1}
        chosen[cell.key] = order[cell.recipe.batch_size, cell.recipe.epochs]
        return 0.5 + 0.1 * chosen[cell.key]

    rows = {(r.shift, r.equal): r for r in correlations(points(grid_records(barrier)))}
    assert rows["none", EPOCHS].error.mean < 0 < rows["none", STEPS].error.mean


def test_underfit_cells_are_shown_and_not_counted():
    def error(cell):
        return 0.05 if cell.recipe.batch_size == 64 else 0.02

    records = grid_records(lambda cell: 0.01 * scale(cell), error)
    row = correlations(points(records))[0]
    assert (row.counted, row.underfit) == (8, 4)
    cells = recipe_table(build_frame(records))
    assert dict(zip(cells["batch"], cells["underfit"], strict=True)) == {"16": "", "32": "", "64": "2/2"}
    assert (noise_table(build_frame(records))["error barrier"] == "+1.00 ± 0.00").all()
    nothing = correlations(points(grid_records(scale, lambda cell: 0.5)))[0]
    assert (nothing.error.n, nothing.counted, nothing.underfit) == (0, 0, 12)


def test_every_cell_is_listed_by_noise_scale_with_its_barriers():
    cells = recipe_table(build_frame(grid_records(lambda cell: 0.1 + 0.002 * cell.replicate)))
    assert len(cells) == 2 * 10  # shifts, recipes
    assert cells["shift"].tolist() == ["none"] * 10 + ["disjoint-halves"] * 10
    scales = sorted((lr * (N / b - 1), e) for b, lr, e in GRID)
    assert cells["g"].tolist() == [f"{g:.3g}" for g, _ in scales] * 2
    assert cells["epochs"].tolist() == [str(e) for _, e in scales] * 2
    # 10.0 and 10.2 points: half-width 12.706 sd / sqrt(2)
    assert (cells["error barrier, points"] == "10.1 ± 1.3").all()
    assert (cells["loss barrier, nats"] == "2.000 ± 0.000").all()
    assert (cells["n"] == "2").all()


def test_the_report_has_the_cells_where_there_are_several_recipes_and_not_elsewhere(monkeypatch):
    monkeypatch.setattr("lmcbench.report.document.picture", lambda figure, kind: b"")
    monkeypatch.setattr("lmcbench.report.document.inline_svg", lambda figure: "<svg></svg>")
    title = "The cells at fork 0, by noise scale"
    report = make_report(grid_records(scale))
    assert f"## {title}\n\n| architecture" in report.markdown
    assert f"<h2>{title}</h2>" in report.html
    one_recipe = make_report([make_record(cell) for cell in expand(toy_suite())])
    assert title not in one_recipe.markdown


def test_what_diverged_is_left_out_and_unknown_views_are_refused():
    cells = [c for c in expand(grid_suite()) if c.fork.name == "0"]
    diverged = [make_record(cells[0], status="diverged")]
    assert [len(f(build_frame(diverged))) for f in (noise_points, noise_table, recipe_table)] == [0, 0, 0]
    part = make_record(
        cells[0], protocol={"alphas": cells[0].suite.protocol.grid, "calibration": {}, "train_eval": {"n": 5}}
    )
    with pytest.raises(UserError, match="train curves on a part of the views"):
        points([part])
