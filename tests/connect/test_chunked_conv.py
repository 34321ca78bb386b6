"""Convolutions in chunks: equal numbers, and never more images at once than fit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.overrides import TorchFunctionMode

from lmcbench.connect import batchnorm_stats
from lmcbench.connect.batchnorm_stats import chunked_conv2d
from lmcbench.connect.network import Network
from lmcbench.torch_functions import ReplacedFunctions


class Sizes(TorchFunctionMode):
    """Records the number of images of each convolution."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.conv2d:
            self.seen.append(len(args[0]))
        return func(*args, **(kwargs or {}))


CONVOLUTIONS = [
    nn.Conv2d(4, 6, 3, padding=1),
    nn.Conv2d(4, 8, 3, stride=2, bias=False),
    nn.Conv2d(4, 4, 5, padding="same", groups=4),
]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_chunks_do_not_change_a_convolution(convolution, layout, monkeypatch) -> None:
    x = torch.randn(37, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(memory_format=layout)
    # of what is larger, input or output: at most five images of 8 x 8
    channels = max(convolution.in_channels, convolution.out_channels)
    monkeypatch.setattr(batchnorm_stats, "MAX_BYTES", 5 * channels * 64 * 4)
    with torch.no_grad():
        whole = convolution(x)
        with Sizes() as sizes, ReplacedFunctions({F.conv2d: chunked_conv2d}):
            found = convolution(x)
    assert torch.equal(found, whole)
    assert found.stride() == whole.stride()  # some networks view what comes out
    assert sizes.seen == [5] * 5 + [4] * 3
    assert sum(sizes.seen) == len(x)


@pytest.mark.parametrize(("images", "sizes"), [(0, [0]), (1, [1]), (3, [3]), (4, [2, 2]), (5, [3, 2])])
def test_chunks_have_at_least_two_images(images, sizes, monkeypatch) -> None:
    """A single image may get another kernel; a network may also select no image."""
    monkeypatch.setattr(batchnorm_stats, "MAX_BYTES", 1)
    with torch.no_grad(), Sizes() as noted, ReplacedFunctions({F.conv2d: chunked_conv2d}):
        assert len(nn.Conv2d(3, 8, 3)(torch.randn(images, 3, 8, 8))) == images
    assert noted.seen == sizes


def test_small_batches_pass_whole_and_single_images_too() -> None:
    with torch.no_grad(), Sizes() as sizes, ReplacedFunctions({F.conv2d: chunked_conv2d}):
        nn.Conv2d(3, 8, 3)(torch.randn(1000, 3, 8, 8))
        nn.Conv2d(3, 8, 3)(torch.randn(3, 8, 8))
    assert sizes.seen == [1000, 3]


@pytest.mark.parametrize("stacked", [False, True])
def test_chunks_do_not_change_statistics_of_a_batch(stacked, monkeypatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.Flatten(1)
    )
    x = torch.randn(40, 3, 8, 8)
    network = Network(model, stacked=stacked)
    halved = {k: v * 0.5 if v.is_floating_point() else v for k, v in model.state_dict().items()}
    states = network.prepare([model.state_dict(), halved])
    whole = network.recalibrate(states, x)
    monkeypatch.setattr(batchnorm_stats, "MAX_BYTES", 7 * 4 * 64 * 4)
    with Sizes() as sizes:
        found = network.recalibrate(states, x)
    assert sizes.seen[0] == 7
    assert max(sizes.seen) < len(x)
    for name, value in whole.items():
        assert torch.allclose(found[name].double(), value.double(), rtol=1e-5, atol=1e-6), name
