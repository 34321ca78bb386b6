"""The cache of decoded images: one folder a split, keyed by content, complete or absent."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path

from lmcbench.data.dataset import ImageSet, Labels, Pixels, SplitSummary, SummaryBuilder
from lmcbench.errors import UserError
from lmcbench.spec.canonical import digest

SCHEMA = "lmcbench/pixels/1"

DRAFT_S = 24 * 3600
"""Seconds without a change after which nobody writes a draft any more."""


@dataclass(frozen=True)
class CachedSplit:
    """A split from the cache: images memory-mapped and read-only, with the names of its classes."""

    images: ImageSet
    classes: tuple[str, ...]


def cache_dir() -> Path:
    """Where decoded images are kept: LMCBENCH_CACHE, else the user's cache folder."""
    given = os.environ.get("LMCBENCH_CACHE")
    return Path(given).expanduser() if given else user_cache_path("lmcbench", appauthor=False)


def read_split(key: str) -> CachedSplit | None:
    """The split stored under `key`, or None where there is none, or it is damaged."""
    folder = cache_dir() / "pixels" / key
    try:
        about = json.loads((folder / "split.json").read_text())
        if about["schema"] != SCHEMA:
            return None
        # Mapping fails where the file is shorter than its header says.
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        if list(images.shape) != about["shape"] or len(labels) != len(images):
            return None
        summary = SplitSummary(about["sha256"], np.array(about["histogram"], np.int64))
        return CachedSplit(ImageSet(images, labels, summary), tuple(about["classes"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def write_split(
    key: str, n: int, batches: Iterator[tuple[Pixels, Labels]], classes: Sequence[str], about: dict[str, Any]
) -> None:
    """Store a split that comes in batches of images `[b, c, h, w]` and labels `[b]`, `n` images in all.

    It is written beside its place, flushed to the disk and renamed, so a run that is stopped or fails
    leaves nothing that a later one could take for whole.

    Raises:
        UserError: where the cache folder cannot be written.
    """
    place = cache_dir() / "pixels" / key
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # not mkdtemp, whose folders nobody else may read: a cache may be many people's
        draft = place.parent / f".{key[:16]}-{secrets.token_hex(4)}"
        draft.mkdir()
    except OSError as error:
        raise UserError(
            f"The cache folder {place.parent} cannot be written ({error.strerror}). "
            "Set LMCBENCH_CACHE to a folder with room for the decoded images."
        ) from None
    _drop_old_drafts(place.parent)
    try:
        summary, shape = _write_arrays(draft, n, batches)
        text = {
            "schema": SCHEMA,
            "sha256": summary.sha256,
            "shape": shape,
            "classes": list(classes),
            "histogram": summary.histogram.tolist(),
            **about,
        }
        _write(draft / "split.json", json.dumps(text).encode())
        if place.exists() and read_split(key) is None:
            shutil.rmtree(place, ignore_errors=True)
        try:
            draft.rename(place)
        except OSError:
            # Another process was faster with the same content.
            if read_split(key) is None:
                raise
    except OSError as error:
        raise UserError(f"Writing to the cache folder {place.parent} failed: {error.strerror}.") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _drop_old_drafts(folder: Path) -> None:
    """Remove what processes left that were killed while they wrote."""
    for draft in folder.glob(".*"):
        try:
            changed = max(path.stat().st_mtime for path in (draft, *draft.iterdir()))
        except OSError:
            continue  # another process has just finished or removed it
        if changed < time.time() - DRAFT_S:
            shutil.rmtree(draft, ignore_errors=True)


def _write_arrays(
    draft: Path, n: int, batches: Iterable[tuple[Pixels, Labels]]
) -> tuple[SplitSummary, tuple[int, ...]]:
    """Images one batch after another, so that memory does not grow with the split; then the labels."""
    labels: list[Labels] = []
    shape: tuple[int, ...] = ()
    with (draft / "images.npy").open("wb") as file:
        for images, shown in batches:
            if not labels:
                shape = (n, *images.shape[1:])
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                collect = SummaryBuilder(shape)
            file.write(np.ascontiguousarray(images).data)
            collect.add(images)
            labels.append(shown)
        file.flush()
        os.fsync(file.fileno())
    whole = np.concatenate(labels)
    with (draft / "labels.npy").open("wb") as file:
        np.save(file, whole)
        file.flush()
        os.fsync(file.fileno())
    return collect.finish(whole), shape


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


# --- hashes of source files ----------------------------------------------------------------------


SETTLED_NS = 2_000_000_000
"""A file that was changed so shortly before it is read is read again next time: clocks of file systems tick
in steps of up to 2 s (FAT), within which it may be changed once more and look the same."""


def file_hashes(files: Sequence[Path]) -> list[str]:
    """Sha256 of each file, read again only where its size, place or times differ from last time.

    The time of the last change of any kind is among them, which copying and unpacking cannot set: a file
    may be replaced by another of its size and time of modification, as archives and `cp -p` give it.

    Raises:
        UserError: for a file that cannot be read.
    """
    memo = cache_dir() / "hashes" / f"{digest([str(f.absolute()) for f in files])[:32]}.json"
    try:
        known = json.loads(memo.read_text())
        known = known if isinstance(known, list) and len(known) == len(files) else [None] * len(files)
    except (OSError, ValueError):
        known = [None] * len(files)
    found: list[list[Any]] = []
    hashes: list[str] = []
    for file, entry in zip(files, known, strict=True):
        try:
            now, state = time.time_ns(), file.stat()
            stamp = [state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns]
            if isinstance(entry, list) and len(entry) == len(stamp) + 1 and entry[:-1] == stamp:
                hashes.append(entry[-1])
            else:
                with file.open("rb") as stream:
                    hashes.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}.") from None
        # a time of modification that is yet to come was set by hand: writing once more would end it
        settled = abs(now - state.st_mtime_ns) > SETTLED_NS and state.st_ctime_ns < now - SETTLED_NS
        found.append([*stamp, hashes[-1]] if settled else [])
    if found != known:
        _remember(memo, found)
    return hashes


def _remember(memo: Path, found: list[list[Any]]) -> None:
    """Best effort: where the cache cannot be written, the files are read again next time."""
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=memo.parent)
        with os.fdopen(handle, "w") as file:
            json.dump(found, file)
        Path(draft).replace(memo)
    except OSError:
        return
