"""The Hugging Face hub: where its cache keeps a data set, and how it gets there."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmcbench.errors import UserError


@dataclass(frozen=True)
class HubRepo:
    """A data set repository at one commit.

    Attributes:
        repo: `owner/name`.
        revision: the commit that everybody who runs a suite reads.
        config: the configuration, where the repository has several.
    """

    repo: str
    revision: str
    config: str | None = None

    @property
    def cache_name(self) -> str:
        """The folder of the pinned revision inside a hub cache."""
        return f"datasets--{self.repo.replace('/', '--')}/snapshots/{self.revision}"

    @property
    def snapshot(self) -> Path:
        """The folder of the pinned revision in the hub's cache; it need not exist.

        Found without importing `huggingface_hub`, by the rules it documents for HF_HUB_CACHE and HF_HOME.
        """
        cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
        home = os.environ.get("HF_HOME")
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        root = Path(cache or Path(home or Path(base) / "huggingface") / "hub").expanduser()
        return root / self.cache_name


def download(hub: HubRepo, splits: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """The parquet files of each split, through `datasets` into the hub's cache.

    Files only: the copy that `load_dataset` would prepare beside them is not made.

    Raises:
        UserError: where the hub cannot be reached, or has no such data set, revision or split.
    """
    # Here and not above: seconds, which nothing but a download is worth.
    import datasets

    try:
        builder = datasets.load_dataset_builder(hub.repo, hub.config, revision=hub.revision)
        files = builder.config.data_files or {}
        missing = [s for s in splits if s not in files]
        if missing:
            raise UserError(f"{hub.repo} has no split {missing[0]!r}. It has {', '.join(map(str, files))}.")
        paths = datasets.DownloadManager().download({s: list(files[s]) for s in splits})
    except UserError:
        raise
    # `datasets` lets through whatever HTTP, file system and YAML raise beneath it.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{hub.repo} at revision {hub.revision[:8]} could not be fetched: {reason.rstrip('.')}."
        ) from None
    return {split: tuple(Path(p) for p in paths[split]) for split in splits}


PART = re.compile(r"-(?P<part>\d+)-of-(?P<parts>\d+)$")
"""How the name of a file ends that is one of several of a split."""


@dataclass(frozen=True)
class Found:
    """The parquet files of both splits, and the folder they are in."""

    folder: Path
    train: tuple[Path, ...]
    test: tuple[Path, ...]


def data_folder(data_dir: Path | None) -> Path | None:
    """The user's data folder: `data_dir`, else LMCBENCH_DATA, else none.

    Raises:
        UserError: where it is named and is no folder.
    """
    given = data_dir if data_dir is not None else os.environ.get("LMCBENCH_DATA")
    if not given:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise UserError(f"The data folder {folder} {what}. It is given by --data-dir or LMCBENCH_DATA.")
    return folder


def parquet_files(folder: Path, splits: Sequence[str], config: str | None = None) -> Found | None:
    """The files of `splits` (training, test) anywhere under `folder`, or None where it holds no parquet.

    A file belongs to a split by its name (`train.parquet`, `train-00000-of-00002.parquet`) or by a
    folder above it (`train/0.parquet`). With a configuration, files under a folder of that name win.

    Raises:
        UserError: where one of the splits is missing, or a part of one (`-00001-of-00002`).
    """
    every = sorted(p for p in folder.rglob("*.parquet") if p.is_file())
    if config is not None:
        every = [p for p in every if config in p.relative_to(folder).parts] or every
    if not every:
        return None
    train, test = (tuple(p for p in every if belongs(p.relative_to(folder), split)) for split in splits)
    for split, files in zip(splits, (train, test), strict=True):
        if not files:
            held = ", ".join(str(p.relative_to(folder)) for p in every[:3]) + (
                " ..." if len(every) > 3 else ""
            )
            raise UserError(f"{folder} has no files of split {split!r} ({split}-*.parquet). It holds {held}.")
        _check_whole(files)
    return Found(folder, train, test)


def _check_whole(files: Sequence[Path]) -> None:
    """Refuse a split of which a numbered part is missing: an interrupted download or copy leaves that."""
    for file in files:
        if (number := PART.search(file.stem)) is None:
            continue
        start, parts = file.stem[: number.start()], number["parts"]
        held = {int(m["part"]) for f in files if f.parent == file.parent and (m := _part(f, start, parts))}
        # some count parts from 1; numbers need not be of one width
        first = 1 if int(parts) in held and 0 not in held else 0
        lost = next((i for i in range(first, first + int(parts)) if i not in held), None)
        if lost is not None:
            name = f"{start}-{lost:0{len(number['part'])}}-of-{parts}{file.suffix}"
            raise UserError(f"{file.parent} has {file.name}, but not {name}. Put the missing part beside it.")


def _part(file: Path, start: str, parts: str) -> re.Match[str] | None:
    """The number of a file among those that begin with `start` and are `parts` in all; None for others."""
    number = PART.search(file.stem)
    return number if number and (file.stem[: number.start()], number["parts"]) == (start, parts) else None


def belongs(path: Path, split: str) -> bool:
    """Whether a parquet file, by its path below a data set's folder, is of `split`."""
    return path.stem == split or path.stem.startswith((f"{split}-", f"{split}_")) or split in path.parts[:-1]
