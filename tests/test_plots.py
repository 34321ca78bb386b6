"""`lmcbench.plots`: the numbers that its figures show, and refusals."""

import numpy as np
import pytest
from matplotlib.figure import Figure

import lmcbench
from builders import make_record, toy_cell, toy_suite
from lmcbench.report.figures.draw import draw
from lmcbench.results.frame import build_frame

FORKS = {"0": 0.2, "1": 0.05, "independent": 0.6, "independent-equal-cost": 0.9}
SUITE = toy_suite(forks=list(FORKS))


def records():
    return [
        make_record(
            toy_cell(fork=fork, replicate=replicate, suite=SUITE), barrier_error=height + 0.02 * replicate
        )
        for fork, height in FORKS.items()
        for replicate in (0, 1)
    ]


def test_barriers_are_those_of_the_report_and_leave_out_other_lengths():
    figure = lmcbench.plots.barriers(build_frame(records()))
    [theirs] = [drawing.figure for drawing in draw(records()) if drawing.name == "barriers"]

    def drawn(picture):
        return [line.get_xydata().tolist() for axis in picture.axes for line in axis.lines]

    assert isinstance(figure, Figure)
    assert drawn(figure) == drawn(theirs)
    points = [height for line in drawn(figure) for _, height in line]
    for expected in (21, 6, 61):
        assert any(abs(point - expected) < 1e-9 for point in points), points
    assert not any(abs(point - 91) < 1 for point in points)


def test_curves_of_a_table_are_the_mean_over_replicates():
    frame = build_frame(records())
    figure = lmcbench.plots.curves(frame)
    zero = frame[(frame["split"] == "test") & (frame["fork"] == "0")]
    mean = 100 * np.mean(list(zero["error_curve"]), axis=0)
    lines = {line.get_label(): line for line in figure.axes[1].lines}
    np.testing.assert_array_equal(lines["fork 0"].get_xdata(), zero["alphas"].iloc[0])
    np.testing.assert_allclose(lines["fork 0"].get_ydata(), mean)
    assert not any("equal-cost" in label for label in lines)


def test_curves_by_name_are_drawn_as_they_are():
    curve = lmcbench.Curve([0, 0.5, 1], [1, 3, 2], [0.1, 0.5, 0.2], 10)
    for given in (curve, {"pair": curve}):
        loss, error = lmcbench.plots.curves(given).axes
        assert loss.lines[0].get_ydata().tolist() == [1, 3, 2]
        np.testing.assert_allclose(error.lines[0].get_ydata(), [10, 50, 20])


def test_a_matrix_of_pairs_is_symmetric_and_averages_cells():
    frame = build_frame(records())
    figure = lmcbench.plots.matrix(frame[frame["fork"] == "0"])
    values = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
    np.testing.assert_allclose(values, [[np.nan, 21], [21, np.nan]])
    loss = lmcbench.plots.matrix(frame, measure="loss_mid", names=["a", "b"])
    assert [label.get_text() for label in loss.axes[0].get_xticklabels()] == ["a", "b"]


def test_a_matrix_of_equal_values_has_no_negative_scale():
    axis = lmcbench.plots.matrix([[0.0, 0.0], [0.0, 0.0]]).axes[0]
    assert axis.images[0].get_clim() == (0, 1)
    assert {text.get_color() for text in axis.texts} == {"w"}


def test_a_notebook_shows_figures_without_pyplot():
    figure = lmcbench.plots.matrix([[0.0, 1.0], [1.0, 0.0]])
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("barriers", ([1, 2],), "takes the table of lmcbench.load_records or lmcbench.run, found list"),
        ("curves", ({},), "found dict without curves"),
        ("curves", ({"a": [1, 2]},), "takes the table of load_records, a Curve or a dict"),
        ("matrix", ([[1, 2]],), r"takes values \[n, n\], found shape \[1, 2\]"),
        ("plane", (3,), "takes the result of lmcbench.plane, found int"),
    ],
)
def test_other_things_are_refused(function, arguments, message):
    with pytest.raises(lmcbench.UserError, match=message):
        getattr(lmcbench.plots, function)(*arguments)


def test_a_table_without_the_values_is_refused():
    frame = build_frame(records())
    failed = build_frame([make_record(status="diverged")])
    for call, message in (
        (lambda: lmcbench.plots.curves(failed), "Splits: none, because no cell was measured"),
        (lambda: lmcbench.plots.barriers(failed), "Splits: none, because no cell was measured"),
        (lambda: lmcbench.plots.barriers(frame, split="rain"), "no error_chord on split 'rain'. Splits: "),
        (lambda: lmcbench.plots.barriers(frame[["key", "fork"]]), "found another table"),
        (lambda: lmcbench.plots.curves(frame, shift="snow"), "Unknown shift of the table 'snow'"),
        (lambda: lmcbench.plots.matrix(frame, measure="height"), "Unknown column of the table 'height'"),
        (lambda: lmcbench.plots.matrix(frame, names=["a"]), "1 names are given for 2 networks"),
        (
            lambda: lmcbench.plots.barriers(frame.assign(digest=[*"ab" * (len(frame) // 2)])),
            "several suites",
        ),
    ):
        with pytest.raises(lmcbench.UserError, match=message):
            call()


def test_a_measure_against_the_fork_is_the_mean_over_replicates_in_percent():
    frame = build_frame(records())
    frame["disagreement"] = frame["fork"].map(FORKS) + 0.02 * frame["replicate"]
    figure = lmcbench.plots.against_fork(frame, "disagreement")
    [axis] = figure.axes
    assert axis.get_ylabel() == "disagreement (%)"
    means = [height for line in axis.lines for height in line.get_ydata()]
    for expected in (21, 6, 61):
        assert any(abs(mean - expected) < 1e-9 for mean in means), means
    assert not any(abs(mean - 91) < 1e-9 for mean in means)  # networks of another length


def test_shifts_are_drawn_in_the_order_of_the_tables():
    shifts = ["label-skew", "same(label-skew)", "none"]
    found = [make_record(toy_cell(shift=shift, suite=toy_suite(shifts=shifts))) for shift in shifts]
    [axis] = lmcbench.plots.barriers(build_frame(found)).axes
    assert axis.get_legend_handles_labels()[1] == ["none", "same(label-skew)", "label-skew"]


def test_a_column_of_ones_own_is_drawn_as_it_is():
    frame = build_frame(records()).assign(mine=7)
    [axis] = lmcbench.plots.against_fork(frame, "mine", label="mine (units)").axes
    assert axis.get_ylabel() == "mine (units)"
    assert axis.lines[0].get_ydata()[0] == 7
    with pytest.raises(lmcbench.UserError, match="column shift is not numeric"):
        lmcbench.plots.against_fork(frame, "shift")
    with pytest.raises(lmcbench.UserError, match="abreast must be at least 1, found 0"):
        lmcbench.plots.against_fork(frame, "mine", abreast=0)


def test_units_of_figures_follow_the_columns():
    units = {"loss_mid": "nats", "error_mid": "%", "distance_ab": "weights' units", "angle": "radians"}
    units |= {"instability": "", "soup_error": "%", "soup_loss": "nats", "ensemble_nll": "nats", "cosine": ""}
    units |= {"ensemble_ece": "%", "gradient_between_share": "%", "corrected_ensemble_gain": "%", "lr": ""}
    units |= {"error_argmax": "", "loss_argmax": "", "ensemble_brier": ""}
    assert {name: lmcbench.plots._unit(name) for name in units} == units
