"""Time and memory of `align` on two networks of random weights, on one core.

python benchmark/speed/align.py [NETWORK ...]     (default: resnet50 vit_base_patch16_224)

Each network is measured in a process of its own. Results are written to `results/align.json`: processor
seconds, and the largest resident memory during `align` beyond that before it, over the size of one network's
weights. The model and both states are in memory before and are not counted; the result is, and so is what
libraries allocate when they are first used.
"""

from __future__ import annotations

import json
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import timm
import torch

from lmcbench.connect.alignment import align
from lmcbench.results.provenance import versions

RESULTS = Path(__file__).with_name("results") / "align.json"


def main() -> None:
    """Measure the networks that are named and write all results."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"networks": {}}
    for name in sys.argv[1:] or ["resnet50", "vit_base_patch16_224"]:
        with get_context("spawn").Pool(1) as pool:
            found["networks"][name] = pool.apply(measure, (name,))
        print(name, found["networks"][name], flush=True)
        found["versions"] = versions()
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def measure(name: str) -> dict[str, float]:
    """Return processor seconds, and peak memory over the size of the weights."""
    torch.set_num_threads(1)
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = timm.create_model(name).eval()
        states.append({key: value.clone() for key, value in model.state_dict().items()})
    weights = sum(value.numel() * value.element_size() for value in states[0].values())
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before, start = resident("VmRSS"), time.process_time()
    align(model, *states, images=images)
    return {
        "processor_s": round(time.process_time() - start, 1),
        "million_weights": round(weights / 4e6, 1),
        "peak_over_weights": round((resident("VmHWM") - before) / weights, 2),
    }


def resident(field: str) -> int:
    """Return the process's resident memory, or its peak, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith(field)]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
