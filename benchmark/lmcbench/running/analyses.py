"""The measures that explain a barrier: one table, name -> what is computed from two siblings' states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lmcbench.connect.arguments import Split
from lmcbench.connect.blending import State, interpolate
from lmcbench.connect.curvature import predict_barrier
from lmcbench.connect.features import penultimate
from lmcbench.connect.geometry import geometry
from lmcbench.connect.interpolation import alpha_grid, chunk_points, states_on_line, trace_path
from lmcbench.connect.layers import CumulativePath, cumulative_paths, layer_paths
from lmcbench.connect.network import Network
from lmcbench.connect.plane import plane as loss_plane
from lmcbench.connect.repair import repair_path
from lmcbench.connect.spectrum import hessian_spectrum
from lmcbench.connect.weight_matching import align as aligned_to
from lmcbench.ensemble.cka import cka_matrix, linear_cka
from lmcbench.errors import UserError, unknown
from lmcbench.results.curves import Array, Curve
from lmcbench.running.stored_states import Passage

Found = dict[str, Any]
"""What a measure leaves in the record: plain JSON values, or `skipped` with the reason."""

SEED = 0
"""Of the random vectors that traces and eigenvalues start from: every network meets the same ones."""
EIGENVALUES, STEPS, TOLERANCE, PROBES = 2, 30, 0.01, 10
"""Of the Hessian; the tolerance is the residual, relative to the largest eigenvalue."""
EPOCH_ALPHAS, LAYER_ALPHAS = 11, 7
"""Points of the curves of which there are many."""
PLANE_SIZE = 13
"""Points a side."""


@dataclass(frozen=True)
class Probed:
    """Two siblings and what they are measured on.

    Attributes:
        model: their network; it stays as it is.
        a: state of the first.
        b: state of the second.
        fork: the state they left; None for independent networks.
        splits: the pinned images, by name of their split; curvature and layers are taken on the first.
        calibration: images for normalisation statistics; None: blended as they are.
        alphas: points of fine curves.
        trail: both on their way from the fork, its end included; None where they were not stored.
        per_epoch: steps of an epoch.
        shifted: the pinned test images through every evaluation shift, by name of the split.
        device: where to compute.
    """

    model: nn.Module
    a: State
    b: State
    fork: State | None
    splits: Mapping[str, Split]
    calibration: Tensor | None
    alphas: int
    trail: Sequence[Passage] | None = None
    per_epoch: int = 1
    device: torch.device | None = None
    shifted: Mapping[str, Split] = field(default_factory=dict)

    @property
    def first(self) -> tuple[str, Split]:
        """The split that curvature and layers are taken on."""
        return next(iter(self.splits.items()))

    @property
    def images(self) -> Tensor:
        """Images for the repair of statistics, which every network can have."""
        return self.first[1][0] if self.calibration is None else self.calibration


def take(name: str, probed: Probed) -> Found:
    """One measure; where it cannot be taken, the reason.

    Raises:
        UserError: for a name that is not in the table.
    """
    if name not in MEASURES:
        raise unknown("measure", name, [*MEASURES, "all"])
    try:
        return MEASURES[name](probed)
    except UserError as error:
        return {"skipped": str(error)}


def names_of(asked: Sequence[str]) -> tuple[str, ...]:
    """The measures that are asked for, `all` being all of them, in the order of the table.

    Raises:
        UserError: for a name that is not in the table.
    """
    for name in asked:
        if name not in MEASURES and name != "all":
            raise unknown("measure", name, [*MEASURES, "all"])
    return tuple(name for name in MEASURES if name in asked or "all" in asked)


# --- the measures --------------------------------------------------------------------------------


def curvature(p: Probed) -> Found:
    """The measured curve, both second-order predictions, and the Hessian at ends and midpoint."""
    name, split = p.first
    curve = trace_path(p.model, p.a, p.b, {name: split}, p.alphas, p.calibration, device=p.device)[name]
    predicted, corrected = (
        predict_barrier(
            p.model, p.a, p.b, split, p.alphas, gradients, p.calibration, device=p.device
        ).tolist()
        for gradients in (False, True)
    )
    points = []
    for alpha in (0.0, 0.5, 1.0):
        generator = torch.Generator().manual_seed(SEED)
        there = interpolate(p.a, p.b, alpha)
        found = hessian_spectrum(
            *(p.model, there, split, generator, EIGENVALUES, PROBES, p.calibration),
            steps=STEPS,
            tolerance=TOLERANCE,
            device=p.device,
        )
        points.append(
            {
                "alpha": alpha,
                "top": found.top.values.tolist(),
                "residuals": found.top.residuals.tolist(),
                "trace": found.trace.mean,
                "trace_standard_error": found.trace.standard_error,
                "probes": found.trace.probes,
            }
        )
    return {
        **_line(name, curve),
        "predicted": predicted,
        "predicted_with_gradients": corrected,
        "hessian": points,
    }


def layers(p: Probed) -> Found:
    """Each layer moved alone from either end with its prediction, and A becoming B layer by layer."""
    name, split = p.first
    paths = layer_paths(p.model, p.a, p.b, split, LAYER_ALPHAS, False, p.calibration, device=p.device)
    forward, backward = cumulative_paths(p.model, p.a, p.b, split, p.calibration, device=p.device)
    some = next(iter(paths.values())).from_a
    return {
        "split": name,
        "n": some.n,
        "alphas": some.alphas.tolist(),
        "layers": {
            layer: {
                "from_a": _values(path.from_a),
                "from_b": _values(path.from_b),
                "predicted_from_a": path.predicted_from_a.tolist(),
                "predicted_from_b": path.predicted_from_b.tolist(),
            }
            for layer, path in paths.items()
        },
        "cumulative": {"from_input": _switches(forward), "from_output": _switches(backward)},
    }


def landscape(p: Probed) -> Found:
    """The path curve between the siblings at every logged step, and how far they have come."""
    if p.trail is None:
        raise UserError("The siblings' states on the way were not stored.")
    lengths = [0.0, 0.0]
    points = []
    for before, here in pairwise([None, *p.trail]):
        assert here is not None
        a, b = here.states[:2]
        if before is not None:
            for i, state in enumerate((a, b)):
                lengths[i] += geometry(None, before.states[i], state).distance_ab
        curves = trace_path(p.model, a, b, p.splits, EPOCH_ALPHAS, p.calibration, device=p.device)
        triangle = geometry(p.fork, a, b).to_json()
        del triangle["layers"]
        points.append(
            {
                "step": here.step,
                "epoch": here.step / p.per_epoch,
                "curves": {name: _values(curve) for name, curve in curves.items()},
                **triangle,
                "length_a": lengths[0],
                "length_b": lengths[1],
            }
        )
    some = next(iter(curves.values()))
    return {
        "n": {name: len(split[1]) for name, split in p.splits.items()},
        "alphas": some.alphas.tolist(),
        "points": points,
    }


def plane(p: Probed) -> Found:
    """Loss and error on the plane through the fork and both siblings."""
    if p.fork is None:
        raise UserError(
            "Independent networks have no fork to span a plane with, and no other was given (measure --fork)."
        )
    name, split = p.first
    found = loss_plane(p.model, p.fork, p.a, p.b, split, PLANE_SIZE, p.calibration, device=p.device)
    return {
        "split": name,
        "n": len(split[1]),
        "x": found.x.tolist(),
        "y": found.y.tolist(),
        "loss": found.loss.tolist(),
        "error": found.error.tolist(),
        "anchors": found.anchors.tolist(),
    }


def repair(p: Probed) -> Found:
    """The curves with statistics blended as they are, and repaired (reset, where they are BatchNorm's)."""
    return _lines(
        blended=trace_path(p.model, p.a, p.b, p.splits, p.alphas, device=p.device),
        repaired=repair_path(p.model, p.a, p.b, p.splits, p.images, p.alphas, device=p.device),
    )


def align(p: Probed) -> Found:
    """The curves to the second network with its units permuted to match the first's, and repaired too."""
    b = aligned_to(p.model, p.a, p.b)
    return {
        "distance_before": geometry(None, p.a, p.b).distance_ab,
        "distance": geometry(None, p.a, b).distance_ab,
        **_lines(
            aligned=trace_path(p.model, p.a, b, p.splits, p.alphas, p.calibration, device=p.device),
            aligned_and_repaired=repair_path(p.model, p.a, b, p.splits, p.images, p.alphas, device=p.device),
        ),
    }


def features(p: Probed) -> Found:
    """Linear CKA of penultimate features, of the siblings and of every point on the line with either end."""
    network = Network(p.model, p.device)
    grid, splits = alpha_grid(p.alphas), {**p.splits, **p.shifted}

    def at(alphas: Array) -> dict[str, list[Array]]:
        """Each split's features at the points, `[n, d]` each."""
        path = states_on_line(network, p.a, p.b, alphas)
        if p.calibration is not None:
            path = network.recalibrate(path, p.calibration)
        return {
            name: [f.double().cpu().numpy() for f in penultimate(network, path, images)]
            for name, (images, _) in splits.items()
        }

    ends = at(grid[[0, -1]])
    to_a: dict[str, list[float | None]] = {name: [] for name in splits}
    to_b: dict[str, list[float | None]] = {name: [] for name in splits}
    for alphas in chunk_points(grid[1:-1], p.a):
        for name, inner in at(alphas).items():
            to_a[name] += [linear_cka(f, ends[name][0]) for f in inner]
            to_b[name] += [linear_cka(f, ends[name][1]) for f in inner]
    found: Found = {"alphas": grid.tolist(), "splits": {}}
    for name, (images, _) in splits.items():
        (aa, ab), (_, bb) = cka_matrix(ends[name])
        found["splits"][name] = {
            "n": len(images),
            "siblings": ab,
            "to_a": [aa, *to_a[name], linear_cka(*ends[name][::-1])],
            "to_b": [linear_cka(*ends[name]), *to_b[name], bb],
        }
    return found


MEASURES: dict[str, Callable[[Probed], Found]] = {
    "curvature": curvature,
    "layers": layers,
    "landscape": landscape,
    "plane": plane,
    "repair": repair,
    "align": align,
    "features": features,
}


# --- curves as JSON ------------------------------------------------------------------------------


def _values(curve: Curve) -> Found:
    return {"loss": curve.loss.tolist(), "error": curve.error.tolist()}


def _line(split: str, curve: Curve) -> Found:
    return {"split": split, "n": curve.n, "alphas": curve.alphas.tolist(), **_values(curve)}


def _lines(**curves: Mapping[str, Curve]) -> Found:
    """Curves of several kinds on the same splits."""
    one = next(iter(curves.values()))
    return {
        "n": {name: curve.n for name, curve in one.items()},
        "alphas": next(iter(one.values())).alphas.tolist(),
        **{kind: {name: _values(c) for name, c in found.items()} for kind, found in curves.items()},
    }


def _switches(switches: CumulativePath) -> Found:
    return {
        "layers": list(switches.layers),
        "loss": switches.loss.tolist(),
        "error": switches.error.tolist(),
    }
