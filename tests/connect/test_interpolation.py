"""Curves along the line: oracles 1, 5, 6, 7, 10 and refusals."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lmcbench.connect.interpolation import (
    alpha_grid,
    score_states,
    scores_from_logits,
    states_on_line,
    trace_path,
)
from lmcbench.connect.network import Network
from lmcbench.errors import UserError
from lmcbench.results.curves import Curve, NotFiniteError, barrier, chord_excess


@pytest.mark.parametrize("name", ["mlp", "resnet"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_with_itself_has_no_barrier(nets, name, dtype) -> None:
    """Oracle 1, bit for bit."""
    model, state = nets.build(name, 3, dtype), nets.train(name, 0, 3, dtype)
    x, y = nets.images(20, dtype=dtype)
    curve = trace_path(model, state, state, {"test": (x, y)}, 11, x, ends="recalibrated")["test"]
    as_trained = trace_path(model, state, state, {"test": (x, y)}, 11, calibration=x)["test"]
    assert np.array_equal(as_trained.loss[1:-1], curve.loss[1:-1])
    assert (as_trained == curve) == (name == "mlp")  # a network without statistics has one form
    assert len(np.unique(curve.loss)) == 1
    b = barrier(curve)
    assert (b.loss_chord, b.loss_mid, b.loss_mean, b.loss_floor, b.error_chord, b.error_mean) == (0.0,) * 6


@given(st.integers(0, 10_000), st.floats(0.01, 100))
@settings(max_examples=25, deadline=None)
def test_a_convex_model_lies_under_its_chord(nets, seed, scale) -> None:
    """Oracle 5: linear softmax, any weights and labels."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (
        {
            "1.weight": scale * torch.randn(4, 64, generator=generator, dtype=torch.float64),
            "1.bias": torch.randn(4, generator=generator, dtype=torch.float64),
        }
        for _ in range(2)
    )
    x, _ = nets.images(12, seed)
    y = torch.randint(4, (12,), generator=generator)
    curve = trace_path(nets.build("softmax"), a, b, {"s": (x, y)}, 11)["s"]
    assert chord_excess(curve.alphas, curve.loss).max() <= 1e-12 * max(1, curve.loss.max())
    forms = barrier(curve)
    assert forms.loss_mean == forms.loss_floor


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_identities_of_a_measured_curve(nets, name) -> None:
    """Oracle 6: mean form, floor and chord form; swapping the ends mirrors."""
    a, b = nets.train(name, 0), nets.train(name, 1)
    split = {"test": nets.images(40, 9)}
    model, x = nets.build(name), nets.images(30, 5)[0]
    there, back = (trace_path(model, *ends, split, calibration=x)["test"] for ends in ((a, b), (b, a)))
    forms = barrier(there)
    assert forms.loss_chord > 0.01  # trained apart: there is something to measure
    for kind in ("loss", "error"):
        mean, floor, chord = (getattr(forms, f"{kind}_{form}") for form in ("mean", "floor", "chord"))
        assert mean >= floor
        assert abs(mean - chord) <= floor + 1e-15
        s, mirrored = (chord_excess(c.alphas, getattr(c, kind)) for c in (there, back))
        np.testing.assert_allclose(s, mirrored[::-1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_against_stored_logits(nets, dtype) -> None:
    """Oracle 7: the decomposition by log-sum-exp, per example."""
    a, b = (nets.train("cnn", seed, 30, dtype) for seed in (0, 1))
    x, y = nets.images(40, 9, dtype)
    network = Network(nets.build("cnn", 0, dtype), batch_size=16)
    alphas = alpha_grid(5)
    path = states_on_line(network, a, b, alphas)
    loss, z = score_states(network, path, x, y).loss, network.logits(path, x).double()
    lse = torch.logsumexp
    for i, alpha in enumerate(alphas):
        zbar = (1 - alpha) * z[0] + alpha * z[-1]
        gap = (1 - alpha) * lse(z[0], 1) + alpha * lse(z[-1], 1) - lse(zbar, 1)
        assert gap.min() >= -1e-6
        truth = lse(z[i], 1) - lse(zbar, 1) - gap - (z[i] - zbar)[range(40), y]
        measured = loss[i] - (1 - alpha) * loss[0] - alpha * loss[-1]
        torch.testing.assert_close(measured, truth, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)


def test_an_even_grid_misses_the_middle() -> None:
    """Oracle 10: the peak of a (1-a) is lost by 20 points and refused by the measurement."""
    peak = lambda n: barrier(Curve(np.linspace(0, 1, n), (x := np.linspace(0, 1, n)) * (1 - x), x, 1))  # noqa: E731
    assert peak(21).loss_chord == 0.25
    assert peak(20).loss_chord < 0.25
    assert peak(20).loss_mid is None
    for alphas in (20, 1, 2):
        with pytest.raises(UserError, match=f"odd number of at least 3, found {alphas}"):
            alpha_grid(alphas)
    with pytest.raises(UserError, match="must contain 1/2"):
        alpha_grid([0, 0.25, 1])
    for wrong in ([0, 0.5], [0.5, 1], [0, 0.5, 0.5, 1], [1, 0.5, 0]):
        with pytest.raises(UserError, match="increase strictly from 0 to 1"):
            alpha_grid(wrong)
    assert np.array_equal(alpha_grid([0, 0.5, 1]), alpha_grid(3))


def test_error_counts_ties_for_the_lowest_class(nets) -> None:
    zero = {k: torch.zeros_like(v) for k, v in nets.build("softmax").state_dict().items()}
    x, _ = nets.images(8)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3])
    curve = trace_path(nets.build("softmax"), zero, zero, {"s": (x, labels)}, 3, batch_size=3)["s"]
    assert curve.error.tolist() == [0.625] * 3
    np.testing.assert_allclose(curve.loss, np.log(4), rtol=0, atol=1e-15)
    assert curve.n == 8


def test_the_callers_model_and_generators_are_unchanged(nets) -> None:
    """Mode, weights, buffers, hooks, device and the global generator stay; dropout draws nothing."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten(), nn.Linear(108, 4)
    ).double()
    model.train()
    model[2].eval()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(7)
    generator = torch.get_rng_state()
    a, b = copy.deepcopy(before), {k: v + 1 for k, v in before.items()}
    kept = copy.deepcopy(a)
    x, y = nets.images(10)
    trace_path(model, a, b, {"s": (x, y)}, 3, calibration=x)
    assert torch.equal(torch.get_rng_state(), generator)
    assert [m.training for m in model] == [True, True, False, True, True]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(v, kept[k]) for k, v in a.items())
    assert model[1].momentum == 0.1
    assert not model[1]._forward_pre_hooks


def test_images_are_cast_to_the_model(nets) -> None:
    state, (x, y) = nets.train("mlp", 0, 3, torch.float32), nets.images(9)
    model = nets.build("mlp", 0, torch.float32)
    wide, narrow = (trace_path(model, state, state, {"s": (i, y)}, 3)["s"] for i in (x, x.float()))
    assert wide == narrow


def test_ends_are_as_trained_unless_they_are_asked_for_recalibrated(nets) -> None:
    a, b = nets.train("resnet", 0), nets.train("resnet", 1)
    model, split, images = nets.build("resnet"), {"s": nets.images(20)}, nets.images(30, 5)[0]
    blended = trace_path(model, a, b, split, 5)["s"]
    fresh = trace_path(model, a, b, split, 5, images, ends="recalibrated")["s"]
    found = trace_path(model, a, b, split, 5, images)["s"]
    assert (blended.loss != fresh.loss).all()
    assert np.array_equal(found.loss[[0, -1]], blended.loss[[0, -1]])
    assert np.array_equal(found.loss[1:-1], fresh.loss[1:-1])
    assert found == trace_path(model, a, b, split, 5, images, ends="as-trained")["s"]
    with pytest.raises(UserError, match="Unknown ends 'trained'"):
        trace_path(model, a, b, split, 5, images, ends="trained")


def test_refusals(nets) -> None:
    a, b = nets.train("mlp", 0), nets.train("mlp", 1)
    model, (x, y) = nets.build("mlp"), nets.images(8)
    cases = [
        ({}, "No splits"),
        ({"t": (x[:0], y[:0])}, "Split 't' is empty"),
        ({"t": (x, y + 1)}, "Split 't': label 4 is out of range, there are 4 classes"),
        ({"t": (x, y - 1)}, "Split 't': label -1 is out of range"),
        ({"t": (x, y[:5])}, r"8 images need labels \[8\], found \(5,\)"),
        ({"t": (x, y.double())}, "labels must be integers, found torch.float64"),
        ({"t": ((x * 9).byte(), y)}, "images must be floating, found torch.uint8"),
    ]
    for splits, message in cases:
        with pytest.raises(UserError, match=message):
            trace_path(model, a, b, splits, 3)
    nan = {**a, "1.bias": a["1.bias"] * float("nan")}
    with pytest.raises(UserError, match=r"State B: '1.bias' holds NaN"):
        trace_path(model, a, nan, {"t": (x, y)}, 3)
    with pytest.raises(UserError, match=r"4 of its 6 tensors are missing .*given are not the network's"):
        trace_path(model, *(nets.train("cnn", s) for s in (0, 1)), {"t": (x, y)}, 3)
    huge = {k: v * 1e200 for k, v in a.items()}
    with pytest.raises(UserError, match=r"Split 't': the loss is not finite at alpha 0\.5\."):
        trace_path(model, a, huge, {"t": (x, y)}, 3)


def test_logits_that_are_not_finite_raise_another_error_than_bad_input():
    """A run writes such a cell down as diverged, a result; after another error it would be repeated."""
    logits = torch.zeros(3, 4, 2)
    logits[1, 2, 0] = torch.inf
    with pytest.raises(NotFiniteError, match="'train': the loss is not finite at state 1 of 3"):
        scores_from_logits(logits, torch.zeros(4, dtype=torch.int64), "train")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_loss_of_half_precision_logits_is_not_rounded_again(nets, dtype) -> None:
    """The forward pass is the network's own; 8 bits of bfloat16 would be too few for the loss."""
    model = nets.build("mlp", 0).to(dtype)
    a, b = (nets.build("mlp", i).to(dtype).state_dict() for i in (1, 2))
    x, y = nets.images(50)
    curve = trace_path(model, a, b, {"t": (x, y)}, 3)["t"]
    for i, state in ((0, a), (2, b)):
        model.load_state_dict(state)
        logits = model(x.to(dtype)).detach().double()
        assert curve.loss[i] == pytest.approx(float(nn.functional.cross_entropy(logits, y)), rel=1e-6)
