"""The memory layout is a function of the network, changes no value, and avoids what torch cannot compute."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lmcbench.connect.network import Network
from lmcbench.memory_layout import (
    WIDE,
    Convolution,
    choose_layout,
    is_faster_channels_last,
    to_layout,
    wide_contiguous,
)
from lmcbench.spec.architectures import Architecture
from lmcbench.train.build import build
from lmcbench.train.choice import choose_engine

GREY, COLOUR = (1, 8, 8), (3, 8, 8)


def network(name, kwargs, shape, adapt=None):
    return build(Architecture(name=name, recipe="r", kwargs=kwargs, adapt=adapt), shape, 10, 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_layout_changes_strides_and_no_value(channels):
    images = torch.randn(2, channels, 4, 5)
    last = to_layout(images, "channels-last")
    assert torch.equal(last, images)
    assert last.stride() == (channels * 20, 1, 5 * channels, channels)
    assert to_layout(last, "channels-last") is last
    assert to_layout(images, "contiguous") is images
    assert to_layout(last, "contiguous").stride() == images.stride()


@pytest.mark.parametrize(
    ("name", "kwargs", "shape", "layout"),
    [
        ("lmc_linear", {}, GREY, "contiguous"),
        ("lmc_mlp", {}, GREY, "contiguous"),
        ("lmc_cnn", {}, GREY, "channels-last"),
        ("lmc_resnet", {}, GREY, "channels-last"),
        ("lmc_resnet", {"stem_stride": 2}, COLOUR, "channels-last"),
        # shortcuts of 1 x 1, stride 2, from 4 channels, which AVX2 cannot compute
        ("lmc_resnet", {"width": 4}, GREY, "contiguous"),
        ("lmc_resnet", {"width": 4}, COLOUR, "contiguous"),
        ("lmc_lenet", {"norm": True}, (1, 28, 28), "channels-last"),
        ("lmc_vgg16", {"width": 4}, (3, 32, 32), "channels-last"),
        ("test_vit", {"patch_size": 4}, GREY, "contiguous"),  # patches do not overlap
        ("test_convnext", {}, (3, 32, 32), "channels-last"),
    ],
)
def test_the_rule_by_network(name, kwargs, shape, layout):
    model = network(name, kwargs, shape)
    assert choose_layout(copy.deepcopy(model), shape) == layout
    assert choose_layout(copy.deepcopy(model), shape, gradients=False) == layout
    # whatever was trained in it before, and whatever was drawn
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(float("nan"))
    torch.manual_seed(3)
    assert choose_layout(copy.deepcopy(model), shape) == layout


def test_the_engine_follows_the_layout():
    shape = (3, 32, 32)
    architecture = Architecture(name="lmc_resnet", recipe="r", kwargs={"width": 16})
    model = network("lmc_resnet", {"width": 16}, shape)
    before, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert choose_engine(architecture, model, shape, "cpu") == "channels-last"
    assert choose_engine(architecture, model, shape, "cpu", "reference") == "reference"
    assert choose_engine(architecture, model, shape, "cpu", "channels-last") == "channels-last"
    assert choose_engine(architecture, model, shape, "cuda") == "reference"  # not measured there
    mlp = Architecture(name="lmc_mlp", recipe="r")
    assert choose_engine(mlp, network("lmc_mlp", {}, shape), shape, "cpu", "channels-last") == "reference"
    assert torch.equal(torch.get_rng_state(), generator)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("kernel", "stride", "inputs", "last"),
    [
        ((3, 3), (1, 1), 1, True),
        ((1, 3), (1, 1), 1, True),
        ((4, 4), (4, 4), 3, False),
        ((1, 1), (2, 2), 8, False),  # no overlap, hence no gain
    ],
)
def test_overlapping_windows_decide(kernel, stride, inputs, last):
    assert is_faster_channels_last([Convolution(inputs, kernel, stride)]) is last


@pytest.mark.parametrize("inputs", range(1, 10))
def test_what_torch_cannot_compute_everywhere_decides_against_it(inputs):
    unsafe = 2 <= inputs <= 7
    found = [Convolution(3, (3, 3), (1, 1)), Convolution(inputs, (1, 1), (1, 2))]
    assert is_faster_channels_last(found) is not unsafe


def test_wide_convolutions_stay_contiguous():
    wide = nn.Sequential(nn.Conv2d(3, WIDE, 3, padding=1), nn.Conv2d(WIDE, 4, 3, padding=1))
    image = torch.randn(2, 3, 4, 4)
    images = to_layout(image, "channels-last")
    assert wide[0](images).stride()[1] == wide(images).stride()[1] == 1
    with wide_contiguous(wide):
        assert wide[0](images).stride()[1] == 1
        found = wide(images)
    assert found.is_contiguous()
    torch.testing.assert_close(found, wide(image), rtol=1e-4, atol=1e-5)
    with wide_contiguous(wide[0]):  # no wide convolution, no mode
        assert torch.overrides._get_current_function_mode() is None


class Viewing(nn.Module):
    """Flattens by `view`, which features with their channels last refuse."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4 * 64, 10)

    def forward(self, x):
        return self.head(self.flat(self.conv(x)))

    def flat(self, x):
        return x.view(len(x), -1)


class Ordered(Viewing):
    """Reads features in the order in which they lie in memory."""

    def flat(self, x):
        return torch.as_strided(x, (len(x), x[0].numel()), (x[0].numel(), 1))


class Dropping(Viewing):
    """Draws random numbers in the order in which features lie in memory."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def flat(self, x):
        return self.drop(x).flatten(1)


def test_networks_that_need_one_layout_get_it():
    for kind in (Viewing, Ordered):
        model = kind()
        assert choose_layout(copy.deepcopy(model), COLOUR) == "contiguous"
        assert choose_layout(copy.deepcopy(model), COLOUR, gradients=False) == "contiguous"
    assert choose_layout(Dropping(), COLOUR) == "channels-last"
    assert choose_layout(Viewing().double(), COLOUR) == "contiguous"
    assert choose_layout(nn.Identity(), COLOUR) == "contiguous"


def test_evaluation_has_that_layout_and_gradients_the_given_one():
    model = network("lmc_resnet", {}, COLOUR).eval()
    seen = []
    model.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].stride()) if len(inputs[0]) == 20 else None
    )
    images = torch.randn(20, *COLOUR)
    ours = Network(model)
    state = ours.prepare(model.state_dict())
    seen.clear()
    found = ours.logits(state, images)
    assert seen[0] == (192, 1, 24, 3)
    with torch.no_grad():
        torch.testing.assert_close(found[0], model(images), rtol=1e-4, atol=1e-5)
    assert torch.equal(ours.logits(state, to_layout(images, "channels-last")), found)
    ours.recalibrate(state, images)
    assert seen[-1] == (192, 1, 24, 3)
    ours.forward(model.state_dict(), images)
    assert seen[-1] == (192, 64, 8, 1)
