"""Gradient noise at one state: on each sibling's view, on their union, and between the views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch import eager_transforms as functorch
from torch.func import vmap
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
"""Maximum number of gradient entries in memory."""
MAX_IMAGES = 128
"""Maximum number of images per chunk."""
MAX_PIXELS = 2**17
"""Maximum number of pixel values per chunk; 128 images of 3 x 32 x 32 take 450 MB in a ResNet-8."""


@dataclass(frozen=True)
class GradientMoments:
    """Moments of the per-image gradients of a set of images.

    Attributes:
        n: number of images.
        trace: trace of the gradients' covariance (divided by n), nats² per squared unit of the weights.
        norm2: squared norm of the mean gradient, in the same unit.
        scale: the simple noise scale trace / norm2 in images, the batch size at which noise and signal are
            equal (McCandlish et al., 2018, arXiv 1812.06162, equation 2.9); None at a stationary point.
    """

    n: int
    trace: float
    norm2: float
    scale: float | None


@dataclass(frozen=True)
class GradientNoise:
    """Gradient noise on the siblings' views and on their union.

    Attributes:
        views: moments on each sibling's view.
        union: moments on all views together, each image counted once per view that contains it.
        between: the part of the union's trace that is the covariance of the views' mean gradients.
        between_share: `between` over the union's trace; None if that is 0. Its expectation for K disjoint
            random views of N images in total is (K - 1) / (N - 1); for identical views it is 0.
    """

    views: tuple[GradientMoments, ...]
    union: GradientMoments
    between: float
    between_share: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the values as in a record."""
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
    """Return the covariance of per-image gradients of the cross-entropy at `state`, within and between views.

    The law of total variance splits the union's covariance exactly: with w_v the share of view v, tr(union) =
    sum_v w_v tr(v) + sum_v w_v |G_v - G|². Moments are those of the given images, so norm2 exceeds the
    squared gradient of their distribution by trace / n. Eval mode without augmentation and with fixed
    BatchNorm statistics. Chunks are summed in float64.

    Args:
        model: any classifier; not modified.
        state: state dict at the fork.
        split: the distinct images `[n, c, h, w]` of all views, and labels.
        views: each sibling's positions in them, `[m]`.
        calibration: images on which BatchNorm statistics are recalibrated.
        chunk: images per chunk.
        device: where to compute; the model's own by default.

    Raises:
        UserError: if the state does not fit the model, the split is invalid, a view is empty, or images are
            not processed independently (BatchNorm without running statistics).
    """
    split = as_split("gradients", split)
    if not views or any(len(view) == 0 for view in views):
        raise UserError("Gradient noise needs views, each with an image in it.")
    network = Network(model, device)
    for name, module in network.model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise UserError(
                f"Gradient noise is computed image by image, but layer {name!r} normalises by its batch in "
                "eval mode."
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
    # summed over pairs, so that equal views give exactly 0
    apart = means.diagonal()[:, None] + means.diagonal() - 2 * means
    apart[torch.eye(len(views), dtype=torch.bool)] = 0
    between = float((shares[:, None] * shares * apart.clamp(min=0)).sum() / 2)
    union = float(shares @ within.clamp(min=0)) + between
    return GradientNoise(
        tuple(
            _gradient_moments(int(n), float(trace), float(norm2))
            for n, trace, norm2 in zip(sizes, within, means.diagonal(), strict=True)
        ),
        _gradient_moments(int(sizes.sum()), union, float(shares @ means @ shares)),
        between,
        between / union if union > 0 else None,
    )


def _gradient_moments(n: int, trace: float, norm2: float) -> GradientMoments:
    trace, norm2 = max(trace, 0.0), max(norm2, 0.0)
    return GradientMoments(n, trace, norm2, trace / norm2 if norm2 > 0 else None)


def _moments(
    network: Network, state: State, split: Split, views: Sequence[Tensor], chunk: int | None
) -> tuple[Tensor, Tensor]:
    """Return |gradient|² of each image, `[n]`, and inner products of the views' mean gradients, `[K, K]`."""
    images, labels = split
    aliases = _trainable(network.model)
    leaves = {name: state[name] for name in aliases}
    size = sum(leaf.numel() for leaf in leaves.values())
    if chunk is None:
        chunk = max(1, min(MAX_IMAGES, CHUNK_VALUES // max(size, 1), MAX_PIXELS // images[0].numel()))
    check_labels("gradients", labels, _classes(network, state, images))

    def loss(leaves: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        there = {**state, **{alias: leaves[name] for name, names in aliases.items() for alias in names}}
        # one image without a batch dimension: of a batch torch checks the size, and imports sympy for that
        return F.cross_entropy(network.forward(there, image[None])[0], label)

    gradients = vmap(_gradient_of(loss), in_dims=(None, 0, 0))
    belongs = torch.zeros(len(views), len(images), dtype=torch.float64, device=network.device)
    for row, view in zip(belongs, views, strict=True):
        row[view.to(row.device)] = 1 / len(view)
    squares = torch.zeros(len(images), dtype=torch.float64, device=network.device)
    totals = {n: belongs.new_zeros(len(views), leaf.numel()) for n, leaf in leaves.items()}
    # fused attention kernels have no batching rule
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


def _gradient_of(loss: Callable[..., Tensor]) -> Callable[..., dict[str, Tensor]]:
    """Return the gradient of `loss` in its first argument, tensors by name: `torch.func.grad`, same bits.

    The public function enters a context of torch._dynamo, whose import takes a second; these are its other
    steps.
    """

    def gradient(leaves: dict[str, Tensor], *rest: Tensor) -> dict[str, Tensor]:
        with functorch.grad_increment_nesting() as level, torch.enable_grad():
            leaves, rest = functorch._wrap_all_tensors((leaves, rest), level)
            for leaf in leaves.values():
                functorch._create_differentiable(leaf, level)
            # with a graph as there: some operators have another backward pass without, with other bits
            found = torch.autograd.grad(
                loss(leaves, *rest),
                list(leaves.values()),
                create_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            found = functorch._undo_create_differentiable(found, level)
        return dict(zip(leaves, found, strict=True))

    return gradient


def _trainable(model: nn.Module) -> dict[str, list[str]]:
    """Return the trainable weights, each with all its names; tied weights have one gradient."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            names.setdefault(id(parameter), []).append(name)
    return {aliases[0]: aliases for aliases in names.values()}


def _classes(network: Network, state: State, images: Tensor) -> int:
    with torch.no_grad(), isolated(network.device):
        return network.forward(state, images[:1]).shape[1]
