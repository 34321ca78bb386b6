"""Gradient noise at one state: its size on each sibling's view, and the part that lies between the views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from lmcbench.connect.arguments import Split, as_split
from lmcbench.connect.blending import State, unstack
from lmcbench.connect.interpolation import check_labels
from lmcbench.connect.isolation import isolated
from lmcbench.connect.network import Network
from lmcbench.errors import UserError

CHUNK_VALUES = 2**25
"""Gradient entries that are held at once."""
MAX_IMAGES = 128
"""Images whose gradients are held at once, however small the network."""
MAX_PIXELS = 2**17
"""Values of such images, whose activations are held: 450 MB of a ResNet-8 for 128 images of 3 x 32 x 32."""


@dataclass(frozen=True)
class GradientMoments:
    """The gradients of each image of a set, as a distribution.

    Attributes:
        n: images.
        trace: of their covariance (divided by n), nats^2 per squared unit of the weights.
        norm2: squared norm of their mean, in the same unit.
        scale: the simple noise scale trace / norm2, in images: the batch size at which noise and signal
            are equal (McCandlish et al., arXiv 1812.06162, equation 2.9); None at a stationary point.
    """

    n: int
    trace: float
    norm2: float
    scale: float | None


@dataclass(frozen=True)
class GradientNoise:
    """Gradient noise on the siblings' views and on their union.

    Attributes:
        views: one per sibling.
        union: of all views together, each image as often as it is in a view.
        between: the part of the union's trace that is the covariance of the views' mean gradients.
        between_share: of the union's trace; None where that is 0. For K disjoint views drawn at random
            from N images it is (K - 1) / (N - 1) in the mean; for siblings with one view 0 up to rounding.
    """

    views: tuple[GradientMoments, ...]
    union: GradientMoments
    between: float
    between_share: float | None

    def to_json(self) -> dict[str, Any]:
        """As records hold it."""
        return {**asdict(self), "views": [asdict(view) for view in self.views]}


def gradient_noise(
    model: nn.Module,
    state: State,
    split: Split,
    views: Sequence[Tensor],
    calibration: Tensor | None = None,
    *,
    chunk: int | None = None,
    device: str | torch.device | None = None,
) -> GradientNoise:
    """Covariance of the per-image gradients of the cross-entropy at `state`, within and between views.

    The law of total variance splits the union's covariance exactly: with w_v the share of view v in it,
    tr(union) = sum_v w_v tr(v) + sum_v w_v |G_v - G|^2. The means are over the images given, so that
    norm2 exceeds the squared gradient of their distribution by trace / n. Eval mode, statistics fixed:
    BatchNorm's own coupling of a batch is not in it, nor is augmentation. Chunks are summed in fp64.

    Args:
        model: any classifier; it stays as it is.
        state: where the siblings leave.
        split: the distinct images `[n, c, h, w]` of all views, and labels.
        views: each sibling's positions in them, `[m]`.
        calibration: images on which BatchNorm statistics are taken anew.
        chunk: images whose gradients are held at once.
        device: where to compute; the model's own by default.

    Raises:
        UserError: for a state of another network, a split that cannot be measured, an empty view, or a
            network whose images are not passed each by itself (BatchNorm without running statistics).
    """
    split = as_split("gradients", split)
    if not views or any(len(view) == 0 for view in views):
        raise UserError("Gradient noise needs views, each with an image in it.")
    network = Network(model, device)
    for name, module in network.model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise UserError(
                f"Gradient noise is taken image by image, but layer {name!r} normalises by its batch in eval "
                "mode too."
            )
    stacked = network.prepare(state)
    if calibration is not None:
        stacked = network.recalibrate(stacked, calibration)
    [here] = unstack(stacked)
    squares, means = _moments(network, here, split, views, chunk)
    views = [view.to(squares.device) for view in views]
    sizes = torch.tensor([len(view) for view in views], dtype=torch.float64)
    within = torch.stack([squares[view].mean() for view in views]) - means.diagonal()
    shares = sizes / sizes.sum()
    # of pairs, so that equal views give exactly 0
    apart = means.diagonal()[:, None] + means.diagonal() - 2 * means
    apart[torch.eye(len(views), dtype=torch.bool)] = 0
    between = float((shares[:, None] * shares * apart.clamp(min=0)).sum() / 2)
    union = float(shares @ within.clamp(min=0)) + between
    return GradientNoise(
        tuple(
            _described(int(n), float(trace), float(norm2))
            for n, trace, norm2 in zip(sizes, within, means.diagonal(), strict=True)
        ),
        _described(int(sizes.sum()), union, float(shares @ means @ shares)),
        between,
        between / union if union > 0 else None,
    )


def _described(n: int, trace: float, norm2: float) -> GradientMoments:
    trace, norm2 = max(trace, 0.0), max(norm2, 0.0)
    return GradientMoments(n, trace, norm2, trace / norm2 if norm2 > 0 else None)


def _moments(
    network: Network, state: State, split: Split, views: Sequence[Tensor], chunk: int | None
) -> tuple[Tensor, Tensor]:
    """Squared norm of each image's gradient `[n]`, and the views' mean gradients' inner products `[K, K]`."""
    images, labels = split
    aliases = _trainable(network.model)
    leaves = {name: state[name] for name in aliases}
    size = sum(leaf.numel() for leaf in leaves.values())
    if chunk is None:
        chunk = max(1, min(MAX_IMAGES, CHUNK_VALUES // max(size, 1), MAX_PIXELS // images[0].numel()))
    check_labels("gradients", labels, _classes(network, state, images))

    def loss(leaves: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        there = {**state, **{alias: leaves[name] for name, same in aliases.items() for alias in same}}
        return F.cross_entropy(network.forward(there, image[None]), label[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))
    belongs = torch.zeros(len(views), len(images), dtype=torch.float64, device=network.device)
    for row, view in zip(belongs, views, strict=True):
        row[view.to(row.device)] = 1 / len(view)
    squares = torch.zeros(len(images), dtype=torch.float64, device=network.device)
    totals = {n: belongs.new_zeros(len(views), leaf.numel()) for n, leaf in leaves.items()}
    # the fused attention kernels cannot be mapped over images
    with isolated(network.device), sdpa_kernel(SDPBackend.MATH):
        for start in range(0, len(images), chunk):
            rows = slice(start, start + chunk)
            found = gradients(
                leaves, images[rows].to(network.device, network.dtype), labels[rows].to(network.device)
            )
            for name, part in found.items():
                flat = part.detach().flatten(1)
                squares[rows] += flat.square().sum(1, dtype=torch.float64)
                totals[name] += belongs[:, rows].to(flat.dtype) @ flat
    products = torch.stack([total @ total.T for total in totals.values()]).sum(0)
    return squares.cpu(), products.cpu()


def _trainable(model: nn.Module) -> dict[str, list[str]]:
    """The weights that are trained, each with all names it goes by: tied weights have one gradient."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            names.setdefault(id(parameter), []).append(name)
    return {same[0]: same for same in names.values()}


def _classes(network: Network, state: State, images: Tensor) -> int:
    with torch.no_grad(), isolated(network.device):
        return network.forward(state, images[:1]).shape[1]
