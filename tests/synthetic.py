"""Synthetic submissions for a suite with every kind of cell.

`python tests/synthetic.py FOLDER ENTRIES` writes a leaderboard of them.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from builders import cell_table, make_meta
from lmcbench.leaderboard.files import META
from lmcbench.results.curves import Curve, barrier
from lmcbench.results.record_files import RECORDS, encode_records
from lmcbench.results.record_parser import parse_record
from lmcbench.spec.architectures import Architecture
from lmcbench.spec.canonical import digest_bytes
from lmcbench.spec.cells import Cell, Selection, expand
from lmcbench.spec.suite import Suite

SHIFTS = (
    "none", "same-half", "disjoint-halves", "label-skew", "dirichlet",
    "subset", "channels", "corruption", "rotation", "label-noise",
)  # fmt: skip
FORKS = [0, 1, 3, "independent", "independent-equal-cost", "whole-budget"]
EVALUATIONS = ["gaussian_noise-3", "fog-3"]
HEIGHT = {"0": 1.0, "1": 0.35, "3": 0.03, "independent": 6.0, "independent-equal-cost": 6.0}
NAMES = (
    "lmc_linear", "lmc_mlp", "lmc_cnn", "lmc_resnet", "resnet18", "convnext_atto", "vit_tiny_patch16_224",
    "regnetx_002", "nf_resnet26", "mixer_s16_224", "lmc_vgg16", "mobilenetv3_small_050",
)  # fmt: skip


def synthetic_suite(**changes: Any) -> Suite:
    """Return a suite with every shift, forks, comparators and evaluation shifts: 60 cells per replicate."""
    table: dict[str, Any] = {
        "name": "synthetic",
        "version": 1,
        "description": "Made-up numbers, of every kind of cell.",
        "data": {"name": "cifar10"},
        "shifts": list(SHIFTS),
        "forks": FORKS,
        "evaluations": EVALUATIONS,
        "replicates": 5,
        "floor": 0.7,
        "recipes": {"sgd": {"lr": 0.1, "batch_size": 128, "epochs": 30}},
        "architectures": [{"name": "lmc_mlp", "recipe": "sgd"}],
    }
    return Suite.model_validate(table | changes)


def synthetic_cells(index: int, suite: Suite, replicates: int = 5) -> list[Cell]:
    """Return the cells of entry `index`; entry 0 is the baseline."""
    kwargs = {} if index < len(NAMES) else {"width": index}
    network = Architecture(name=NAMES[index % len(NAMES)], recipe="sgd", kwargs=kwargs)
    if network.name == "lmc_linear" and kwargs:
        network = Architecture(name="lmc_mlp", recipe="sgd", kwargs=kwargs)
    whole = suite.model_copy(update={"architectures": [network]})
    return expand(whole, Selection(replicates=range(replicates)))


def synthetic_table(cell: Cell, index: int) -> dict[str, Any]:
    """Return a synthetic record that depends on entry, shift, fork and replicate only."""
    suite, fork, shift = cell.suite, cell.fork.name, cell.shift.label
    rng = np.random.default_rng([index, cell.replicate, zlib.crc32(f"{shift}|{fork}".encode())])
    own = np.random.default_rng(index)
    quality, level = own.uniform(0.04, 0.2), own.lognormal(-2.6, 0.7)
    noise = 1 + 0.25 * rng.standard_normal() + 0.1 * np.random.default_rng(cell.replicate).standard_normal()
    extra = 0.0 if shift == "none" else 0.02 + 0.03 * (zlib.crc32(shift.encode()) % 7) / 7
    height = min(level * (1 + 12 * extra) * HEIGHT.get(fork, 0.0) * abs(noise), 0.7)
    if cell.architecture.name == "lmc_linear":
        height, quality = 0.002 * abs(noise), 0.25
    single = fork == "whole-budget"
    k = 1 if single else suite.siblings
    grid = suite.protocol.grid
    ends = np.round(quality + extra + 0.01 * rng.standard_normal(k), 4).clip(0.005, 0.9)
    splits = {"train": -0.02, "test": 0.0, **{f"test:{name}": 0.12 for name in suite.evaluations}}

    def score(i: int, add: float) -> dict[str, float]:
        error = float(ends[i] + add)
        return {"error": max(error, 0.0), "loss": round(2.5 * max(error, 0.0), 6), "ece": 0.02}

    def curve(i: int, j: int, add: float) -> dict[str, Any]:
        a = np.array(grid)
        chord = (1 - a) * score(i, add)["error"] + a * score(j, add)["error"]
        error = np.round(chord + height * 4 * a * (1 - a), 4).clip(0, 1)
        return {"loss": np.round(2.5 * error, 6).tolist(), "error": error.tolist(), "n": 10000}

    def scaled(curve: dict[str, Any]) -> dict[str, list[float]]:
        """Return losses that are lower, between the ends more so."""
        losses = curve["loss"]
        parts = [0.9 * losses[0], 0.7 * losses[len(grid) // 2], 0.9 * losses[-1]]
        return {"inverse_temperature": [1.5, 0.8, 1.5], "loss": [round(part, 6) for part in parts]}

    pairs = []
    for i, j in combinations(range(k), 2):
        curves = {split: curve(i, j, add) for split, add in splits.items()}
        pairs.append(
            {
                "i": i,
                "j": j,
                "curves": curves,
                "barriers": {s: asdict(barrier(Curve(grid, **c))) for s, c in curves.items()},
                "temperature_scaled": {s: scaled(curves[s]) for s, add in splits.items() if add >= 0},
                "disagreement": {
                    s: round(0.4 * float(ends[i]) + add, 4) for s, add in splits.items() if add >= 0
                },
            }
        )
    gain = 0.25 if fork.startswith("independent") else 0.15
    together = {}
    for split, add in splits.items():
        if add >= 0:
            member = 1 - float(ends.mean()) - add
            better = member + gain * (1 - member) + 0.003 * float(rng.standard_normal())
            together[split] = {"accuracy_mean": member, "ensemble_accuracy": min(better, 1.0)}
    soup = {
        split: {"error": min(1 - worth["ensemble_accuracy"] + height * 0.9, 0.9), "loss": 0.5, "ece": 0.03}
        for split, worth in together.items()
    }
    full = cell.recipe.epochs * 390
    steps = {"independent": 2 * full, "0": 2 * full}.get(fork, 2 * full - 3 * 390)
    steps = 2 * full - 390 if fork == "1" else steps
    return {
        **cell_table(cell, images=(50000, 10000), siblings=k, params=int(10 ** own.uniform(3, 7))),
        "siblings": [
            {
                "splits": {s: score(i, add) for s, add in splits.items()},
                "train_loss": 0.1,
            }
            for i in range(k)
        ],
        "pairs": pairs,
        "ensemble": None if single else together,
        "corrected": None
        if single
        else {
            split: {
                "accuracies": [worth["accuracy_mean"]] * k,
                "accuracy_mean": worth["accuracy_mean"],
                "ensemble_accuracy": worth["ensemble_accuracy"],
                "ensemble_gain": worth["ensemble_accuracy"] - worth["accuracy_mean"],
            }
            for split, worth in together.items()
        },
        "soup": None if single else soup,
        "cost": {
            "train_flop": float(10 ** own.uniform(11, 15)) * steps / full,
            "train_steps": steps,
            "train_s": 1.5,
            "eval_s": 0.2,
            "peak_bytes": 10**8,
        },
    }


def synthetic_submission(index: int, suite: Suite, **meta: Any) -> dict[str, bytes]:
    """The files of one submission, by path in its folder."""
    tables = [synthetic_table(cell, index) for cell in synthetic_cells(index, suite)]
    content = encode_records(tables)
    about = {"title": f"Network {index}", "notes": "Made up.", "cells": len(tables)} | meta
    about |= {"sha256": {"records": digest_bytes(content)}}
    first = parse_record(json.dumps(tables[0]), "synthetic")
    return {RECORDS: content, META: make_meta(first, **about).to_toml().encode()}


def write_synthetic(
    board: Path, entries: int, suite: Suite, meta: Mapping[int, Mapping[str, Any]] | None = None
) -> None:
    """A leaderboard's submissions; `meta` replaces what some of them say."""
    for index in range(entries):
        folder = board / "submissions" / f"entry-{index:03d}"
        folder.mkdir(parents=True)
        for name, content in synthetic_submission(index, suite, **(meta or {}).get(index, {})).items():
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    write_synthetic(Path(sys.argv[1]), int(sys.argv[2]), synthetic_suite())
