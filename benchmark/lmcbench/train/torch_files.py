"""Read the kinds of files that `torch.save` has written, and objects in them as state dicts."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from lmcbench.errors import UserError
from lmcbench.train.safe_pickle import DamagedError, FileStorages, Inert, StoredTensor, unpickle

PICKLE_BYTES = 2**29
"""Largest pickle, without its tensors."""


def read_zip(path: Path) -> Any:
    """Return the content of a file of `torch.save`, with `StoredTensor` for tensors.

    Raises:
        UserError: for TorchScript and archives of another kind.
        DamagedError: for a damaged file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename: info for info in archive.infolist()}
            names = {name.partition("/")[2]: name for name in infos}
            if "constants.pkl" in names:
                raise UserError(
                    f"{path} is TorchScript (torch.jit.save), a program with its weights. Save the weights "
                    "alone: torch.save(torch.jit.load(FILE).state_dict(), OUT)."
                )
            if "data.pkl" not in names:
                raise UserError(_other_archive(path, list(infos)))
            if names.get("byteorder") and archive.read(names["byteorder"]).decode() != sys.byteorder:
                raise UserError(f"{path} was written on a machine of the other byte order. Save it again.")
            if infos[names["data.pkl"]].file_size > PICKLE_BYTES:
                raise DamagedError("its pickle is too large")
            pickled = archive.read(names["data.pkl"])
            source = FileStorages(path)
            for short, name in names.items():
                if short.startswith("data/"):
                    if infos[name].compress_type != zipfile.ZIP_STORED:
                        raise UserError(f"{path} was compressed. Save it again with torch.save.")
                    source.places[short.removeprefix("data/")] = _place(path, infos[name])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise DamagedError(str(error)) from None
    return unpickle(io.BytesIO(pickled), source)


def _place(path: Path, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Return first byte and size of a record: its local header has lengths of its own."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise DamagedError("a record without a header")
    name, extra = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + name + extra, info.file_size


def _other_archive(path: Path, names: list[str]) -> str:
    if any(name.endswith(".npy") for name in names):
        return f"{path} is an archive of NumPy arrays (.npz). Save a state dict: torch.save(STATE, OUT)."
    if any("archive_format" in name or name.endswith("serialized_exported_program.json") for name in names):
        return f"{path} is a program of torch.export. Save its weights: torch.save(program.state_dict, OUT)."
    return f"{path} is a zip archive, not a file of torch.save. Unpack it and give the file inside."


def read_legacy(path: Path) -> Any:
    """Return the content of a file of torch before 1.6 (or of `_use_new_zipfile_serialization=False`).

    Raises:
        DamagedError: for a damaged file.
    """
    source = FileStorages(path)
    with path.open("rb") as file:
        unpickle(file, source)  # the magic number
        unpickle(file, source)  # the version
        system = unpickle(file, source)
        if isinstance(system, Mapping) and system.get("little_endian", True) != (sys.byteorder == "little"):
            raise DamagedError("it was written on a machine of the other byte order")
        content = unpickle(file, source)
        keys = unpickle(file, source)
        if not isinstance(keys, list):
            raise DamagedError("the list of its storages is missing")
        end = path.stat().st_size
        for key in map(str, keys):
            count = file.read(8)
            size = int.from_bytes(count, "little") * source.dtypes.get(key, torch.uint8).itemsize
            start = file.tell()
            if len(count) < 8 or start + size > end:
                raise DamagedError("the file ends within a tensor")
            source.places[key] = start, size
            file.seek(start + size)
    return content


def read_pickle(path: Path) -> Any:
    """Return the content of a bare pickle, with stand-ins for all objects; arrays in it are not read."""
    with path.open("rb") as file:
        return unpickle(file, FileStorages(path))


def as_mapping(content: Any) -> Mapping[Any, Any] | None:
    """Return `content` with objects replaced by mappings of what they hold; None for other values.

    Networks saved whole become state dicts. An object that occurs several times is replaced once.
    """
    return _as_mapping(content, {})


def _as_mapping(value: Any, done: dict[int, Mapping[Any, Any]], depth: int = 0) -> Mapping[Any, Any] | None:
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, Inert):
        state = value.state
        if isinstance(state, tuple) and len(state) == 2:  # attributes, and slots
            state = state[0] or state[1]
        if isinstance(state, Mapping) and isinstance(state.get("_parameters"), Mapping):
            done[id(value)] = found = dict(_tensors_of(state, ""))
            return found
        entries = {**value.items, **(state if isinstance(state, Mapping) else {})}
        if not entries:
            return None
    elif isinstance(value, Mapping):
        entries = dict(value)
    else:
        return None
    done[id(value)] = result = {}
    if depth < 8:
        for key, inner in entries.items():
            mapped = _as_mapping(inner, done, depth + 1)
            result[key] = inner if mapped is None else mapped
    return result


def _tensors_of(module: Mapping[Any, Any], prefix: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield names and tensors of a pickled `nn.Module`, as its state dict would have them."""
    unsaved = module.get("_non_persistent_buffers_set")
    names = unsaved.args[0] if isinstance(unsaved, Inert) and unsaved.args else unsaved or ()
    for part in ("_parameters", "_buffers"):
        tensors = module.get(part)
        for name, value in tensors.items() if isinstance(tensors, Mapping) else ():
            if isinstance(value, StoredTensor) and name not in names:
                yield f"{prefix}{name}", value
    children = module.get("_modules")
    for name, child in children.items() if isinstance(children, Mapping) and depth < 60 else ():
        state = child.state if isinstance(child, Inert) else None
        if isinstance(state, Mapping):
            yield from _tensors_of(state, f"{prefix}{name}.", depth + 1)
