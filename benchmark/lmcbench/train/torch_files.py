"""Read files of `torch.save` without importing or calling anything that they name.

A pickle builds objects by calling functions that it names. `torch.load(weights_only=True)` refuses files that
name others than an allowlist, which are most checkpoints of training scripts: they have an
`argparse.Namespace`, numpy scalars, paths or whole networks beside the weights. Here every name that is not
one of torch's functions that rebuild tensors becomes a stand-in that only stores what it is given, so that
the file can be read and nothing of it runs. Tensors are read from the file when they are asked for.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmcbench.errors import UserError, printable

LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""First bytes of a file of torch before 1.6: the pickle of a magic number."""

PICKLE_BYTES = 2**29
"""Largest pickle, without its tensors."""

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}


class DamagedError(Exception):
    """The file is not a complete file of `torch.save`."""


class Storage:
    """The values of one or more tensors in a file; read on first use."""

    def __init__(self, source: _Source, key: str, dtype: torch.dtype, numel: int) -> None:
        self.source, self.key, self.dtype, self.numel = source, key, dtype, numel

    def read(self, start: int, size: int) -> bytearray:
        """Return `size` bytes from byte `start` of the storage; the file is read there alone.

        Raises:
            DamagedError: if the storage is missing, or shorter than the file says or than asked for.
        """
        place, length = self.source.place(self.key)
        if length < self.numel * self.dtype.itemsize:
            raise DamagedError(f"storage {printable(self.key, 40)} is shorter than its tensor")
        if start + size > length:
            raise DamagedError("a tensor exceeds its storage")
        return self.source.read(place + start, size)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        storage: its values; None: it was saved from the meta device and has none.
        dtype: its type.
        shape: its size in each dimension.
        stride: steps between elements in each dimension.
        offset: position of the first element.
        is_negated: the values are the stored ones with the other sign.
        is_conjugated: the values are the complex conjugates of the stored ones.
    """

    storage: Storage | None
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    is_negated: bool = False
    is_conjugated: bool = False

    def read(self) -> Tensor:
        """Return the tensor, contiguous, with memory of its own.

        Raises:
            DamagedError: if it exceeds its storage.
        """
        if self.storage is None:
            return torch.empty(self.shape, dtype=self.dtype, device="meta")
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=self.dtype)
        steps = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        width = self.dtype.itemsize
        data = self.storage.read(self.offset * width, (steps + 1) * width)
        tensor = torch.frombuffer(data, dtype=self.dtype).as_strided(self.shape, self.stride)
        if self.is_conjugated:
            tensor = tensor.conj()
        if self.is_negated:
            tensor = -tensor
        return tensor.resolve_conj().clone(memory_format=torch.contiguous_format)


class Inert:
    """Stand-in for an object of a class or the result of a function that the file names.

    Attributes:
        origin: the name in the file, `module.name`.
        args: arguments that it was made with.
        state: its attributes or other state.
        items: its items, if it is a mapping.
    """

    origin = ""

    def __new__(cls, *args: Any, **_: Any) -> Inert:
        """Store the arguments; keywords are ignored."""
        self = object.__new__(cls)
        self.args, self.state, self.items = args, None, {}
        return self

    args: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *args: Any, **_: Any) -> Inert:
        """Return another stand-in, as for the result of a call."""
        return Inert(*args)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """Ignore an item of a list."""

    def extend(self, values: Any) -> None:
        """Ignore items of a list."""

    def add(self, value: Any) -> None:
        """Ignore an item of a set."""


class _Dict(dict[Any, Any]):
    """An ordered or default dictionary, whose attributes are ignored."""

    def __init__(self, *args: Any) -> None:
        # the first argument of a defaultdict is a function, which is ignored
        pairs = args[-1] if args and isinstance(args[-1], dict | list) else ()
        super().__init__(pairs if isinstance(pairs, dict) else [p for p in pairs if len(p) == 2])

    def __setstate__(self, _: Any) -> None:
        pass


class _Rebuild:
    """One of torch's functions that rebuild a tensor or parameter, as far as tensors in files need them."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __setstate__(self, _: Any) -> None:
        pass

    def __call__(self, *args: Any) -> Any:
        try:
            return self._rebuilt(args)
        except (TypeError, ValueError, IndexError):
            return Inert(*args)

    def _rebuilt(self, args: tuple[Any, ...]) -> Any:
        if self.name in ("_rebuild_parameter", "_rebuild_parameter_with_state", "Parameter"):
            return args[0] if isinstance(args[0], StoredTensor) else Inert(*args)
        if self.name == "_rebuild_from_type_v2":  # a subclass of Tensor: function, class, arguments, state
            return args[0](*args[2]) if isinstance(args[0], _Rebuild) else Inert(*args)
        if self.name == "_rebuild_meta_tensor_no_storage":
            dtype, size, stride = args[:3]
            return StoredTensor(None, _as_dtype(dtype), _as_sizes(size), _as_sizes(stride), 0)
        storage, offset, size, stride = args[:4]
        if not isinstance(storage, Storage):
            return Inert(*args)
        has_dtype = self.name == "_rebuild_tensor_v3"
        dtype = _as_dtype(args[6]) if has_dtype else storage.dtype
        shape, steps = _as_sizes(size), _as_sizes(stride)
        if len(shape) != len(steps) or not isinstance(offset, int) or offset < 0:
            raise ValueError(offset)
        last = args[7 if has_dtype else 6 :]
        flags = last[0] if last and isinstance(last[0], Mapping) else {}  # of lazy views: {"neg": True}
        return StoredTensor(
            storage, dtype, shape, steps, offset, bool(flags.get("neg")), bool(flags.get("conj"))
        )


def _as_dtype(value: Any) -> torch.dtype:
    if not isinstance(value, torch.dtype):
        raise TypeError(value)
    return value


def _as_sizes(value: Any) -> tuple[int, ...]:
    sizes = value.args[0] if isinstance(value, Inert) else value  # torch.Size
    if not isinstance(sizes, tuple | list) or not all(isinstance(n, int) and n >= 0 for n in sizes):
        raise ValueError(value)
    return tuple(sizes)


_REBUILD = {
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_tensor_v3"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch.tensor", "_rebuild_from_type_v2"),
    ("torch.nn.parameter", "Parameter"),
}
_DICTS = {
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("builtins", "dict"),
    ("__builtin__", "dict"),
}


class _Unpickler(pickle.Unpickler):
    """Unpickle with stand-ins in place of everything that is not a tensor or a plain value."""

    def __init__(self, file: Any, source: _Source) -> None:
        super().__init__(file, encoding="utf-8", errors="replace")
        self.source = source
        self.classes: dict[str, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands in for a global: never the global itself."""
        known = (module, name)
        if known in _REBUILD:
            return _Rebuild(name)
        if known in _DICTS:
            return _Dict
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _StorageName(_STORAGES[name])
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        origin = f"{module}.{name}"
        if origin not in self.classes:
            self.classes[origin] = type("Inert", (Inert,), {"origin": origin})
        return self.classes[origin]

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage that the pickle refers to."""
        if not isinstance(pid, tuple) or not pid:
            return Inert()
        if pid[0] in ("module", b"module"):
            return pid[1]
        if len(pid) < 5 or not isinstance(pid[1], _StorageName):
            return Inert(*pid)
        dtype, key, numel = pid[1].dtype, str(pid[2]), pid[4]
        if not isinstance(numel, int) or numel < 0:
            raise DamagedError("a storage without a size")
        view = pid[5] if len(pid) > 5 else None
        if view is not None:
            raise DamagedError("views of storages, as torch wrote them before 0.4")
        storage = Storage(self.source, key, dtype, numel)
        self.source.dtypes[key] = dtype
        return storage


class _StorageName:
    """The type of a storage in a pickle."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __setstate__(self, _: Any) -> None:
        pass


class _Source:
    """The part of a file that has the storages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dtypes: dict[str, torch.dtype] = {}
        self.places: dict[str, tuple[int, int]] = {}
        """Key -> first byte and number of bytes."""

    def place(self, key: str) -> tuple[int, int]:
        """Return the first byte of a storage, and its number of bytes.

        Raises:
            DamagedError: if the file lacks it or ends before its end.
        """
        if key not in self.places:
            raise DamagedError(f"storage {printable(key, 40)} is missing")
        start, size = self.places[key]
        if start + size > self.path.stat().st_size:
            raise DamagedError("the file ends within a tensor")
        return start, size

    def read(self, start: int, size: int) -> bytearray:
        """Return `size` bytes of the file from byte `start`.

        Raises:
            DamagedError: if the file ends before.
        """
        data = bytearray(size)
        with self.path.open("rb") as file:
            file.seek(start)
            if file.readinto(data) != size:
                raise DamagedError("the file ends within a tensor")
        return data


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
            source = _Source(path)
            for short, name in names.items():
                if short.startswith("data/"):
                    if infos[name].compress_type != zipfile.ZIP_STORED:
                        raise UserError(f"{path} was compressed. Save it again with torch.save.")
                    source.places[short.removeprefix("data/")] = _place(path, infos[name])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise DamagedError(str(error)) from None
    return _unpickled(io.BytesIO(pickled), source)


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
    source = _Source(path)
    with path.open("rb") as file:
        _unpickled(file, source)  # the magic number
        _unpickled(file, source)  # the version
        system = _unpickled(file, source)
        if isinstance(system, Mapping) and system.get("little_endian", True) != (sys.byteorder == "little"):
            raise DamagedError("it was written on a machine of the other byte order")
        content = _unpickled(file, source)
        keys = _unpickled(file, source)
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
        return _unpickled(file, _Source(path))


def _unpickled(file: Any, source: _Source) -> Any:
    try:
        return _Unpickler(file, source).load()
    except (DamagedError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle raises errors of many kinds
        raise DamagedError(f"{type(error).__name__}: {error}") from None


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
