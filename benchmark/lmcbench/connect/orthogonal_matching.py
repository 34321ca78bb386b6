"""Match two transformers by orthogonal maps of their residual streams and permutations of the other units."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from lmcbench.connect.axis_labels import cannot_align
from lmcbench.connect.blending import State, weight_names
from lmcbench.connect.function_check import logit_difference
from lmcbench.connect.residual_stream import (
    Matrix,
    Stream,
    axes_on,
    find_streams,
    fold,
    nearest_map,
    random_map,
    turn,
    unfold,
    unfoldable,
)
from lmcbench.connect.unit_groups import Orders, PermutationSpec, permute_state
from lmcbench.connect.weight_matching import descend_weights, match_weights

_ROUNDS = 100
"""Maximum number of rounds of permutations and maps."""

_GAIN = 1e-9
"""Smallest relative growth of the similarity for another round."""

_TOLERANCE = 1e-6
"""Largest difference of logits, over the largest, after a random map of a stream, in double precision."""


def align_streams(
    model: nn.Module, state_a: State, state_b: State, spec: PermutationSpec, images: Tensor
) -> dict[str, Tensor]:
    """Return B with streams turned and other units permuted so that its folded weights match A's.

    Theus et al. (2025, arXiv 2506.22712): the similarity <A, B> of the folded states is increased
    by permutations (weight matching) and maps (Procrustes problem) in turn. The better of two starts is kept:
    the best permutations of all units, and maps that fit the tensors with no other units to permute (patch
    and position embedding, classifier).

    Raises:
        UserError: if no stream can be turned without changing the function.
    """
    streams = free_streams(model, state_a, state_b, spec, images)
    a, b = fold(state_a, streams), fold(state_b, streams)
    rest = without_streams(spec, streams)
    starts = [_from_permutations(spec, streams, a, b), _from_ends(rest, streams, a, b)]
    found = max(
        (_alternate(rest, streams, a, b, *start) for start in starts), key=lambda x: _similarity(a, x)
    )
    return unfold(found, streams, state_a)


def free_streams(
    model: nn.Module, state_a: State, state_b: State, spec: PermutationSpec, images: Tensor
) -> list[Stream]:
    """Return the streams that a random map leaves the function as it is.

    Raises:
        UserError: if there is none.
    """
    generator = torch.Generator().manual_seed(0)
    found, why = find_streams(model, spec, images)
    free = []
    for stream in found:
        reason = unfoldable(state_a, state_b, stream)
        if reason is None:
            moved = turn(fold(state_b, [stream]), stream, random_map(stream.size, generator))
            double = {name: x.double() if x.is_floating_point() else x for name, x in state_a.items()}
            back = unfold(moved, [stream], double)
            if logit_difference(model, state_b, back, images[:2], torch.float64) <= _TOLERANCE:
                free.append(stream)
                continue
            reason = "it is used between LayerNorms in a way that depends on its units"
        why = reason
    if not free:
        raise cannot_align(f"it has no residual stream that an orthogonal map leaves the function of: {why}.")
    return free


def without_streams(spec: PermutationSpec, streams: list[Stream]) -> PermutationSpec:
    """Return the specification with the units of streams fixed."""
    on = {stream.group for stream in streams}
    places = {
        name: tuple(p for p in every if not on & set(p.group.ravel().tolist()))
        for name, every in spec.places.items()
    }
    return replace(spec, places={name: every for name, every in places.items() if every})


def _from_permutations(
    spec: PermutationSpec, streams: list[Stream], a: State, b: State
) -> tuple[Orders, list[Matrix]]:
    orders = match_weights(spec, a, b)
    eye = [torch.eye(stream.size, dtype=torch.float64) for stream in streams]
    maps = [matrix[torch.from_numpy(orders[s.group])] for s, matrix in zip(streams, eye, strict=True)]
    return {g: order for g, order in orders.items() if g not in {s.group for s in streams}}, maps


def _from_ends(
    rest: PermutationSpec, streams: list[Stream], a: State, b: State
) -> tuple[Orders | None, list[Matrix]]:
    return None, [_map(stream, a, b, set(axes_on(stream)) - set(rest.places)) for stream in streams]


def _alternate(
    rest: PermutationSpec,
    streams: list[Stream],
    a: State,
    b: State,
    orders: Orders | None,
    maps: list[Matrix],
) -> dict[str, Tensor]:
    """Return B after rounds of maps and permutations until the similarity stops growing."""
    best, found = -float("inf"), dict(b)
    for _ in range(_ROUNDS):
        turned = dict(b)
        for stream, matrix in zip(streams, maps, strict=True):
            turned = turn(turned, stream, matrix)
        orders = (
            match_weights(rest, a, turned) if orders is None else descend_weights(rest, a, turned, orders)
        )
        permuted = permute_state(b, rest, orders)
        maps = [_map(stream, a, permuted, set(axes_on(stream))) for stream in streams]
        moved = permuted
        for stream, matrix in zip(streams, maps, strict=True):
            moved = turn(moved, stream, matrix)
        now = _similarity(a, moved)
        if now <= best + _GAIN * abs(best):
            break
        best, found = now, moved
    return found


def _map(stream: Stream, a: State, b: State, names: set[str]) -> Matrix:
    """Return the map of B's stream to A's that fits the named tensors best."""
    product = torch.zeros(stream.size, stream.size, dtype=torch.float64)
    for name, dim in axes_on(stream).items():
        if name in names:
            one, other = (x[name].movedim(dim, 0).reshape(stream.size, -1) for x in (a, b))
            product += one @ other.T
    return nearest_map(product)


def _similarity(a: State, b: State) -> float:
    return sum(float((a[name] * b[name]).sum()) for name in weight_names(a))
