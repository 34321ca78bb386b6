"""Records with analyses of known shape."""

from __future__ import annotations

import json
from typing import Any

from builders import make_record, toy_cell
from lmcbench.results.record import Record
from lmcbench.results.record_parser import parse_record
from lmcbench.spec.suite import Suite


def bump(height: float, alphas: list[float]) -> list[float]:
    return [0.1 + height * 4 * a * (1 - a) for a in alphas]


def further(height: float, independent: bool) -> dict[str, Any]:
    """Return all analyses of a pair, with barriers of `height` nats."""
    fine, coarse = [i / 20 for i in range(21)], [i / 10 for i in range(11)]
    line = {"loss": bump(height, coarse), "error": [0.0] * 11}
    layer = {
        f"{kind}from_{end}": value
        for end in "ab"
        for kind, value in (("", line), ("predicted_", [2 * height * 4 * a * (1 - a) for a in coarse]))
    }
    point = {"curves": {"train": line, "test": line}, "distance_ab": 2.0, "length_a": 1.5, "length_b": 1.7}
    angles = {"distance_a": None, "distance_b": None, "angle": None, "cosine": None}
    if not independent:
        angles = {"distance_a": 1.4, "distance_b": 1.4, "angle": 1.59, "cosine": -0.02}
    spectrum = {
        "top": [2.0, 1.0],
        "residuals": [0.0, 0.0],
        "trace": 9.0,
        "trace_standard_error": 0.5,
        "probes": 10,
    }
    lines = {"n": {"train": 50, "test": 50}, "alphas": fine}
    curve = {"loss": bump(height, fine), "error": [min(e, 1.0) for e in bump(height, fine)]}
    kinds = {"train": curve, "test": curve}
    return {
        "curvature": {
            "split": "train", "n": 50, "alphas": fine, **curve,
            "predicted": [2 * height * 4 * a * (1 - a) for a in fine],
            "predicted_with_gradients": [height * 4 * a * (1 - a) for a in fine],
            "hessian": [{"alpha": a, **spectrum} for a in (0.0, 0.5, 1.0)],
        },
        "layers": {
            "split": "train", "n": 50, "alphas": coarse, "layers": {"hidden.0": layer, "head": layer},
            "cumulative": {
                k: {"layers": ["hidden.0", "head"], "loss": [0.1, height, 0.1], "error": [0, 0, 0]}
                for k in ("from_input", "from_output")
            },
        },
        "landscape": {
            "n": {"train": 50, "test": 50}, "alphas": coarse,
            "points": [{**point, **angles, "step": 45 * e, "epoch": float(e)} for e in (1, 2, 3)],
        },
        "plane": {"skipped": "Independent networks have no fork."} if independent else {
            "split": "train", "n": 50, "x": [0.0, 1.0, 2.0], "y": [0.0, 1.0, 2.0],
            "loss": [[0.5, 0.1, 0.2]] * 3, "error": [[0.1] * 3] * 3,
            "anchors": [[0.0, 0.0], [1.4, 0.0], [0.3, 1.3]],
        },
        "repair": {**lines, "blended": kinds, "repaired": kinds},
        "align": {
            **lines, "distance": 1.0, "distance_before": 2.0,
            "aligned": kinds, "aligned_and_repaired": kinds,
        },
        "features": {
            "alphas": [0.0, 0.5, 1.0],
            "splits": {"test": {"n": 50, "siblings": 0.5, "to_a": [1.0, None, 0.5], "to_b": [0.5, 0.7, 1.0]}},
        },
    }  # fmt: skip


def probed_record(
    architecture: str, fork: str, height: float, replicate: int = 0, suite: Suite | None = None
) -> Record:
    """Return the record of a cell of the toy suite or of `suite`, with all analyses."""
    table = json.loads(
        make_record(
            toy_cell(architecture, fork=fork, replicate=replicate, suite=suite),
            barrier_error=height,
            barrier_loss=height,
        ).to_json()
    )
    table["pairs"][0] |= further(height, fork == "independent")
    return parse_record(json.dumps(table), "probed")
