import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lmcbench.errors import UserError
from lmcbench.results.curves import Curve, NotFiniteError, barrier, blend, chord_area, chord_excess

GRID = [i / 20 for i in range(21)]


def curve(values, error=None, alphas=None, n=100):
    alphas = np.linspace(0, 1, len(values)) if alphas is None else alphas
    return Curve(alphas, values, error if error is not None else np.zeros(len(values)), n)


@st.composite
def curves(draw, low=0.0, high=50.0):
    size = 2 * draw(st.integers(1, 15)) + 1
    values = st.lists(st.floats(low, high), min_size=size, max_size=size)
    return Curve(np.arange(size) / (size - 1), draw(values), draw(values), 10)


# --- blending ------------------------------------------------------------------------------------


def arrays(dtype, bound):
    """Arrays without -0, which comes out as 0."""
    width = 32 if dtype == np.float32 else 64
    return hnp.arrays(dtype, 8, elements=st.floats(-bound, bound, width=width).map(lambda x: x + 0.0))


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 2.0**120), (np.float64, 2.0**1000)])
@given(data=st.data())
def test_ends_and_constants_are_exact_to_the_bit(dtype, bound, data):
    a, b = data.draw(arrays(dtype, bound)), data.draw(arrays(dtype, bound))
    assert blend(a, b, 0.0).tobytes() == a.tobytes()
    assert blend(a, b, 1.0).tobytes() == b.tobytes()
    for alpha in (*GRID, data.draw(st.floats(0, 1))):
        assert blend(a, a, alpha).tobytes() == a.tobytes()
        assert blend(a, b, alpha).dtype == dtype


@given(arrays(np.float64, 1e6), arrays(np.float64, 1e6), st.floats(0, 1))
def test_a_blend_is_the_weighted_mean(a, b, alpha):
    tolerance = 4e-15 * (np.abs(a) + np.abs(b)) + np.finfo(float).tiny  # subnormal results round to 0
    assert (np.abs(blend(a, b, alpha) - ((1 - alpha) * a + alpha * b)) <= tolerance).all()


def test_the_textbook_form_would_not_keep_constants():
    # the reason for the form of torch.lerp
    x = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    missed = [((np.float32(1 - a) * x + np.float32(a) * x) != x).mean() for a in GRID]
    assert max(missed) > 0.05


# --- curves --------------------------------------------------------------------------------------


def test_a_curve_holds_its_own_read_only_float64():
    alphas, loss = np.array([0, 0.5, 1], dtype=np.float32), [1, 2, 3]
    held = Curve(alphas, loss, (0, 0.5, 1), np.int64(7))
    alphas[0] = 9
    loss[0] = 9
    for name, values in (("alphas", [0, 0.5, 1]), ("loss", [1, 2, 3]), ("error", [0, 0.5, 1])):
        array = getattr(held, name)
        assert array.dtype == np.float64
        assert array.tolist() == values
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5.0
    assert type(held.n) is int
    with pytest.raises(dataclasses.FrozenInstanceError):
        held.n = 3


@pytest.mark.filterwarnings("error")
def test_a_curve_takes_tensors_without_a_warning():
    points = torch.tensor([0.0, 0.5, 1.0])
    assert Curve(points, points, points, 7) == Curve([0, 0.5, 1], [0, 0.5, 1], [0, 0.5, 1], 7)


def test_curves_compare_by_value():
    assert curve([1, 2, 1]) == curve([1.0, 2.0, 1.0])
    assert curve([1, 2, 1]) != curve([1, 2, 1], n=99)
    assert curve([1, 2, 1]) != curve([1, 2, 3])
    assert curve([1, 2, 1]) != [1, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [1, 2, 3], [0, 0], 1), "must be equally long, found 2, 3 and 2"),
        (([0, 1], [[1, 2]], [0, 0], 1), r"loss must be one-dimensional, found shape \(1, 2\)"),
        ((0, 1, 2, 1), r"alphas must be one-dimensional, found shape \(\)"),
        (([0, 0.5], [1, 2], [0, 0], 1), "Alphas must increase strictly from 0 to 1"),
        (([0.1, 1], [1, 2], [0, 0], 1), "Alphas must increase strictly from 0 to 1"),
        (([0, 0.5, 0.5, 1], [1] * 4, [0] * 4, 1), "Alphas must increase strictly from 0 to 1"),
        (([1, 0], [1, 2], [0, 0], 1), "Alphas must increase strictly from 0 to 1"),
        (([], [], [], 1), "Alphas must increase strictly from 0 to 1"),
        (([0, 1], [1, 2], [0, 0], 0), "n must be a whole number of at least 1, found 0"),
        (([0, 1], [1, 2], [0, 0], 2.5), "n must be a whole number, found 2.5"),
        (([0, 1], [1, 2], [0, 0], float("inf")), "n must be a whole number"),
        (([0, 1], [1, 2], [0, 0], float("nan")), "n must be a whole number"),
        (([0, 1], [1, 2], [0, 0], None), "n must be a whole number, found None"),
        (([0, 1], [1, 2], [0, 0], "7"), "n must be a whole number, found '7'"),
    ],
)
def test_what_is_no_curve_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Curve(*arguments)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_values_that_are_not_finite_are_refused_by_name(place, bad):
    values = [[0, 0.5, 1], [1, 2, 1], [0, 0, 0]]
    values[place][1] = bad
    with pytest.raises(
        NotFiniteError, match=f"{('alphas', 'loss', 'error')[place]} contains a value that is not"
    ):
        Curve(*values, 1)


def test_curves_by_split_are_no_curve():
    by_split = {"test": curve([1, 2, 1])}
    with pytest.raises(UserError, match=r"barrier takes a Curve, found a dict: .* curves\['test'\]"):
        barrier(by_split)
    with pytest.raises(UserError, match="Curve: loss must be numbers, one per alpha"):
        Curve([0, 1], ["a", "b"], [0, 0], 1)


# --- barriers ------------------------------------------------------------------------------------


def test_a_barrier_by_hand():
    # loss: chord 1, 1.5, 2, 2.5, 3; excess 0, 0.5, 1.5, 0.5, 0; maximum 3.5 against a mean of 2
    # error: chord .2, .2, .2, .2, .2; excess 0, -.1, -.05, -.1, 0
    found = barrier(curve([1, 2, 3.5, 3, 3], [0.2, 0.1, 0.15, 0.1, 0.2]))
    assert dataclasses.asdict(found) == pytest.approx(
        {
            "loss_chord": 1.5,
            "loss_chord_interior": 1.5,
            "loss_mid": 1.5,
            "loss_mean": 1.5,
            "loss_floor": 1.0,
            "loss_argmax": 0.5,
            "error_chord": 0.0,
            "error_chord_interior": -0.05,
            "error_mid": -0.05,
            "error_mean": 0.0,
            "error_floor": 0.0,
            "error_argmax": 0.0,
        },
        abs=1e-15,
    )
    assert all(type(value) is float for value in dataclasses.asdict(found).values())


def test_the_two_forms_differ_where_the_ends_do():
    # excess 0, 3.5 - 2.5, 0 at alphas 0, 3/4, 1; the line is nowhere above its dearer end
    found = barrier(curve([1, 3, 3], alphas=[0, 0.75, 1]))
    assert (found.loss_chord, found.loss_mean, found.loss_floor) == (0.5, 1.0, 1.0)
    assert found.loss_argmax == 0.75
    assert found.loss_mid is None


def test_without_interior_points_there_is_no_interior_barrier():
    found = barrier(curve([1, 2]))
    assert (found.loss_chord, found.loss_chord_interior, found.loss_mid) == (0.0, None, None)
    assert (found.error_chord_interior, found.error_mid) == (None, None)


def test_the_first_of_equal_maxima_is_named():
    assert barrier(curve([1, 2, 1, 2, 1])).loss_argmax == 0.25
    assert barrier(curve([1, 1, 1, 1, 1])).loss_argmax == 0.0


def test_a_constant_curve_has_no_barrier_to_the_bit():
    # oracle 1; 0.1 is not a binary fraction
    found = barrier(Curve(GRID, [0.1] * 21, [0.3] * 21, 10))
    numbers = dataclasses.asdict(found)
    assert set(numbers.values()) == {0.0}


@given(curves())
def test_mean_form_never_below_the_floor_and_near_the_chord_form(measured):
    # oracle 6
    found = barrier(measured)
    for kind, values in (("loss", measured.loss), ("error", measured.error)):
        mean, floor = getattr(found, f"{kind}_mean"), getattr(found, f"{kind}_floor")
        chord = getattr(found, f"{kind}_chord")
        assert mean >= floor == abs(values[0] - values[-1]) / 2
        assert mean == pytest.approx(values.max() - (values[0] + values[-1]) / 2, abs=1e-13)
        assert abs(mean - chord) <= floor + 1e-13
        assert chord >= 0.0
        assert chord == max(0.0, getattr(found, f"{kind}_chord_interior"))


@given(curves())
def test_swapping_the_ends_mirrors_the_curve(measured):
    # oracle 6
    swapped = Curve(measured.alphas, measured.loss[::-1], measured.error[::-1], 10)
    there, back = chord_excess(measured.alphas, measured.loss), chord_excess(swapped.alphas, swapped.loss)
    assert there[0] == there[-1] == 0.0
    assert back[::-1] == pytest.approx(there, abs=1e-13)
    a, b = dataclasses.asdict(barrier(measured)), dataclasses.asdict(barrier(swapped))
    for name in a.keys() - {"loss_argmax", "error_argmax"}:
        assert b[name] == pytest.approx(a[name], abs=1e-13)


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=5),
    st.integers(1, 20).map(lambda half: 2 * half + 1),
)
def test_a_convex_curve_has_no_chord_barrier_and_its_mean_form_is_the_floor(lines, points):
    # oracle 5: a maximum of straight lines is convex
    alphas = np.arange(points) / (points - 1)
    values = np.max([slope * alphas + offset for slope, offset in lines], axis=0)
    found = barrier(Curve(alphas, values, values, 10))
    assert found.loss_chord <= 1e-12
    assert found.loss_mid <= 1e-12
    assume(values.max() == max(values[0], values[-1]))  # rounding may lift a flat interior by an ulp
    assert found.loss_mean == found.loss_floor


def test_a_quadratic_dips_by_its_closed_form():
    # oracle 2 in one dimension: S(a) = -a (1 - a) / 2 h d^2 with h = 2, d = 3
    a = np.array(GRID)
    excess = chord_excess(a, (1 + 3 * a) ** 2)
    assert excess == pytest.approx(-a * (1 - a) * 9, rel=1e-10, abs=1e-14)


def test_an_even_grid_misses_part_of_a_symmetric_peak():
    # oracle 10
    def peak(points):
        a = np.linspace(0, 1, points)
        return barrier(curve(1 - np.abs(2 * a - 1), alphas=a))

    assert (peak(11).loss_chord, peak(11).loss_mid) == (1.0, 1.0)
    assert peak(10).loss_chord == pytest.approx(8 / 9)
    assert peak(10).loss_mid is None


@pytest.mark.parametrize("points", [3, 5, 21])
def test_area_under_a_parabola(points):
    """Of S(a) = -a (1 - a) / 2 s: -s / 12, which the trapezoid rule gives times 1 - 1 / intervals^2."""
    alphas = np.arange(points) / (points - 1)
    values = 3.0 + alphas - alphas * (1 - alphas) / 2 * 7.0
    assert chord_area(alphas, values) == pytest.approx(-7 / 12 * (1 - 1 / (points - 1) ** 2), rel=1e-12)
    assert chord_area(alphas, 2 + 3 * alphas) == pytest.approx(0, abs=1e-15)
