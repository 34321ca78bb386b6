"""Find the units of a network that may be permuted without changing its function, by running it once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from lmcbench.connect.axis_labels import Atoms, cannot_align
from lmcbench.connect.isolation import copy_model, isolated
from lmcbench.connect.label_mode import LabelMode
from lmcbench.connect.planes import Labels
from lmcbench.connect.unit_groups import PermutationSpec, Place
from lmcbench.connect.unit_structure import Structure, find_structure
from lmcbench.errors import UserError

_SIDES = (32, 8, 16, 28, 64, 224, 14, 24, 48, 96, 128, 160, 192, 240, 256, 288, 299, 320, 331, 384, 448, 512)
"""Image sizes in pixels that are tried if the network does not state its input size."""


def trace_permutations(model: nn.Module, images: Tensor | None = None) -> PermutationSpec:
    """Return the permutation specification of `model`, derived from one forward pass.

    Ainsworth et al. (2023, Git Re-Basin, section 3) give such specifications by hand. Here every operation of
    the pass says what it does to the units along the axes of its arguments (`moving_rules`, `layer_rules`).
    Units of an operation that is not understood stay where they are.

    Args:
        model: not modified.
        images: `[n, ...]`, of which the first is used; None: random ones of a size that the network takes.

    Raises:
        UserError: if the network takes no image that is tried, decides by values that it computes, has
            recurrent layers, writes into its weights, or if no unit is left to permute.
    """
    private = copy_model(model, shares_weights=True).cpu().eval()
    image = example_image(private) if images is None else images[:1]
    image = image.to("cpu", _dtype(private))
    mode = LabelMode()
    mode.weights = {p.untyped_storage().data_ptr() for p in private.parameters()}
    placed = _place_weights(private, mode)
    with _named(private, mode.modules), torch.no_grad(), isolated(torch.device("cpu")):
        mode.give(image, None, True, False)
        try:
            with mode:
                out = private(image)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"The network cannot be aligned: it fails on an image: {error}") from error
        mode.atoms.where = "the output"
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                mode.atoms.pin_all(mode.labels(tensor).planes, None)
    return _specification(private, mode.atoms, placed)


_Placed = dict[str, list[tuple[int, Tensor]]]
"""Tensor name -> (axis, atoms `[n]`, or `[groups, n]` for the inputs of a convolution in groups)."""


def _place_weights(model: nn.Module, mode: LabelMode) -> _Placed:
    """Have all floating tensors of the state get atoms when they are used."""
    grouped = {
        f"{name}.weight": module.groups
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _ConvNd) and module.groups > 1
    }
    state = model.state_dict(keep_vars=True)
    placed: _Placed = {}
    names: dict[int, list[str]] = {}
    for name, value in state.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            names.setdefault(id(value), []).append(name)
    for every in names.values():
        value = state[every[0]]
        count = max(grouped.get(name, 1) for name in every)

        def make(value: Tensor = value, every: list[str] = every, count: int = count) -> Labels:
            planes, found = [], []
            for d, n in enumerate(value.shape):
                ones = [1] * value.ndim
                if d == 1 and count > 1:
                    if n == 1:
                        continue
                    ids = mode.atoms.new([count, n])
                    rows = ids.repeat_interleave(value.shape[0] // count, 0)
                    planes.append(rows.reshape(*rows.shape, *ones[2:]))
                elif n > 1:
                    ids = mode.atoms.new([n])
                    planes.append(ids.reshape([n if i == d else 1 for i in range(value.ndim)]))
                else:
                    continue
                found.append((d, ids))
            for name in every:
                placed[name] = found
            return Labels(tuple(value.shape), tuple(planes))

        mode.parameters[id(value)] = make
    return placed


@contextmanager
def _named(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the names of the running modules in `running`."""
    handles = []
    for name, module in model.named_modules():

        def enter(module: nn.Module, *_: Any, name: str = name) -> None:
            if isinstance(module, nn.RNNBase | nn.RNNCellBase):
                raise cannot_align(
                    f"{name!r} is a recurrent layer ({type(module).__name__}), whose units feed back into "
                    "themselves step by step."
                )
            running.append(name)

        def leave(*_: Any) -> None:
            running.pop()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _specification(model: nn.Module, atoms: Atoms, placed: _Placed) -> PermutationSpec:
    found = find_structure(atoms)
    places: dict[str, tuple[Place, ...]] = {}
    used: set[int] = set()
    for name, axes in placed.items():
        listed = []
        for dim, ids in axes:
            at = ids.numpy()
            group, unit, part = found.group[at], found.unit[at], _parts(found, at, atoms)
            if (group >= 0).any():
                listed.append(Place(dim, group, unit, part))
                used.update(np.unique(group[group >= 0]).tolist())
        if listed:
            places[name] = tuple(listed)
    spec = PermutationSpec(found.groups, places, _fixed_units(found, placed))
    if not spec.free:
        why = f": {next(iter(spec.fixed))}" if spec.fixed else ""
        raise cannot_align(f"no unit is left to permute{why}.")
    return spec


def _parts(found: Structure, at: np.ndarray, atoms: Atoms) -> np.ndarray:
    """Number indices so that those of the same unit differ: by role, mark and order of occurrence."""
    keys = np.stack([found.part[at].ravel(), atoms.mark[at].ravel()])
    _, role = np.unique(keys, axis=1, return_inverse=True)
    role = role.reshape(at.shape).astype(np.int64)
    again = np.zeros(at.shape, np.int64)
    for row in np.ndindex(at.shape[:-1]):
        seen: dict[tuple[int, int, int], int] = {}
        group, unit = found.group[at[row]], found.unit[at[row]]
        for i, key in enumerate(zip(role[row].tolist(), group.tolist(), unit.tolist(), strict=True)):
            again[(*row, i)] = seen[key] = seen.get(key, -1) + 1
    return role * (int(again.max()) + 1) + again


def _fixed_units(found: Structure, placed: _Placed) -> dict[str, int]:
    """Count the units of weights that stay by reason."""
    roots = {
        int(r) for axes in placed.values() for _, ids in axes for r in np.unique(found.root[ids.numpy()])
    }
    counts: dict[str, int] = {}
    for r in sorted(roots):
        why = found.reasons.get(r)
        if why is not None:
            counts[why] = counts.get(why, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


# --- images --------------------------------------------------------------------------------------


def example_image(model: nn.Module) -> Tensor:
    """Return a random image `[1, ...]` of a size that a network in eval mode takes.

    Raises:
        UserError: if it takes none of the sizes tried.
    """
    generator = torch.Generator().manual_seed(0)
    last: Exception | None = None
    for shape in _shapes(model):
        image = torch.rand(1, *shape, generator=generator).to(_dtype(model))
        try:
            with torch.no_grad(), isolated(torch.device("cpu")):
                model(image)
        except Exception as error:  # a network may raise anything for an image of a wrong size
            last = error
            continue
        return image
    raise cannot_align(f"it takes none of the images tried; give some (images=): {last}.")


def _shapes(model: nn.Module) -> Iterable[tuple[int, ...]]:
    """Yield shapes of images, likely ones first."""
    embedding = getattr(model, "patch_embed", None)
    size = getattr(embedding, "img_size", None)
    channels = getattr(getattr(embedding, "proj", None), "in_channels", None)
    if isinstance(size, (tuple, list)) and len(size) == 2 and isinstance(channels, int):
        yield (channels, *size)
    first = next((m for m in model.modules() if isinstance(m, nn.Linear | _ConvNd)), None)
    if isinstance(first, nn.Linear):
        n = first.in_features
        for c in (1, 3, 2, 4):
            if n % c == 0 and (side := round((n // c) ** 0.5)) ** 2 * c == n:
                yield c, side, side
        yield (n,)
    config = getattr(model, "pretrained_cfg", None) or {}
    c = first.in_channels if isinstance(first, _ConvNd) else 3
    yield from ((c, side, side) for side in _SIDES)
    given = config.get("input_size") if isinstance(config, dict) else None
    if given:
        yield tuple(given)
    if c != 3:
        yield from ((3, side, side) for side in _SIDES)


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
