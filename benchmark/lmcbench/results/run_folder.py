"""The run folder: every file name in one place, every file written atomically."""

from __future__ import annotations

import io
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from gzip import GzipFile
from pathlib import Path
from typing import Any

from lmcbench.errors import UserError, reading
from lmcbench.results.cell_values import architecture_label, shift_label
from lmcbench.results.record import Record, check_schema, read_record
from lmcbench.spec.evaluation_shifts import shown_split

RUN_SCHEMA = "lmcbench/run/1"

STALE = 3600.0
"""Seconds without a write after which a partial file is nobody's: its writer was killed. The number in its
name does not tell that where folders are shared between machines, or containers count processes anew."""


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its records, predictions and checkpoints."""

    root: Path

    @property
    def header(self) -> Path:
        """`run.json`: which suite this folder belongs to."""
        return self.root / "run.json"

    @property
    def records(self) -> Path:
        """Folder of records, one per cell."""
        return self.root / "records"

    def record(self, key: str) -> Path:
        """The record of a cell."""
        return self.records / f"{key}.json"

    def predictions(self, key: str) -> Path:
        """The fp16 test logits of a cell's siblings."""
        return self.root / "predictions" / f"{key}.safetensors"

    def sibling(self, key: str, index: int) -> Path:
        """The state dict of a trained sibling."""
        return self.root / "checkpoints" / f"{key}-{index}.safetensors"

    def snapshot(self, key: str, index: int, step: int) -> Path:
        """The state dict of a probe cell's sibling at a logged step."""
        return self.root / "checkpoints" / f"{key}-{index}-step{step}.safetensors"

    def training(self, key: str) -> Path:
        """How a cell's training went; written last, so that it vouches for the sibling files."""
        return self.root / "checkpoints" / f"{key}.json"

    def trunk(self, family: str, step: int) -> Path:
        """The whole training state of a family's trunk at a fork."""
        return self.root / "checkpoints" / f"trunk-{family}-{step}.safetensors"

    def interim(self, family: str, how: str, member: str) -> Path:
        """The whole training state of one of a family's networks on its way, by how it was trained."""
        return self.root / "checkpoints" / f"interim-{family}-{how}-{member}.safetensors"

    @property
    def table(self) -> Path:
        """The leaderboard table of the run, in Markdown."""
        return self.root / "leaderboard.md"

    def finished(self, key: str) -> Record | None:
        """The record of a cell that needs no more work; None if absent, failed, or cut off by a crash.

        Raises:
            UserError: for a record of a newer schema, which must not be overwritten; for a file that cannot
                be read, or holds the record of another cell.
        """
        path = self.record(key)
        if not path.exists():
            return None
        try:
            with reading(path):
                json.loads(path.read_bytes())
        except UserError:
            raise
        except ValueError:
            return None
        record = read_record(path)
        if record.key != key:
            raise UserError(
                f"{path} holds the record of another cell, {record.key}. "
                f"Give it its name back: {record.key}.json."
            )
        return None if record.status == "failed" else record

    def measured(self) -> dict[str, Record]:
        """Every record that is a result, by key: none that failed or was cut off by a crash.

        Raises:
            UserError: for a record of a newer schema.
        """
        keys = sorted(path.stem for path in self.records.glob("[!.]*.json"))
        return {key: record for key in keys if (record := self.finished(key)) is not None}

    def check(self, suite: dict[str, Any]) -> None:
        """Refuse a folder that cannot become, or is not, a run of `suite` (name, version, digest).

        Raises:
            UserError: where it belongs to another suite, or is something else.
        """
        if self.header.exists():
            held = read_header(self.header)["suite"]
            if held["digest"] != suite["digest"]:
                same = held["name"] == suite["name"] and held["version"] != suite["version"]
                on = f", or go on with it: {held['name']}-v{held['version']}" if same else ""
                raise UserError(
                    f"{self.root} holds a run of suite {held['name']} version {held['version']} with digest "
                    f"{held['digest'][:12]}, not {suite['name']} version {suite['version']} with digest "
                    f"{suite['digest'][:12]}. Choose another folder with --out{on}."
                )
        elif self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            raise UserError(f"{self.root} exists and is not a run folder. Choose another with --out.")
        writable = next(p for p in (self.root, *self.root.resolve().parents) if p.exists())
        if not writable.is_dir():
            raise UserError(f"{self.root} cannot be written: {writable} is a file.")
        if not os.access(writable, os.W_OK):
            raise UserError(f"{self.root} cannot be written: {writable} is read-only.")

    def check_data(self, data: Sequence[Mapping[str, Any]], held: Iterable[Record]) -> None:
        """Refuse images or labels other than those that the folder's networks were trained on.

        Args:
            data: as records have it, one entry per split.
            held: its records, for folders that were claimed before they said so.

        Raises:
            UserError: naming the split.
        """
        said = read_header(self.header).get("data") if self.header.exists() else None
        if said is None:
            said = next((record.data for record in held), [])
        before = {part["split"]: part["sha256"] for part in said}
        for part in data:
            split, found = part["split"], part["sha256"]
            if before.get(split, found) != found:
                raise UserError(
                    f"{self.root} was made with other data: split {split} of {part['name']} has sha256 "
                    f"{found[:12]} here, {before[split][:12]} there; tables would average over both. Give "
                    "--data-dir the data it was made with, or run into another folder: --out DIR"
                )

    def claim(self, suite: dict[str, Any], data: Sequence[Mapping[str, Any]]) -> None:
        """Make this, once checked, the folder of `suite` on `data` (as records have it)."""
        if not self.header.exists():
            header = {"schema": RUN_SCHEMA, "suite": suite, "data": data}
            write_atomic(self.header, json.dumps(header, indent=1) + "\n")

    def sweep(self) -> None:
        """Remove what writers that were killed left half-written, in this folder and those of its files."""
        now = time.time()
        for path in [*self.root.glob(".*.partial"), *self.root.glob("*/.*.partial")]:
            with suppress(OSError):  # its writer, or another run that sweeps, was faster
                if re.fullmatch(r"\..+\.\d+\.partial", path.name) and now - path.stat().st_mtime > STALE:
                    path.unlink()


def labels_name(split: str) -> str:
    """The tensor of a predictions file with the labels of a split: those of the images that it shows."""
    return f"{shown_split(split)}.labels"


def read_header(path: Path) -> dict[str, Any]:
    """The contents of a `run.json`.

    Raises:
        UserError: where it is damaged or of a newer schema.
    """
    try:
        with reading(path):
            header: dict[str, Any] = json.loads(path.read_bytes())
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}.") from None
    check_schema(header, str(path), RUN_SCHEMA)
    suite = header.get("suite")
    if not isinstance(suite, dict) or not suite.keys() >= {"name", "version", "digest"}:
        raise UserError(f"{path} is damaged: it names no suite.")
    return header


def find_records(path: Path) -> list[Path]:
    """Record files of a run folder, a folder of records, or one record, sorted by name.

    Raises:
        UserError: where there are none.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise UserError(f"There is no {path}. Give a run folder, as 'lmcbench run' made it.")
    folder = path / "records" if (path / "records").is_dir() else path
    found = sorted(f for f in folder.glob("*.json") if f.name != "run.json" and not f.name.startswith("."))
    if not found:
        hint = " or one of its submissions" if (path / "submissions").is_dir() else ""
        raise UserError(f"No records in {folder}. Give a run folder, as 'lmcbench run' made it{hint}.")
    return found


def read_records(path: Path) -> list[Record]:
    """The records that `find_records` finds, of which no two are of one place in the tables.

    A failed cell is left out where its place has another record: a file that was mended since.

    Raises:
        UserError: where there are none, one cannot be read, two files hold one cell, the folder is a run of a
            newer schema, or two different networks (or checkpoints) that are called alike would be averaged.
    """
    header = RunFolder(path).header
    if header.is_file():
        read_header(header)
    records = [read_record(file) for file in find_records(path)]
    places: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        places.setdefault(_place(record), []).append(record)
    dropped = set()
    for place in places.values():
        measured = [record for record in place if record.status != "failed"]
        if len({record.key for record in measured}) > 1:
            raise _called_alike(path, measured)
        if len(measured) > 1:
            raise UserError(f"{path} holds the record {measured[0].key} in {len(measured)} files. Keep one.")
        kept = measured or place[-1:]
        dropped |= {id(record) for record in place if all(record is not k for k in kept)}
    return [record for record in records if id(record) not in dropped]


def _place(record: Record) -> tuple[object, ...]:
    """Where tables put a record: what they cannot tell apart has the same place."""
    suite = (record.suite.name, record.suite.version, record.suite.digest)
    network = (architecture_label(record), record.recipe["name"])
    return *suite, *network, shift_label(record), record.fork.name, record.replicate


def _called_alike(path: Path, records: list[Record]) -> UserError:
    one = records[0]
    label = architecture_label(one)
    prints = list(dict.fromkeys(record.architecture.fingerprint for record in records))
    what = f"networks, fingerprints {' and '.join(prints)}," if len(prints) > 1 else "cells"
    keys = " and ".join(record.key for record in records)
    return UserError(
        f"{path} holds different {what} that are called {label} with recipe {one.recipe['name']}; tables "
        f"would average them (records {keys}: {shift_label(one)}, fork {one.fork.name}, replicate "
        f"{one.replicate}). Keep each in a run folder of its own: lmcbench run ... --out DIR."
    )


def compress(content: bytes) -> bytes:
    """Return `content` as gzip without time and file name, so that equal content gives equal bytes."""
    buffer = io.BytesIO()
    with GzipFile("", "wb", 9, buffer, mtime=0) as file:
        file.write(content)
    return buffer.getvalue()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole file or nothing; an `OSError` names the file."""
    encoded = content.encode() if isinstance(content, str) else content
    with replacing(path) as partial:
        partial.write_bytes(encoded)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path`, to be written inside, which then takes its place; an `OSError` names `path`.

    It is flushed to the disk first, so that a name never stands for less than its file, even after the power
    failed. The rename itself may then be lost with the last seconds: what was there before stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # the partial file's name says nothing to a user
        raise
    finally:
        partial.unlink(missing_ok=True)
