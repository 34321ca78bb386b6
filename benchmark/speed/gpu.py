"""Answer in half an hour what only a GPU can: is training exact, what limits it, which engine is faster.

python benchmark/speed/gpu.py                        all parts on one GPU, results after each part
python benchmark/speed/gpu.py facts equal            some parts
python benchmark/speed/gpu.py --device cpu --quick   every part runs, in a minute; numbers mean nothing

The parts, most useful first:

facts    precision of fp32, attention kernel
nondet   networks that raise in strict deterministic mode
equal    reruns and fleets with equal bits
engines  rows for `STACKED` in train/choice.py
conv     forms of grouped convolution
time     launches or arithmetic
graph    CUDA graphs and streams
eval     paths stacked or in turn
compile  torch.compile of the stacked loss
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts

import torch
import torch.nn.functional as F  # noqa: N812
from engines import compare_engines
from graphs import compiled, graph
from probe import LENGTH, Probe, Row, first_line
from tabulate import tabulate
from timing import machine
from torch import Tensor
from workloads import ENGINE_WORKS, fleet

from lmcbench.connect.interpolation import alpha_grid, score_states, states_on_line
from lmcbench.connect.network import Network
from lmcbench.machine import compute_exactly
from lmcbench.train.engines import advance
from lmcbench.train.train_state import TrainState

GAIN = 1.05
"""How many times as fast a stacked fleet must be, at every fleet size, for a row in `STACKED`."""


def facts(probe: Probe) -> Iterator[Row]:
    """Relative error of matrix product and convolution (1e-7 in fp32, 3e-4 in TF32); the attention kernel."""
    a, b = torch.randn(2, 512, 512, device=probe.device)
    yield {"fact": "matrix product", "relative_error": _error(a @ b, a.double() @ b.double())}
    x = torch.randn(32, 64, 32, 32, device=probe.device)
    k = torch.randn(64, 64, 3, 3, device=probe.device)
    exact = F.conv2d(x.double(), k.double(), padding=1)
    yield {"fact": "convolution", "relative_error": _error(F.conv2d(x, k, padding=1), exact)}
    names = ("math", "flash", "memory-efficient", "cuDNN")
    for dtype in (torch.float32, torch.bfloat16):
        q = torch.randn(probe.members * probe.batch, 3, 65, 64, device=probe.device, dtype=dtype)
        yield {"fact": f"attention in {dtype}", "kernel": names[int(torch._fused_sdp_choice(q, q, q))]}


def nondet(probe: Probe) -> Iterator[Row]:
    """Whether a step of either engine raises in strict deterministic mode, and with what."""
    for work, precision in probe.cases(probe.all):
        row: Row = {"network": work.name, "precision": precision, "raised": None}
        torch.use_deterministic_algorithms(probe.cuda)
        torch.utils.deterministic.fill_uninitialized_memory = False
        try:
            probe.train("reference", work, 1, 2, precision)
            probe.train("stacked", work, 2, 2, precision)
        except Exception as error:
            row["raised"] = first_line(error)
        finally:
            torch.use_deterministic_algorithms(False)
            compute_exactly(probe.device)
        yield row


def equal(probe: Probe) -> Iterator[Row]:
    """Bits of reruns, of training in two pieces, of smaller fleets and of members alone."""
    for work, precision in probe.cases(probe.all):
        n, steps = probe.members // 5 + 2, probe.steps
        row: Row = {"network": work.name, "precision": precision}
        try:
            alone = [probe.train("reference", work, 1, steps, precision).states for _ in range(2)]
            whole, again = (probe.train("stacked", work, n, steps, precision).states for _ in range(2))
            half = probe.train("stacked", work, n, steps // 2, precision).states
            rest = probe.train("stacked", work, n, steps, precision, start=steps // 2, states=half).states
            chunks = probe.train("stacked", work, n, steps, precision, limit=n // 2).states
            singly = probe.train("stacked", work, n, steps, precision, limit=1).states
            row |= {
                "reference_rerun": _same(*alone),
                "stacked_rerun": _same(whole, again),
                "two_pieces": _same(whole, rest),
                "smaller_fleets": _same(whole, chunks),
                "members_alone": _same(whole, singly),
            }
        except Exception as error:
            row["raised"] = first_line(error)
        yield row


def engines(probe: Probe) -> Iterator[Row]:
    """Stacked against reference engine by network and fleet size; `row` is what STACKED gets."""
    works = [probe.work("lmc_mlp")] if probe.quick else [*ENGINE_WORKS, *probe.main]
    for work in works:
        counts = [2] if probe.quick else [8, 40]
        found = compare_engines(work, probe.device, counts, probe.repeats, probe.steps)
        ratios = {n: t["one by one"] / t["stacked"] for n, t in found["fleets"].items()}
        row: Row = {
            "network": work.title,
            "mflop": found["mflop"],
            "not_stackable": found["why_not_stacked"],
        }
        row |= {f"stacked_{n}": ratio for n, ratio in ratios.items()}
        if ratios and min(ratios.values()) >= GAIN:
            row["row"] = f'("{work.name}", "{probe.device.type}"): ({found["mflop"]:.2g}, {work.batch_size})'
        yield row


def conv(probe: Probe) -> Iterator[Row]:
    """Forms of a fleet's 3 x 3 convolution, forward and backward, in milliseconds."""
    n, b = probe.members, probe.batch
    for channels, side in ((16, 32), (32, 16), (64, 8)):
        for dtype in (torch.float32, torch.bfloat16)[: len(probe.precisions)]:
            kwargs: Any = {"device": probe.device, "dtype": dtype}
            x = torch.randn(b, n * channels, side, side, **kwargs).requires_grad_()
            k = torch.randn(n, channels, channels, 3, 3, **kwargs).requires_grad_()
            last = x.detach().to(memory_format=torch.channels_last).requires_grad_()
            each = [part.contiguous().requires_grad_() for part in x.detach().chunk(n, 1)]
            kernels = [part.clone().requires_grad_() for part in k.detach()]
            forms: dict[str, Callable[[], object]] = {
                "grouped": lambda x=x, k=k: _backward(_grouped(x, k, n), x, k),
                "channels_last": lambda x=last, k=k: _backward(_grouped(x, k, n), x, k),
                "im2col": lambda x=x, k=k: _backward(_im2col(x, k, n), x, k),
                "loop": lambda xs=each, ks=kernels: [
                    _backward(F.conv2d(x, k, padding=1), x, k) for x, k in zip(xs, ks, strict=True)
                ],
            }
            yield {"channels": channels, "side": side, "dtype": str(dtype)} | {
                f"{name}_ms": 1e3 * probe.seconds(form) for name, form in forms.items()
            }


def times(probe: Probe) -> Iterator[Row]:
    """Milliseconds of a step of one member, and how much of it the GPU works (the rest is launching)."""
    for work, precision in probe.cases(probe.main):
        for engine, n in (("reference", 1), ("stacked", 8), ("stacked", probe.members)):
            recipe = work.recipe(precision)
            model, states, feed = fleet(work, n, recipe, probe.device)

            def run(steps: int, given: Any = (engine, model, states, feed, recipe, n)) -> None:
                engine, model, states, feed, recipe, n = given
                advance(engine, model, states, feed, recipe, [LENGTH] * n, [0] * n, 0, steps)

            one, many = probe.seconds(lambda: run(1)), probe.seconds(lambda: run(probe.steps + 1))
            row: Row = {"network": work.name, "precision": precision, "engine": engine, "members": n}
            row |= {"ms_member": 1e3 * (many - one) / probe.steps / n, "ms_fixed": 1e3 * one}
            if probe.cuda:
                activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
                with torch.profiler.profile(activities=activities) as profile:
                    run(4)
                    torch.cuda.synchronize()
                events = [
                    e for e in profile.events() or [] if e.device_type == torch.autograd.DeviceType.CUDA
                ]
                row["kernels_step"] = len(events) / 4
                row["gpu_ms_member"] = sum(e.device_time_total for e in events) / 4e3 / n
            yield row


def evaluate(probe: Probe) -> Iterator[Row]:
    """Seconds of a path of 19 points and of its recalibration, states stacked or in turn."""
    n = 8 if probe.quick else 4000
    for work in probe.main:
        model = work.network(0).to(probe.device)
        ends = [work.network(seed).to(probe.device).state_dict() for seed in (0, 1)]
        images = torch.randn(n, *work.shape, device=probe.device)
        labels = torch.zeros(n, dtype=torch.long, device=probe.device)
        for stacked in (True, False):
            for size in (500, 2000):
                network = Network(model, probe.device, size, stacked)
                states = states_on_line(network, *ends, alpha_grid(3 if probe.quick else 21)[1:-1])
                yield {
                    "network": work.name,
                    "stacked": stacked,
                    "batch": size,
                    "path_s": probe.seconds(
                        lambda given=(network, states, images, labels): score_states(*given)
                    ),
                    "recalibrate_s": probe.seconds(
                        lambda given=(network, states, images[: n // 4]): given[0].recalibrate(*given[1:])
                    ),
                }


PARTS: dict[str, Callable[[Probe], Iterator[Row]]] = {
    "facts": facts,
    "nondet": nondet,
    "equal": equal,
    "engines": engines,
    "conv": conv,
    "time": times,
    "graph": graph,
    "eval": evaluate,
    "compile": compiled,
}


def _grouped(x: Tensor, k: Tensor, n: int) -> Tensor:
    return F.conv2d(x, k.flatten(0, 1), padding=1, groups=n)


def _im2col(x: Tensor, k: Tensor, n: int) -> Tensor:
    """`x` [B, N c, h, w] and kernels [N, o, c, 3, 3] as one batched matrix product."""
    b, _, h, w = x.shape
    c = k.shape[2]
    columns = F.unfold(x.reshape(b * n, c, h, w), 3, padding=1).view(b, n, c * 9, h * w)
    return torch.bmm(k.reshape(n, -1, c * 9), columns.permute(1, 2, 0, 3).reshape(n, c * 9, -1))


def _backward(out: Tensor, *leaves: Tensor) -> None:
    torch.autograd.grad(out.sum(), leaves)


def _same(a: list[TrainState], b: list[TrainState]) -> bool:
    def tensors(state: TrainState) -> list[Tensor]:
        return [*state.params.values(), *state.buffers.values()]

    return all(
        torch.equal(s, t)
        for x, y in zip(a, b, strict=True)
        for s, t in zip(tensors(x), tensors(y), strict=True)
    )


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def write_results(found: Row, path: Path) -> None:
    """Write all rows as JSON, and as Markdown with a table for each part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(
        json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    where = found["machine"]
    lines = [f"# {where['device']}, torch {where['versions']['torch']}, {where['date']}"]
    for name, part in found["parts"].items():
        table = tabulate(part["rows"], headers="keys", tablefmt="github", floatfmt=".3g")
        lines += ["", f"## {name} ({part['seconds']:.0f} s)", "", str(PARTS[name].__doc__), "", table]
        stacked = [row["row"] for row in part["rows"] if row.get("row")]
        if stacked:
            lines += ["", "Rows for `STACKED`:", "", "```", *stacked, "```"]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Run the parts; write the results after each, since a machine may be taken away."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all by default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="little work; numbers mean nothing")
    parser.add_argument("--minutes", type=float, default=28, help="begin no part after so many")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    compute_exactly(device)
    probe = Probe(device, options.quick)
    found: Row = {"machine": machine(device), "quick": options.quick, "parts": {}}
    began = time.perf_counter()
    for name in options.parts or PARTS:
        if time.perf_counter() - began > 60 * options.minutes:
            print(f"{name}: skipped, {options.minutes:g} minutes are over", flush=True)
            continue
        start, rows = time.perf_counter(), []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for row in PARTS[name](probe):
                rows.append(row)
                print(json.dumps({"part": name, **row}), flush=True)
                gc.collect()
                if probe.cuda:
                    torch.cuda.empty_cache()
        found["parts"][name] = {"seconds": time.perf_counter() - start, "rows": rows}
        write_results(found, options.out / f"gpu-{device.type}")
    print(f"Wrote {options.out / f'gpu-{device.type}'}.md and .json.")


if __name__ == "__main__":
    main()
