"""Analyses that explain a barrier (`--measure`): a table of functions of two siblings' states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lmcbench.connect.alignment import align as aligned_to
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
from lmcbench.ensemble.cka import cka_matrix, linear_cka
from lmcbench.errors import UserError, unknown
from lmcbench.results.curves import Array, Curve
from lmcbench.train.train_state import Tensors

Result = dict[str, Any]
"""Values of an analysis in a record: plain JSON, or `skipped` with the reason."""

SEED = 0
"""Seed of the random vectors for traces and eigenvalues, the same for every network."""
EIGENVALUES, STEPS, TOLERANCE, PROBES = 2, 30, 0.01, 10
"""For the Hessian; the tolerance bounds the residual relative to the largest eigenvalue."""
EPOCH_ALPHAS, LAYER_ALPHAS = 11, 7
"""Points of curves taken at every snapshot, and of every layer."""
PLANE_SIZE = 13
"""Points per side of the plane."""


@dataclass(frozen=True)
class Snapshot:
    """The siblings of a cell at one logged step of their training.

    Attributes:
        step: optimizer steps since the beginning of training, the trunk's included.
        states: one per sibling.
    """

    step: int
    states: list[Tensors]


@dataclass(frozen=True)
class AnalysisInput:
    """Two siblings and the images to analyse them on.

    Attributes:
        model: their network, which is not modified.
        a: state of the first.
        b: state of the second.
        fork: the trunk's state at the fork; None for independent networks.
        splits: images and labels by name of the split; curvature, layers and plane use the first.
        calibration: images for normalisation statistics; None: statistics are blended.
        alphas: points of fine curves.
        snapshots: both siblings from the fork to the end of training; None if they were not stored.
        per_epoch: steps of an epoch.
        shifted: the test images under every evaluation shift, by name of the split.
        device: where to compute.
    """

    model: nn.Module
    a: State
    b: State
    fork: State | None
    splits: Mapping[str, Split]
    calibration: Tensor | None
    alphas: int
    snapshots: Sequence[Snapshot] | None = None
    per_epoch: int = 1
    device: torch.device | None = None
    shifted: Mapping[str, Split] = field(default_factory=dict)

    @property
    def first(self) -> tuple[str, Split]:
        """The first split with its name."""
        return next(iter(self.splits.items()))

    @property
    def repair_images(self) -> Tensor:
        """Images for the repair of statistics, which every network can have."""
        return self.first[1][0] if self.calibration is None else self.calibration


def analyze(name: str, given: AnalysisInput) -> Result:
    """Return the result of one analysis, or the reason why it is not possible.

    Raises:
        UserError: for an unknown name.
    """
    if name not in ANALYSES:
        raise unknown("measure", name, [*ANALYSES, "all"])
    try:
        return ANALYSES[name](given)
    except UserError as error:
        return {"skipped": str(error)}


def select_analyses(names: Sequence[str]) -> tuple[str, ...]:
    """Return the analyses in `names`, where `all` selects every one, in the order of the table.

    Raises:
        UserError: for an unknown name.
    """
    for name in names:
        if name not in ANALYSES and name != "all":
            raise unknown("measure", name, [*ANALYSES, "all"])
    return tuple(name for name in ANALYSES if name in names or "all" in names)


# --- the analyses --------------------------------------------------------------------------------


def curvature(p: AnalysisInput) -> Result:
    """Return the curve, both second-order predictions, and the Hessian at the ends and the midpoint."""
    name, split = p.first
    # recalibrated throughout, as the predictions, which need one smooth function
    curve = trace_path(
        p.model, p.a, p.b, {name: split}, p.alphas, p.calibration, device=p.device, ends="recalibrated"
    )[name]
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


def layers(p: AnalysisInput) -> Result:
    """Return curves and predictions where one layer moves alone, and where A becomes B layer by layer."""
    name, split = p.first
    paths = layer_paths(p.model, p.a, p.b, split, LAYER_ALPHAS, True, p.calibration, device=p.device)
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


def landscape(p: AnalysisInput) -> Result:
    """Return the curve between the siblings at every snapshot, and the lengths of their ways so far."""
    if p.snapshots is None:
        raise UserError("The siblings' snapshots are not stored.")
    lengths = [0.0, 0.0]
    points = []
    for before, here in pairwise([None, *p.snapshots]):
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


def plane(p: AnalysisInput) -> Result:
    """Return loss and error on the plane through the fork and both siblings."""
    if p.fork is None:
        raise UserError("A plane needs a fork (measure --fork); independent networks have none.")
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


def repair(p: AnalysisInput) -> Result:
    """Return the curves with blended statistics, and repaired (Jordan et al., 2023)."""
    return _lines(
        blended=trace_path(p.model, p.a, p.b, p.splits, p.alphas, device=p.device),
        repaired=repair_path(p.model, p.a, p.b, p.splits, p.repair_images, p.alphas, device=p.device),
    )


def align(p: AnalysisInput) -> Result:
    """Return the curves to B with its units permuted to match A (Ainsworth et al., 2023), also repaired."""
    b = aligned_to(p.model, p.a, p.b, images=p.repair_images[:2])
    return {
        "distance_before": geometry(None, p.a, p.b).distance_ab,
        "distance": geometry(None, p.a, b).distance_ab,
        **_lines(
            aligned=trace_path(
                p.model, p.a, b, p.splits, p.alphas, p.calibration, device=p.device, ends="recalibrated"
            ),
            aligned_and_repaired=repair_path(
                p.model, p.a, b, p.splits, p.repair_images, p.alphas, device=p.device
            ),
        ),
    }


def features(p: AnalysisInput) -> Result:
    """Return linear CKA of penultimate features between the siblings, and of every point with either end."""
    network = Network(p.model, p.device)
    grid, splits = alpha_grid(p.alphas), {**p.splits, **p.shifted}

    def at(alphas: Array) -> dict[str, list[Array]]:
        """Return each split's features at `alphas`, `[n, d]` each."""
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
    found: Result = {"alphas": grid.tolist(), "splits": {}}
    for name, (images, _) in splits.items():
        (aa, ab), (_, bb) = cka_matrix(ends[name])
        found["splits"][name] = {
            "n": len(images),
            "siblings": ab,
            "to_a": [aa, *to_a[name], linear_cka(*ends[name][::-1])],
            "to_b": [linear_cka(*ends[name]), *to_b[name], bb],
        }
    return found


ANALYSES: dict[str, Callable[[AnalysisInput], Result]] = {
    "curvature": curvature,
    "layers": layers,
    "landscape": landscape,
    "plane": plane,
    "repair": repair,
    "align": align,
    "features": features,
}


# --- curves as JSON ------------------------------------------------------------------------------


def _values(curve: Curve) -> Result:
    return {"loss": curve.loss.tolist(), "error": curve.error.tolist()}


def _line(split: str, curve: Curve) -> Result:
    return {"split": split, "n": curve.n, "alphas": curve.alphas.tolist(), **_values(curve)}


def _lines(**curves: Mapping[str, Curve]) -> Result:
    """Return curves of several kinds on the same splits."""
    one = next(iter(curves.values()))
    return {
        "n": {name: curve.n for name, curve in one.items()},
        "alphas": next(iter(one.values())).alphas.tolist(),
        **{kind: {name: _values(c) for name, c in found.items()} for kind, found in curves.items()},
    }


def _switches(switches: CumulativePath) -> Result:
    return {
        "layers": list(switches.layers),
        "loss": switches.loss.tolist(),
        "error": switches.error.tolist(),
    }
