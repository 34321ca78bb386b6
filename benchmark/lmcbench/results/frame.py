"""Records as one tidy table: one row per cell, pair of siblings and split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from lmcbench.results.cell_values import (
    architecture_label,
    chance_error,
    error_barrier,
    is_connected,
    shift_label,
)
from lmcbench.results.curves import Barrier
from lmcbench.results.instability import add_instability
from lmcbench.results.record import PairRecord, Record, Score
from lmcbench.results.record_files import read_records
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.shifts import ALIASES, is_one_view
from lmcbench.values import as_path

BARRIER_FIELDS = tuple(f.name for f in fields(Barrier))

_CELL = (
    *("key", "suite", "version", "digest", "architecture", "recipe", "shift", "fork", "replicate"),
    *("status", "params", "connected", "connected_mean_form"),
)
_FIRST = (*_CELL, "i", "j", "split", "n", *BARRIER_FIELDS, "disagreement", "error", "loss")
_TEXTS = ("noise_mode", "architecture_source", "architecture_fingerprint", "architecture_kwargs")
_GEOMETRY = ("distance_ab", "distance_a", "distance_b", "angle", "cosine")
_NUMBERS = (
    *("fork_epoch", "fork_step", "fork_fraction", "train_flop", "train_steps"),
    *("noise_scale", "noise_scale_momentum", "gradient_between_share"),
    *_GEOMETRY,
    *("loss_area", "error_area", "loss_recalibrated", "error_recalibrated"),
    *("loss_mid_recalibrated", "error_mid_recalibrated", "loss_mid_scaled"),
    *("fork_learning_rate", "trunk_accuracy"),
    *("corrected_accuracy_mean", "corrected_ensemble_accuracy", "corrected_ensemble_gain"),
)
_PATH = ("path_members", "path_ensemble_accuracy")
CURVES = ("alphas", "loss_curve", "error_curve")
"""Columns with the curve of a pair, as tuples of numbers; absent where no cell has a pair."""
_SETTINGS = ("architecture_name", "shift_name", "shift_params", "recipe_settings")
_SIZES = ("lr", "batch_size", "epochs", "train_images", "view_images", "view_error", "chance_error")


def load_records(path: str | Path) -> pd.DataFrame:
    """Load records as a table with one row per cell, pair of siblings and split.

    Args:
        path: a run folder, a folder of records, one record file, or a `records.jsonl.gz` of many records.

    Returns:
        A DataFrame. Losses are in nats, errors are fractions, and a value that was not measured is NaN.
        A cell that did not learn, diverged or failed is one row without pair and split. The comparator of a
        single network has rows without pair. Columns, in this order:

        - the cell: `key`, `suite`, `version`, `digest`, `architecture`, `recipe`, `shift`, `fork`,
          `replicate`, `status`, `params` (number of trainable weights);
        - `connected`, `connected_mean_form`: whether the cell's error barrier on the test set, in chord or
          mean form and averaged over its pairs, is under 0.02;
        - the pair `i`, `j`, the `split` and its number of images `n`;
        - on that split: the 12 fields of `Barrier`, `disagreement`, and the members' mean `error` and `loss`,
          as trained;
        - of a pair on that split: its curve, `loss_curve` and `error_curve` at the points `alphas`, each a
          tuple of numbers;
        - on test splits: the keys of `compare_predictions` and `soup_error`, `soup_loss`, `soup_ece`;
        - `noise_mode` (`own` or `shared`), `architecture_source`, `architecture_fingerprint`,
          `architecture_kwargs` (canonical JSON);
        - `fork_epoch`, `fork_step` (optimizer steps), `fork_fraction` (of the full training), `train_flop`,
          `train_steps` (both count a shared trunk once);
        - means over the pair's members of `noise_scale`, g = lr (N/B - 1) with N images in the sibling's view
          (Hepburn, Zielke and Raulf, 2025, arXiv 2511.04514), and of `noise_scale_momentum`,
          g / (1 - momentum); of a single network only where siblings would all have the same view;
        - `gradient_between_share`: share of the covariance of per-image gradients at the fork that lies
          between the views;
        - `distance_ab`, `distance_a`, `distance_b`: Euclidean distances in weight space from A to B, and from
          the fork to A and to B; `angle` at the fork (radians) and its `cosine`;
        - on that split: `loss_area`, `error_area`, the signed area between curve and chord; the members' mean
          `loss_recalibrated`, `error_recalibrated` with normalisation statistics recalibrated, and
          `loss_mid_recalibrated`, `error_mid_recalibrated`: the barrier at alpha = 1/2 over these ends (NaN
          for networks without such statistics, where all forms are equal); on test splits
          `loss_mid_scaled`: the barrier at alpha = 1/2 with each network's logits at the temperature of its
          least loss (Guo et al., 2017), which does not depend on confidence;
        - `fork_learning_rate` of the first step after the fork; `trunk_accuracy` on the test set at the fork;
          on test splits `corrected_accuracy_mean`, `corrected_ensemble_accuracy` and their difference
          `corrected_ensemble_gain`: the log-prior of each member's view is subtracted from its logits;
        - `architecture_name`; `shift_name` with aliases resolved (`same(disjoint-halves)`, not `same-half`),
          `shift_params` and `recipe_settings` (canonical JSON);
        - `lr` (peak), `batch_size`, `epochs`, `train_images` (of the whole training set), `view_images` (of a
          sibling's view, mean over siblings), `view_error` (the largest error of a sibling on its own view),
          `chance_error` (of always answering the commonest test class);
        - on that split: `path_members` and `path_ensemble_accuracy`, the size and accuracy of the largest
          ensemble of points on the path between the siblings;
        - `fork_share`, the nominal share of training at the fork (0.03 for fork `3%`); on that split,
          `midpoint_excess`, D: the loss at alpha = 1/2 minus the mean loss of the ends, nats, signed; and
          `instability`, B: D over that of independent networks of the same shift and replicate with own
          noise (mean over their pairs), clipped to [0, 1]; NaN if that is missing or at most 0.02 nats.

    Raises:
        UserError: if there are no records, some cannot be read (the message names them; remove these files to
            load the others), or two different networks have the same label.

    Examples:
        >>> table = load_records("runs/digits")  # doctest: +SKIP
        >>> table.query("split == 'test'").groupby(["shift", "fork"])["error_chord"].mean()  # doctest: +SKIP
    """
    return build_frame(read_records(as_path(path, "path")))


def build_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return the table of `load_records` for records in memory."""
    rows = [row for record in records for row in _rows(record)]
    last = (*_TEXTS, *_NUMBERS, *_SETTINGS, *_SIZES, *_PATH)
    named = {*_FIRST, *last}
    further = dict.fromkeys(name for row in rows for name in row if name not in named)
    table = pd.DataFrame(rows, columns=[*_FIRST, *further, *last])
    table = table.astype(dict.fromkeys((*_NUMBERS, *_SIZES, *_PATH), float))  # None alone would be object
    return add_instability(table)


def _rows(record: Record) -> list[dict[str, Any]]:
    cell = _cell_columns(record)
    rows = []
    for pair in record.pairs:
        shared = cell | _noise_columns(record, (pair.i, pair.j))
        shared["alphas"] = tuple(record.protocol["alphas"])
        shared |= {"i": pair.i, "j": pair.j, **{name: (pair.geometry or {}).get(name) for name in _GEOMETRY}}
        for split in pair.curves:
            ensemble = (record.ensemble or {}).get(split, {})
            scores = _score_columns(record, (pair.i, pair.j), split)
            # the pair's own disagreement replaces the ensemble's, which is the mean over pairs
            rows.append(shared | ensemble | _pair_columns(pair, split) | scores | _corrected(record, split))
            if record.soup is not None and split in record.soup:
                rows[-1] |= {f"soup_{k}": v for k, v in record.soup[split].model_dump().items()}
    if record.status == "ok" and not record.pairs:  # a single network, trained on the union of the views
        shared = cell | (_noise_columns(record, (0,)) if is_one_view(record.shift.name) else {})
        rows = [shared | _score_columns(record, (0,), split) for split in record.siblings[0].splits]
    return rows or [cell]


def _cell_columns(record: Record) -> dict[str, Any]:
    network, fork, cost = record.architecture, record.fork, record.cost
    has_barrier = error_barrier(record) is not None
    view_errors = [sibling.splits["view"].error for sibling in record.siblings if "view" in sibling.splits]
    return {
        "key": record.key,
        "suite": record.suite.name,
        "version": record.suite.version,
        "digest": record.suite.digest,
        "architecture": architecture_label(record),
        "recipe": record.recipe["name"],
        "shift": shift_label(record),
        "fork": record.fork.name,
        "replicate": record.replicate,
        "status": record.status,
        "params": network.params,
        "connected": is_connected(record) if has_barrier else None,
        "connected_mean_form": is_connected(record, "error_mean") if has_barrier else None,
        "noise_mode": record.shift.noise,
        "architecture_source": network.source,
        "architecture_fingerprint": network.fingerprint,
        "architecture_kwargs": canonical_json(network.kwargs),
        "fork_epoch": fork.epoch,
        "fork_step": fork.step,
        "fork_fraction": fork.fraction,
        "fork_learning_rate": fork.learning_rate,
        "trunk_accuracy": fork.trunk_accuracy,
        "train_flop": None if cost is None else cost.train_flop,
        "train_steps": None if cost is None else cost.train_steps,
        "architecture_name": network.name,
        "shift_name": ALIASES.get(record.shift.name, record.shift.name),
        "shift_params": canonical_json(record.shift.params),
        "recipe_settings": canonical_json(record.recipe),
        **{name: record.recipe.get(name) for name in ("lr", "batch_size", "epochs")},
        "train_images": next((entry["n"] for entry in record.data if entry["split"] == "train"), None),
        "view_images": _mean_view_size(record),
        "chance_error": chance_error(record),
        "view_error": max(view_errors) if len(view_errors) == len(record.siblings) > 0 else None,
    }


def _mean_view_size(record: Record) -> float | None:
    if record.noise is not None:
        sizes = list(record.noise["views"])
    elif "train_eval" in record.protocol:
        return None  # the curves are on a part of the views
    else:
        curves = ((pair, split) for pair in record.pairs for split in ("train_a", "train_b"))
        # a view is not stored where it equals the whole training set
        whole = [pair.curves.get(split, pair.curves.get("train")) for pair, split in curves]
        sizes = [curve.n for curve in whole if curve is not None]
    return sum(sizes) / len(sizes) if sizes else None


def _pair_columns(pair: PairRecord, split: str) -> dict[str, Any]:
    return {
        "n": pair.curves[split].n,
        **pair.barriers[split].model_dump(include=set(BARRIER_FIELDS)),
        "disagreement": pair.disagreement.get(split),
        **_mid_recalibrated(pair, split),
        **_mid_scaled(pair, split),
        "loss_curve": tuple(pair.curves[split].loss),
        "error_curve": tuple(pair.curves[split].error),
        **{f"{kind}_area": area for kind, area in (pair.area or {}).get(split, {}).items()},
        **_path_columns((pair.path_ensemble or {}).get(split, {})),
    }


def _path_columns(ensembles: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the size and accuracy of the largest ensemble of points on the path (Hepburn et al., 2025)."""
    if not ensembles:
        return {}
    largest = max(ensembles.values(), key=lambda ensemble: len(ensemble["alphas"]))
    return {
        "path_members": len(largest["alphas"]),
        "path_ensemble_accuracy": largest.get("ensemble_accuracy"),
    }


def _mid_recalibrated(pair: PairRecord, split: str) -> dict[str, float]:
    """Return the barriers at alpha = 1/2 over recalibrated ends; none without such statistics."""
    if pair.ends_recalibrated is None:
        return {}
    ends, curve = pair.ends_recalibrated[split], pair.curves[split]
    middle = len(curve.loss) // 2
    return {
        "loss_mid_recalibrated": curve.loss[middle] - sum(ends.loss) / 2,
        "error_mid_recalibrated": curve.error[middle] - sum(ends.error) / 2,
    }


def _mid_scaled(pair: PairRecord, split: str) -> dict[str, float]:
    """Return the loss barrier at alpha = 1/2 at fitted temperatures; none where it was not measured."""
    if (scaled := (pair.temperature_scaled or {}).get(split)) is None:
        return {}
    first, middle, last = scaled["loss"]
    return {"loss_mid_scaled": middle - (first + last) / 2}


def _corrected(record: Record, split: str) -> dict[str, float]:
    scores = (record.corrected or {}).get(split, {})
    return {f"corrected_{name}": value for name, value in scores.items() if name != "accuracies"}


def _score_columns(record: Record, members: Sequence[int], split: str) -> dict[str, Any]:
    """Return the split and the mean scores of `members` on it, as trained and recalibrated."""
    networks = [record.siblings[i] for i in members]
    as_trained = [n.splits[split] for n in networks if split in n.splits]
    again = [
        n.recalibrated[split] for n in networks if n.recalibrated is not None and split in n.recalibrated
    ]
    return {"split": split, **_mean_score(as_trained), **_mean_score(again, "_recalibrated")}


def _mean_score(scores: Sequence[Score], suffix: str = "") -> dict[str, float]:
    if not scores:
        return {}
    return {
        f"error{suffix}": sum(s.error for s in scores) / len(scores),
        f"loss{suffix}": sum(s.loss for s in scores) / len(scores),
    }


def _noise_columns(record: Record, members: Sequence[int]) -> dict[str, Any]:
    noise = record.noise or {}
    columns = {"gradient_between_share": (noise.get("gradient") or {}).get("between_share")}
    for column, name in (("noise_scale", "g"), ("noise_scale_momentum", "g_momentum")):
        scales = noise.get(name) or ()
        if len(scales) > max(members):
            columns[column] = sum(scales[i] for i in members) / len(members)
    return columns
