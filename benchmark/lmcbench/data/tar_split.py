"""WebDataset shards: tar archives in which files that share a name without suffix form one sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lmcbench.data.dataset import Labels, Listed, mark_every_fifth
from lmcbench.data.decode import Item, in_batches
from lmcbench.data.parquet import LABEL_NAMES, count_classes, default_names, number_labels
from lmcbench.errors import UserError, describe
from lmcbench.untrusted import check_content


@dataclass(frozen=True)
class TarSplit:
    """Reader of a split in WebDataset shards, by the builder `webdataset` of `datasets`.

    The label is the file `KEY.cls`, or an entry `label` of `KEY.json`; numbers from 0, or text.

    Attributes:
        files: the shards, in order.
        part: `test`: every fifth image of each class; `train`: all other images; None: all images.
        domain: must be None: shards have no domains.
    """

    files: tuple[Path, ...]
    part: Literal["train", "test"] | None = None
    domain: str | None = None

    def settings(self) -> dict[str, Any]:
        """Return the part, which decides which images are read."""
        return {"part": self.part}

    def columns(self) -> list[str]:
        """Return no columns: shards have no domains."""
        return []

    def listed(self, classes: int | None) -> Listed:
        """See `Reader`."""
        labels, names = self._numbered(classes)
        return Listed(labels[self.kept], names)

    def load(self, classes: int | None) -> tuple[int, tuple[str, ...], Iterator[list[Item]]]:
        """See `Reader`.

        Raises:
            UserError: for shards of another layout, a missing label, or other classes than expected.
        """
        labels, names = self._numbered(classes)
        return int(self.kept.sum()), names, in_batches(self._items(labels))

    @cached_property
    def kept(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """The images that belong to the part, `[n]`."""
        numbers = number_labels(self._labels)[0]
        if self.part is None:
            return np.ones(len(numbers), bool)
        return np.asarray(mark_every_fifth(numbers) == (self.part == "test"), np.bool_)

    def _numbered(self, classes: int | None) -> tuple[Labels, tuple[str, ...]]:
        """Return the labels of all images, `[n]`, and the names of the classes."""
        if not all(text.isdecimal() for text in self._labels):
            labels, names = number_labels(self._labels)
        else:
            labels = np.array(list(map(int, self._labels)), np.int64)
            names = default_names(count_classes(self.files[0], labels) if classes is None else classes)
        if classes is not None and (len(names) != classes or labels.max() >= classes):
            raise UserError(f"{self.files[0]} has {labels.max() + 1} classes, but there must be {classes}.")
        return labels, names

    @cached_property
    def _labels(self) -> list[str]:
        """The labels of all images as text, in the order of the shards."""
        found = []
        for file, row, example in self._examples():
            entry = example.get("cls", example.get("json"))
            if isinstance(entry, dict):
                entry = next((entry[name] for name in LABEL_NAMES if entry.get(name) is not None), None)
            if not isinstance(entry, int | str) or not str(entry).strip():
                raise UserError(
                    f"{file}, image {row} ({example['__key__']}): there is no label. Add KEY.cls with a "
                    "number from 0, or KEY.json with an entry 'label'."
                )
            found.append(str(entry).strip())
        if not found:
            raise UserError(f"{self.files[0]} has no images.")
        return found

    def _items(self, labels: Labels) -> Iterator[Item]:
        for i, (file, row, example) in enumerate(self._examples()):
            if self.kept[i]:
                yield Item(file, row, example[self._image]["bytes"], int(labels[i]))

    def _examples(self) -> Iterator[tuple[Path, int, dict[str, Any]]]:
        """Yield shard, position in the shard and encoded bytes of each image.

        Raises:
            UserError: for an archive that cannot be read, or whose files are not groups of equal suffixes.
        """
        try:
            last, row = "", 0
            for example in self._stream:
                row = row + 1 if example["__url__"] == last else 0
                last = example["__url__"]
                yield Path(last), row, example
        except UserError:
            raise
        except Exception as error:  # the builder raises errors of many kinds
            raise self._unreadable(error) from None

    @cached_property
    def _image(self) -> str:
        """The suffix of the images."""
        from datasets import Image

        found = [name for name, feature in self._raw.features.items() if isinstance(feature, Image)]
        if len(found) != 1:
            raise UserError(
                f"{self.files[0]} must have one image for each key, found {', '.join(found) or 'none'}."
            )
        return str(found[0])

    @cached_property
    def _raw(self) -> Any:
        # imported here: it takes a second, and opening a cached split does not need it
        from datasets import load_dataset

        for file in self.files:
            check_content(file)
        listed = {"train": [str(file) for file in self.files]}
        try:
            return load_dataset("webdataset", data_files=listed, split="train", streaming=True)
        except Exception as error:  # as above
            raise self._unreadable(error) from None

    @cached_property
    def _stream(self) -> Any:
        from datasets import Image

        return self._raw.cast_column(self._image, Image(decode=False))

    def _unreadable(self, error: Exception) -> UserError:
        first = self.files[0]
        return UserError(f"{first} and the other shards are not WebDataset archives ({describe(error)}).")
