"""The file of all cells' logits: which logits it contains, and how it is read without trust."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmcbench.errors import UserError, counted, reading
from lmcbench.leaderboard.files import PREDICTION_BYTES
from lmcbench.results.cell_values import SPLIT
from lmcbench.results.record import Record
from lmcbench.results.run_folder import (
    RunFolder,
    labels_name,
    midpoint_name,
    recalibrated_name,
    soup_name,
)
from lmcbench.spec.evaluation_shifts import shown_split
from lmcbench.stats.instability_area import headline_records
from lmcbench.untrusted import is_regular, read_bytes, safetensors_header

TENSOR_BYTES = 180
"""Upper bound of a tensor's part of the header of a safetensors file: name, type, shape, offsets."""

_NAME = re.compile(r"([0-9a-f]{16})/(.+)", re.DOTALL)

Logits = NDArray[np.float16]
Tensors = Mapping[str, NDArray[Any]]


def kept_splits(records: Sequence[Record], classes: int) -> dict[str, list[str]]:
    """Return the splits whose logits each measured cell keeps, by key; none for cells that keep nothing.

    Everything, if that is at most 25 MB; else the test set without evaluation shifts; else that of as many
    cells as fit: those that ranks are based on first, then in order of replicate and key. The choice follows
    from the records alone, so that a submitter cannot choose which cells cannot be rescored.

    Args:
        records: of the submission.
        classes: number of classes of the labels (see `classes_of`).
    """
    measured = sorted((r for r in records if r.status == "ok"), key=lambda r: (r.replicate, r.key))
    everything = {r.key: test_splits(r) for r in measured}
    if sum(_bytes(r, everything[r.key], classes) for r in measured) <= PREDICTION_BYTES:
        return everything
    kept, used = {}, 0
    ranked = {record.key for record in headline_records(measured)}
    for record in sorted(measured, key=lambda r: r.key not in ranked):
        used += _bytes(record, [SPLIT], classes)
        kept[record.key] = [SPLIT] if used <= PREDICTION_BYTES else []
    return kept


def test_splits(record: Record) -> list[str]:
    """Return the splits that a measured cell has logits of: the test set, and every evaluation shift."""
    return sorted(record.siblings[0].splits.keys() - {"train", "view"})


def inner_names(record: Record, split: str) -> list[str]:
    """Return the tensors `[n, classes]` of a split with logits between the siblings: midpoints and the soup.

    Two siblings' soup is their midpoint.
    """
    soup = [soup_name(split)] if len(record.siblings) > 2 else []
    return [*(midpoint_name(split, pair.i, pair.j) for pair in record.pairs), *soup]


def is_recalibrated(record: Record) -> bool:
    """Return whether the networks have normalisation statistics, and so logits after recalibration."""
    return any(sibling.recalibrated is not None for sibling in record.siblings)


def classes_of(labels: Mapping[str, NDArray[np.integer]]) -> int:
    """Return the number of classes of the test labels `[n]`; logits of more classes add nothing."""
    return int(labels[SPLIT].max()) + 1


def _bytes(record: Record, splits: Sequence[str], classes: int) -> int:
    """Return an upper bound of what the logits of `splits` (fp16) and their labels (int16) take."""
    shown = {shown_split(split) for split in splits}
    names = {split: inner_names(record, split) for split in splits}
    forms = 2 if is_recalibrated(record) else 1
    logits = sum(
        (forms * len(record.siblings) + len(names[split])) * count_images(record, split) * classes
        for split in splits
    )
    labels = sum(count_images(record, split) for split in shown)
    tensors = 1 + forms * len(splits) + len(shown) + sum(map(len, names.values()))
    return TENSOR_BYTES * tensors + 2 * (logits + labels)


def count_images(record: Record, split: str) -> int:
    """Return the number of images of a split, as the record's data state it.

    Raises:
        UserError: if they do not.
    """
    of = shown_split(split)
    n = next((entry.get("n") for entry in record.data if entry.get("split") == of), None)
    if not isinstance(n, int) or n < 1:
        raise UserError(f"its data have no entry of split {of!r} with a number of images.")
    return n


# --- write ---------------------------------------------------------------------------------------


def pack_predictions(records: Sequence[Record], run: RunFolder) -> tuple[bytes | None, str | None]:
    """Return one safetensors file of the logits to keep, and in words what was left out, if anything.

    Tensors are named KEY/SPLIT, KEY/SPLIT.recalibrated, KEY/SPLIT.labels, KEY/SPLIT.midpoint-I-J and
    KEY/SPLIT.soup. The file is None if no cell was measured.

    Raises:
        UserError: if predictions of the run are missing or damaged.
    """
    from safetensors.numpy import save

    measured = [record for record in records if record.status == "ok"]
    if not measured:
        return None, None
    cells = {}
    for record in measured:
        path = run.predictions(record.key)
        if not path.is_file():
            raise UserError(f"{path} is missing: the run's predictions are part of a submission.")
        with reading(path):
            content = path.read_bytes()
        try:
            cells[record.key] = load_tensors(content)
            labels = cells[record.key].get(labels_name(SPLIT))
            if labels is None:
                raise UserError(f"has no tensor {labels_name(SPLIT)!r}.")
        except UserError as error:
            raise UserError(f"{path} {error}") from None
    kept = kept_splits(measured, classes_of({SPLIT: cells[measured[0].key][labels_name(SPLIT)]}))
    tensors: dict[str, NDArray[Any]] = {}
    for record in measured:
        wanted = {
            name
            for split in kept[record.key]
            for name in (
                *(split, recalibrated_name(split), labels_name(split)),
                *inner_names(record, split),
            )
        }
        tensors |= {f"{record.key}/{n}": value for n, value in cells[record.key].items() if n in wanted}
    without = sum(not splits for splits in kept.values())
    left_out = None
    if without:
        left_out = f"the logits of {without} of {counted(len(measured), 'cell')}"
    elif any(kept[r.key] != test_splits(r) for r in measured):
        left_out = "logits under evaluation shifts"
    return save(tensors), left_out


# --- read ----------------------------------------------------------------------------------------


def read_predictions(path: Path) -> bytes:
    """Return the content of a predictions file of at most 25 MB.

    Raises:
        UserError: if it cannot be read, or is larger.
    """
    if not is_regular(path):
        raise UserError(f"There is no predictions file {path}.")
    return read_bytes(path, limit=PREDICTION_BYTES)


def load_tensors(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the tensors of a safetensors file.

    Raises:
        UserError: for anything else.
    """
    from safetensors.numpy import load

    try:
        safetensors_header(content, "it")
        return load(content)
    except Exception as error:  # a Rust error without a public base, or a type that NumPy lacks
        # asked only now: the length that a safetensors file begins with may look like a pickle
        if content[:1] == b"\x80" or content[:2] == b"PK":
            raise UserError("is a pickle, not safetensors; pickles execute code when loaded.") from None
        raise UserError(f"is not safetensors: {str(error).rstrip('.')}.") from None


def split_cells(tensors: Tensors) -> tuple[dict[str, dict[str, NDArray[Any]]], list[str]]:
    """Return the tensors of each cell, by key and name, and the names that belong to no cell."""
    cells: dict[str, dict[str, NDArray[Any]]] = {}
    strange = []
    for name, value in tensors.items():
        if (found := _NAME.fullmatch(name)) is None:
            strange.append(name)
        else:
            cells.setdefault(found[1], {})[found[2]] = value
    return cells, strange


def cell_logits(
    tensors: Tensors, record: Record, splits: Sequence[str]
) -> tuple[dict[str, Logits], dict[str, NDArray[np.int64]]]:
    """Return the logits `[K, n, classes]` of `splits` and the labels `[n]` of each, from a cell's tensors.

    Raises:
        UserError: for anything but finite fp16 logits of the record's siblings and int16 labels.
    """
    networks = len(record.siblings)
    found: dict[str, Logits] = {}
    truth: dict[str, NDArray[np.int64]] = {}
    for split in splits:
        n, name = count_images(record, split), labels_name(split)
        labels = tensors.get(name)
        if labels is None or labels.dtype != np.int16 or labels.shape != (n,):
            raise UserError(f"needs a tensor {name!r} of int16 [{n}].")
        truth[split] = labels.astype(np.int64)
        logits = tensors.get(split)
        if logits is None:
            raise UserError(f"lacks the logits of split {split!r}.")
        if logits.dtype != np.float16 or logits.ndim != 3 or logits.shape[:2] != (networks, n):
            raise UserError(
                f"{split}: must be fp16 logits [{networks}, {n}, classes], found {logits.dtype} "
                f"{list(logits.shape)}."
            )
        if not np.isfinite(logits).all():
            raise UserError(f"{split}: contains a logit that is not finite.")
        found[split] = logits.astype(np.float16)
    classes = {logits.shape[2] for logits in found.values()}
    for split, given in truth.items():
        if len(classes) > 1 or given.min() < 0 or given.max() >= min(classes):
            raise UserError(f"{labels_name(split)}: labels and classes of the splits do not agree.")
    return found, truth


def further_logits(tensors: Tensors, record: Record, logits: Mapping[str, Logits]) -> dict[str, Logits]:
    """Return the logits of midpoints and soups `[n, classes]` and of recalibrated siblings, by tensor name.

    Args:
        tensors: of the cell.
        record: of the cell.
        logits: the siblings', `[K, n, classes]` by split.

    Raises:
        UserError: for anything but one tensor of finite fp16 logits for each.
    """
    found = {}
    for split, siblings in logits.items():
        shapes = dict.fromkeys(inner_names(record, split), siblings.shape[1:])
        if is_recalibrated(record):
            shapes[recalibrated_name(split)] = siblings.shape
        for name, shape in shapes.items():
            inner = tensors.get(name)
            if inner is None:
                raise UserError(f"lacks the tensor {name!r}.")
            if inner.dtype != np.float16 or inner.shape != shape:
                raise UserError(
                    f"{name}: must be fp16 logits {list(shape)}, found {inner.dtype} {list(inner.shape)}."
                )
            if not np.isfinite(inner).all():
                raise UserError(f"{name}: contains a logit that is not finite.")
            found[name] = inner
    return found
