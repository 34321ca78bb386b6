"""Records as a table: one row per cell, pair and split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from lmcbench.results.cell_values import architecture_label, error_barrier, is_connected, shift_label
from lmcbench.results.curves import Barrier
from lmcbench.results.record import PairRecord, Record, Score, SiblingRecord
from lmcbench.results.run_folder import read_records
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.shifts import ALIASES

BARRIER_FIELDS = tuple(f.name for f in fields(Barrier))
SOUP = "soup_"


def load_records(path: str | Path) -> pd.DataFrame:
    """The records of a run folder (or a folder of records, or one file), one row per cell, pair and split.

    Columns: what the cell is (`key`, `suite`, `version`, `digest`, `architecture`, `recipe`, `shift`,
    `fork`, `replicate`, `status`, `params`), whether it is connected (`connected` by the chord form,
    `connected_mean_form`: the cell's error barrier on the test set, mean over pairs, is under 0.02), the
    pair (`i`, `j`), the `split` and its `n` images, the 12 fields of `Barrier`, `disagreement`, the
    members' mean `error` and `loss` there, the keys of `compare_predictions` and the soup's `soup_error`,
    `soup_loss`, `soup_ece`. Losses are in nats, errors fractions. What was not measured on a split is
    missing (NaN); a cell that diverged or failed is one row without pair and split; the comparator of one
    network has rows without pair.

    Then, at the end, numbers to plot against, of the cell or of the pair: `noise_mode` (`own` or
    `shared`); `architecture_source`, `architecture_fingerprint` and `architecture_kwargs` (canonical
    JSON text); `fork_epoch`, `fork_step` (optimizer steps), `fork_fraction` (of the full training);
    `train_flop` and `train_steps` (trunk counted once); `noise_scale`, g = lr (N/B - 1) with N of the
    sibling's view (Hepburn et al., arXiv 2511.04514), and `noise_scale_momentum`, g / (1 - momentum),
    means over the pair's members, and of one network where siblings would all have one view;
    `gradient_between_share`, the part of the per-image gradients'
    covariance at the fork that lies between the views; `distance_ab`, `distance_a`, `distance_b`
    (Euclidean, in units of the weights; from A to B, from the fork to A and to B), `angle` (radians, at
    the fork) and its `cosine`; of the split, `loss_area` (nats) and `error_area` (fraction), the signed
    area between curve and chord, and the members' mean `loss_as_trained` and `error_as_trained`, where
    `loss` and `error` are with normalisation statistics recalibrated.

    Raises:
        UserError: where there are no records, one cannot be read, or two networks are called alike.
    """
    return frame(read_records(Path(path)))


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """The same for records in memory."""
    rows = [row for record in records for row in _rows(record)]
    table = pd.DataFrame(rows, columns=[*_COLUMNS, *_extra(rows), *_TEXTS, *_NUMBERS])
    return table.astype(dict.fromkeys(_NUMBERS, float))  # also where all of them are missing


_CELL = (
    "key",
    "suite",
    "version",
    "digest",
    "architecture",
    "recipe",
    "shift",
    "fork",
    "replicate",
    "status",
    "params",
    "connected",
    "connected_mean_form",
)
_COLUMNS = (*_CELL, "i", "j", "split", "n", *BARRIER_FIELDS, "disagreement", "error", "loss")
_TEXTS = ("noise_mode", "architecture_source", "architecture_fingerprint", "architecture_kwargs")
_GEOMETRY = ("distance_ab", "distance_a", "distance_b", "angle", "cosine")
_NUMBERS = (
    "fork_epoch",
    "fork_step",
    "fork_fraction",
    "train_flop",
    "train_steps",
    "noise_scale",
    "noise_scale_momentum",
    "gradient_between_share",
    *_GEOMETRY,
    "loss_area",
    "error_area",
    "loss_as_trained",
    "error_as_trained",
)


def _rows(record: Record) -> list[dict[str, Any]]:
    cell = {
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
        "params": record.architecture.params,
        **_verdicts(record),
        **_further(record),
    }
    rows = []
    for pair in record.pairs:
        members = (record.siblings[pair.i], record.siblings[pair.j])
        shared = cell | _scales(record, (pair.i, pair.j)) | _triangle(pair)
        for split, curve in pair.curves.items():
            row = shared | (record.ensemble or {}).get(split, {})
            row |= {"i": pair.i, "j": pair.j, "split": split, "n": curve.n}
            row |= pair.barriers[split].model_dump(include=set(BARRIER_FIELDS))
            # the pair's own; the ensemble's is the mean over pairs
            row["disagreement"] = pair.disagreement.get(split)
            scores = [m.splits[split] for m in members if split in m.splits]
            row |= _mean_score(scores) | _mean_score(_as_trained(members, split), "_as_trained")
            for kind, area in ((pair.area or {}).get(split) or {}).items():
                row[f"{kind}_area"] = area
            if record.soup is not None and split in record.soup:
                row |= {f"{SOUP}{k}": v for k, v in record.soup[split].model_dump().items()}
            rows.append(row)
    if record.status == "ok" and not record.pairs:
        # one network: it has splits, and no line to another
        [one] = record.siblings
        # it sees all that siblings would, whose views the scales are of
        shared = cell | (_scales(record, (0,)) if _one_view(record) else {})
        rows = [
            shared
            | {"split": split}
            | _mean_score([score])
            | _mean_score(_as_trained((one,), split), "_as_trained")
            for split, score in one.splits.items()
        ]
    return rows or [cell]


def _verdicts(record: Record) -> dict[str, bool | None]:
    """Whether the cell is connected, by both forms of the barrier; missing where it has no barrier."""
    if error_barrier(record) is None:
        return {"connected": None, "connected_mean_form": None}
    return {
        "connected": is_connected(record),
        "connected_mean_form": is_connected(record, "error_mean"),
    }


def _further(record: Record) -> dict[str, Any]:
    """What else the cell is, and what it cost."""
    built, fork, cost = record.architecture, record.fork, record.cost
    return {
        "noise_mode": record.shift.noise,
        "architecture_source": built.source,
        "architecture_fingerprint": built.fingerprint,
        "architecture_kwargs": canonical_json(built.kwargs),
        "fork_epoch": fork.epoch,
        "fork_step": fork.step,
        "fork_fraction": fork.fraction,
        "train_flop": None if cost is None else cost.train_flop,
        "train_steps": None if cost is None else cost.train_steps,
    }


def _scales(record: Record, members: Sequence[int]) -> dict[str, Any]:
    """Noise scale, mean over the members, and the share of gradient noise that lies between the views."""
    noise = record.noise or {}
    found = {"gradient_between_share": (noise.get("gradient") or {}).get("between_share")}
    for column, name in (("noise_scale", "g"), ("noise_scale_momentum", "g_momentum")):
        scales = noise.get(name) or ()
        if len(scales) > max(members):
            found[column] = sum(scales[i] for i in members) / len(members)
    return found


def _one_view(record: Record) -> bool:
    """Whether all siblings have one and the same view: without a shift, and in controls."""
    return (
        record.shift.name == "none" or record.shift.name in ALIASES or record.shift.name.startswith("same(")
    )


def _triangle(pair: PairRecord) -> dict[str, Any]:
    return {name: (pair.geometry or {}).get(name) for name in _GEOMETRY}


def _as_trained(members: Iterable[SiblingRecord], split: str) -> list[Score]:
    return [m.as_trained[split] for m in members if m.as_trained is not None and split in m.as_trained]


def _mean_score(scores: Sequence[Score], suffix: str = "") -> dict[str, float]:
    if not scores:
        return {}
    return {
        f"error{suffix}": sum(s.error for s in scores) / len(scores),
        f"loss{suffix}": sum(s.loss for s in scores) / len(scores),
    }


def _extra(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Columns beyond the fixed ones, in order of first appearance."""
    known = {*_COLUMNS, *_TEXTS, *_NUMBERS}
    return list(dict.fromkeys(name for row in rows for name in row if name not in known))
