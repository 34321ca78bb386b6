"""Unpickle files of `torch.save` without importing or calling anything that they name.

A pickle builds objects by calling functions that it names. `torch.load(weights_only=True)` refuses files that
name others than an allowlist, which are most checkpoints of training scripts: they have an
`argparse.Namespace`, numpy scalars, paths or whole networks beside the weights. Here every name that is not
one of torch's functions that rebuild tensors becomes a stand-in that only stores what it is given, so that
the file can be read and nothing of it runs. Tensors are read from the file when they are asked for.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmcbench.errors import printable

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

    def __init__(self, source: FileStorages, key: str, dtype: torch.dtype, numel: int) -> None:
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

    def __init__(self, file: Any, source: FileStorages) -> None:
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


class FileStorages:
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


def unpickle(file: Any, source: FileStorages) -> Any:
    """Return the object that the next pickle of `file` holds, with stand-ins and `StoredTensor`.

    Raises:
        DamagedError: for a damaged pickle.
    """
    try:
        return _Unpickler(file, source).load()
    except (DamagedError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle raises errors of many kinds
        raise DamagedError(f"{type(error).__name__}: {error}") from None
