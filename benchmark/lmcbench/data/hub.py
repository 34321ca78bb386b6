"""The Hugging Face hub: where its cache keeps a data set, and how it gets there."""

from __future__ import annotations

import os
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
