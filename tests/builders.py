"""Small valid suites, cells, records and run folders with chosen numbers (torch-free)."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from lmcbench.leaderboard.files import META
from lmcbench.leaderboard.submission_file import SUBMISSION_SCHEMA, Meta
from lmcbench.results.atomic_files import write_atomic
from lmcbench.results.cell_values import architecture_label
from lmcbench.results.curves import Curve, barrier
from lmcbench.results.record import SCHEMA, Record
from lmcbench.results.record_files import RECORDS, encode_records
from lmcbench.results.record_parser import parse_record
from lmcbench.results.run_folder import RunFolder
from lmcbench.spec.canonical import digest_bytes
from lmcbench.spec.cells import Cell, Selection, expand
from lmcbench.spec.seeds import Seeds
from lmcbench.spec.suite import Suite

SUITE_TOML = """
name = "toy"
version = 1
description = "two small networks"
shifts = ["none", "same-half", "disjoint-halves", "label-skew"]
forks = [0, 2, "independent"]
replicates = 2

[data]
name = "digits"

[recipes.slow]
lr = 0.01
batch_size = 32
epochs = 4

[recipes.fast]
lr = 0.1
batch_size = 32
epochs = 4

[[architectures]]
name = "lmc_linear"
recipe = "slow"

[[architectures]]
name = "lmc_mlp"
recipe = "fast"
"""

PARAMS = {"lmc_linear": 650, "lmc_mlp": 42000}


def toy_suite(**changes: Any) -> Suite:
    """Return the toy suite with some top-level fields replaced."""
    return Suite.model_validate(tomllib.loads(SUITE_TOML) | changes)


def toy_cell(
    architecture: str = "lmc_mlp",
    shift: str = "none",
    fork: str = "0",
    replicate: int = 0,
    suite: Suite | None = None,
) -> Cell:
    """Return one cell of the toy suite or of `suite`."""
    replicates = range(replicate, replicate + 1)
    [cell] = expand(suite or toy_suite(), Selection([architecture], [shift], [fork], replicates))
    return cell


def cell_table(cell: Cell, *, images: tuple[int, int], siblings: int, params: int) -> dict[str, Any]:
    """Return the fields of a record that do not depend on results; `images`: of training and test set."""
    suite, fork, recipe = cell.suite, cell.fork, cell.recipe
    seeds = Seeds.of(suite.name, suite.version, cell.replicate, siblings)._asdict()
    trunk = fork.has_trunk
    return {
        "schema": SCHEMA,
        "key": cell.key,
        "status": "ok",
        "reason": None,
        "suite": suite.identity(),
        "architecture": {
            **cell.architecture.identity(),
            "source": cell.architecture.source,
            "params": params,
        },
        "recipe": {"name": cell.architecture.recipe, **recipe.model_dump(mode="json")},
        "shift": cell.shift.identity(),
        "fork": {
            "name": fork.name,
            "epoch": fork.epoch,
            "step": cell.fork_step(images[0]) if trunk else None,
            "fraction": cell.fork_step(images[0]) / recipe.length(images[0]) if trunk else None,
            "learning_rate": recipe.lr_at(cell.fork_step(images[0]), recipe.length(images[0]))
            if trunk
            else None,
            "trunk_accuracy": 0.9 if trunk else None,
        },
        "replicate": cell.replicate,
        "seeds": {role: list(s) if isinstance(s, tuple) else s for role, s in seeds.items()},
        "data": [
            {"name": suite.data.name, "sha256": f"{i}" * 64, "split": split, "n": n}
            for i, (split, n) in enumerate(zip(("train", "test"), images, strict=True))
        ],
        "views_digest": "2" * 64,
        "protocol": {
            "alphas": suite.protocol.grid,
            "calibration": {"n": suite.protocol.calibration},
        },
        "training": {"losses": [0.1] * siblings, "label_counts": [[500, 937]] * siblings},
        "evidence": None,
        "env": {"engine": "stacked", "device": "cpu", "versions": {"torch": "2.15.0"}},
    }


def make_record(
    cell: Cell | None = None,
    *,
    status: str = "ok",
    barrier_error: float = 0.1,
    barrier_loss: float = 0.5,
    member_error: float = 0.05,
    ensemble_error: float = 0.04,
    soup_error: float = 0.06,
    disagreement: float = 0.03,
    **other: Any,
) -> Record:
    """Return a record of `cell` with these numbers on the test split; `other` replaces whole fields.

    All pairs have the same numbers. Both members have `member_error`, and the curve exceeds it by
    `barrier_error` at alpha 1/2 (losses: 0.2 and `barrier_loss`; at fitted temperatures 0.1 and
    `barrier_loss` (1 + `barrier_loss`) / 2).
    """
    cell = cell if cell is not None else toy_cell()
    suite = cell.suite
    measured = status == "ok"
    k, grid = suite.siblings, suite.protocol.grid
    middle = [float(alpha == 0.5) for alpha in grid]
    curves = {
        split: Curve(
            grid,
            [0.2 + barrier_loss * m for m in middle],
            [min(max(member_error + barrier_error * m, 0.0), 1.0) for m in middle],
            n,
        )
        for split, n in (("train", 1437), ("test", 360))
    }
    score = {"error": member_error, "loss": 0.2, "ece": 0.01}
    pair = {
        "curves": {
            s: {"loss": c.loss.tolist(), "error": c.error.tolist(), "n": c.n} for s, c in curves.items()
        },
        "barriers": {split: asdict(barrier(curve)) for split, curve in curves.items()},
        "temperature_scaled": {
            "test": {
                "inverse_temperature": [1.0, 0.5, 1.0],
                "loss": [0.1, 0.1 + barrier_loss * (1 + barrier_loss) / 2, 0.1],
            }
        },
        "disagreement": {"test": disagreement},
    }
    ensemble = {
        "accuracy_mean": 1 - member_error,
        "ensemble_accuracy": 1 - ensemble_error,
        "ensemble_gain": member_error - ensemble_error,
        "disagreement": disagreement,
    }
    corrected = {
        "accuracies": [1 - member_error] * k,
        **{name: ensemble[name] for name in ("ensemble_accuracy", "ensemble_gain", "accuracy_mean")},
    }
    table: dict[str, Any] = {
        **cell_table(cell, images=(1437, 360), siblings=k, params=PARAMS.get(cell.architecture.name, 1000)),
        "status": status,
        "reason": None if measured else "loss is not finite at step 3",
        "siblings": [{"splits": {"train": score, "view": score, "test": score}, "train_loss": 0.1}]
        * (k if measured else 0),
        "pairs": [{"i": i, "j": j, **pair} for i, j in combinations(range(k), 2)] if measured else [],
        "ensemble": {"test": ensemble} if measured else None,
        "corrected": {"test": corrected} if measured else None,
        "soup": {"test": {"error": soup_error, "loss": 0.3, "ece": 0.02}} if measured else None,
        "cost": {"train_flop": 1e9, "train_steps": 300, "train_s": 1.5, "eval_s": 0.2, "peak_bytes": 10**8},
    }
    return parse_record(json.dumps(table | other), "builders.make_record")


def write_run(root: Path, records: Iterable[Record]) -> RunFolder:
    """Write a run folder of records of one suite, as `lmcbench run` does."""
    folder = RunFolder(root)
    for record in records:
        folder.claim(record.suite.model_dump(), record.data)
        write_atomic(folder.record(record.key), record.to_json())
    return folder


def make_meta(record: Record, **other: Any) -> Meta:
    """What is said of a submission of records like this one; `other` replaces fields."""
    table: dict[str, Any] = {
        "schema": SUBMISSION_SCHEMA,
        "title": "A small network",
        "authors": ["A. Author"],
        "licence": "CC-BY-4.0",
        "recipe": record.recipe["name"],
        "pretraining": "none",
        "extra_data": "none",
        "cells": 1,
        "complete": False,
        "suite": record.suite.model_dump(),
        "architecture": {"label": architecture_label(record), "source": record.architecture.source},
        "sha256": {"records": "0" * 64},
    }
    return Meta.model_validate(table | other)


def write_submission(
    board: Path, slug: str, records: Iterable[Record], files: dict[str, bytes] | None = None, **meta: Any
) -> Path:
    """A submission under `board` with these records and further files, its sha256 right."""
    records = list(records)
    folder = board / "submissions" / slug
    content = encode_records(json.loads(r.to_json()) for r in records)
    about = {"cells": len(records), "sha256": {"records": digest_bytes(content)}} | meta
    contents = {RECORDS: content, META: make_meta(records[0], **about).to_toml().encode()} | (files or {})
    for name, value in contents.items():
        write_atomic(folder / name, value)
    return folder
