"""What a person reads of two measured checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from lmcbench.results.curves import chord_excess

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
    skipped = [name for name in found if isinstance(found[name], dict) and "skipped" in found[name]]
    for name, rows_of in _FURTHER.items():
        if name in found and name not in skipped:
            rows += rows_of(found[name])
    notes = [normalisation_text(found)]
    if found["curves_uncalibrated"] is None:
        notes.append("No normalisation statistics were taken anew. More numbers: --json.")
    else:
        anew = "Normalisation statistics were taken anew at every point of the line"
        notes.append(f"{anew}, its ends included. More numbers: --json.")
    notes += [f"{name} was not taken: {found[name]['skipped']}" for name in skipped]
    notes += [f"Warning: {warning}" for warning in warnings_of(found)]
    return "\n".join([tabulate(rows, tablefmt="plain", disable_numparse=True), "", *notes])


def _curvature_rows(found: Mapping[str, Any]) -> list[list[str]]:
    middle = len(found["predicted"]) // 2
    rows = [
        [
            "second-order prediction at 1/2, nats",
            f"{found['predicted'][middle]:.4f}",
            f"{found['predicted_with_gradients'][middle]:.4f} with gradients",
        ]
    ]
    for h in found["hessian"]:
        trace = f"trace {h['trace']:.4g} ± {h['trace_standard_error']:.2g}"
        rows.append([f"Hessian at {h['alpha']:g}", f"largest eigenvalue {h['top'][0]:.4g}", trace])
    return rows


def _layers_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """The layer that alone makes the highest loss barrier, from either end."""
    alphas = found["alphas"]
    highest = {
        layer: max((path[end] for end in ("from_a", "from_b")), key=lambda c: _over_chord(alphas, c["loss"]))
        for layer, path in found["layers"].items()
    }
    worst = max(highest, key=lambda layer: _over_chord(alphas, highest[layer]["loss"]))
    return [_barrier_row(f"highest of a layer alone, {worst}", alphas, highest[worst])]


def _plane_rows(found: Mapping[str, Any]) -> list[list[str]]:
    spans = (f"{np.min(found[kind]) * unit:.4g} to {np.max(found[kind]) * unit:.4g}" for kind, unit in _UNITS)
    return [[f"range on the plane through the fork ({found['split']})", *spans]]


def _repair_rows(found: Mapping[str, Any]) -> list[list[str]]:
    kinds = {"blended": "statistics blended", "repaired": "statistics repaired"}
    return _kinds_rows(found, kinds)


def _align_rows(found: Mapping[str, Any]) -> list[list[str]]:
    kinds = {"aligned": "B aligned to A", "aligned_and_repaired": "B aligned to A, repaired"}
    return [
        *_kinds_rows(found, kinds),
        ["distance A to B aligned", f"{found['distance']:.4g}", ""],
    ]


def _features_rows(found: Mapping[str, Any]) -> list[list[str]]:
    return [
        [f"linear CKA of A's and B's features ({split})", f"{of['siblings']:.4f}", ""]
        for split, of in found["splits"].items()
    ]


_FURTHER: dict[str, Callable[[Mapping[str, Any]], list[list[str]]]] = {
    "curvature": _curvature_rows,
    "layers": _layers_rows,
    "plane": _plane_rows,
    "repair": _repair_rows,
    "align": _align_rows,
    "features": _features_rows,
}
"""What a person reads of each further measure."""

_UNITS = (("error", 100), ("loss", 1))
"""In the order of the columns: percent, nats."""


def _kinds_rows(found: Mapping[str, Any], kinds: Mapping[str, str]) -> list[list[str]]:
    """Barriers of several kinds of line on every split."""
    return [
        _barrier_row(f"barrier, {said} ({split})", found["alphas"], curve)
        for kind, said in kinds.items()
        for split, curve in found[kind].items()
    ]


def _barrier_row(name: str, alphas: Sequence[float], curve: Mapping[str, Any]) -> list[str]:
    """Barriers over the chord of one line, error and loss."""
    error, loss = (_over_chord(alphas, curve[kind]) for kind, _ in _UNITS)
    return [name, _percent(error), f"{loss:.4f}"]


def _over_chord(alphas: Sequence[float], values: Sequence[float]) -> float:
    return float(chord_excess(np.array(alphas), np.array(values)).max())


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
