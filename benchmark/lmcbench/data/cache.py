"""The cache of decoded images: one folder per split, keyed by content; a folder is complete or absent."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from platformdirs import user_cache_path

from lmcbench.data.dataset import ImageSet, Labels, Listed, Pixels, SplitSummary, SummaryBuilder
from lmcbench.data.decode import RULES, ColouredError, Item, Resize, decode_batches
from lmcbench.errors import UserError, reading
from lmcbench.spec.canonical import digest
from lmcbench.spec.domains import Domains
from lmcbench.untrusted import open_regular

SCHEMA = "lmcbench/pixels/1"

ABANDONED_S = 24 * 3600
"""Seconds without a change after which a temporary folder is taken to be left by a killed process."""


class Reader(Protocol):
    """Reads the files of a split; opens nothing before it is asked to."""

    @property
    def files(self) -> Sequence[Path]:
        """The files of the split, in order; their content is its identity."""

    def settings(self) -> dict[str, Any]:
        """Return everything else that decides which images and labels result."""

    def load(self, classes: int | None) -> tuple[int, tuple[str, ...], Iterator[list[Item]]]:
        """Return the number of images, the class names, and the images in batches.

        `classes` is the expected number of classes, None if it is unknown.
        """

    def listed(self, classes: int | None) -> Listed:
        """Return labels, classes and domains of the images that `load` yields, without reading them."""

    def columns(self) -> list[str]:
        """Return the names of the columns that may hold domains; empty where images are listed by folders."""


@dataclass(frozen=True)
class CachedSplit:
    """A split from the cache: images memory-mapped and read-only, with the names of its classes."""

    images: ImageSet
    classes: tuple[str, ...]


def open_split(
    reader: Reader,
    title: str,
    channels: int | None = None,
    classes: int | None = None,
    lossless: bool = False,
    resize: Resize | None = None,
) -> CachedSplit:
    """Open the split that `reader` reads; its files are decoded once for each content.

    Args:
        reader: parquet files or an image folder.
        title: text of the progress bar.
        channels: 1 or 3; None: those of the first image, and 3 if others are coloured.
        classes: the expected number; None takes what the files have.
        lossless: refuse JPEG images.
        resize: how images of any size become square; None: all must have one size.

    Raises:
        UserError: naming the file and row that cannot be read; nothing is cached then.
    """
    hashes = file_hashes(reader.files)
    asked = {"channels": channels, "classes": classes, "lossless": lossless, **reader.settings()}
    if resize is not None:
        asked["resize"] = asdict(resize)
    key = digest({"files": hashes, "rules": RULES, **asked})
    cached = read_split(key)
    if cached is not None:
        return cached
    try:
        _decode_split(key, reader, title, channels, asked, resize)
    except ColouredError:
        if channels is not None:
            raise
        _decode_split(key, reader, title, 3, asked, resize)
    stored = read_split(key)
    if stored is None:
        raise UserError(f"{title}: the cache was changed while it was written. Run again.")
    return stored


def _decode_split(
    key: str,
    reader: Reader,
    title: str,
    channels: int | None,
    asked: dict[str, Any],
    resize: Resize | None,
) -> None:
    """Decode the images of a split into the cache."""
    n, names, batches = reader.load(asked["classes"])
    if n == 0:
        places = ", ".join(map(str, reader.files[:3]))
        found = f"{title}: no images found{f' in {places}' if places else ''}."
        if getattr(reader, "part", None) == "test":
            found += " Without a test split, every fifth image of each class is in it: a class needs five."
        raise UserError(found)
    decoded = decode_batches(batches, n, channels, asked["lossless"], title, resize)
    domains = reader.listed(asked["classes"]).domains if "domain" in asked else None
    write_split(key, n, decoded, names, {"settings": asked}, domains)


def cache_dir() -> Path:
    """Return the folder of decoded images: LMCBENCH_CACHE, else in the user's cache folder."""
    given = os.environ.get("LMCBENCH_CACHE")
    return Path(given).expanduser() if given else user_cache_path("lmcbench", appauthor=False)


def read_split(key: str) -> CachedSplit | None:
    """Return the split stored under `key`, or None if it is missing or damaged."""
    folder = cache_dir() / "pixels" / key
    try:
        about = json.loads((folder / "split.json").read_text())
        if about["schema"] != SCHEMA:
            return None
        # mapping fails if the file is shorter than its header says
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        if list(images.shape) != about["shape"] or len(labels) != len(images):
            return None
        summary = SplitSummary(about["sha256"], np.array(about["histogram"], np.int64))
        domains = None
        if "domains" in about:
            codes = np.load(folder / "domains.npy", allow_pickle=False)
            domains = Domains(tuple(about["domains"]), codes)
            if len(domains) != len(labels):
                return None
        return CachedSplit(ImageSet(images, labels, summary, domains=domains), tuple(about["classes"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def write_split(
    key: str,
    n: int,
    batches: Iterator[tuple[Pixels, Labels]],
    classes: Sequence[str],
    about: dict[str, Any],
    domains: Domains | None = None,
) -> None:
    """Store a split of `n` images, passed in batches of images `[b, c, h, w]` and labels `[b]`.

    It is written to a temporary folder, flushed to disk and renamed, so that an interrupted run leaves
    nothing that looks complete.

    Raises:
        UserError: if the cache folder cannot be written.
    """
    place = cache_dir() / "pixels" / key
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # not mkdtemp, whose folders are private: a cache may be shared between users
        draft = place.parent / f".{key[:16]}-{secrets.token_hex(4)}"
        draft.mkdir()
    except OSError as error:
        raise UserError(
            f"The cache folder {place.parent} cannot be written ({error.strerror}). "
            "Set LMCBENCH_CACHE to a folder with disk space for the decoded images."
        ) from None
    _remove_abandoned(place.parent)
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
        if domains is not None:
            text["domains"] = list(domains.names)
            with _flushed(draft / "domains.npy") as file:
                np.save(file, domains.codes)
        with _flushed(draft / "split.json") as file:
            file.write(json.dumps(text).encode())
        if place.exists() and read_split(key) is None:
            shutil.rmtree(place, ignore_errors=True)
        try:
            draft.rename(place)
        except OSError:
            # another process may have stored the same content first
            if read_split(key) is None:
                raise
    except OSError as error:
        raise UserError(f"Writing to the cache folder {place.parent} failed: {error.strerror}.") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _flushed(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write, and flush it to disk at the end."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _remove_abandoned(folder: Path) -> None:
    """Remove temporary folders of processes that were killed while writing."""
    for draft in folder.glob(".*"):
        try:
            changed = max(path.stat().st_mtime for path in (draft, *draft.iterdir()))
        except OSError:
            continue  # another process has just renamed or removed it
        if changed < time.time() - ABANDONED_S:
            shutil.rmtree(draft, ignore_errors=True)


def _write_arrays(
    draft: Path, n: int, batches: Iterable[tuple[Pixels, Labels]]
) -> tuple[SplitSummary, tuple[int, ...]]:
    """Write images batch by batch, so that memory does not grow with the split, then all labels."""
    labels: list[Labels] = []
    shape: tuple[int, ...] = ()
    with _flushed(draft / "images.npy") as file:
        for images, given in batches:
            if not labels:
                shape = (n, *images.shape[1:])
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                builder = SummaryBuilder(shape)
            file.write(np.ascontiguousarray(images).data)
            builder.add(images)
            labels.append(given)
    whole = np.concatenate(labels)
    with _flushed(draft / "labels.npy") as file:
        np.save(file, whole)
    return builder.finish(whole), shape


# --- hashes of source files ----------------------------------------------------------------------


SETTLED_NS = 2_000_000_000
"""Hashes of files changed within this time are not stored: clocks of file systems tick in steps of up to
2 s (FAT), within which a file may change once more and look the same."""


def file_hashes(files: Sequence[Path]) -> list[str]:
    """Return the sha256 of each file; files are read again only if size, inode or times have changed.

    The times include that of the last change of any kind, which copying and unpacking cannot set: `cp -p`
    and archives may replace a file by another of equal size and time of modification.

    Raises:
        UserError: for a file that cannot be read.
    """
    store = cache_dir() / "hashes" / f"{digest([str(f.absolute()) for f in files])[:32]}.json"
    try:
        known = json.loads(store.read_text())
    except (OSError, ValueError):
        known = None
    if not isinstance(known, list) or len(known) != len(files):
        known = [None] * len(files)
    found: list[list[Any]] = []
    hashes: list[str] = []
    for file, entry in zip(files, known, strict=True):
        with reading(file):
            now, state = time.time_ns(), file.stat()
            stamp = [state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns]
            if isinstance(entry, list) and len(entry) == len(stamp) + 1 and entry[:-1] == stamp:
                hashes.append(entry[-1])
            else:
                with open_regular(file, limit=sys.maxsize) as stream:
                    hashes.append(hashlib.file_digest(stream, "sha256").hexdigest())
        # a time of modification in the future was set by hand; the next write resets it
        settled = abs(now - state.st_mtime_ns) > SETTLED_NS and state.st_ctime_ns < now - SETTLED_NS
        found.append([*stamp, hashes[-1]] if settled else [])
    if found != known:
        _store_hashes(store, found)
    return hashes


def _store_hashes(store: Path, found: list[list[Any]]) -> None:
    """Store hashes if the cache can be written; the files are read again next time otherwise."""
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=store.parent)
        with os.fdopen(handle, "w") as file:
            json.dump(found, file)
        Path(draft).replace(store)
    except OSError:
        return
