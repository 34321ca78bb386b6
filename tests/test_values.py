"""Plain values in the public functions: of a wrong kind they are refused by a UserError with their name."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

import lmcbench
from lmcbench.errors import UserError
from lmcbench.values import as_number, as_numbers, as_path

BOOLS = [True, False, np.True_, torch.tensor(True), np.array(True)]
NO_NUMBERS = [
    *(None, "0.5", b"1", 1j, float("nan"), float("inf"), 10**400, [1], {}, object(), print),
    *(np.datetime64("2020"), np.array("1"), np.ma.masked, Path("1")),
]


@pytest.fixture(scope="module")
def given():
    """Arguments that are right, for each public function."""
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 2)
    fork, a, b = ({k: torch.randn_like(v) for k, v in model.state_dict().items()} for _ in range(3))
    split = (torch.randn(4, 2), torch.arange(4) % 2)
    ends = {"model": model, "state_a": a, "state_b": b}
    probs = [[[0.5, 0.5]], [[0.25, 0.75]]]
    return {
        "interpolate": {"state_a": a, "state_b": b, "alpha": 0.5},
        "trace_path": ends | {"splits": {"t": split}, "alphas": 3},
        "predict_barrier": ends | {"split": split, "alphas": 3},
        "layerwise": ends | {"split": split, "alphas": 3},
        "plane": ends | {"state_fork": fork, "split": split, "size": 3},
        "recalibrate": {"model": model, "state": a, "images": split[0]},
        "align": ends,
        "geometry": {"state_fork": fork, "state_a": a, "state_b": b},
        "soup": {"states": [a, b]},
        "Curve": {"alphas": [0, 0.5, 1], "loss": [1, 2, 1], "error": [0, 1, 0], "n": 4},
        "noise_scale": {"lr": 0.1, "n": 10, "batch_size": 5},
        "compare_predictions": {"probs": probs, "labels": [0]},
        "load_records": {},
        "load_suite": {},
    }


NUMBERS = [
    *(("interpolate", "alpha"), ("trace_path", "alphas"), ("trace_path", "batch_size")),
    *(("predict_barrier", "alphas"), ("predict_barrier", "batch_size"), ("layerwise", "alphas")),
    *(("layerwise", "batch_size"), ("plane", "size"), ("plane", "margin"), ("plane", "batch_size")),
    *(("recalibrate", "batches"), ("Curve", "n")),
    *(("noise_scale", "lr"), ("noise_scale", "n"), ("noise_scale", "batch_size")),
]
"""Function and argument that takes one number."""


@pytest.mark.parametrize(("function", "argument"), NUMBERS)
def test_a_number_is_no_bool_text_or_date(given, function, argument):
    call = partial(getattr(lmcbench, function), **given[function])
    allowed = [None] if argument == "batch_size" and function != "noise_scale" else []  # chosen by device
    for value in [*BOOLS, *(v for v in NO_NUMBERS if v not in allowed)]:
        with pytest.raises(UserError, match=f"(?i){argument}"):
            call(**{argument: value})


@pytest.mark.parametrize(
    ("function", "argument", "template"),
    [
        ("trace_path", "alphas", lambda x: [0, 0.5, x]),
        ("predict_barrier", "alphas", lambda x: [0, 0.5, x]),
        ("Curve", "alphas", lambda x: [0, 0.5, x]),
        ("Curve", "loss", lambda x: [1, x, 1]),
        ("Curve", "error", lambda x: np.array([0, x, 1], dtype=object)),
        ("soup", "weights", lambda x: [x, 1]),
        ("soup", "weights", lambda x: (1.0, x)),
        ("compare_predictions", "Probabilities", lambda x: [[[x, 0]], [[0.5, 0.5]]]),
    ],
)
def test_numbers_in_lists_are_no_bools_or_texts(given, function, argument, template):
    name = "probs" if argument == "Probabilities" else argument
    call = partial(getattr(lmcbench, function), **given[function])
    call(**{name: template(1)})
    for value in (True, np.True_, "1", b"1", 1j, 10**400, None, {}):
        with pytest.raises(UserError, match=f"(?i){argument}"):
            call(**{name: template(value)})


def test_arrays_of_bool_are_no_numbers(given):
    with pytest.raises(UserError, match="loss"):
        lmcbench.Curve(**given["Curve"] | {"loss": np.array([False, True, False])})
    with pytest.raises(UserError, match="Probabilities"):
        lmcbench.compare_predictions(np.eye(2, dtype=bool)[None].repeat(2, 0), [0, 1])


@pytest.mark.parametrize(
    "number", [0.5, np.float16(0.5), np.array(0.5), torch.tensor(0.5), Decimal("0.5"), Fraction(1, 2)]
)
def test_a_number_has_any_numeric_type(given, number):
    assert as_number(number, "x", least=0, most=1) == 0.5
    state = lmcbench.interpolate(**given["interpolate"] | {"alpha": number})
    assert torch.equal(state["weight"], lmcbench.interpolate(**given["interpolate"])["weight"])
    assert as_numbers([0, number, 1], "x").tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(
    ("function", "argument"),
    [("trace_path", "ends"), ("align", "match"), ("align", "symmetry"), ("trace_path", "device")],
)
def test_a_choice_is_a_text(given, function, argument):
    for value in (True, 3, b"x", [], {}, ("cpu",), np.array(["a", "b"]), 10**400):
        with pytest.raises(UserError, match=argument):
            getattr(lmcbench, function)(**given[function] | {argument: value})


def test_calibration_images_in_the_place_of_a_flag_are_refused(given):
    """The flag comes before `calibration` in `predict_barrier` alone."""
    call = given["predict_barrier"]
    for value in (torch.zeros(4, 2), np.zeros((4, 2)), [], "yes", 1, None):
        with pytest.raises(UserError, match="gradients"):
            lmcbench.predict_barrier(**call | {"gradients": value})
    with pytest.raises(UserError, match="loss"):
        lmcbench.predict_barrier(**call | {"loss": 3})


def test_lists_of_names_and_states(given):
    for value in (3, True, "weight", [3], [[]], {"weight": 1}, np.array(0.5), torch.tensor(0.5)):
        with pytest.raises(UserError, match="parameters"):
            lmcbench.geometry(**given["geometry"] | {"parameters": value})
    state = given["interpolate"]["state_a"]
    for value in (3, None, state, "ab", np.array(0.5)):
        with pytest.raises(UserError, match="states"):
            lmcbench.soup(value)
    assert torch.equal(lmcbench.soup(s for s in (state, state))["weight"], state["weight"])


@pytest.mark.parametrize("function", [lmcbench.load_records, lmcbench.load_suite])
def test_a_path_is_a_text_or_a_path(function):
    for value in (3, None, True, b"x", [], {}, object(), 10**400, "a\0b"):
        with pytest.raises(UserError):
            function(value)


def test_a_suite_is_loaded_from_a_path(tmp_path):
    file = tmp_path / "own.toml"
    with pytest.raises(UserError, match="No suite file"):
        lmcbench.load_suite(file)
    file.write_bytes(files("lmcbench.suites").joinpath("digits-v3.toml").read_bytes())
    assert lmcbench.load_suite(file) == lmcbench.load_suite(str(file))
    assert as_path(file, "x") == file


@pytest.mark.parametrize(
    "argument", ["suite", "out", "data_dir", "recipe", "on", "device", "shifts", "forks"]
)
def test_arguments_of_run(argument, tmp_path):
    for value in (3.5, True, b"x", [3], {"a": 1}, object()):
        arguments = {"suite": "digits", "out": tmp_path / "run", "progress": False, argument: value}
        with pytest.raises(UserError):
            lmcbench.run(**arguments)
    assert not [*tmp_path.iterdir()]


def test_plots_refuse_what_is_no_number_or_name():
    curve = lmcbench.Curve([0, 0.5, 1], [1, 2, 1], [0, 1, 0], 4)
    for value in (np.zeros(3), torch.zeros(3), 3, {3: curve}, {}):
        with pytest.raises(UserError, match=r"plots\.curves"):
            lmcbench.plots.curves(value)
    for value in ("abc", None, {}, print, [[0, True], [1, 0]], [["a"]]):
        with pytest.raises(UserError, match=r"plots\.matrix"):
            lmcbench.plots.matrix(value)
    for names in (3, "ab", [1, 2], np.array(1)):
        with pytest.raises(UserError, match="names"):
            lmcbench.plots.matrix([[0, 1], [1, 0]], names=names)
