"""Where the files of data sets are: the user's data folder, and the cache of the Hugging Face hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmcbench.errors import UserError

NUMBERED = re.compile(r"-(?P<part>\d+)-of-(?P<parts>\d+)$")
"""End of the name of a file that is one of several parts of a split."""


@dataclass(frozen=True)
class SplitFiles:
    """The parquet files of both splits, and the folder that has them."""

    folder: Path
    train: tuple[Path, ...]
    test: tuple[Path, ...]


@dataclass(frozen=True)
class HubRepo:
    """A data set repository at one commit.

    Attributes:
        repo: `owner/name`.
        revision: the pinned commit.
        config: the configuration, if the repository has several.
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
        """The folder of the pinned revision in the hub's cache; it may be missing.

        By the documented rules for HF_HUB_CACHE and HF_HOME, without importing `huggingface_hub`.
        """
        cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
        home = os.environ.get("HF_HOME")
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        root = Path(cache or Path(home or Path(base) / "huggingface") / "hub").expanduser()
        return root / self.cache_name


def download(hub: HubRepo, splits: Sequence[str]) -> SplitFiles:
    """Download the parquet files of the training and the test split into the hub's cache with `datasets`.

    Only the files: the Arrow copy that `load_dataset` makes beside them is not used.

    Raises:
        UserError: if the hub cannot be reached, or lacks the data set, revision or split.
    """
    # imported here: it takes a second
    import datasets

    try:
        builder = datasets.load_dataset_builder(hub.repo, hub.config, revision=hub.revision)
        files = builder.config.data_files or {}
        missing = [s for s in splits if s not in files]
        if missing:
            raise UserError(f"{hub.repo} has no split {missing[0]!r}. It has {', '.join(map(str, files))}.")
        paths = datasets.DownloadManager().download([list(files[s]) for s in splits])
    except UserError:
        raise
    # `datasets` passes on errors of HTTP, file systems and YAML
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{hub.repo} at revision {hub.revision[:8]} could not be fetched: {reason.rstrip('.')}."
        ) from None
    train, test = (tuple(map(Path, part)) for part in paths)
    return SplitFiles(hub.snapshot, train, test)


def data_folder(data_dir: Path | None) -> Path | None:
    """Return the user's data folder: `data_dir`, else LMCBENCH_DATA, else None.

    Raises:
        UserError: if the given path is not a folder.
    """
    given = data_dir if data_dir is not None else os.environ.get("LMCBENCH_DATA")
    if not given:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise UserError(f"The data folder {folder} {what}. It is given by --data-dir or LMCBENCH_DATA.")
    return folder


def find_parquet(folder: Path, splits: Sequence[str], config: str | None = None) -> SplitFiles | None:
    """Find the files of `splits` (training, test) anywhere below `folder`; None if it has no parquet file.

    A file belongs to a split by its name (`train.parquet`, `train-00000-of-00002.parquet`) or by a folder
    above it (`train/0.parquet`). Files in a folder named like the configuration are preferred.

    Raises:
        UserError: if a split or a numbered part of one (`-00001-of-00002`) is missing.
    """
    every = sorted(p for p in folder.rglob("*.parquet") if p.is_file())
    if config is not None:
        every = [p for p in every if config in p.relative_to(folder).parts] or every
    if not every:
        return None
    train, test = (tuple(p for p in every if belongs_to(p.relative_to(folder), split)) for split in splits)
    for split, files in zip(splits, (train, test), strict=True):
        if not files:
            found = ", ".join(str(p.relative_to(folder)) for p in every[:3]) + (" ..." if every[3:] else "")
            raise UserError(f"{folder} has no files of split {split!r} ({split}-*.parquet). It has {found}.")
        _check_parts(files)
    return SplitFiles(folder, train, test)


def belongs_to(path: Path, split: str) -> bool:
    """Whether a parquet file belongs to `split`, by its path below the folder of the data set."""
    return path.stem == split or path.stem.startswith((f"{split}-", f"{split}_")) or split in path.parts[:-1]


def _check_parts(files: Sequence[Path]) -> None:
    """Refuse a split with a missing part, which interrupted downloads and copies leave."""
    for file in files:
        if (number := NUMBERED.search(file.stem)) is None:
            continue
        # parts of one split differ in nothing but their number, which may differ in width
        start, parts = file.stem[: number.start()], number["parts"]
        matches = ((f, NUMBERED.search(f.stem)) for f in files if f.parent == file.parent)
        found = {
            int(m["part"])
            for f, m in matches
            if m is not None and (f.stem[: m.start()], m["parts"]) == (start, parts)
        }
        first = 1 if int(parts) in found and 0 not in found else 0  # some count parts from 1
        lost = next((i for i in range(first, first + int(parts)) if i not in found), None)
        if lost is not None:
            name = f"{start}-{lost:0{len(number['part'])}}-of-{parts}{file.suffix}"
            raise UserError(f"{file.parent} has {file.name}, but not {name}. Add the missing part.")
