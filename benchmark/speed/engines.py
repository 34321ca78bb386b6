"""Time both engines on the same fleets; the engine table is derived from the results.

python benchmark/speed/engines.py                  on CUDA if available; takes minutes
python benchmark/speed/engines.py --device cuda    one GPU
python benchmark/speed/engines.py --timm --counts 2 8 48 --most-images 2048    timm at 8 x 8
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from timing import interleaved, machine, median
from workloads import ENGINE_WORKS, Work, fleet, timm_works

from lmcbench.machine import compute_exactly
from lmcbench.train.choice import choose_engine
from lmcbench.train.cost import step_flop
from lmcbench.train.engines import EngineName, advance
from lmcbench.train.stackability import reason_not_stackable

LENGTH = 10**6
"""Steps of a whole training; far fewer are timed."""


def main() -> None:
    """Parse the options, measure, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--counts", type=int, nargs="+", default=[2, 8, 32], help="members of a fleet")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128], help="images of a batch")
    parser.add_argument("--pixels", type=int, nargs="+", help="only images of these sizes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, help="training steps per timing (12; 1 on a CPU)")
    parser.add_argument("--most-images", type=int, help="skip fleets that have more images in a step")
    parser.add_argument("--timm", action="store_true", help="timm's networks of digits and its entries")
    parser.add_argument("--network", nargs="+", help="registry names, of those listed")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)  # as runs do
    compute_exactly(device)
    steps = options.steps or (12 if device.type == "cuda" else 1)
    works = timm_works() if options.timm else ENGINE_WORKS
    chosen = [w for w in works if options.network is None or w.name in options.network]
    chosen = [w for w in chosen if options.pixels is None or w.pixels in options.pixels]
    found: dict[str, Any] = {
        "machine": machine(device),
        "repeats": options.repeats,
        "steps": steps,
        "rows": [],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    name = device.type if device.type == "cpu" else found["machine"]["device"].lower().replace(" ", "-")
    path = options.out / f"engines-{name}{'-timm' if options.timm else ''}.json"
    for size, work in product(options.batches, chosen):
        sized = replace(work, batch_size=size)
        most = math.inf if options.most_images is None else options.most_images
        counts = [count for count in options.counts if count * size <= most]
        found["rows"].append(compare_engines(sized, device, counts, options.repeats, steps))
        print(line(found["rows"][-1]), flush=True)
        path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(f"Wrote {path}.")


def compare_engines(
    work: Work, device: torch.device, counts: list[int], repeats: int, steps: int
) -> dict[str, Any]:
    """Return seconds per step and member by fleet size and engine, or why it cannot be stacked."""
    recipe = work.recipe("fp32")
    network = work.network(0).to(device)
    one_by_one = choose_engine(work.architecture, network, work.shape, device.type, "channels-last")
    row: dict[str, Any] = {
        "name": work.name,
        "adapt": work.adapt,
        "one_by_one": one_by_one,
        "kwargs": work.kwargs,
        "shape": list(work.shape),
        "batch_size": work.batch_size,
        "mflop": step_flop(network, work.shape, 2) / 2e6,
        "why_not_stacked": reason_not_stackable(network, work.shape),
        "fleets": {},
    }
    if row["why_not_stacked"] is not None:
        return row
    for count in counts:
        model, states, feed = fleet(work, count, recipe, device)

        def train(engine: EngineName, given: Any = (count, model, states, feed)) -> None:
            n, model, states, feed = given
            advance(engine, model, states, feed, recipe, [LENGTH] * n, [0] * n, 0, steps)

        engines: dict[str, EngineName] = {"one by one": one_by_one, "stacked": "stacked"}
        jobs = {name: lambda e=e: train(e) for name, e in engines.items()}
        seconds = interleaved(jobs, device, repeats, processor=device.type == "cpu")
        row["fleets"][str(count)] = {name: median(times) / steps / count for name, times in seconds.items()}
    return row


def line(row: dict[str, Any]) -> str:
    """Return a row as text."""
    what = f"{row['name']} {row['shape']}, batch {row['batch_size']}, {row['mflop']:.2f} MFLOP an image"
    if row["why_not_stacked"] is not None:
        return f"{what}: not stacked: {row['why_not_stacked']}"
    ratios = ", ".join(f"{t['one by one'] / t['stacked']:.2f} ({n})" for n, t in row["fleets"].items())
    return f"{what}: stacked is {ratios} times as fast as {row['one_by_one']} (members)"


if __name__ == "__main__":
    main()
