"""The residual stream of a transformer, free up to an orthogonal map (Theus et al., 2025, section 3).

Blocks read the stream x, `[..., d]`, through LayerNorm and add to it. With u the vector of ones and
P = I - u u^T / d, LayerNorm without scale and shift is P x / std(P x). It commutes with every orthogonal Q
that fixes u, so x may become Q x if all that is added to the stream is multiplied by Q and all that is read
from it by Q^T. Scale g and shift s of a LayerNorm belong to the linear layers that read it,

    W (g * n + s) + b = (W diag(g)) n + (W s + b),

and the parts of weights along u change nothing: LayerNorm removes the stream's, and n has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lmcbench.connect.blending import State
from lmcbench.connect.isolation import copy_model, isolated
from lmcbench.connect.unit_groups import PermutationSpec, Place

Matrix = Tensor
"""An orthogonal map of a stream that fixes the vector of ones, `[d, d]` float64."""


@dataclass(frozen=True)
class Stream:
    """The residual stream of one width.

    Attributes:
        group: group of its units in the permutation specification.
        size: d.
        norms: names of the LayerNorms that read it.
        readers: linear layer or convolution that reads it -> its LayerNorm.
        writers: tensor that is added to it, or that computes what is added -> its axis on the stream.
        scales: writer -> the layer scale that multiplies it.
    """

    group: int
    size: int
    norms: tuple[str, ...]
    readers: dict[str, str]
    writers: dict[str, int]
    scales: dict[str, str]


def find_streams(model: nn.Module, spec: PermutationSpec, images: Tensor) -> tuple[list[Stream], str]:
    """Return the streams that are read through LayerNorms only, and the reason for the last one rejected.

    Which LayerNorm a layer reads is taken from the order of one forward pass; the caller checks the result by
    moving a stream.
    """
    calls = _calls(model, images)
    found, why = [], "it has no LayerNorm whose units can be permuted"
    for group in sorted(_normalised(model, spec)):
        stream = _stream(model, spec, group, calls)
        if isinstance(stream, Stream):
            found.append(stream)
        else:
            why = stream
    return found, why


def fold(state: State, streams: list[Stream]) -> dict[str, Tensor]:
    """Return the state in float64 with LayerNorms and layer scales of one, shifts of zero and parts along u
    of zero.
    """
    folded = {name: x.detach().double() if x.is_floating_point() else x for name, x in state.items()}
    for s in streams:
        for reader, norm in s.readers.items():
            weight, (scale, shift) = folded[f"{reader}.weight"], _affine(state, norm, s.size)
            if f"{reader}.bias" in folded:
                read = torch.tensordot(weight, shift, ([1], [0]))
                folded[f"{reader}.bias"] = folded[f"{reader}.bias"] + read.reshape(len(read), -1).sum(1)
            folded[f"{reader}.weight"] = _centred(_scaled(weight, scale, 1), 1)
        for name, dim in s.writers.items():
            value = folded[name]
            if name in s.scales:
                value = _scaled(value, state[s.scales[name]].double(), dim)
            folded[name] = _centred(value, dim)
        for norm in s.norms:
            if f"{norm}.weight" in folded:
                folded[f"{norm}.weight"] = torch.ones(s.size, dtype=torch.float64)
            if f"{norm}.bias" in folded:
                folded[f"{norm}.bias"] = torch.zeros(s.size, dtype=torch.float64)
        for name in s.scales.values():
            folded[name] = torch.ones(s.size, dtype=torch.float64)
    return folded


def unfold(folded: State, streams: list[Stream], like: State) -> dict[str, Tensor]:
    """Return a state of the same function with the LayerNorms, layer scales and parts along u of `like`.

    On the line from `like` to the result these are constant, so that every point computes what the folded
    networks' line computes.
    """
    state = dict(folded)
    for s in streams:
        for reader, norm in s.readers.items():
            scale, shift = _affine(like, norm, s.size)
            whole = _scaled(like[f"{reader}.weight"].double(), scale, 1)
            weight = folded[f"{reader}.weight"] + whole - _centred(whole, 1)
            state[f"{reader}.weight"] = weight = _scaled(weight, 1 / scale, 1)
            if f"{reader}.bias" in folded:
                read = torch.tensordot(weight, shift, ([1], [0]))
                state[f"{reader}.bias"] = folded[f"{reader}.bias"] - read.reshape(len(read), -1).sum(1)
        for name, dim in s.writers.items():
            whole = like[name].double()
            if name in s.scales:
                whole = _scaled(whole, like[s.scales[name]].double(), dim)
            value = folded[name] + whole - _centred(whole, dim)
            if name in s.scales:
                value = _scaled(value, 1 / like[s.scales[name]].double(), dim)
            state[name] = value
        for norm in s.norms:
            state |= {f"{norm}.{x}": like[f"{norm}.{x}"] for x in ("weight", "bias") if f"{norm}.{x}" in like}
        state |= {name: like[name] for name in s.scales.values()}
    return {name: x.detach().to(like[name].dtype).clone() for name, x in state.items()}


def unfoldable(state: State, other: State, stream: Stream) -> str | None:
    """Return why two states' LayerNorms cannot be exchanged, or None."""
    for name in [f"{norm}.weight" for norm in stream.norms] + list(stream.scales.values()):
        if name in state and bool((state[name].abs() < 1e-6).any()):
            return f"{name!r} has a scale of zero"
    for reader, norm in stream.readers.items():
        shifts = [x[f"{norm}.bias"] for x in (state, other) if f"{norm}.bias" in x]
        if f"{reader}.bias" not in state and any(bool(shift.any()) for shift in shifts):
            return f"{reader!r} has no bias to hold the shift of {norm!r}"
    return None


def turn(folded: State, stream: Stream, by: Matrix) -> dict[str, Tensor]:
    """Return a folded state with the stream multiplied by `by`."""
    state = dict(folded)
    for name, dim in axes_on(stream).items():
        state[name] = torch.tensordot(by, folded[name], ([1], [dim])).movedim(0, dim)
    return state


def axes_on(stream: Stream) -> dict[str, int]:
    """Return the tensors with an axis on the stream, with the axis."""
    return {f"{reader}.weight": 1 for reader in stream.readers} | stream.writers


def nearest_map(product: Tensor) -> Matrix:
    """Return the orthogonal Q that fixes u and has the largest <Q, product> (orthogonal Procrustes problem).

    Args:
        product: sum of A B^T over the stream's folded tensors, `[d, d]` float64.
    """
    d = len(product)
    basis = _basis(d)
    left, _, right = torch.linalg.svd(basis.T @ product @ basis)
    found: Matrix = basis @ (left @ right) @ basis.T + 1 / d
    return found


def random_map(d: int, generator: torch.Generator) -> Matrix:
    """Return a random orthogonal map that fixes the vector of ones."""
    return nearest_map(torch.randn(d, d, generator=generator, dtype=torch.float64))


def _basis(d: int) -> Tensor:
    """Return an orthonormal basis of the vectors that sum to zero, `[d, d - 1]`."""
    ones = torch.ones(d, 1, dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(torch.cat([ones, torch.eye(d, dtype=torch.float64)[:, 1:]], 1))[0]
    return basis[:, 1:]


def _centred(value: Tensor, dim: int) -> Tensor:
    return value - value.mean(dim, keepdim=True)


def _scaled(value: Tensor, scale: Tensor, dim: int) -> Tensor:
    return value * scale.reshape([-1 if d == dim else 1 for d in range(value.ndim)])


def _affine(state: State, norm: str, size: int) -> tuple[Tensor, Tensor]:
    scale, shift = state.get(f"{norm}.weight"), state.get(f"{norm}.bias")
    return (
        torch.ones(size, dtype=torch.float64) if scale is None else scale.double(),
        torch.zeros(size, dtype=torch.float64) if shift is None else shift.double(),
    )


# --- find streams ----------------------------------------------------------------------------------


def _calls(model: nn.Module, images: Tensor) -> list[str]:
    """Return the names of LayerNorms, layers and layer scales in the order in which they run."""
    private, calls, handles = copy_model(model).cpu().eval(), [], []
    for name, module in private.named_modules():
        if isinstance(module, nn.LayerNorm | nn.Linear | _ConvNd) or _is_scale(module):
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: calls.append(name)))
    dtype = next(p.dtype for p in private.parameters() if p.is_floating_point())
    with torch.no_grad(), isolated(torch.device("cpu")):
        private(images[:1].to("cpu", dtype))
    return calls


def _is_scale(module: nn.Module) -> bool:
    return type(module).__name__.startswith("LayerScale")


def _normalised(model: nn.Module, spec: PermutationSpec) -> set[int]:
    """Return the groups of units that LayerNorms normalise whole."""
    found = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            for place in spec.places.get(f"{name}.weight", ()):
                if (group := _whole(place, spec)) is not None:
                    found.add(group)
    return found


def _whole(place: Place, spec: PermutationSpec) -> int | None:
    """Return the group whose units are the indices of an axis, in order, or None."""
    group = int(place.group.flat[0])
    if place.group.ndim != 1 or group < 0 or len(place.group) != spec.groups[group].size:
        return None
    in_order = (place.group == group).all() and np.array_equal(place.unit, np.arange(len(place.unit)))
    return group if in_order else None


def _stream(model: nn.Module, spec: PermutationSpec, group: int, calls: list[str]) -> Stream | str:
    """Return the stream of a group, or why it is none."""
    modules: Mapping[str, nn.Module] = dict(model.named_modules())
    size = spec.groups[group].size
    if spec.groups[group].parents or spec.children(group):
        return "its units are divided into parts"
    norms, readers, writers, scales = set[str](), dict[str, str](), dict[str, int](), list[str]()
    for name, places in spec.places.items():
        owner, _, kind = name.rpartition(".")
        module = modules[owner]
        here = [place for place in places if (place.group == group).any()]
        if not here:
            continue
        dim = here[0].dim
        if len(here) > 1 or _whole(here[0], spec) is None:
            return f"{name!r} mixes its units"
        if isinstance(module, nn.LayerNorm):
            norms.add(owner)
        elif _is_scale(module):
            scales.append(name)
        elif isinstance(module, nn.Linear | _ConvNd) and kind == "weight" and dim == 1:
            before = calls[: calls.index(owner)] if owner in calls else []
            norm = next((x for x in reversed(before) if isinstance(modules[x], nn.LayerNorm)), None)
            if norm is None or modules[norm].normalized_shape != (size,):
                return f"{owner!r} reads it without LayerNorm"
            readers[owner] = norm
            norms.add(norm)
        elif isinstance(module, nn.Linear | _ConvNd) and getattr(module, "groups", 1) == 1:
            writers[name] = dim
        elif isinstance(module, nn.Linear | _ConvNd | nn.modules.batchnorm._NormBase | nn.GroupNorm):
            return f"{owner!r} treats its units one by one"
        elif dim == model.state_dict()[name].ndim - 1:
            writers[name] = dim
        else:
            return f"{name!r} is not understood"
    if not readers or not writers:
        return "nothing reads it or nothing writes to it"
    by: dict[str, str] = {}
    for scale in scales:
        owner = scale.rpartition(".")[0]
        before = calls[: calls.index(owner)] if owner in calls else []
        last = next((x for x in reversed(before) if f"{x}.weight" in writers), None)
        if last is None:
            return f"{owner!r} scales its units one by one"
        by |= {f"{last}.{x}": scale for x in ("weight", "bias") if f"{last}.{x}" in writers}
    return Stream(group, size, tuple(sorted(norms)), readers, writers, by)
