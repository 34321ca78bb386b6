"""Write up a cell: what was asked, how it was trained and what was measured, as one record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lmcbench.machine import device_name
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
from lmcbench.running.cell_measures import Measured
from lmcbench.spec.cells import Cell
from lmcbench.spec.seeds import Seeds


def build_record(
    cell: Cell,
    training: Mapping[str, Any] | None,
    measured: Measured | None,
    *,
    status: Status,
    reason: str | None,
    data: list[dict[str, Any]],
    evidence: dict[str, Any] | None,
    eval_s: float,
    device: torch.device,
) -> Record:
    """The record of a cell, whether it was measured, diverged or failed.

    Args:
        cell: what was asked for.
        training: how its siblings were trained (`family.trained`); None where they were not.
        measured: None where they diverged or failed.
        status: how it came out.
        reason: why it diverged or failed.
        data: the data set, split by split.
        evidence: where predictions and weights are kept.
        eval_s: seconds that measuring took.
        device: what it was computed on.
    """
    architecture = cell.architecture
    how = training or {}
    return Record(
        schema=SCHEMA,
        key=cell.key,
        status=status,
        reason=reason,
        suite=SuiteRecord(**cell.suite.identity()),
        architecture=ArchitectureRecord(
            **architecture.identity(), source=architecture.source, params=how.get("params")
        ),
        recipe={"name": architecture.recipe, **cell.recipe.model_dump(mode="json")},
        shift=ShiftRecord(**cell.shift.identity()),
        fork=_fork(cell, how),
        replicate=cell.replicate,
        seeds=_seeds(cell),
        data=data,
        views_digest=how.get("views_digest"),
        **({"views_pixels": how["views_pixels"]} if how.get("views_pixels") else {}),
        protocol=_protocol(cell, measured),
        siblings=measured.siblings if measured is not None else [],
        pairs=measured.pairs if measured is not None else [],
        ensemble=measured.ensemble if measured is not None else None,
        soup=measured.soup if measured is not None else None,
        functions=measured.functions if measured is not None else None,
        noise=measured.noise if measured is not None else None,
        evidence=evidence,
        cost=None if training is None else _cost(training, eval_s, device),
        env={
            **{name: how.get(name) for name in ("engine", "fleet")},
            # another than `device` where a run was cut off between training and measuring
            "trained_on": how.get("device"),
            **_environment(device),
        },
    )


def _fork(cell: Cell, how: Mapping[str, Any]) -> ForkRecord:
    return ForkRecord(
        name=cell.fork.name,
        epoch=_whole(cell.fork.epoch),
        step=how.get("step"),
        fraction=how.get("fraction"),
        **({} if cell.fork.checkpoint is None else {"sha256": cell.fork.sha256}),
    )


def _seeds(cell: Cell) -> dict[str, int | list[int]]:
    """Every seed of the cell's replicate: a list by index, or one number (design 3.6)."""
    suite = cell.suite
    seeds = Seeds.of(suite.name, suite.version, cell.replicate, suite.siblings)
    return {
        role: list(value) if isinstance(value, tuple) else value for role, value in seeds._asdict().items()
    }


def _protocol(cell: Cell, measured: Measured | None) -> dict[str, Any]:
    """How the cell was measured; where it was not, how it would have been."""
    protocol = cell.suite.protocol
    if measured is None:
        return {"alphas": protocol.grid, "calibration": {"n": protocol.calibration}}
    pinned = {} if measured.train_eval is None else {"train_eval": measured.train_eval}
    return {"alphas": protocol.grid, "calibration": measured.calibration, **pinned}


def _cost(training: Mapping[str, Any], eval_s: float, device: torch.device) -> CostRecord:
    cuda = device.type == "cuda"
    return CostRecord(
        train_flop=training["train_flop"],
        train_steps=training["train_steps"],
        train_s=training["train_s"],
        eval_s=eval_s,
        peak_bytes=torch.cuda.max_memory_allocated(device) if cuda else peak_resident_bytes(),
    )


def _environment(device: torch.device) -> dict[str, Any]:
    """Device, versions, and what may change the last bits."""
    cuda = device.type == "cuda"
    return {
        "device": device_name(device),
        "driver": torch.version.cuda if cuda else None,
        "versions": versions(),
        "flags": {
            "tf32": cuda and (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32),
            "cudnn_benchmark": torch.backends.cudnn.benchmark if cuda else False,
            "cudnn_deterministic": torch.backends.cudnn.deterministic if cuda else False,
            "threads": torch.get_num_threads(),
        },
        "git": source_revision(),
    }


def _whole(epoch: float | None) -> int | float | None:
    """A whole epoch as an integer."""
    return int(epoch) if epoch is not None and epoch == int(epoch) else epoch
