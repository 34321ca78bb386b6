"""Build the record of a cell from what was asked, how it was trained and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lmcbench.machine import device_name, rounds_to_tf32
from lmcbench.results.provenance import peak_resident_bytes, source_revision, versions
from lmcbench.results.record import (
    SCHEMA,
    ArchitectureRecord,
    CostRecord,
    ForkRecord,
    Record,
    ShiftRecord,
    Status,
    SuiteRecord,
)
from lmcbench.running.evaluate import Evaluation
from lmcbench.spec.cells import Cell
from lmcbench.spec.seeds import Seeds
from lmcbench.train.cost import peak_allocated


def build_record(
    cell: Cell,
    training: Mapping[str, Any] | None,
    evaluation: Evaluation | None,
    *,
    status: Status,
    reason: str | None,
    data: list[dict[str, Any]],
    evidence: dict[str, Any] | None,
    eval_s: float,
    device: torch.device,
    deterministic: bool,
) -> Record:
    """Return the record of a cell that was evaluated, did not learn, diverged or failed.

    Args:
        cell: the cell.
        training: how its siblings were trained (`read_training`); None if they were not.
        evaluation: None if the cell was not evaluated.
        status: status of the record.
        reason: why the cell is not ok.
        data: the data set, split by split (`Dataset.identity`).
        evidence: paths and hashes of predictions and weights.
        eval_s: seconds of evaluation.
        device: where it was evaluated.
        deterministic: whether evaluation used deterministic algorithms only.
    """
    architecture = cell.architecture
    how = training or {}
    suite, protocol, checkpoint = cell.suite, cell.suite.protocol, cell.fork.checkpoint
    seeds = Seeds.of(suite.name, suite.version, cell.replicate, suite.siblings)._asdict()
    calibration: dict[str, Any] = {"n": protocol.calibration}
    train_eval = {}
    if evaluation is not None:
        calibration = evaluation.calibration
        train_eval = {} if evaluation.train_eval is None else {"train_eval": evaluation.train_eval}
    return Record(
        schema=SCHEMA,
        key=cell.key,
        status=status,
        reason=reason,
        suite=SuiteRecord(**suite.identity()),
        architecture=ArchitectureRecord(
            **architecture.identity(), source=architecture.source, params=how.get("params")
        ),
        recipe={"name": architecture.recipe, **cell.recipe.model_dump(mode="json")},
        shift=ShiftRecord(**cell.shift.identity()),
        fork=ForkRecord(
            name=cell.fork.name,
            epoch=_as_integer(cell.fork.epoch),
            step=how.get("step"),
            fraction=how.get("fraction"),
            learning_rate=how.get("learning_rate"),
            trunk_accuracy=None if evaluation is None else evaluation.trunk_accuracy,
            **({} if checkpoint is None else {"sha256": cell.fork.sha256}),
        ),
        replicate=cell.replicate,
        seeds={role: list(seed) if isinstance(seed, tuple) else seed for role, seed in seeds.items()},
        data=data,
        views_digest=how.get("views_digest"),
        **({"views_pixels": how["views_pixels"]} if how.get("views_pixels") else {}),
        protocol={"alphas": protocol.grid, "calibration": calibration, **train_eval},
        siblings=evaluation.siblings if evaluation is not None else [],
        pairs=evaluation.pairs if evaluation is not None else [],
        ensemble=evaluation.ensemble if evaluation is not None else None,
        corrected=evaluation.corrected if evaluation is not None else None,
        soup=evaluation.soup if evaluation is not None else None,
        functions=evaluation.functions if evaluation is not None else None,
        noise=evaluation.noise if evaluation is not None else None,
        training=None
        if training is None
        else {
            "losses": training["train_losses"],
            "label_counts": training["label_counts"],
            **{name: training[name] for name in ("domain_counts",) if name in training},
        },
        evidence=evidence,
        cost=None if training is None else _cost(training, eval_s, device),
        env={
            **{name: how.get(name) for name in ("engine", "fleet")},
            # differs from `device` if a run was interrupted between training and evaluation
            "trained_on": how.get("device"),
            # why states were evaluated one after another on a device where they are stacked
            **({"not_stacked": evaluation.not_stacked} if evaluation and evaluation.not_stacked else {}),
            **_environment(device, deterministic and bool(how.get("deterministic", True))),
        },
    )


def _cost(training: Mapping[str, Any], eval_s: float, device: torch.device) -> CostRecord:
    cuda = device.type == "cuda"
    return CostRecord(
        train_flop=training["train_flop"],
        train_steps=training["train_steps"],
        train_s=training["train_s"],
        eval_s=eval_s,
        peak_bytes=peak_allocated(device) if cuda else peak_resident_bytes(),
    )


def _environment(device: torch.device, deterministic: bool) -> dict[str, Any]:
    """Return the device, versions, and settings that may change the last bits."""
    cuda = device.type == "cuda"
    return {
        "device": device_name(device),
        "driver": torch.version.cuda if cuda else None,
        "versions": versions(),
        "flags": {
            "deterministic": deterministic,
            "tf32": cuda and rounds_to_tf32(),
            "cudnn_benchmark": torch.backends.cudnn.benchmark if cuda else False,
            "cudnn_deterministic": torch.backends.cudnn.deterministic if cuda else False,
            "threads": torch.get_num_threads(),
        },
        "git": source_revision(),
    }


def _as_integer(epoch: float | None) -> int | float | None:
    return int(epoch) if epoch is not None and epoch == int(epoch) else epoch
