"""The table and notes that `lmcbench measure` prints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lmcbench.errors import printable
from lmcbench.measure.verdict import STANDARD_ERRORS, letter_of
from lmcbench.output import make_table
from lmcbench.results.curves import chord_excess

Result = Mapping[str, Any]
"""What `measure` returns, or one of its analyses."""

Rows = list[list[str]]
"""Name, error in percent, loss in nats."""

LARGE_CHANGE = 0.01
"""Change of the error that is warned of: half of the 0.02 below which networks count as connected. It must
also exceed `STANDARD_ERRORS`, so that few images do not give a warning by chance."""


def measured_text(result: Result) -> str:
    """Return the table, how pixels were normalised, skipped analyses, warnings and the verdict."""
    several = len(result["siblings"]) > 2
    rows: Rows = []
    for split in result["ensemble"]:
        rows += _split_rows(result, split)
    for pair in result["pairs"]:
        names = _names(pair)
        if several and (_taken(pair) or pair["geometry"]["distance_a"] is not None):
            rows.append([f"{names[0]} and {names[1]}", "", ""])
        rows += _geometry_rows(pair, names, with_distance=not several)
        for name, analysis in _taken(pair).items():
            if "skipped" not in analysis:
                rows += _ANALYSES[name](analysis)
    parts = [make_table(rows, style="plain", disable_numparse=True)]
    if several:
        parts += [matrix_text(result, split) for split in result["ensemble"]]
    parts += [layers_text(pair, several) for pair in result["pairs"] if "layers" in pair.get("layers", {})]
    recalibrated = "recalibrated" in result["siblings"][0]
    statistics = "recalibrated at every point of a line but its ends" if recalibrated else "not recalibrated"
    notes = [
        normalisation_text(result),
        f"Normalisation statistics were {statistics}. All numbers: --json.",
        *dict.fromkeys(
            f"{name} was skipped: {of['skipped']}"
            for pair in result["pairs"]
            for name, of in _taken(pair).items()
            if "skipped" in of
        ),
        *(f"Warning: {warning}" for warning in warnings_of(result)),
        result["verdict"],
    ]
    return "\n\n".join([*parts, "\n".join(notes)])


def _split_rows(result: Result, split: str) -> Rows:
    """Return the scores of the networks, the ensemble and the soups; of two networks the barrier too."""
    ensemble, pairs = result["ensemble"][split], result["pairs"]
    scores = [sibling["splits"][split] for sibling in result["siblings"]]
    rows = [[f"{split} ({pairs[0]['curves'][split]['n']} images)", "error, %", "loss, nats"]]
    for i, (sibling, score) in enumerate(zip(result["siblings"], scores, strict=True)):
        name = letter_of(i) if len(scores) == 2 else f"{letter_of(i)}, {printable(sibling['file'], 40)}"
        rows.append(_row(name, score["error"], score["loss"]))
    for name, _, again in _recalibrated(result, split):
        rows.append(_row(f"{name} recalibrated", again["error"], again["loss"]))
    if len(pairs) == 1:
        barrier = pairs[0]["barriers"][split]
        rows += [
            _row("barrier over the chord", barrier["error_chord"], barrier["loss_chord"]),
            _row("barrier over the mean", barrier["error_mean"], barrier["loss_mean"]),
            _row("its floor, |A - B| / 2", barrier["error_floor"], barrier["loss_floor"]),
        ]
    soup = "soup (midpoint)" if len(pairs) == 1 else "soup (uniform)"
    rows.append(_row(soup, result["soup"][split]["error"], result["soup"][split]["loss"]))
    if "greedy_soup" in result:
        greedy = result["greedy_soup"]
        members = ", ".join(letter_of(i) for i in greedy["members"])
        of_split = greedy["splits"][split]
        rows.append(_row(f"greedy soup ({members})", of_split["error"], of_split["loss"]))
    rows.append(_row("ensemble", 1 - ensemble["ensemble_accuracy"], ensemble["ensemble_nll"]))
    rows.append(["disagreement", _percent(ensemble["disagreement"]), ""])
    return rows


def matrix_text(result: Result, split: str) -> str:
    """Return the barriers over the chord between all networks: error in % above the diagonal, loss below."""
    count = len(result["siblings"])
    cells = [[letter_of(i), *[""] * count] for i in range(count)]
    for pair in result["pairs"]:
        i, j, barrier = pair["i"], pair["j"], pair["barriers"][split]
        cells[i][j + 1] = _percent(barrier["error_chord"])
        cells[j][i + 1] = f"{barrier['loss_chord']:.4f}"
    title = f"{split} barriers over the chord: error in % above the diagonal, loss in nats below"
    header = ["", *(letter_of(i) for i in range(count))]
    return f"{title}\n" + make_table([header, *cells], style="plain", disable_numparse=True)


def layers_text(pair: Result, several: bool) -> str:
    """Return a table of the barriers of each layer, moved alone from either end."""
    a, b = _names(pair)
    layers = pair["layers"]
    rows = [["layer alone", f"from {a}: error, %", "loss, nats", f"from {b}: error, %", "loss, nats"]]
    for layer, path in layers["layers"].items():
        row = [printable(layer, 60)]
        for end in ("from_a", "from_b"):
            row.append(_percent(_barrier(layers["alphas"], path[end]["error"])))
            row.append(f"{_barrier(layers['alphas'], path[end]['loss']):.4f}")
        rows.append(row)
    title = f"Barriers of single layers, {a} and {b}\n" if several else ""
    return title + make_table(rows, style="plain", disable_numparse=True)


def _geometry_rows(pair: Result, names: tuple[str, str], with_distance: bool) -> Rows:
    a, b = names
    distances = pair["geometry"]
    rows: Rows = [[f"distance {a} to {b}", f"{distances['distance_ab']:.4g}", ""]] if with_distance else []
    if distances["distance_a"] is not None:
        from_fork = [f"{distances[name]:.4g}" for name in ("distance_a", "distance_b")]
        angle = distances["angle"]
        rows.append([f"distance from the fork, {a} and {b}", *from_fork])
        degrees = "none" if angle is None else f"{np.degrees(angle):.1f} degrees"
        rows.append(["angle at the fork", degrees, ""])
    return rows


def _taken(pair: Result) -> dict[str, Any]:
    return {name: pair[name] for name in _ANALYSES if name in pair}


def _names(pair: Result) -> tuple[str, str]:
    return letter_of(pair["i"]), letter_of(pair["j"])


def normalisation_text(result: Result) -> str:
    """Return a sentence on how pixels were normalised, and the options that change it."""
    parts = []
    for name, used in result["normalisation"].items():
        numbers = ", ".join(f"{value:.4g}" for value in used["values"])
        origin = {"given": f"--{name}", "network": "the network's pretrained_cfg"}.get(
            used["from"], used["from"]
        )
        parts.append(f"{name} {numbers} ({origin})")
    advice = ""
    if any(used["from"] != "given" for used in result["normalisation"].values()):
        advice = " If training used other values, give --mean and --std (0 and 1 for pixels in 0..1)."
    return f"Pixels in 0..1 were normalised by {' and '.join(parts)}.{advice}"


def warnings_of(result: Result) -> list[str]:
    """Return a warning if recalibration changes the error of a network by much.

    Recalibration hides images that are normalised otherwise than in training, or that come from other
    data: the table would show good networks although they never worked on such images.
    """
    doubtful = []
    for split in result["ensemble"]:
        n = result["pairs"][0]["curves"][split]["n"]
        for name, raw, recalibrated in _recalibrated(result, split):
            before, after = raw["error"], recalibrated["error"]
            # an upper bound, since both errors are of the same images
            deviation = math.sqrt((before * (1 - before) + after * (1 - after)) / n)
            if abs(before - after) > max(LARGE_CHANGE, STANDARD_ERRORS * deviation):
                doubtful.append(f"{name} on {split} {_percent(before)} % and {_percent(after)} %")
    if not doubtful:
        return []
    return [
        f"errors as trained and recalibrated differ much: {'; '.join(doubtful)}. Either images are not "
        "normalised as in training (--mean, --std), or the networks were not trained on the training images "
        "of --data (--data, --calibration)."
    ]


def _recalibrated(result: Result, split: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, scores as trained and recalibrated scores of each network that was recalibrated."""
    for i, sibling in enumerate(result["siblings"]):
        if "recalibrated" in sibling:
            yield letter_of(i), sibling["splits"][split], sibling["recalibrated"][split]


def _curvature_rows(curvature: Result) -> Rows:
    middle = len(curvature["predicted"]) // 2
    rows = [
        [
            "second-order prediction at 1/2, nats",
            f"{curvature['predicted'][middle]:.4f}",
            f"{curvature['predicted_with_gradients'][middle]:.4f} with gradients",
        ]
    ]
    for hessian in curvature["hessian"]:
        trace = f"trace {hessian['trace']:.4g} ± {hessian['trace_standard_error']:.2g}"
        rows.append(
            [f"Hessian at {hessian['alpha']:g}", f"largest eigenvalue {hessian['top'][0]:.4g}", trace]
        )
    return rows


def _layers_rows(layers: Result) -> Rows:
    """Return the layer that alone has the highest loss barrier, moved from either end."""
    alphas = layers["alphas"]
    paths = [(layer, path[end]) for layer, path in layers["layers"].items() for end in ("from_a", "from_b")]
    worst, curve = max(paths, key=lambda path: _barrier(alphas, path[1]["loss"]))
    return [_barrier_row(f"highest of a layer alone, {worst}", alphas, curve)]


def _plane_rows(plane: Result) -> Rows:
    ranges = (
        f"{np.min(plane[kind]) * unit:.4g} to {np.max(plane[kind]) * unit:.4g}"
        for kind, unit in (("error", 100), ("loss", 1))
    )
    return [[f"range on the plane through the fork ({plane['split']})", *ranges]]


def _repair_rows(repair: Result) -> Rows:
    return _line_rows(repair, blended="statistics blended", repaired="statistics repaired")


def _align_rows(align: Result) -> Rows:
    return [
        *_line_rows(align, aligned="B aligned to A", aligned_and_repaired="B aligned to A, repaired"),
        ["distance A to B aligned", f"{align['distance']:.4g}", ""],
    ]


def _features_rows(features: Result) -> Rows:
    return [
        [f"linear CKA of A's and B's features ({split})", f"{similarity['siblings']:.4f}", ""]
        for split, similarity in features["splits"].items()
    ]


_ANALYSES: dict[str, Callable[[Result], Rows]] = {
    "curvature": _curvature_rows,
    "layers": _layers_rows,
    "landscape": lambda _: [],
    "plane": _plane_rows,
    "repair": _repair_rows,
    "align": _align_rows,
    "features": _features_rows,
}
"""The rows of each analysis."""


def _line_rows(analysis: Result, **kinds: str) -> Rows:
    """Return the barriers of several kinds of line on every split."""
    return [
        _barrier_row(f"barrier, {label} ({split})", analysis["alphas"], curve)
        for kind, label in kinds.items()
        for split, curve in analysis[kind].items()
    ]


def _barrier_row(name: str, alphas: Sequence[float], curve: Result) -> list[str]:
    return _row(name, _barrier(alphas, curve["error"]), _barrier(alphas, curve["loss"]))


def _barrier(alphas: Sequence[float], values: Sequence[float]) -> float:
    return float(chord_excess(np.array(alphas), np.array(values)).max())


def _row(name: str, error: float, loss: float) -> list[str]:
    return [name, _percent(error), f"{loss:.4f}"]


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"
