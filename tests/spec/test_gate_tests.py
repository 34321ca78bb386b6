import pytest

from builders import toy_suite
from lmcbench.results.curves import Barrier
from lmcbench.results.frame import build_frame
from lmcbench.spec.gate_tests import MEASURES, GateTest
from lmcbench.spec.suite_files import load_suite, published_suites

TEST = {"measure": "error_mid", "kind": "equivalence", "margin": 0.05, "reason": "for tests"}


def test_the_gate_is_outside_the_digest():
    assert toy_suite(gate=[TEST]).digest == toy_suite().digest


def test_shifts_and_forks_are_named_as_the_suite_names_them():
    [test] = toy_suite(gate=[TEST | {"shifts": ["same-half"], "forks": [0, "independent"]}]).gate
    assert (test.shifts, test.forks) == (["same-half"], ["0", "independent"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measure": "eror_mid"}, "Unknown measure of the gate 'eror_mid'. Did you mean 'error_mid'"),
        # a maximum over the whole grid is biased upward
        ({"measure": "error_chord"}, "Unknown measure of the gate 'error_chord'"),
        ({"kind": "non-inferiority"}, "error_mid has no better direction"),
        ({"margin": 0.0}, "greater than 0"),
        ({"reason": ""}, "at least 1 character"),
        ({"kind": "superiority"}, "'equivalence' or 'non-inferiority'"),
        ({"side": "left"}, "Extra inputs are not permitted"),
        ({"shifts": ["label-skwe"]}, "Unknown shift of the gate 'label-skwe'. Did you mean 'label-skew'"),
        ({"forks": [7]}, "Unknown fork of the gate '7'"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        toy_suite(gate=[TEST | change])
    assert message in str(refusal.value)


def test_at_most_three_tests_and_each_measure_once():
    names = ["error_mid", "loss_mid", "disagreement", "ensemble_gain"]
    with pytest.raises(ValueError, match="at most 3 items"):
        toy_suite(gate=[TEST | {"measure": name} for name in names])
    with pytest.raises(ValueError, match="gate measure 'error_mid' is listed twice"):
        toy_suite(gate=[TEST, TEST])


def test_every_measure_is_a_column_of_the_records():
    known = {*build_frame([]).columns, *Barrier.__dataclass_fields__}
    named = {"accuracy_mean", "ensemble_accuracy", "ensemble_gain", "ensemble_nll", "ensemble_ece"}
    assert set(MEASURES) <= known | named | {"soup_error", "soup_loss"}


@pytest.mark.parametrize("name", published_suites())
def test_published_suites_declare_at_most_three_tests_with_reasons(name):
    for test in load_suite(name).gate:
        assert len(test.reason) > 20
        assert isinstance(test, GateTest)
