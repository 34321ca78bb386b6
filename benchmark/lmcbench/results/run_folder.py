"""The run folder: the names of its files and of the tensors in them, and which run it belongs to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcbench.errors import UserError
from lmcbench.results.atomic_files import create_from, is_partial, partial_path, remove_orphans, write_atomic
from lmcbench.results.record import Record
from lmcbench.results.record_parser import check_schema, parse_record
from lmcbench.spec.evaluation_shifts import shown_split
from lmcbench.untrusted import parse_json, read_bytes

RUN_SCHEMA = "lmcbench/run/1"


@dataclass(frozen=True)
class RunFolder:
    """Paths of the records, predictions and checkpoints of a run."""

    root: Path

    @property
    def header(self) -> Path:
        """`run.json`: suite and data of this folder."""
        return self.root / "run.json"

    @property
    def records(self) -> Path:
        """Folder of the records, one for each cell."""
        return self.root / "records"

    def record(self, key: str) -> Path:
        """Path of the record of a cell."""
        return self.records / f"{key}.json"

    def tuning(self, network: str) -> Path:
        """Path of the tuning file of a network that was run with recipe `tuned`."""
        return self.root / "tuning" / f"{network}.json"

    def predictions(self, key: str) -> Path:
        """Path of the fp16 test logits of a cell's siblings."""
        return self.root / "predictions" / f"{key}.safetensors"

    def sibling(self, key: str, index: int) -> Path:
        """Path of the state dict of a trained sibling."""
        return self.root / "checkpoints" / f"{key}-{index}.safetensors"

    def snapshot(self, key: str, index: int, step: int) -> Path:
        """Path of a sibling's weights at a logged step."""
        return self.root / "checkpoints" / f"{key}-{index}-step{step}.safetensors"

    def training(self, key: str) -> Path:
        """Path of the training log of a cell, written last: then the siblings' files are complete."""
        return self.root / "checkpoints" / f"{key}.json"

    def trunk(self, family: str, step: int) -> Path:
        """Path of the training state of a family's trunk at a fork."""
        return self.root / "checkpoints" / f"trunk-{family}-{step}.safetensors"

    def interim(self, family: str, how: str, member: str) -> Path:
        """Path of the training checkpoint of a network; `how` identifies engine and settings."""
        return self.root / "checkpoints" / f"interim-{family}-{how}-{member}.safetensors"

    @property
    def events(self) -> Path:
        """Folder of the progress of every driver and attempt (`results/events.py`)."""
        return self.root / "events"

    def attempt(self, unit: str, number: int) -> Path:
        """Path of the events of a unit's attempt; a unit is a family or a part of one."""
        return self.events / f"{unit}-{number}.jsonl"

    @property
    def logs(self) -> Path:
        """Folder of what jobs of a cluster print."""
        return self.root / "logs"

    @property
    def table(self) -> Path:
        """Path of the run's table in Markdown."""
        return self.root / "leaderboard.md"

    def finished(self, key: str) -> Record | None:
        """Return the record of a finished cell; None if it is missing, failed, or truncated by a crash.

        Raises:
            UserError: for a record of a newer schema, which must not be overwritten, an invalid one, one that
                is not a regular file or cannot be read, or the record of another cell.
        """
        path = self.record(key)
        if not path.exists():
            return None
        content = read_bytes(path)
        try:
            record = parse_record(content, str(path))
        except UserError:
            if _is_truncated(content):
                return None
            raise
        if record.key != key:
            raise UserError(
                f"{path} contains the record of another cell, {record.key}. Rename it to {record.key}.json."
            )
        return None if record.status == "failed" else record

    def measured(self) -> dict[str, Record]:
        """Return the records of all finished cells by key.

        Raises:
            UserError: as `finished`.
        """
        keys = sorted(path.stem for path in self.records.glob("[!.]*.json"))
        return {key: record for key in keys if (record := self.finished(key)) is not None}

    def recorded(self) -> set[str]:
        """Return the keys of the cells with a record, also a failed one, that no crash cut short.

        Raises:
            UserError: for a record that is not a regular file or cannot be read.
        """
        return {path.stem for path in self.records.glob("[!.]*.json") if not _is_truncated(read_bytes(path))}

    def check(self, suite: dict[str, Any]) -> None:
        """Check that this folder is a run of `suite` (name, version, digest), or can become one.

        Raises:
            UserError: if it belongs to another suite, is not a run folder, or is not writable.
        """
        # looked at before run.json, which another run may write meanwhile
        is_foreign = self.root.exists() and (
            not self.root.is_dir() or not all(map(is_partial, self.root.iterdir()))
        )
        if self.header.exists():
            stored = read_header(self.header)["suite"]
            if stored["digest"] != suite["digest"]:
                same = stored["name"] == suite["name"] and stored["version"] != suite["version"]
                resume = f", or resume it with {stored['name']}-v{stored['version']}" if same else ""
                raise UserError(
                    f"{self.root} is a run of suite {stored['name']} version {stored['version']} with digest "
                    f"{stored['digest'][:12]}, not {suite['name']} version {suite['version']} with digest "
                    f"{suite['digest'][:12]}. Choose another folder with --out{resume}."
                )
        elif is_foreign:
            raise UserError(f"{self.root} exists and is not a run folder. Choose another with --out.")
        writable = next(p for p in (self.root, *self.root.resolve().parents) if p.exists())
        if not writable.is_dir():
            raise UserError(f"{self.root} cannot be written: {writable} is a file.")
        if not os.access(writable, os.W_OK):
            raise UserError(f"{self.root} cannot be written: {writable} is read-only.")

    def check_data(self, data: Sequence[Mapping[str, Any]], records: Iterable[Record]) -> None:
        """Check that images and labels are those that the folder's networks were trained on.

        Args:
            data: as in records, one entry for each split.
            records: the folder's records, used if `run.json` has no entry for data.

        Raises:
            UserError: naming the split that differs.
        """
        stored = read_header(self.header).get("data") if self.header.exists() else None
        if stored is None:
            stored = next((record.data for record in records), [])
        before = {part["split"]: part["sha256"] for part in stored}
        for part in data:
            split, found = part["split"], part["sha256"]
            if before.get(split, found) != found:
                raise UserError(
                    f"{self.root} was run on other data: split {split} of {part['name']} has sha256 "
                    f"{found[:12]} now and had {before[split][:12]} then. Use the same data "
                    "with --data-dir, or another folder with --out."
                )

    def claim(
        self,
        suite: dict[str, Any],
        data: Sequence[Mapping[str, Any]],
        made: Mapping[str, Any] | None = None,
    ) -> bool:
        """Write `run.json` for `suite` and `data` (as in records) if it does not exist.

        Of several processes that claim the folder at once, one writes the file and the others check it.

        Args:
            suite: name, version and digest.
            data: as in records, one entry for each split.
            made: `commands`, `citation` and `versions` of the run, for readers.

        Returns:
            Whether the file was written.

        Raises:
            UserError: if the folder is claimed for another suite or other data.
        """
        written = False
        if not self.header.exists():
            header = {"schema": RUN_SCHEMA, "suite": suite, "data": data, "made": made or {}}
            draft = partial_path(self.header)
            try:
                write_atomic(draft, json.dumps(header, indent=1) + "\n")
                with suppress(FileExistsError):
                    create_from(draft, self.header)
                    written = True
            finally:
                with suppress(OSError):
                    draft.unlink(missing_ok=True)
        self.check(suite)
        self.check_data(data, ())
        return written

    @contextmanager
    def claimed(
        self,
        suite: dict[str, Any],
        data: Sequence[Mapping[str, Any]],
        made: Mapping[str, Any] | None = None,
    ) -> Iterator[None]:
        """Claim the folder for a run; an error before anything else is written undoes the claim.

        The command of a run that resumes or extends the folder is added to those in `run.json`.
        """
        created, written = [path for path in (self.root, *self.root.parents) if not path.exists()], False
        try:
            written = self.claim(suite, data, made)
            if not written and made is not None:
                self._add_commands(made)
            yield
        except (UserError, OSError):
            with suppress(OSError):  # another run uses a folder meanwhile
                if written and list(self.root.iterdir()) == [self.header]:
                    self.header.unlink()
                for path in created:
                    path.rmdir()  # if it is empty
            raise

    def _add_commands(self, made: Mapping[str, Any]) -> None:
        """Add the commands of a run to `run.json`, if they are new."""
        header = read_header(self.header)
        before = header.get("made")
        kept = dict(before) if isinstance(before, dict) else dict(made)
        listed = kept.get("commands")
        commands = [str(command) for command in listed] if isinstance(listed, list) else []
        kept["commands"] = list(dict.fromkeys([*commands, *made.get("commands", ())]))
        if kept != before:
            write_atomic(self.header, json.dumps({**header, "made": kept}, indent=1) + "\n")

    def remove_stale_files(self) -> None:
        """Remove temporary files of writers that were killed."""
        remove_orphans(self.root)


def _is_truncated(content: bytes) -> bool:
    """Return whether a crash cut a record short: the last line of a whole one is a brace."""
    if content.rstrip().endswith(b"\n}"):
        return False
    try:
        parse_json(content, "")
    except UserError:
        return True
    return False


def labels_name(split: str) -> str:
    """Return the name of the tensor with the labels of a split in a predictions file."""
    return f"{shown_split(split)}.labels"


def midpoint_name(split: str, i: int, j: int) -> str:
    """Return the name of the tensor with the logits halfway between siblings i and j."""
    return f"{split}.midpoint-{i}-{j}"


def recalibrated_name(split: str) -> str:
    """Return the name of the tensor with the logits of the recalibrated siblings."""
    return f"{split}.recalibrated"


def soup_name(split: str) -> str:
    """Return the name of the tensor with the soup's logits; two siblings' soup is their midpoint."""
    return f"{split}.soup"


def read_header(path: Path) -> dict[str, Any]:
    """Read a `run.json`.

    Raises:
        UserError: if it is damaged, no regular file, or of a newer schema.
    """
    header: dict[str, Any] = parse_json(read_bytes(path), str(path))
    check_schema(header, str(path), RUN_SCHEMA)
    suite = header.get("suite")
    if not isinstance(suite, dict) or not suite.keys() >= {"name", "version", "digest"}:
        raise UserError(f"{path} is damaged: suite is missing.")
    return header
