"""Image classification sets in parquet files, with the columns the Hugging Face hub uses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lmcbench.data.dataset import Labels
from lmcbench.data.decode import Item, Stored
from lmcbench.data.splits import every_fifth
from lmcbench.errors import UserError

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch
    from pyarrow.parquet import ParquetFile

IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "labels", "fine_label")
BATCH = 1000
"""Images decoded at a time."""


@dataclass(frozen=True)
class ParquetSplit:
    """The reader of a split in parquet files.

    Attributes:
        files: in order.
        image: the column of images, or None to find it.
        label: the column of labels, or None to find it.
        part: of a file without a test split, every fifth image of each class or the others.
    """

    files: tuple[Path, ...]
    image: str | None = None
    label: str | None = None
    part: Literal["train", "test"] | None = None

    def settings(self) -> dict[str, Any]:
        """Columns and part."""
        return {"image": self.image, "label": self.label, "part": self.part}

    def load(self, classes: int | None) -> tuple[int, tuple[str, ...], Iterator[list[Item]]]:
        """See `Reader`.

        Raises:
            UserError: for an unreadable file, a missing column, a label that is none.
        """
        opened = [_open(file) for file in self.files]
        columns = [self._columns(file, table) for file, table in zip(self.files, opened, strict=True)]
        names = self._class_names(opened, [label for _, label in columns])
        found = [
            _labels(file, table, label)
            for file, table, (_, label) in zip(self.files, opened, columns, strict=True)
        ]
        if classes is None:
            classes = len(names) or _count(self.files[0], np.concatenate(found))
        for file, labels in zip(self.files, found, strict=True):
            _check_range(file, labels, classes)
        if len(names) != classes:
            names = unnamed(classes)
        every = np.concatenate(found)
        kept = np.ones(len(every), bool) if self.part is None else every_fifth(every) == (self.part == "test")
        masks = np.split(kept, np.cumsum([len(f) for f in found])[:-1])
        return int(kept.sum()), names, self._items(opened, [c[0] for c in columns], found, masks)

    def _items(
        self,
        opened: Sequence[ParquetFile],
        columns: Sequence[str],
        found: Sequence[Labels],
        masks: Sequence[np.ndarray[Any, np.dtype[np.bool_]]],
    ) -> Iterator[list[Item]]:
        for file, table, column, labels, mask in zip(self.files, opened, columns, found, masks, strict=True):
            row = 0
            for batch in _batches(file, table, column):
                items = []
                for data in _stored(file, row, batch, column):
                    if mask[row]:
                        if data is None:
                            raise UserError(
                                f"{file}, row {row}: there is no image data in column {column!r}. "
                                "The bytes of the image files must be in it, not their paths."
                            )
                        items.append(Item(file, row, data, int(labels[row])))
                    row += 1
                if items:
                    yield items

    def _columns(self, file: Path, table: ParquetFile) -> tuple[str, str]:
        """Names of the image and the label column."""
        names, features = table.schema_arrow.names, _features(table)
        typed = {
            kind: [n for n, f in features.items() if _type(f) == kind] for kind in ("Image", "ClassLabel")
        }
        image = _pick(file, names, "image", self.image, typed["Image"], IMAGE_NAMES)
        label = _pick(file, names, "label", self.label, typed["ClassLabel"], LABEL_NAMES)
        return image, label

    def _class_names(self, opened: Sequence[ParquetFile], columns: Sequence[str]) -> tuple[str, ...]:
        """Names of the classes in label order, the same in every file that says; none where no file does."""
        names = [_class_names(table, label) for table, label in zip(opened, columns, strict=True)]
        first, told = next(((f, n) for f, n in zip(self.files, names, strict=True) if n), (None, ()))
        for file, found in zip(self.files, names, strict=True):
            if first is not None and found and found != told:
                here, there = (", ".join(n[:5]) for n in (found, told))
                raise UserError(
                    f"{file} has other names of classes ({here}) than {first.name} ({there}): "
                    "a label would mean one class here and another there."
                )
            if len(set(found)) < len(found):
                twice = next(name for name in found if found.count(name) > 1)
                raise UserError(f"{file}: two classes have the name {twice!r}.")
        return told


def unnamed(classes: int) -> tuple[str, ...]:
    """What classes are called that no file names: their labels."""
    return tuple(map(str, range(classes)))


def _open(file: Path) -> ParquetFile:
    # Here and not above: a split that is in the cache is opened without it.
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(file)
    except (ArrowException, OSError) as error:
        raise UserError(f"{file} is not a readable parquet file ({_reason(error)}).") from None


def _pick(
    file: Path, names: Sequence[str], kind: str, given: str | None, typed: Sequence[str], usual: Sequence[str]
) -> str:
    """The column `given`, or the only one typed as such, or the one with a usual name."""
    if given is not None:
        candidates = [given] if given in names else []
    else:
        candidates = [n for n in typed if n in names]
        if len(candidates) != 1:
            candidates = [n for n in usual if n in (candidates or names)]
    if not candidates:
        wanted = repr(given) if given is not None else " or ".join(map(repr, usual))
        raise UserError(f"{file} has no {kind} column {wanted}. Its columns: {', '.join(names)}.")
    return candidates[0]


def _features(table: ParquetFile) -> dict[str, Any]:
    """The `datasets` features a file carries, or nothing."""
    try:
        metadata = json.loads((table.schema_arrow.metadata or {})[b"huggingface"])
        return dict(metadata["info"]["features"])
    except (KeyError, ValueError, TypeError):
        return {}


def _type(feature: Any) -> str | None:
    return feature.get("_type") if isinstance(feature, dict) else None


def _class_names(table: ParquetFile, column: str) -> tuple[str, ...]:
    """Names of the classes of a label column in label order, empty where the file does not say."""
    feature = _features(table).get(column)
    names = feature.get("names") if isinstance(feature, dict) and _type(feature) == "ClassLabel" else None
    if not names:
        return ()
    # Older versions wrote {"0": "airplane", ...}.
    return tuple(names[str(i)] for i in range(len(names))) if isinstance(names, dict) else tuple(names)


def _labels(file: Path, table: ParquetFile, column: str) -> Labels:
    """All labels of a file, `[n]`, read before any image is decoded."""
    from pyarrow import ArrowException, types

    try:
        values = table.read(columns=[column]).column(column)
    except (ArrowException, OSError) as error:
        raise UserError(f"{file}: column {column!r} cannot be read ({_reason(error)}).") from None
    if not types.is_integer(values.type):
        raise UserError(f"{file}: column {column!r} must hold integers from 0, found {values.type}.")
    if values.null_count:
        row = int(np.flatnonzero(np.asarray(values.is_null()))[0])
        raise UserError(f"{file}, row {row}: the label is missing.")
    found = values.to_numpy()
    if len(found) and found.max() > np.iinfo(np.int64).max:
        raise UserError(f"{file}, row {found.argmax()}: label {found.max()} is out of range.")
    return np.asarray(found, dtype=np.int64)


def _count(file: Path, labels: Labels) -> int:
    """How many classes there are where nothing but the labels says: 0 to the largest, each of them there.

    A label that never occurs is a mistake in all likelihood, as counting from 1: a class nobody sees.

    Raises:
        UserError: naming the label that is missing.
    """
    shown = np.unique(labels[labels >= 0])
    gaps = np.flatnonzero(shown != np.arange(len(shown)))
    if len(gaps):
        raise UserError(
            f"{file}: labels must count from 0 without gaps, found none of "
            f"{gaps[0]} below {shown[-1]}. Number the classes anew, or store their names with the labels "
            "(as datasets does with ClassLabel)."
        )
    return len(shown)


def _check_range(file: Path, labels: Labels, classes: int) -> None:
    bad = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(bad):
        known = f"there are {classes} classes (0 to {classes - 1})" if classes else "labels count from 0"
        raise UserError(f"{file}, row {bad[0]}: label {labels[bad[0]]} is out of range, {known}.")


def _batches(file: Path, table: ParquetFile, column: str) -> Iterator[RecordBatch]:
    from pyarrow import ArrowException

    try:
        yield from table.iter_batches(batch_size=BATCH, columns=[column])
    except (ArrowException, OSError) as error:
        raise UserError(f"{file}: column {column!r} cannot be read ({_reason(error)}).") from None


def _stored(file: Path, row: int, batch: RecordBatch, column: str) -> Sequence[Stored | None]:
    """The images of a batch that begins at `row`: encoded, or as arrays of values."""
    from pyarrow import ExtensionArray, types

    values = batch.column(0)
    if isinstance(values, ExtensionArray):
        values = values.storage
    if types.is_nested(values.type) and not types.is_struct(values.type):
        return _arrays(file, row, values, column)
    return _encoded(values)


def _encoded(values: Array) -> list[bytes | None]:
    """Encoded images: a column of bytes, or of {bytes, path} as `datasets` writes it."""
    data = [v.get("bytes") if isinstance(v, dict) else v for v in values.to_pylist()]
    return [v if isinstance(v, bytes) else None for v in data]


def _arrays(file: Path, row: int, values: Array, column: str) -> list[Stored]:
    """Images as `datasets` writes an Array3D: lists of lists of lists `[h][w][c]` of 8 or 16 bits.

    Raises:
        UserError: naming the row, where a list is missing or shorter than the others; for other numbers.
    """
    from pyarrow import compute, types

    shape = [len(values)]
    while (
        types.is_list(values.type)
        or types.is_large_list(values.type)
        or types.is_fixed_size_list(values.type)
    ):
        lengths = compute.list_value_length(values).fill_null(-1).to_numpy(zero_copy_only=False)
        uneven = np.flatnonzero((lengths != lengths[0]) | (lengths < 1))
        if len(uneven):
            at = row + int(uneven[0]) * shape[0] // len(values)
            raise UserError(f"{file}, row {at}: the lists in column {column!r} make no array of one size.")
        shape.append(int(lengths[0]))
        values = values.flatten()
    if len(shape) != 4 or str(values.type) not in ("uint8", "uint16"):
        raise UserError(
            f"{file}: column {column!r} must hold images, or arrays [height, width, channels] of uint8 or "
            f"uint16, found {len(shape) - 1} dimensions of {values.type}."
        )
    if values.null_count:
        at = row + int(np.flatnonzero(np.asarray(values.is_null()))[0]) * shape[0] // len(values)
        raise UserError(f"{file}, row {at}: a value is missing in column {column!r}.")
    return list(values.to_numpy().reshape(shape))


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
