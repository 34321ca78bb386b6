"""Correlations between the units of two networks on images (Li et al., 2015, Convergent Learning)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lmcbench.connect.blending import State
from lmcbench.connect.features import output_hooks, units_last
from lmcbench.connect.isolation import isolated
from lmcbench.connect.network import Network
from lmcbench.connect.unit_groups import PermutationSpec

_ROWS = 20_000
"""Maximum number of values of each unit, evenly spaced over images and positions."""


def activation_gains(
    model: nn.Module, state_a: State, state_b: State, spec: PermutationSpec, images: Tensor
) -> dict[int, npt.NDArray[np.float64]]:
    """Return the correlations between A's and B's units, summed over the layers that output them.

    Args:
        model: the network of both states.
        state_a: state dict of A.
        state_b: state dict of B.
        spec: groups of units.
        images: `[n, ...]`, passed at once.

    Returns:
        For each group that is the output of a layer, similarities `[i, k]` of A's unit i and B's unit k.
    """
    network = Network(model, "cpu")
    one, other = (_outputs(network, state, spec, images) for state in (state_a, state_b))
    gains: dict[int, npt.NDArray[np.float64]] = {}
    for name, x in one.items():
        place = next(p for p in spec.places[f"{name}.weight"] if p.dim == 0)
        y = other[name]
        both = (x.T @ y / max(1, len(x) - 1)).numpy()
        for g in np.unique(place.group[place.group >= 0]).tolist():
            found = np.flatnonzero(place.group == g)
            at = found[np.lexsort((place.part[found], place.unit[found]))]
            total = gains.setdefault(g, np.zeros((spec.groups[g].size,) * 2))
            for part in at.reshape(len(total), -1).T:
                total += both[np.ix_(part, part)]
    return gains


@torch.no_grad()
def _outputs(network: Network, state: State, spec: PermutationSpec, images: Tensor) -> dict[str, Tensor]:
    """Return the standardised outputs of the layers with units, `[values, units]` float64."""
    found: dict[str, Tensor] = {}

    def record(name: str, module: nn.Module, output: Tensor) -> None:
        if name not in found and any(p.dim == 0 for p in spec.places.get(f"{name}.weight", ())):
            values = units_last(module, output).flatten(0, -2)
            values = values[:: max(1, len(values) // _ROWS)].double()
            found[name] = (values - values.mean(0)) / values.std(0).clamp_min(1e-12)

    with output_hooks(network.model, record), isolated(network.device):
        network.forward({key: value.detach().clone() for key, value in state.items()}, images)
    return found
