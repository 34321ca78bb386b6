"""Which logits a submission keeps, and how they are read without trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lmcbench.errors import UserError
from lmcbench.leaderboard.manifest import PREDICTION_BYTES
from lmcbench.results.cell_values import SPLIT
from lmcbench.results.record import Record
from lmcbench.results.run_folder import labels_name
from lmcbench.spec.evaluation_shifts import shown_split

TENSOR_BYTES = 160
"""What the header of a safetensors file says of a tensor, at most: name, type, shape, place."""

Logits = NDArray[np.float16]


def kept_splits(records: Sequence[Record], classes: int) -> dict[str, list[str]]:
    """The splits whose logits each measured cell keeps: key -> names, none for those left out.

    Everything, if that is at most 25 MB; else the test set without evaluation shifts; else that of as many
    cells as fit, in order of replicate and key. It follows from the records alone, so that nobody chooses
    which cells cannot be rescored.

    Args:
        records: of the submission.
        classes: of the labels (see `classes_of`).
    """
    measured = sorted((r for r in records if r.status == "ok"), key=lambda r: (r.replicate, r.key))
    everything = {r.key: test_splits(r) for r in measured}
    if sum(_bytes(r, everything[r.key], classes) for r in measured) <= PREDICTION_BYTES:
        return everything
    kept, used = {}, 0
    for record in measured:
        used += _bytes(record, [SPLIT], classes)
        kept[record.key] = [SPLIT] if used <= PREDICTION_BYTES else []
    return kept


def test_splits(record: Record) -> list[str]:
    """The splits that a measured cell has logits of: the test set, and under every evaluation shift."""
    return sorted(record.siblings[0].splits.keys() - {"train", "view"})


def classes_of(labels: Mapping[str, NDArray[np.int64]]) -> int:
    """How many classes the test labels `[n]` are of: those know no more, however wide the logits are."""
    return int(labels[SPLIT].max()) + 1


def _bytes(record: Record, splits: Sequence[str], classes: int) -> int:
    """Of a file with the logits of `splits` and the labels of what they show, fp16 and int16."""
    shown = {shown_split(split) for split in splits}
    logits = sum(len(record.siblings) * images(record, split) * classes for split in splits)
    labels = sum(images(record, split) for split in shown)
    return TENSOR_BYTES * (1 + len(splits) + len(shown)) + 2 * (logits + labels)


def images(record: Record, split: str) -> int:
    """Images that a split of a record shows, of the data's split that it is of (see `shown_split`).

    Raises:
        UserError: where the record's data do not say.
    """
    of = shown_split(split)
    n = next((entry.get("n") for entry in record.data if entry.get("split") == of), None)
    if not isinstance(n, int) or n < 1:
        raise UserError(f"its data have no entry of split {of!r} with a number of images.")
    return n


def read_logits(
    content: bytes, record: Record, splits: Sequence[str]
) -> tuple[dict[str, Logits], dict[str, NDArray[np.int64]]]:
    """The logits `[K, n, classes]` of `splits` and the labels `[n]` of each, of a predictions file.

    Raises:
        UserError: for anything but finite fp16 logits of the record's siblings and int16 labels.
    """
    from safetensors.numpy import load

    if content[:1] == b"\x80" or content[:2] == b"PK":
        raise UserError("is a pickle, not safetensors; pickles execute code when they are loaded.")
    try:
        tensors: Mapping[str, NDArray[np.generic]] = load(content)
    except Exception as error:  # a Rust error of no public base, or a type that NumPy lacks
        raise UserError(f"is not safetensors: {error}.") from None
    networks = len(record.siblings)
    found: dict[str, Logits] = {}
    truth: dict[str, NDArray[np.int64]] = {}
    for split in splits:
        n, name = images(record, split), labels_name(split)
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
            raise UserError(f"{split}: holds a logit that is not finite.")
        found[split] = logits.astype(np.float16)
    classes = {logits.shape[2] for logits in found.values()}
    for split, given in truth.items():
        if len(classes) > 1 or given.min() < 0 or given.max() >= min(classes):
            raise UserError(f"{labels_name(split)}: labels and classes of the splits do not agree.")
    return found, truth
