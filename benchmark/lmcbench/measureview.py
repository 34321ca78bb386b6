"""What a person reads of two measured checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from tabulate import tabulate

MUCH = 0.01
"""Error that recalibrating may change: half of the 0.02 under which networks count as connected (design 2),
so that more would be as large as what the table is read for."""

CERTAIN = 2
"""Standard errors that such a change must exceed: on few images it is chance."""


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
            *_as_trained_rows(found, split),
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
    notes = [normalisation_text(found)]
    if found["curves_uncalibrated"] is None:
        notes.append("No normalisation statistics were taken anew. More numbers: --json.")
    else:
        anew = "Normalisation statistics were taken anew at every point of the line"
        notes.append(f"{anew}, its ends included. More numbers: --json.")
    if warnings_of(found):
        doubt = "images may not be normalised as in training (--mean, --std)"
        notes.append(f"Warning: errors differ much from those as trained: {doubt}.")
    return "\n".join([tabulate(rows, tablefmt="plain", disable_numparse=True), "", *notes])


def normalisation_text(found: Mapping[str, Any]) -> str:
    """How pixels were normalised, and by which option otherwise."""
    parts = []
    for name, stated in found["normalisation"].items():
        numbers = ", ".join(f"{value:.4g}" for value in stated["values"])
        whose = f"as --{name} says" if stated["from"] == "given" else f"the {stated['from']}'s"
        parts.append(f"{name} {numbers} ({whose})")
    advice = ""
    if any(stated["from"] != "given" for stated in found["normalisation"].values()):
        advice = " If the networks were trained on others: --mean and --std (0 and 1: pixels in 0..1)."
    return f"Pixels in 0..1 were normalised by {' and '.join(parts)}.{advice}"


def warnings_of(found: Mapping[str, Any]) -> list[str]:
    """What makes the numbers doubtful: ends whose error recalibrating changes by more than it should.

    Statistics taken anew make up for images that are not normalised as in training, or of other data:
    the table would show good networks where these networks never worked on such images.
    """
    doubtful = []
    for split in found["barriers"]:
        n = found["curves"][split]["n"]
        for name, raw, anew in _as_trained(found, split):
            before, after = raw["error"], anew["error"]
            # at most, since both errors are of the same images
            deviation = math.sqrt((before * (1 - before) + after * (1 - after)) / n)
            if abs(before - after) > max(MUCH, CERTAIN * deviation):
                doubtful.append(f"{name} on {split} {_percent(before)} % and {_percent(after)} %")
    if not doubtful:
        return []
    return [
        f"errors as trained and with statistics taken anew differ much: {'; '.join(doubtful)}. Either images "
        "are not normalised as in training (--mean, --std), or the training images of --data are not those "
        "of the networks (--data, --calibration)."
    ]


def _as_trained(found: Mapping[str, Any], split: str) -> Iterator[tuple[str, Any, Any]]:
    """Each network's name and its scores as trained and recalibrated, where it has both."""
    for name, sibling in zip("AB", found["siblings"], strict=True):
        if sibling["as_trained"] is not None:
            yield name, sibling["as_trained"][split], sibling["splits"][split]


def _as_trained_rows(found: Mapping[str, Any], split: str) -> list[list[str]]:
    return [
        [f"{name} as trained", _percent(raw["error"]), f"{raw['loss']:.4f}"]
        for name, raw, _ in _as_trained(found, split)
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"
