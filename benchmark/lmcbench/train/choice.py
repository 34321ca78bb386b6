"""Choose the engine that trains a network: a committed function of network and kind of device."""

from __future__ import annotations

import copy

from torch import nn

from lmcbench.memory_layout import choose_layout
from lmcbench.spec.architectures import Architecture
from lmcbench.spec.recipe import EngineName
from lmcbench.train.cost import step_flop
from lmcbench.train.stackability import reason_not_stackable

STACKED: dict[tuple[str, str], tuple[float, int]] = {
    ("lmc_linear", "cpu"): (0.1, 128),
    ("lmc_mlp", "cpu"): (0.7, 64),
    ("lmc_cnn", "cpu"): (0.3, 128),
    ("lmc_resnet", "cpu"): (4.0, 128),
    ("resnet18", "cpu"): (1.3, 128),
    ("vit_tiny_patch16_224", "cpu"): (1.2, 128),
    ("pvt_v2_b0", "cpu"): (1.2, 64),
    ("nf_resnet26", "cpu"): (0.25, 128),
    ("convnext_atto", "cpu"): (0.8, 128),
    ("resnetv2_18", "cpu"): (0.6, 128),
    ("inception_next_tiny", "cpu"): (0.2, 128),
    ("efficientformerv2_s0", "cpu"): (0.3, 128),
    ("efficientvit_b0", "cpu"): (0.4, 128),
    ("pit_ti_224", "cpu"): (1.0, 128),
    ("mambaout_femto", "cpu"): (0.5, 64),
    ("tiny_vit_5m_224", "cpu"): (0.7, 128),
}
"""Where stacking was measured to win: up to so many million operations of training on an image, which
width and pixels decide, and so many images in a batch. Beyond, a fleet's activations leave the caches and
what is saved in launches is lost again (benchmark/speed/engines.py). In every row within them it is
faster from 8 members on; fleets of 2 are 0.5 to 1.1 times as fast. It is not a function of the fleet's size
on a CPU, so that a run made in pieces equals one made at once, bit for bit; which is why timm's
`test_efficientnet_gn`, `test_nfnet`, `test_byobnet` and `starnet_s1`, whose bits were seen to change with the
fleet, are not here though they would gain too."""


def choose_engine(
    architecture: Architecture,
    model: nn.Module,
    shape: tuple[int, int, int],
    device: str,
    asked: EngineName | None = None,
    precision: str = "fp32",
    batch_size: int = 32,
) -> EngineName:
    """Return the engine for fleets of `architecture` on a device type, for images of `shape` (c, h, w).

    A requested engine is used if the network supports it; if it does not, the network is trained by the one
    that it supports of `channels-last` and `reference`.
    """
    stack = (
        asked == "stacked"
        if asked is not None
        else _is_faster_stacked(architecture, model, shape, device, batch_size)
    )
    if stack and reason_not_stackable(model, shape, precision) is None:
        return "stacked"
    if asked == "reference" or device != "cpu":
        return "reference"
    layout = choose_layout(copy.deepcopy(model), shape)
    return "channels-last" if layout == "channels-last" else "reference"


def _is_faster_stacked(
    architecture: Architecture, model: nn.Module, shape: tuple[int, int, int], device: str, batch_size: int
) -> bool:
    limits = STACKED.get((architecture.name, device))
    # two images: BatchNorm may refuse to train on one
    return limits is not None and is_within(limits, step_flop(model, shape, 2) / 2e6, batch_size)


def is_within(limits: tuple[float, int], mflop: float, batch_size: int) -> bool:
    """Return whether a network of so many MFLOP an image and its batch are within an entry of `STACKED`."""
    return mflop <= limits[0] and batch_size <= limits[1]
