"""Records as a table: one row per cell, pair and split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from lmcbench.results.labels import architecture_label, shift_label
from lmcbench.results.measures import Barrier
from lmcbench.results.record import Record
from lmcbench.results.store import read_records

BARRIER_FIELDS = tuple(f.name for f in fields(Barrier))
SOUP = "soup_"


def load_records(path: str | Path) -> pd.DataFrame:
    """The records of a run folder (or a folder of records, or one file), one row per cell, pair and split.

    Columns: what the cell is (`key`, `suite`, `version`, `digest`, `architecture`, `recipe`, `shift`,
    `fork`, `replicate`, `status`, `params`), the pair (`i`, `j`), the `split` and its `n` images, the 12
    fields of `Barrier`, `disagreement`, the members' mean `error` and `loss` there, the keys of
    `compare_predictions` and the soup's `soup_error`, `soup_loss`, `soup_ece`. Losses are in nats, errors
    fractions. What was not measured on a split is missing (NaN); a cell that diverged or failed is one
    row without pair and split; the comparator of one network has rows without pair.

    Raises:
        UserError: where there are no records, one cannot be read, or two networks are called alike.
    """
    return frame(read_records(Path(path)))


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """The same for records in memory."""
    rows = [row for record in records for row in _rows(record)]
    return pd.DataFrame(rows, columns=[*_COLUMNS, *_extra(rows)])


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
)
_COLUMNS = (*_CELL, "i", "j", "split", "n", *BARRIER_FIELDS, "disagreement", "error", "loss")


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
    }
    rows = []
    for pair in record.pairs:
        members = (record.siblings[pair.i], record.siblings[pair.j])
        for split, curve in pair.curves.items():
            row = cell | (record.ensemble or {}).get(split, {})
            row |= {"i": pair.i, "j": pair.j, "split": split, "n": curve.n}
            row |= pair.barriers[split].model_dump(include=set(BARRIER_FIELDS))
            # the pair's own; the ensemble's is the mean over pairs
            row["disagreement"] = pair.disagreement.get(split)
            scores = [m.splits[split] for m in members if split in m.splits]
            if scores:
                row["error"] = sum(s.error for s in scores) / len(scores)
                row["loss"] = sum(s.loss for s in scores) / len(scores)
            if record.soup is not None and split in record.soup:
                row |= {f"{SOUP}{k}": v for k, v in record.soup[split].model_dump().items()}
            rows.append(row)
    if record.status == "ok" and not record.pairs:
        # one network: it has splits, and no line to another
        rows = [
            cell | {"split": split, "error": score.error, "loss": score.loss}
            for split, score in record.siblings[0].splits.items()
        ]
    return rows or [cell]


def _extra(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Columns beyond the fixed ones, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row if name not in _COLUMNS))
