"""What a run would find on this machine: device, versions, data."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tabulate import tabulate

from lmcbench.data.listing import list_datasets, list_shifted
from lmcbench.machine import usable_cores
from lmcbench.results.provenance import source_revision, versions


def examine(data_dir: Path | None = None) -> dict[str, Any]:
    """Device, driver, cores, versions, source revision and data; torch is asked where it is installed."""
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
    return {
        "device": device,
        "versions": versions(),
        "source": source_revision(),
        "data": {
            d.name: {"found": d.found, "hint": d.hint}
            for d in (*list_datasets(data_dir), *list_shifted(data_dir))
        },
    }


def report_text(found: dict[str, Any]) -> str:
    """The same for a person, with what to do about what is missing."""
    device = found["device"]
    cuda = device["cuda"]
    rows = [["cores", device["cpu_cores"]]]
    if cuda is None:
        rows.append(["CUDA", "none found: runs go to the CPU"])
    else:
        rows.append(
            ["CUDA", f"{cuda['name']}, {cuda['memory_bytes'] / 2**30:.0f} GiB, runtime {cuda['runtime']}"]
        )
    for package, version in found["versions"].items():
        missing = f"not installed: pip install {package}"
        rows.append([package, version if version is not None else missing])
    source = found["source"]
    if source is not None:
        rows.append(["source", f"{source['commit']}{' with changes' if source['dirty'] else ''}"])
    for name, place in found["data"].items():
        rows.append([name, place["found"] if place["found"] is not None else f"missing. {place['hint']}"])
    return tabulate(rows, tablefmt="plain")
