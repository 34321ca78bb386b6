"""Describe what a run would use on this machine: device, versions, data."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lmcbench.data.listing import list_datasets, list_shifted
from lmcbench.machine import usable_cores
from lmcbench.output import make_table
from lmcbench.results.provenance import source_revision, versions


def examine(data_dir: Path | None = None) -> dict[str, Any]:
    """Return device, versions, source revision and data; works without torch."""
    device: dict[str, Any] = {"cpu_cores": usable_cores(), "cuda": None}
    if find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            properties = torch.cuda.get_device_properties(0)
            device["cuda"] = {
                "name": properties.name,
                "memory_bytes": properties.total_memory,
                "runtime": torch.version.cuda,
            }
    listed = [*list_datasets(data_dir), *list_shifted(data_dir)]
    return {
        "device": device,
        "versions": versions(),
        "source": source_revision(),
        "data": {d.name: {"found": d.found, "hint": d.hint} for d in listed},
    }


def report_text(found: dict[str, Any]) -> str:
    """Return the same as a table, with advice on what is missing."""
    device, source = found["device"], found["source"]
    cuda = "none found: runs use the CPU"
    if (gpu := device["cuda"]) is not None:
        cuda = f"{gpu['name']}, {gpu['memory_bytes'] / 2**30:.0f} GiB, runtime {gpu['runtime']}"
    rows = {"cores": device["cpu_cores"], "CUDA": cuda}
    for package, version in found["versions"].items():
        rows[package] = version if version is not None else f"not installed: pip install {package}"
    if source is not None:
        rows["source"] = f"{source['commit']}{' with changes' if source['dirty'] else ''}"
    for name, data in found["data"].items():
        rows[name] = data["found"] if data["found"] is not None else f"missing. {data['hint']}"
    return make_table(list(rows.items()), style="plain")
