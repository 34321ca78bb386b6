"""Choose the engine that trains a network: a committed function of network and kind of device."""

from __future__ import annotations

import copy

from torch import nn

from lmcbench.memory_layout import choose_layout
from lmcbench.spec.architectures import Architecture
from lmcbench.spec.recipe import EngineName
from lmcbench.train.cost import step_flop
from lmcbench.train.stackability import reason_not_stackable

STACKED = {
    ("lmc_linear", "cpu"): 0.1,
    ("lmc_mlp", "cpu"): 0.7,
    ("lmc_cnn", "cpu"): 3.0,
    ("lmc_resnet", "cpu"): 15.0,
    ("test_resnet", "cpu"): 10.0,
    ("test_vit", "cpu"): 10.0,
}
"""Where stacking was measured to win: up to so many million operations of training on an image, which width
and pixels decide. Beyond, a fleet's activations leave the caches and what is saved in launches is lost again
(measured: benchmark/speed/engines.py). Not a function of fleet size on a CPU, so that a run made in pieces
equals one made at once, bit for bit; which is why timm's `test_efficientnet_gn`, `test_nfnet` and
`test_byobnet`, whose bits were seen to change with the fleet, are not here though they would gain too."""


def choose_engine(
    architecture: Architecture,
    model: nn.Module,
    shape: tuple[int, int, int],
    device: str,
    asked: EngineName | None = None,
    precision: str = "fp32",
) -> EngineName:
    """Return the engine for fleets of `architecture` on a device type, for images of `shape` (c, h, w).

    A requested engine is used if the network supports it; if it does not, the network is trained by the one
    that it supports of `channels-last` and `reference`.
    """
    stack = (
        asked == "stacked" if asked is not None else _is_faster_stacked(architecture, model, shape, device)
    )
    if stack and reason_not_stackable(model, shape, precision) is None:
        return "stacked"
    if asked == "reference" or device != "cpu":
        return "reference"
    layout = choose_layout(copy.deepcopy(model), shape)
    return "channels-last" if layout == "channels-last" else "reference"


def _is_faster_stacked(
    architecture: Architecture, model: nn.Module, shape: tuple[int, int, int], device: str
) -> bool:
    most = STACKED.get((architecture.name, device))
    # two images: BatchNorm may refuse to train on one
    return most is not None and step_flop(model, shape, 2) / 2 <= most * 1e6
