"""A simulated CUDA device: CPU tensors whose memory is labelled, with CUDA's device errors.

The CPU computes everything, so results must equal the CPU's bit for bit. Mixed devices in one operation,
NumPy views of device tensors and CPU tensors indexed by device tensors raise, as on CUDA. Copies between
devices and operations that wait for the device are counted. Kernels, speed and memory are not simulated.
"""

from __future__ import annotations

import collections
import contextlib
import os
import types

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

aten = torch.ops.aten
THERE = torch.device("cuda", 0)
WAITS = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
}
"""Operators whose result has a size that the host must read, or is read by the host."""
MAY_MIX = {aten.copy_.default}
"""Operators that accept tensors of two devices."""
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""Operators that index a device tensor by CPU tensors."""
NO_SCALARS = {aten.cat.default, aten.stack.default, aten.mm.default, aten.index_select.default}
"""Operators that refuse even a zero-dimensional CPU tensor."""


class MixedDevicesError(RuntimeError):
    """CUDA would raise."""


def memory(t: Tensor) -> torch.UntypedStorage | None:
    """Return the storage of a tensor inside the wrappers of vmap and grad."""
    while functorch.is_functorch_wrapped_tensor(t):
        t = functorch.get_unwrapped(t)
    return None if t.device.type == "meta" or t.layout != torch.strided else t.untyped_storage()


class Labels:
    """The storages on the simulated device; `crossings` counts copies and waits by kind.

    `allocated` is what the allocator reports, in bytes, and `peak` its maximum beyond that.
    """

    def __init__(self) -> None:
        self.allocated = self.peak = self.queries = 0
        # a weak reference keeps the address from being used again
        self.known: dict[int, StorageWeakRef] = {}
        self.crossings: collections.Counter[str] = collections.Counter()

    def __contains__(self, t: Tensor) -> bool:
        kept = memory(t)
        return kept is not None and kept._cdata in self.known

    def set(self, t: Tensor, there: bool) -> None:
        kept = memory(t)
        if kept is not None and there:
            self.known.setdefault(kept._cdata, StorageWeakRef(kept))
        elif kept is not None:
            self.known.pop(kept._cdata, None)


def tensors_in(*trees):
    return [t for t in tree_flatten(trees)[0] if isinstance(t, Tensor)]


class Operations(TorchDispatchMode):
    """Check that the tensors of every operation are on one device, and label its outputs."""

    def __init__(self, labels, calls):
        super().__init__()
        self.labels, self.calls = labels, calls

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            given = tensors_in(args, kwargs)
            there = [t in self.labels for t in given]
            if any(there) and not all(there) and not self.may_mix(func, args, given, there):
                shapes = ", ".join(f"{list(t.shape)} {'cuda' if t in self.labels else 'cpu'}" for t in given)
                raise MixedDevicesError(f"Expected all tensors to be on the same device: {func} of {shapes}")
            masked = func in INDEXED and any(t.dtype == torch.bool for t in tensors_in(args[1]))
            if any(there) and (func in WAITS or masked):
                self.labels.crossings["wait"] += 1
            out = func(*args, **kwargs)
            if func not in MAY_MIX and (any(there) if given else self.calls.making_there):
                for t in tensors_in(out):
                    self.labels.set(t, True)
            return out

    def may_mix(self, func, args, given, there):
        if func in MAY_MIX:
            return True
        if func in INDEXED:
            return args[0] in self.labels and all(
                v.ndim == 0 or v in self.labels for v in tensors_in(args[2:3])
            )
        return func not in NO_SCALARS and all(on or t.ndim == 0 for t, on in zip(given, there, strict=True))


class Calls(TorchFunctionMode):
    """Intercept Python calls that ask for a device or name one."""

    def __init__(self, labels):
        super().__init__()
        self.labels, self.making_there = labels, False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:
            return THERE if args[0] in self.labels else func(*args)
        if func == Tensor.is_cuda.__get__:
            return args[0] in self.labels
        if func in (Tensor.numpy, Tensor.__array__) and args[0] in self.labels:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if func == Tensor.tolist and args[0] in self.labels:
            self.labels.crossings["wait"] += 1
        if func in (Tensor.cpu, Tensor.cuda):
            return self.moved(args[0], func == Tensor.cuda)
        if func == Tensor.to:
            return self.to(*args, **kwargs)
        if func == Tensor.__deepcopy__:
            out = func(*args)
            self.labels.set(out, args[0] in self.labels)
            return out
        given = tensors_in(args, kwargs)
        device = kwargs.get("device")
        there = any(t in self.labels for t in given) if device is None else torch.device(device) == THERE
        if device is not None and torch.device(device).type == "cuda":
            del kwargs["device"]
            there = True
            if func in (torch.as_tensor, torch.tensor):
                return self.moved(func(*args, **kwargs), True)
        return self.made(there, func, *args, **kwargs)

    def made(self, there, func, *args, **kwargs):
        """Call `func`; tensors that it creates are labelled as on the device if `there`."""
        before, self.making_there = self.making_there, there
        try:
            return func(*args, **kwargs)
        finally:
            self.making_there = before

    def moved(self, t, there):
        if (t in self.labels) == there or t.device.type == "meta":
            return t
        self.labels.crossings["to" if there else "from"] += 1
        out = self.made(there, t.clone)
        self.labels.set(out, there)
        return out

    def to(self, t, *args, device=None, other=None, **kwargs):
        for given in args:
            if isinstance(given, torch.device | str):
                device = given
            elif isinstance(given, Tensor):
                other = given
        rest = [a for a in args if isinstance(a, torch.dtype | bool)]
        there = t in self.labels
        if other is not None:
            rest, there = [other.dtype, *rest], other in self.labels
        if device is not None:
            if torch.device(device).type == "meta":
                return t.to(*args, **kwargs)
            there = torch.device(device).type == "cuda"
        dtype = kwargs.pop("dtype", None) or t.dtype
        rest = rest if rest and isinstance(rest[0], torch.dtype) else [dtype, *rest]
        return self.moved(self.made(t in self.labels, Tensor.to, t, *rest, **kwargs), there)


class Autocast(torch.autocast):
    def __init__(self, device_type, *args, **kwargs):
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


@contextlib.contextmanager
def flags_restored():
    """Restore the settings of precision and determinism that `compute_exactly` changes."""
    backends, fill = torch.backends, torch.utils.deterministic.fill_uninitialized_memory
    cudnn, matmul = backends.cudnn, backends.cuda.matmul
    parts = (backends, cudnn, cudnn.conv, cudnn.rnn, matmul)
    precisions = [part.fp32_precision for part in parts]
    older = torch.get_float32_matmul_precision(), cudnn.allow_tf32, matmul.allow_tf32
    flags = cudnn.deterministic, cudnn.benchmark
    strict = torch.get_deterministic_debug_mode()
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    try:
        yield
    finally:
        for part, precision in zip(parts, precisions, strict=True):
            part.fp32_precision = precision
        torch.set_float32_matmul_precision(older[0])
        cudnn.allow_tf32, matmul.allow_tf32 = older[1:]
        cudnn.deterministic, cudnn.benchmark = flags
        torch.set_deterministic_debug_mode(strict)
        torch.utils.deterministic.fill_uninitialized_memory = fill
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        if workspace is not None:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace


@contextlib.contextmanager
def pretended_cuda(total_memory=80 * 2**30):
    """Make torch find one CUDA device, and yield its `Labels`.

    Each query of the memory peak adds one MiB more to it than the query before.
    """
    labels = Labels()
    calls = Calls(labels)
    state = {"seed": 0}

    def peak(device=None):
        labels.queries += 1
        labels.peak += labels.queries * 2**20
        return labels.allocated + labels.peak

    def reset(device=None):
        labels.peak = 0

    pretended = {
        "is_available": lambda: True,
        "get_device_name": lambda device=None: "Pretended",
        "get_device_properties": lambda device=None: types.SimpleNamespace(
            name="Pretended", total_memory=total_memory
        ),
        "memory_allocated": lambda device=None: labels.allocated,
        "max_memory_allocated": peak,
        "reset_peak_memory_stats": reset,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "manual_seed": lambda seed: state.update(seed=seed),
        "get_rng_state": lambda device=None: torch.tensor([state["seed"]]),
        "set_rng_state": lambda new, device=None: state.update(seed=int(new)),
    }
    autocast = torch.autocast
    real = {name: getattr(torch.cuda, name) for name in pretended}
    for name, function in pretended.items():
        setattr(torch.cuda, name, function)
    torch.autocast = Autocast
    try:
        with flags_restored(), Operations(labels, calls), calls:
            yield labels
    finally:
        torch.autocast = autocast
        for name, function in real.items():
            setattr(torch.cuda, name, function)
