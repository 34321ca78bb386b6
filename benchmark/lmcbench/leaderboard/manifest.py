"""The files of a submission: which names are allowed, how large they may be, and their hashes."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lmcbench.errors import UserError, reading
from lmcbench.results.record import NewerSchemaError, check_schema
from lmcbench.spec.canonical import digest_bytes

MANIFEST_SCHEMA = "lmcbench/manifest/1"
MANIFEST = "manifest.json"
META = "submission.toml"

MB = 1_000_000
PREDICTION_BYTES = 25 * MB
"""All stored logits of a submission together: a repository keeps them for ever."""

KINDS = {
    re.compile(re.escape(MANIFEST)): MB,
    re.compile(re.escape(META)): 64_000,
    re.compile(r"records/[0-9a-f]{16}\.json"): 2 * MB,
    re.compile(r"predictions/[0-9a-f]{16}\.safetensors"): PREDICTION_BYTES,
    re.compile(r"source/[A-Za-z0-9_][A-Za-z0-9_-]*\.py"): 256_000,
}
"""Every file a submission may hold, by its path in it, and the most bytes it may have."""

TOTAL_BYTES = 100 * MB
MAX_FILES = 5000
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".npy", ".npz", ".joblib")


class Fault(BaseModel):
    """One thing that is wrong with a submission.

    Attributes:
        file: path inside the submission.
        field: place inside the file, empty for the file as a whole.
        message: what was found and what should be there.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    field: str
    message: str

    def __str__(self) -> str:
        text = f"{self.file}: {f'{self.field}: ' if self.field else ''}{self.message}"
        # it quotes the submission, which must neither steer a terminal nor add a line to the report
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class FileEntry(BaseModel):
    """A file as the manifest lists it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_: str = Field(alias="schema")
    files: dict[str, FileEntry]


def list_files(folder: Path) -> tuple[dict[str, int], list[Fault]]:
    """The files that may be read, path -> bytes, and what else is there; nothing is opened.

    Links are never followed. Sizes are those of the directory, so that a file of a gigabyte is refused
    before a byte of it is read.
    """
    sizes: dict[str, int] = {}
    faults: list[Fault] = []
    pending = [folder]
    while pending:
        for entry in sorted(os.scandir(pending.pop()), key=lambda e: e.name):
            name = Path(entry.path).relative_to(folder).as_posix()
            shown = name.encode("unicode_escape").decode()
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                faults.append(_fault(shown, "is a link; a submission holds its files themselves"))
            elif stat.S_ISDIR(status.st_mode):
                if name in ("records", "predictions", "source"):
                    pending.append(Path(entry.path))
                else:
                    faults.append(_fault(shown, "is a folder that no submission has"))
            elif not stat.S_ISREG(status.st_mode):
                faults.append(_fault(shown, "is no regular file"))
            elif (fault := _refusal(name, status.st_size)) is not None:
                faults.append(_fault(shown, fault))
            else:
                sizes[name] = status.st_size
    if len(sizes) > MAX_FILES:
        faults.append(_fault(".", f"holds {len(sizes):,} files; at most {MAX_FILES:,} are allowed"))
    if sum(sizes.values()) > TOTAL_BYTES:
        faults.append(
            _fault(".", f"is of {_mb(sum(sizes.values()))}; at most {_mb(TOTAL_BYTES)} are allowed")
        )
    logits = sum(size for name, size in sizes.items() if name.startswith("predictions/"))
    if logits > PREDICTION_BYTES:
        faults.append(
            _fault("predictions", f"is of {_mb(logits)}; at most {_mb(PREDICTION_BYTES)} are allowed")
        )
    return sizes, faults


def _refusal(name: str, size: int) -> str | None:
    limit = next((limit for kind, limit in KINDS.items() if kind.fullmatch(name)), None)
    if limit is None:
        if name.lower().endswith(PICKLES):
            return "may be a pickle, which executes code when it is loaded; logits are safetensors"
        return (
            "is no file of a submission; it holds submission.toml, manifest.json, records/KEY.json, "
            "predictions/KEY.safetensors and source/FILE.py"
        )
    if size > limit:
        return f"is of {_mb(size)}; at most {_mb(limit)} are allowed"
    return None


def _mb(size: int) -> str:
    return f"{size / MB:,.1f} MB" if size >= MB / 10 else f"{size:,} bytes"


def _fault(file: str, message: str) -> Fault:
    return Fault(file=file, field="", message=f"{message}.")


def read_file(folder: Path, name: str, size: int) -> bytes:
    """The content of a listed file; one that has become a link or has grown since is refused.

    Raises:
        UserError: where it cannot be read as it was listed.
    """
    with reading(folder / name):
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(size + 1)
    if len(content) != size:
        raise UserError(f"{folder / name} changed while it was read.")
    return content


def make_manifest(contents: Mapping[str, bytes]) -> str:
    """The manifest of the files of a submission, path -> content."""
    files = {
        name: {"sha256": digest_bytes(content), "bytes": len(content)}
        for name, content in sorted(contents.items())
    }
    return json.dumps({"schema": MANIFEST_SCHEMA, "files": files}, indent=1) + "\n"


def parse_manifest(content: bytes, origin: str) -> dict[str, FileEntry]:
    """The files a manifest lists.

    Raises:
        UserError: where it is no manifest, or one of a newer schema.
    """
    table: Any
    try:
        table = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin} is damaged: {error}.") from None
    check_schema(table, origin, MANIFEST_SCHEMA)
    try:
        return _Manifest.model_validate(table).files
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise UserError(f"{origin}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}.") from None


def check_manifest(
    folder: Path, sizes: Mapping[str, int]
) -> tuple[dict[str, bytes], list[Fault], list[NewerSchemaError]]:
    """The content of every listed file that may be read, and where it is not as the manifest says."""
    contents: dict[str, bytes] = {}
    faults: list[Fault] = []
    for name, size in sizes.items():
        try:
            contents[name] = read_file(folder, name, size)
        except UserError as error:
            faults.append(Fault(file=name, field="", message=str(error)))
    if MANIFEST not in contents:
        if MANIFEST not in sizes:
            faults.append(_fault(MANIFEST, "is missing: half-written? Write it again with 'lmcbench submit'"))
        return contents, faults, []
    try:
        listed = parse_manifest(contents[MANIFEST], MANIFEST)
    except NewerSchemaError as error:
        return contents, faults, [error]
    except UserError as error:
        return contents, [*faults, Fault(file=MANIFEST, field="", message=str(error))], []
    for name, entry in listed.items():
        place = f"files.{name}"
        if name == MANIFEST or not any(kind.fullmatch(name) for kind in KINDS):
            faults.append(
                Fault(file=MANIFEST, field=place, message="no path of a file that a submission may hold.")
            )
        elif name not in sizes:
            faults.append(Fault(file=MANIFEST, field=place, message="this file is missing."))
        elif name in contents and len(contents[name]) != entry.bytes:
            found = len(contents[name])
            message = f"the manifest says {entry.bytes:,} bytes, the file has {found:,}."
            faults.append(Fault(file=name, field="", message=message))
        elif name in contents and digest_bytes(contents[name]) != entry.sha256:
            faults.append(_fault(name, "was changed after the manifest was written (another sha256)"))
    faults += [
        _fault(name, "is not in the manifest") for name in contents if name not in listed and name != MANIFEST
    ]
    return contents, faults, []
