"""Recognise a checkpoint file by its content, and read it without executing anything."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lmcbench.errors import UserError, reading
from lmcbench.spec.checkpoint_kinds import HEAD_BYTES, checkpoint_kind
from lmcbench.train.safe_pickle import DamagedError, Inert
from lmcbench.train.torch_files import as_mapping, read_legacy, read_pickle, read_zip
from lmcbench.train.train_state import load_tensors
from lmcbench.untrusted import HEADER_BYTES, check_regular, parse_json, read_bytes

FOLDER_NAMES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
"""Files of weights in a folder that a trainer wrote, in order of preference."""

QUANTISED = (
    "qweight",
    "qzeros",
    "SCB",
    "quant_map",
    "absmax",
    "weight_scale",
    "_packed_params",
)
"""Last parts of names that quantisation adds."""

ADAPTER = ("lora_A", "lora_B", "lora_down", "lora_up", "lora_a", "lora_b", "hada_w1_a", "lokr_w1")
"""Parts of names of adapters."""


def read_content(path: Path) -> Mapping[Any, Any]:
    """Return the content of a checkpoint: mappings, nested as in the file, with tensors or `StoredTensor`.

    Args:
        path: a safetensors file, the index of one in several parts, a file of `torch.save` of any version, or
            a folder that a trainer wrote.

    Raises:
        UserError: if it is not a checkpoint, is damaged, is a program, or has quantised weights or an adapter
            alone. The message names what the file is and what to do.
    """
    path = _file_of(path)
    with reading(path), path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    try:
        content = _parsed(path, head)
    except DamagedError as error:
        raise UserError(
            f"{path} is damaged or incomplete ({error}). Copy or download it again, and compare the sizes."
        ) from None
    _check_weights(path, content)
    return content


def _file_of(path: Path) -> Path:
    """Return the file of weights that a path means."""
    if path.is_dir():
        found = next((path / name for name in FOLDER_NAMES if (path / name).is_file()), None)
        if found is not None:
            return found
        if any(path.glob("*.distcp")):
            raise UserError(
                f"{path} is a checkpoint of torch.distributed. Convert it: python -m "
                "torch.distributed.checkpoint.format_utils dcp_to_torch DIR FILE."
            )
        raise UserError(
            f"{path} is a folder without {', '.join(FOLDER_NAMES[:4])}. Give the file with the weights."
        )
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    check_regular(path, limit=sys.maxsize)
    return path


def _parsed(path: Path, head: bytes) -> Mapping[Any, Any]:
    """Return the content of a file that begins with `head`."""
    kind = checkpoint_kind(path, head)
    if kind == "safetensors":
        return _read_safetensors(path, int.from_bytes(head[:8], "little"))
    if kind == "parts":
        return _read_parts(path)
    content = {"zip": read_zip, "legacy": read_legacy, "pickle": read_pickle}[kind](path)
    found = as_mapping(content)
    if found is None:
        origin = f"a {content.origin}" if isinstance(content, Inert) else f"a {type(content).__name__}"
        raise UserError(
            f"{path} holds {origin}, not a state dict. Save one: torch.save(model.state_dict(), FILE)."
        )
    return found


def _read_safetensors(path: Path, length: int) -> Mapping[str, Any]:
    """Return the tensors of a safetensors file, whose header has `length` bytes."""
    with path.open("rb") as file:
        header = file.read(8 + length)[8:]
    if len(header) < length:
        raise DamagedError("its header is cut short")
    named = parse_json(header, f"{path}: its header", limit=HEADER_BYTES)
    offsets = [value.get("data_offsets") for value in named.values() if isinstance(value, dict)]
    ends = [o[1] for o in offsets if isinstance(o, list) and len(o) == 2 and isinstance(o[1], int)]
    expected, found = 8 + length + max(ends, default=0), path.stat().st_size
    if found < expected:
        raise DamagedError(f"it has {found:,} bytes, its header says {expected:,}")
    try:
        return load_tensors(path)
    except (SafetensorError, OSError) as error:
        raise DamagedError(str(error)) from None


def _read_parts(path: Path) -> Mapping[str, Any]:
    """Return the tensors of a checkpoint in several parts, given its index."""
    index = parse_json(read_bytes(path, limit=HEADER_BYTES), str(path), limit=HEADER_BYTES)
    parts = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(parts, dict) or not all(isinstance(name, str) for name in parts.values()):
        raise UserError(f"{path} is a JSON file without a weight_map. Give the file with the weights.")
    content: dict[str, Any] = {}
    for name in dict.fromkeys(parts.values()):
        if Path(name).name != name:
            raise UserError(
                f"{path} names a file in another folder: {name!r}. Put all parts beside the index."
            )
        if not (path.parent / name).is_file():
            raise UserError(f"{path} names {name}, which is missing. Put all parts beside the index.")
        content |= read_content(path.parent / name)
    return content


def _check_weights(path: Path, content: Mapping[Any, Any]) -> None:
    """Raise `UserError` for quantised weights, and for an adapter without the network's weights."""
    names, quantised = _names_in(content, 0)
    parts = [name.split(".") for name in names]
    if quantised or any(part[-1] in QUANTISED for part in parts):
        raise UserError(
            f"{path} has quantised weights, which cannot be averaged. Give the checkpoint before "
            "quantisation, or save model.dequantize()."
        )
    adapters = [name for name, part in zip(names, parts, strict=True) if set(part) & set(ADAPTER)]
    if adapters:
        alone = len(adapters) == len(names)
        raise UserError(
            f"{path} {'is a LoRA adapter alone' if alone else 'has a LoRA adapter beside the weights'} "
            f"({adapters[0]!r}, {len(adapters)} tensors). Merge it into its network and save that: "
            "model.merge_and_unload() of peft."
        )


def _names_in(content: Mapping[Any, Any], depth: int) -> tuple[list[str], bool]:
    """Return the names of all tensors in a content, and whether any of them is quantised."""
    names: list[str] = []
    quantised = False
    for name, value in content.items():
        if isinstance(value, Mapping):
            if depth < 6:
                inner, also = _names_in(value, depth + 1)
                names, quantised = names + inner, quantised or also
        elif hasattr(value, "dtype") and isinstance(name, str):
            names.append(name)
        quantised |= isinstance(value, Inert) and "_rebuild_qtensor" in value.origin
    return names, quantised


def shard_advice(path: Path) -> str:
    """Return a sentence if the file is one of several parts; empty otherwise."""
    if "-of-" not in path.name:
        return ""
    index = next(iter(sorted(path.parent.glob("*.index.json"))), None)
    return f" It is one of several parts: give {index or 'the index (*.index.json)'}."
