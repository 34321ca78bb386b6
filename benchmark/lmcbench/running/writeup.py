"""Write up a cell: what was asked, how it was trained and what was measured, as one record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

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
from lmcbench.running.cell import Measured
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
    """The record of a cell, whether it was measured, diverged or failed."""
    suite, architecture, protocol = cell.suite, cell.architecture, cell.suite.protocol
    how = training or {}
    cuda = device.type == "cuda"
    how_measured: dict[str, Any] = {"alphas": protocol.grid, "calibration": {"n": protocol.calibration}}
    if measured is not None:
        how_measured["calibration"] = measured.calibration
        if measured.train_eval is not None:
            how_measured["train_eval"] = measured.train_eval
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
            epoch=_whole(cell.fork.epoch),
            step=how.get("step"),
            fraction=how.get("fraction"),
            **({} if cell.fork.checkpoint is None else {"sha256": cell.fork.sha256}),
        ),
        replicate=cell.replicate,
        seeds={
            name: list(value) if isinstance(value, tuple) else value
            for name, value in Seeds.of(suite.name, suite.version, cell.replicate, suite.siblings)
            ._asdict()
            .items()
        },
        data=data,
        views_digest=how.get("views_digest"),
        protocol=how_measured,
        siblings=measured.siblings if measured is not None else [],
        pairs=measured.pairs if measured is not None else [],
        ensemble=measured.ensemble if measured is not None else None,
        soup=measured.soup if measured is not None else None,
        functions=measured.functions if measured is not None else None,
        noise=measured.noise if measured is not None else None,
        evidence=evidence,
        cost=CostRecord(
            train_flop=how["train_flop"],
            train_steps=how["train_steps"],
            train_s=how["train_s"],
            eval_s=eval_s,
            peak_bytes=torch.cuda.max_memory_allocated(device) if cuda else peak_resident_bytes(),
        )
        if training is not None
        else None,
        env={
            "engine": how.get("engine"),
            "fleet": how.get("fleet"),
            "device": torch.cuda.get_device_name(device) if cuda else "cpu",
            "driver": torch.version.cuda if cuda else None,
            "versions": versions(),
            "flags": {
                "tf32": cuda and (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32),
                "cudnn_benchmark": torch.backends.cudnn.benchmark if cuda else False,
                "cudnn_deterministic": torch.backends.cudnn.deterministic if cuda else False,
                "threads": torch.get_num_threads(),
            },
            "git": source_revision(),
        },
    )


def _whole(epoch: float | None) -> int | float | None:
    """A whole epoch as an integer."""
    return int(epoch) if epoch is not None and epoch == int(epoch) else epoch
