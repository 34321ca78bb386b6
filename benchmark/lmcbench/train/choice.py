"""Which engine trains which architecture: a committed table, never timed at run time (design 3.11)."""

from __future__ import annotations

from torch import nn

from lmcbench.spec.architectures import Architecture
from lmcbench.spec.engine import EngineName
from lmcbench.train.cost import step_flop
from lmcbench.train.probe import why_not_stacked

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
) -> EngineName:
    """The engine for fleets of `architecture` on a device type, for images of `shape` (c, h, w).

    An engine that is asked for is taken if it can be.
    """
    stack = asked == "stacked" if asked is not None else _pays(architecture, model, shape, device)
    return "stacked" if stack and why_not_stacked(model, shape) is None else "reference"


def _pays(architecture: Architecture, model: nn.Module, shape: tuple[int, int, int], device: str) -> bool:
    most = STACKED.get((architecture.name, device))
    # of two images: normalisation may refuse to be trained on one
    return most is not None and step_flop(model, shape, 2) / 2 <= most * 1e6
