"""Compare training on one thread of a CPU with plain PyTorch loops; write JSON, a table and a figure.

python benchmark/speed/run.py                       a few minutes
python benchmark/speed/run.py --compile ResNet-8    torch.compile too; its first calls take a minute or more
python benchmark/speed/run.py --quick               only tests that it runs; takes seconds

Times are processor time and all loops take turns: other processes have little influence on the ratios.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from timing import interleaved, machine, median
from workloads import LOOP_WORKS, Work, dataloader_loop, fleet, memory_loop

from lmcbench.machine import compute_exactly
from lmcbench.train.choice import choose_engine
from lmcbench.train.cost import step_flop
from lmcbench.train.engines import advance
from report import write_report

CPU = torch.device("cpu")
HERE = Path(__file__).parent

LENGTH = 10**6
"""Steps of a whole training; far fewer are timed."""
FLEET = 32
"""Members of a fleet in the stacked engine: a family of `digits` has 35 different trainings."""
TIMED_FLOP = 1e10
"""Operations that one timing has at least, unless that is more than `MOST_STEPS`."""
MOST_STEPS = 48


def main() -> None:
    """Parse the options, measure, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one repeat of little work")
    parser.add_argument("--compile", nargs="+", default=[], help="networks for torch.compile too, by title")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--network", nargs="+", help="titles; results of the others are kept")
    parser.add_argument("--out", type=Path, help="folder (benchmark/speed/results)")
    options = parser.parse_args()
    repeats = 1 if options.quick else options.repeats
    torch.set_num_threads(1)  # as runs do
    compute_exactly(CPU)
    torch.manual_seed(0)
    out = options.out or (HERE / ("quick" if options.quick else "results"))
    out.mkdir(parents=True, exist_ok=True)
    path = out / "cpu.json"
    head = {"machine": machine(CPU), "repeats": repeats, "quick": options.quick}
    head["ceilings"] = ceilings(repeats)
    for work in LOOP_WORKS:
        if options.network is None or work.title in options.network:
            print(f"{work.title} ...", flush=True)
            row = compare_loops(work, repeats, options.quick, work.title in options.compile)
            before = json.loads(path.read_text(encoding="utf-8"))["networks"] if path.exists() else []
            rows = {r["title"]: r for r in before} | {work.title: row}
            found = head | {"networks": [rows[w.title] for w in LOOP_WORKS if w.title in rows]}
            path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(write_report(found, out / "cpu"))


def compare_loops(work: Work, repeats: int, quick: bool, compiled: bool) -> dict[str, Any]:
    """Return images per second, one value per repeat, of plain loops and of the package."""
    if quick:
        work = replace(work, batch_size=4)
    model = work.network(0)
    flop = step_flop(model, work.shape, work.batch_size)
    steps = 1 if quick else max(1, min(MOST_STEPS, round(TIMED_FLOP / flop)))
    loops = {"DataLoader": dataloader_loop(work), "in memory": memory_loop(work, "fp32")}
    convolves = any(weight.ndim == 4 for weight in model.parameters())
    if convolves:
        loops |= {
            "channels last": memory_loop(work, "fp32", channels_last=True),
            "channels last, bf16": memory_loop(work, "bf16", channels_last=True),
        }
    first: dict[str, float] = {}
    if compiled:
        loops["compiled"] = memory_loop(work, "fp32", compiled=True)
        if convolves:
            loops["compiled, channels last, bf16"] = memory_loop(
                work, "bf16", channels_last=True, compiled=True
            )
        for name, loop in loops.items():
            if name.startswith("compiled"):
                began = time.perf_counter()
                next(loop)
                first[name] = time.perf_counter() - began
    jobs: dict[str, Callable[[], object]] = {
        name: partial(_take, loop, steps) for name, loop in loops.items()
    }
    images = dict.fromkeys(jobs, steps * work.batch_size)
    engines: dict[str, str] = {}
    for precision, name in {"fp32": "lmcbench", "bf16": "lmcbench, bf16"}.items():
        if precision == "fp32" or convolves:
            engine = choose_engine(
                work.architecture, model, work.shape, "cpu", None, precision, work.batch_size
            )
            count = (4 if quick else FLEET) if engine == "stacked" else 1
            share = max(1, steps // 8) if engine == "stacked" else steps
            engines[name] = engine
            jobs[name] = _training(work, engine, precision, count, share)
            images[name] = count * share * work.batch_size
    seconds = interleaved(jobs, CPU, repeats, processor=True)
    return {
        "title": work.title,
        "name": work.name,
        "kwargs": work.kwargs,
        "adapt": work.adapt,
        "shape": work.shape,
        "batch_size": work.batch_size,
        "flop_per_image": flop / work.batch_size,
        "engines": engines,
        "fleet": FLEET if "stacked" in engines.values() else 1,
        "first_call_s": first,
        "images_per_s": {
            name: [images[name] / value for value in values] for name, values in seconds.items()
        },
    }


def _take(loop: Iterator[None], steps: int) -> None:
    for _ in range(steps):
        next(loop)


def _training(work: Work, engine: Any, precision: str, count: int, steps: int) -> Callable[[], object]:
    recipe = work.recipe(precision)
    model, states, feed = fleet(work, count, recipe, CPU)
    return partial(advance, engine, model, states, feed, recipe, [LENGTH] * count, [0] * count, 0, steps)


def ceilings(repeats: int) -> dict[str, float]:
    """Return FLOP/s of an fp32 and a bf16 matrix product and of an fp32 convolution of 3 x 3."""
    a, b = torch.randn(2, 1024, 1024)
    half = a.bfloat16(), b.bfloat16()
    images = torch.randn(32, 64, 32, 32).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(64, 64, 3, 3)
    jobs: dict[str, Callable[[], object]] = {
        "fp32 matrix product": lambda: a @ b,
        "bf16 matrix product": lambda: half[0] @ half[1],
        "fp32 convolution": lambda: F.conv2d(images, kernel, padding=1),
    }
    flop = dict.fromkeys(jobs, 2 * 1024**3) | {"fp32 convolution": 2 * 9 * 64 * 64 * 32 * 1024}
    times = interleaved(jobs, CPU, max(repeats, 3), processor=True)
    return {name: flop[name] / median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
