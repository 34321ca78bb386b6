"""Image classification sets in parquet files, with the columns that the Hugging Face hub uses.

They are read with pyarrow instead of `datasets.load_dataset`. That takes 1.1 s to import and copies all files
into a cache of its own (2.8 GB for the 13 bands of EuroSAT), which is keyed by path and time instead of
content. Its streaming mode makes no copy, but reads CIFAR-10 in 2.5 s, where pyarrow takes 0.3 s. Both modes
use the class names of the first file for all files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lmcbench.data.dataset import Labels, Listed, mark_every_fifth, name_domains
from lmcbench.data.decode import Item, StoredImage
from lmcbench.errors import UserError, unknown
from lmcbench.spec.domains import Domains, sort_names
from lmcbench.untrusted import HEADER_BYTES, check_content, parse_json

if TYPE_CHECKING:
    from pyarrow import Array

IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "category")
BATCH = 1000
"""Number of images that are decoded together."""


@dataclass(frozen=True)
class ParquetSplit:
    """Reader of a split in parquet files.

    Attributes:
        files: the files, in order.
        image: the column of images; None: found by its type or name.
        label: the column of labels; None: found by its type or name.
        part: `test`: every fifth image of each class (of each domain); `train`: all other images; None: all
            images.
        domain: the column of domains; None: the images have none.
    """

    files: tuple[Path, ...]
    image: str | None = None
    label: str | None = None
    part: Literal["train", "test"] | None = None
    domain: str | None = None

    def settings(self) -> dict[str, Any]:
        """Return the columns and the part, which decide which images and labels are read."""
        domain = {} if self.domain is None else {"domain": self.domain}
        return {"image": self.image, "label": self.label, "part": self.part, **domain}

    def load(self, classes: int | None) -> tuple[int, tuple[str, ...], Iterator[list[Item]]]:
        """See `Reader`.

        Raises:
            UserError: for an unreadable file, a missing column, or a missing or invalid label.
        """
        read = self._read(classes)
        return int(read.kept.sum()), read.classes, read.items()

    def listed(self, classes: int | None) -> Listed:
        """See `Reader`."""
        read = self._read(classes)
        domains = None if read.domains is None else read.domains.take(read.kept)
        return Listed(np.concatenate(read.labels)[read.kept], read.classes, domains)

    def columns(self) -> list[str]:
        """Return the names of the columns of the first file."""
        return _Table(self.files[0], self.image, self.label).columns

    def _read(self, classes: int | None) -> _Columns:
        """Read labels and domains of all rows, and find those of the part."""
        tables = [_Table(file, self.image, self.label) for file in self.files]
        names = _common_names(tables)
        read = [table.read_labels() for table in tables]
        if any(found.dtype == object for found in read):
            if self.label is not None:  # a published data set, whose classes have an order
                raise UserError(
                    f"{self.files[0]}: column {self.label!r} must hold integers from 0, found text."
                )
            numbers, names = number_labels([str(text) for found in read for text in found])
            labels: list[Labels] = np.split(numbers, np.cumsum([len(found) for found in read])[:-1])
        else:
            labels = [np.asarray(found, np.int64) for found in read]
        joined = np.concatenate(labels)
        if classes is None:
            classes = len(names) or count_classes(self.files[0], joined)
        for file, found in zip(self.files, labels, strict=True):
            bad = np.flatnonzero((found < 0) | (found >= classes))
            if len(bad):
                allowed = f"0 to {classes - 1}" if classes else "labels count from 0"
                raise UserError(f"{file}, row {bad[0]}: label {found[bad[0]]} is out of range ({allowed}).")
        domains = None
        if self.domain is not None:
            domains = name_domains([text for table in tables for text in table.read_domains(self.domain)])
        kept = np.ones(len(joined), bool)
        if self.part is not None:
            kept = mark_every_fifth(joined, domains) == (self.part == "test")
        return _Columns(
            tables, labels, domains, names if len(names) == classes else default_names(classes), kept
        )


@dataclass(frozen=True)
class _Columns:
    """Labels and domains of all rows of a split, and which of them belong to the part, `[n]`."""

    tables: Sequence[_Table]
    labels: Sequence[Labels]
    domains: Domains | None
    classes: tuple[str, ...]
    kept: np.ndarray[Any, np.dtype[np.bool_]]

    def items(self) -> Iterator[list[Item]]:
        """Yield the images of the part, batch by batch."""
        masks = np.split(self.kept, np.cumsum([len(found) for found in self.labels])[:-1])
        for table, found, mask in zip(self.tables, self.labels, masks, strict=True):
            yield from table.read_images(found, mask)


def default_names(classes: int) -> tuple[str, ...]:
    """Return the labels as names, for classes that no file names."""
    return tuple(map(str, range(classes)))


def number_labels(texts: Sequence[str]) -> tuple[Labels, tuple[str, ...]]:
    """Return labels of text as numbers, `[n]`, and the names in their order: by value if all are numbers.

    Examples:
        >>> number_labels(["dog", "cat", "dog"])
        (array([1, 0, 1]), ('cat', 'dog'))
    """
    names = sort_names(texts)
    numbers = {name: i for i, name in enumerate(names)}
    return np.array([numbers[text] for text in texts], np.int64), names


class _ArrowFile:
    """An Arrow file of `Dataset.save_to_disk`, with the methods of a parquet file that are used here."""

    def __init__(self, path: Path) -> None:
        from pyarrow import ipc, memory_map

        with memory_map(str(path)) as source:
            self._table = ipc.open_stream(source).read_all()
        self.schema_arrow = self._table.schema

    def read(self, columns: list[str]) -> Any:
        """Return the columns."""
        return self._table.select(columns)

    def iter_batches(self, batch_size: int, columns: list[str]) -> Iterator[Any]:
        """Yield the rows of the columns in batches."""
        yield from self._table.select(columns).to_batches(max_chunksize=batch_size)


class _Table:
    """One parquet or Arrow file: its image column, its label column and the class names it stores."""

    def __init__(self, path: Path, image: str | None, label: str | None) -> None:
        # imported here, because opening a cached split does not need it
        from pyarrow.parquet import ParquetFile

        self.path = path
        check_content(path)
        with self._errors("is not a readable parquet file"):
            self._file = _ArrowFile(path) if path.suffix == ".arrow" else ParquetFile(path)
            stored = (self._file.schema_arrow.metadata or {}).get(b"huggingface")
        metadata = {} if stored is None else parse_json(stored, f"{path}: its metadata", limit=HEADER_BYTES)
        try:
            features = {n: f for n, f in metadata["info"]["features"].items() if isinstance(f, dict)}
        except (KeyError, TypeError, AttributeError):  # of another kind
            features = {}
        self.image = self._pick("image", image, features, "Image", IMAGE_NAMES)
        self.label = self._pick("label", label, features, "ClassLabel", LABEL_NAMES)
        self._features = features
        self.names = self._names_of(self.label)

    @property
    def columns(self) -> list[str]:
        """Names of the columns, without those of images and labels."""
        return [n for n in self._file.schema_arrow.names if n not in (self.image, self.label)]

    def _names_of(self, column: str) -> tuple[str, ...]:
        """Return the names of the values of a ClassLabel column; empty if the file has none."""
        feature = self._features.get(column, {})
        names = (feature.get("names") if feature.get("_type") == "ClassLabel" else None) or ()
        if isinstance(names, dict):  # older versions of datasets wrote {"0": "airplane", ...}
            names = [names.get(str(i)) for i in range(len(names))]
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{self.path}: the names of classes of column {column!r} are not a list of text.")
        return tuple(names)

    @contextmanager
    def _errors(self, text: str) -> Iterator[None]:
        """Turn an error of pyarrow in the block into a `UserError` that names the file."""
        from pyarrow import ArrowException

        try:
            yield
        except (ArrowException, OSError) as error:
            reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            raise UserError(f"{self.path} {text} ({reason}).") from None

    def _pick(
        self, kind: str, given: str | None, features: dict[str, Any], of_type: str, usual: Sequence[str]
    ) -> str:
        """Return the column `given`, the only one of type `of_type`, or the first with a usual name."""
        columns = self._file.schema_arrow.names
        if given is not None:
            candidates = [given] if given in columns else []
        else:
            candidates = [n for n, f in features.items() if f.get("_type") == of_type and n in columns]
            if len(candidates) != 1:
                candidates = [n for n in usual if n in (candidates or columns)]
        if not candidates:
            wanted = repr(given) if given is not None else " or ".join(map(repr, usual))
            raise UserError(f"{self.path} has no {kind} column {wanted}. Its columns: {', '.join(columns)}.")
        return candidates[0]

    def read_labels(self) -> Labels | np.ndarray[Any, np.dtype[np.object_]]:
        """Return all labels, `[n]`, integers or text; the images are not read."""
        from pyarrow import types

        with self._errors(f"has an unreadable column {self.label!r}"):
            values = self._file.read(columns=[self.label]).column(self.label)
        if types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if types.is_string(values.type) or types.is_large_string(values.type):
            texts = values.to_pylist()
            missing = next((row for row, text in enumerate(texts) if not text), None)
            if missing is not None:
                raise UserError(f"{self.path}, row {missing}: the label is missing.")
            return np.array(texts, dtype=object)
        if not types.is_integer(values.type):
            raise UserError(
                f"{self.path}: column {self.label!r} must hold integers from 0 or text, found {values.type}."
            )
        if values.null_count:
            row = int(np.flatnonzero(np.asarray(values.is_null()))[0])
            raise UserError(f"{self.path}, row {row}: the label is missing.")
        found = values.to_numpy()
        if len(found) and found.max() > np.iinfo(np.int64).max:
            raise UserError(f"{self.path}, row {found.argmax()}: label {found.max()} is out of range.")
        return np.asarray(found, dtype=np.int64)

    def read_domains(self, column: str) -> list[str]:
        """Return the domain of every row, `[n]`, as text; the images are not read.

        Raises:
            UserError: if the column does not exist, has missing values, or is not text, integer or boolean.
        """
        from pyarrow import types

        if column not in self._file.schema_arrow.names:
            raise UserError(f"{self.path}: {unknown('column of domains', column, self.columns)}")
        with self._errors(f"has an unreadable column {column!r}"):
            values = self._file.read(columns=[column]).column(column)
        if types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        checks = (types.is_string, types.is_large_string, types.is_integer, types.is_boolean)
        if not any(check(values.type) for check in checks):
            raise UserError(
                f"{self.path}: column {column!r} of domains must hold text or whole numbers, found "
                f"{values.type}."
            )
        found, names = values.to_pylist(), self._names_of(column)
        missing = next((row for row, value in enumerate(found) if value is None or value == ""), None)
        if missing is not None:
            raise UserError(f"{self.path}, row {missing}: the domain is missing (column {column!r}).")
        return [names[v] if isinstance(v, int) and 0 <= v < len(names) else str(v) for v in found]

    def read_images(self, labels: Labels, mask: np.ndarray) -> Iterator[list[Item]]:
        """Yield the images of the rows in `mask` `[n]`, batch by batch."""
        row = 0
        batches = self._file.iter_batches(batch_size=BATCH, columns=[self.image])
        while True:
            with self._errors(f"has an unreadable column {self.image!r}"):
                batch = next(batches, None)
            if batch is None:
                return
            items = []
            for data in self._stored(row, batch.column(0)):
                if mask[row]:
                    if data is None:
                        raise UserError(
                            f"{self.path}, row {row}: there is no image data in column {self.image!r}. "
                            "Store the bytes of the image files, not their paths."
                        )
                    items.append(Item(self.path, row, data, int(labels[row])))
                row += 1
            if items:
                yield items

    def _stored(self, row: int, values: Array) -> Sequence[StoredImage | None]:
        """Return the images of a batch that begins at `row`: bytes, or arrays; None: no image data."""
        from pyarrow import ExtensionArray, types

        if isinstance(values, ExtensionArray):
            values = values.storage
        if types.is_nested(values.type) and not types.is_struct(values.type):
            return self._arrays(row, values)
        # bytes, or {bytes, path} as `datasets` writes them
        data = [v.get("bytes") if isinstance(v, dict) else v for v in values.to_pylist()]
        return [v if isinstance(v, bytes) else None for v in data]

    def _arrays(self, row: int, values: Array) -> list[StoredImage]:
        """Return images stored as an Array3D of `datasets`: nested lists `[h][w][c]` of 8 or 16 bits.

        Raises:
            UserError: if lists differ in length, a value is missing, or the numbers have another type.
        """
        from pyarrow import compute, types

        n, shape = len(values), [len(values)]
        is_list = types.is_list, types.is_large_list, types.is_fixed_size_list
        while any(check(values.type) for check in is_list):
            lengths = compute.list_value_length(values).fill_null(-1).to_numpy(zero_copy_only=False)
            uneven = np.flatnonzero((lengths != lengths[0]) | (lengths < 1))
            if len(uneven):
                at = row + int(uneven[0]) * n // len(values)
                raise UserError(
                    f"{self.path}, row {at}: the lists in column {self.image!r} are not of one size."
                )
            shape.append(int(lengths[0]))
            values = values.flatten()
        if len(shape) != 4 or str(values.type) not in ("uint8", "uint16"):
            raise UserError(
                f"{self.path}: column {self.image!r} must hold images, or arrays [height, width, channels] "
                f"of uint8 or uint16, found {len(shape) - 1} dimensions of {values.type}."
            )
        if values.null_count:
            at = row + int(np.flatnonzero(np.asarray(values.is_null()))[0]) * n // len(values)
            raise UserError(f"{self.path}, row {at}: a value is missing in column {self.image!r}.")
        return list(values.to_numpy().reshape(shape))


def _common_names(tables: Sequence[_Table]) -> tuple[str, ...]:
    """Return the class names in label order; empty if no file has any. Files with names must agree."""
    named = [table for table in tables if table.names]
    if not named:
        return ()
    first = named[0]
    for table in named:
        if table.names != first.names:
            here, there = (", ".join(t.names[:5]) for t in (table, first))
            raise UserError(
                f"{table.path} has other class names ({here}) than {first.path.name} ({there}). "
                "A label must mean the same class in all files."
            )
    twice = next((name for name in first.names if first.names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{first.path}: two classes have the name {twice!r}.")
    return first.names


def count_classes(file: Path, labels: Labels) -> int:
    """Return the number of classes of files without class names: the largest label plus 1.

    Every label from 0 on must occur. A gap is most likely a mistake, such as counting from 1.
    """
    found = np.unique(labels[labels >= 0])
    gaps = np.flatnonzero(found != np.arange(len(found)))
    if len(gaps):
        raise UserError(
            f"{file}: labels must count from 0 without gaps, found no {gaps[0]} below {found[-1]}. "
            "Renumber the classes, or store their names with the labels (ClassLabel of `datasets`)."
        )
    return len(found)
