"""Time fleets and path evaluation against plain PyTorch loops; write JSON, a table and a plot.

python benchmark/speed/run.py                      on CUDA if available; takes minutes
python benchmark/speed/run.py --quick              only tests that it runs; takes seconds
python benchmark/speed/run.py --device cuda        one GPU, under ten minutes
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from timing import interleaved, machine, median
from workloads import WORKS, Work, dataloader_loop, eager_loop, fleet, images, one_alpha_after_another

import lmcbench.train.fused as fused
from lmcbench.connect.interpolation import alpha_grid, score_states, states_on_line
from lmcbench.connect.network import Network
from lmcbench.data.batches import DeviceImages
from lmcbench.machine import compute_exactly
from lmcbench.train.cost import step_flop
from lmcbench.train.engines import advance
from report import write_report

COUNTS = (1, 2, 4, 8, 16, 32, 48)
HERE = Path(__file__).parent

LENGTH = 10**6
"""Steps of a whole training; far fewer are timed."""
LOOP = 8
"""Steps of a serial loop per step of a fleet: more than a DataLoader prefetches in between."""


def main() -> None:
    """Parse the options, measure, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="one repeat of little work")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, help="training steps per timing (12; 4 on a CPU)")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="members of a fleet")
    parser.add_argument("--network", nargs="+", help="registry names, of those listed for the device")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--tf32", action="store_true", help="allow TF32, also in convolutions")
    parser.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN time its algorithms")
    parser.add_argument("--plain", action="store_true", help="vmap's own rules for BatchNorm and attention")
    parser.add_argument("--out", type=Path, help="folder (benchmark/speed/results)")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.steps, options.counts = 1, 2, [1, 4]
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)  # as runs do
    options.steps = options.steps or (12 if device.type == "cuda" else 4)
    compute_exactly(device)  # as runs do; the options below change it
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    torch.backends.cudnn.benchmark = options.cudnn_benchmark
    if options.plain:
        fused.TABLE.clear()
    found: dict[str, Any] = {"environment": environment(device, options), "ceilings": ceilings(device)}
    chosen = [w for w in WORKS[device.type] if options.network is None or w.name in options.network]
    found["networks"] = [measure(work, device, options) for work in chosen]
    out = options.out or (HERE / ("quick" if options.quick else "results"))
    slug = found["environment"]["slug"]
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{slug}.json"
    path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(write_report(found, out / slug))


def measure(work: Work, device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    """Return all measurements of one network, or the reason why it cannot be built."""
    print(f"{work.title} on {device.type} ...", flush=True)
    try:
        flop = step_flop(work.network(0).to(device), work.shape, work.batch_size)
    except Exception as error:
        return {"title": work.title, "name": work.name, "reason": str(error).splitlines()[0]}
    return {
        "title": work.title,
        "name": work.name,
        "kwargs": work.kwargs,
        "batch_size": work.batch_size,
        "pixels": work.pixels,
        "step_flop": flop,
        "fleets": time_fleets(work, device, options),
        "path": time_path(work, device, options),
        "cost": time_cost(work, device, options),
    }


def time_fleets(work: Work, device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    """Return images per second of serial loops and of fleets of each size, interleaved."""
    recipe, steps = work.recipe(options.precision), options.steps
    loops: dict[str, Iterator[None]] = {"eager": eager_loop(work, recipe, device)}
    loops |= {f"dataloader {n}": dataloader_loop(work, recipe, device, n) for n in (0, 2)}
    jobs: dict[str, Callable[[], object]] = {
        k: lambda v=v: [next(v) for _ in range(LOOP * steps)] for k, v in loops.items()
    }
    fleets = {n: fleet(work, n, recipe, device) for n in options.counts}
    used: dict[int, int] = {}

    def train(count: int) -> None:
        model, states, feed = fleets[count]
        lengths, seeds = [LENGTH] * count, [0] * count
        done = advance("stacked", model, states, feed, recipe, lengths, seeds, 0, steps, used.get(count))
        used[count] = done.fleet

    jobs |= {f"fleet {n}": lambda n=n: train(n) for n in options.counts}
    seconds = interleaved(jobs, device, options.repeats)
    trained = {name: int(name.split()[1]) if name.startswith("fleet") else LOOP for name in jobs}
    per_member = work.batch_size * steps
    rates = {name: trained[name] * per_member / median(times) for name, times in seconds.items()}
    return {"steps": steps, "seconds": seconds, "images_per_s": rates, "members_at_once": used}


def time_path(work: Work, device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    """Time recalibration and loss at all alphas: by the package, and by a plain loop."""
    alphas = 5 if options.quick else 21
    count = 500 if options.quick else 1500 if device.type == "cpu" else 4000
    data = DeviceImages(*images(work), work.statistics(), device)
    shown, labels = data.split(torch.arange(count))
    test = shown.whole(), labels
    calibration = test[0][:500]
    model = work.network(0).to(device)
    ends = [work.network(seed).to(device).state_dict() for seed in (0, 1)]
    network = Network(model, device, stacked=device.type == "cuda")
    grid = alpha_grid(alphas)

    def ours() -> list[float]:
        path = network.recalibrate(states_on_line(network, *ends, grid), calibration)
        return score_states(network, path, *test).curve(grid).loss.tolist()

    def plain() -> list[float]:
        states = [
            {k: torch.lerp(a, ends[1][k], x) if a.is_floating_point() else a for k, a in ends[0].items()}
            for x in grid
        ]
        return one_alpha_after_another(model, states, calibration, test)

    gap = max(abs(a - b) for a, b in zip(ours(), plain(), strict=True))
    seconds = interleaved({"ours": ours, "one after another": plain}, device, options.repeats)
    return {"alphas": alphas, "images": count, "seconds": seconds, "largest_difference": gap}


def time_cost(work: Work, device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    """Time a fleet of 8 by number of steps and image size."""
    recipe = work.recipe(options.precision)
    sizes = [work.pixels] if work.name == "lmc_mlp" else [work.pixels, work.pixels * 3 // 2, work.pixels * 2]
    jobs: dict[str, Callable[[], object]] = {}

    def job(of: Work, steps: int) -> Callable[[], object]:
        model, states, feed = fleet(of, 4 if options.quick else 8, recipe, device)
        lengths, seeds = [LENGTH] * len(states), [0] * len(states)
        return lambda: advance("stacked", model, states, feed, recipe, lengths, seeds, 0, steps)

    for factor in (1, 2, 4):
        jobs[f"steps {factor * options.steps}"] = job(work, factor * options.steps)
    for size in sizes[1:]:
        with suppress(Exception):  # networks of a fixed size
            other = Work(**{**work.__dict__, "pixels": size})
            other.network(0)
            jobs[f"pixels {size}"] = job(other, options.steps)
    return {"members": 4 if options.quick else 8, "seconds": interleaved(jobs, device, options.repeats)}


def ceilings(device: torch.device) -> dict[str, float]:
    """Measure the device: fp32 matrix products in FLOP/s, copies in bytes/s read and written."""
    side, length = (8192, 2**28) if device.type == "cuda" else (1024, 2**25)
    a, b = torch.randn(2, side, side, device=device)
    source = torch.zeros(length, device=device)
    target = torch.empty_like(source)
    times = interleaved({"matmul": lambda: a @ b, "copy": lambda: target.copy_(source)}, device, 5)
    return {
        "matmul_flop_per_s": 2 * side**3 / median(times["matmul"]),
        "copy_bytes_per_s": 2 * source.nbytes / median(times["copy"]),
    }


def environment(device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    """Return the machine and the options."""
    found = machine(device)
    flags = {"tf32": options.tf32, "cudnn_benchmark": options.cudnn_benchmark, "plain": options.plain}
    marks = [k for k, v in flags.items() if v] + ([options.precision] if options.precision != "fp32" else [])
    name = found["device"].lower().replace(" ", "-") if device.type == "cuda" else device.type
    return {
        **found,
        "slug": "-".join([name, *marks]),
        "flags": flags,
        "precision": options.precision,
        "repeats": options.repeats,
        "quick": options.quick,
    }


if __name__ == "__main__":
    main()
