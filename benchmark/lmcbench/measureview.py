"""What a person reads of two measured checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tabulate import tabulate


def measured_text(found: Mapping[str, Any]) -> str:
    """What was found, for a person."""
    rows = []
    for split, b in found["barriers"].items():
        a, z = (sibling["splits"][split] for sibling in found["siblings"])
        soup, worth = found["soup"][split], found["ensemble"][split]
        rows += [
            [f"{split} ({found['curves'][split]['n']} images)", "error, %", "loss, nats"],
            ["A", _percent(a["error"]), f"{a['loss']:.4f}"],
            ["B", _percent(z["error"]), f"{z['loss']:.4f}"],
            ["barrier over the chord", _percent(b["error_chord"]), f"{b['loss_chord']:.4f}"],
            ["barrier over the mean", _percent(b["error_mean"]), f"{b['loss_mean']:.4f}"],
            ["its floor, |A - B| / 2", _percent(b["error_floor"]), f"{b['loss_floor']:.4f}"],
            ["soup (midpoint)", _percent(soup["error"]), f"{soup['loss']:.4f}"],
            ["ensemble", _percent(1 - worth["ensemble_accuracy"]), f"{worth['ensemble_nll']:.4f}"],
            ["disagreement", _percent(found["disagreement"][split]), ""],
        ]
    g = found["geometry"]
    rows.append(["distance A to B", f"{g['distance_ab']:.4g}", ""])
    if g["distance_a"] is not None:
        angle = "none" if g["angle"] is None else f"{np.degrees(g['angle']):.1f} degrees"
        rows.append(["distance from the fork, A and B", f"{g['distance_a']:.4g}", f"{g['distance_b']:.4g}"])
        rows.append(["angle at the fork", angle, ""])
    further = [name for name in found if isinstance(found[name], dict) and "skipped" in found[name]]
    rows += [[f"{name}: not taken", found[name]["skipped"], ""] for name in further]
    if "curvature" in found and "skipped" not in found["curvature"]:
        c = found["curvature"]
        middle = len(c["predicted"]) // 2
        rows.append(
            [
                "second-order prediction at 1/2, nats",
                f"{c['predicted'][middle]:.4f}",
                f"{c['predicted_with_gradients'][middle]:.4f} with gradients",
            ]
        )
        for h in c["hessian"]:
            trace = f"trace {h['trace']:.4g} ± {h['trace_standard_error']:.2g}"
            rows.append([f"Hessian at {h['alpha']:g}", f"largest eigenvalue {h['top'][0]:.4g}", trace])
    note = "Normalisation statistics were taken anew at every point of the line."
    if found["curves_uncalibrated"] is None:
        note = "No normalisation statistics were taken anew."
    return f"{tabulate(rows, tablefmt='plain', disable_numparse=True)}\n\n{note} More numbers: --json."


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"
