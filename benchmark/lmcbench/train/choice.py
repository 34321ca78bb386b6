"""Which engine trains which architecture: a committed table, never timed at run time (design 3.11)."""

from __future__ import annotations

from torch import nn

from lmcbench.spec.architectures import Architecture
from lmcbench.train.engines import EngineName
from lmcbench.train.probe import why_not_stacked

STACKED = {
    ("lmc_linear", "cpu"),
    ("lmc_mlp", "cpu"),
    ("lmc_cnn", "cpu"),
    ("lmc_resnet", "cpu"),
    ("test_resnet", "cpu"),
    ("test_vit", "cpu"),
}
"""Where stacking was measured to win. Not a function of fleet size on a CPU, so that a run made in
pieces equals one made at once, bit for bit; which is why timm's `test_efficientnet_gn`, `test_nfnet` and
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
    stack = asked == "stacked" if asked is not None else (architecture.name, device) in STACKED
    return "stacked" if stack and why_not_stacked(model, shape) is None else "reference"
