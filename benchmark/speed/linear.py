"""Time linear layers through oneDNN against torch's own on one thread of a CPU.

python benchmark/speed/linear.py              takes about a minute
python benchmark/speed/linear.py --quick      only tests that it runs

Torch computes `F.linear` in fp32 by its BLAS library (MKL); oneDNN's product is a private operator of torch.
An engine that uses it is worth another set of bits only if it is at least `WORTH` times as fast over a
training step of every layer.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from timing import interleaved, machine, median
from torch import Tensor

WORTH = 1.15
"""Least ratio of processor time, F.linear over oneDNN, for another engine."""

STEP_S = 0.02
"""Processor time of one timing, about."""


@dataclass(frozen=True)
class Layer:
    """A linear layer: its network, values in and out, and positions of an image that it is applied to."""

    network: str
    inputs: int
    outputs: int
    tokens: int
    batch_size: int = 64


def _transformer(network: str, width: int, tokens: int, ratio: int) -> list[Layer]:
    sizes = [(width, 3 * width), (width, width), (width, ratio * width), (ratio * width, width)]
    return [Layer(network, inputs, outputs, tokens) for inputs, outputs in sizes]


LAYERS = [
    Layer("MLP of digits", 64, 128, 1),
    Layer("MLP of fashion-mnist", 784, 128, 1),
    *_transformer("ViT of digits, 48 wide, 5 tokens", 48, 5, 2),
    *_transformer("ViT of cifar10-cpu, 64 wide, 17 tokens", 64, 17, 2),
    *_transformer("ViT-Tiny at 3 x 32 x 32, 192 wide, 65 tokens", 192, 65, 4),
]


def main() -> None:
    """Parse the options, measure, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="two layers, one repeat, nothing is written")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "linear-cpu.json")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as runs do
    if not is_available():
        sys.exit("torch was built without oneDNN's linear layer.")
    layers, repeats = (LAYERS[:2], 1) if options.quick else (LAYERS, options.repeats)
    found: dict[str, Any] = {
        "machine": machine(torch.device("cpu")) | {"blas": _blas()},
        "repeats": repeats,
        "rows": [],
    }
    for layer in layers:
        row = compare(layer, repeats)
        found["rows"].append(row)
        print(
            f"{layer.network}, {layer.inputs} to {layer.outputs}, {layer.tokens * layer.batch_size} rows: "
            f"oneDNN is {row['ratio']['forward']:.2f} (forward) and {row['ratio']['step']:.2f} (forward and "
            "backward) times as fast",
            flush=True,
        )
    found["summary"] = summary(found["rows"])
    print(text(found["summary"]))
    if not options.quick:
        options.out.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        print(f"Wrote {options.out}.")


def is_available() -> bool:
    """Return whether torch has the operator, and it gives the values of `F.linear`."""
    try:
        x, weight, bias = torch.randn(8, 5), torch.randn(3, 5), torch.randn(3)
        found = onednn_product(x, weight, bias)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(found, F.linear(x, weight, bias), atol=1e-5)


def onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `x @ weight.T + bias` for x `[n, i]`, weight `[o, i]` and bias `[o]`."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


class OnednnLinear(torch.autograd.Function):
    """A linear layer whose three products are oneDNN's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return `x @ weight.T + bias`."""
        ctx.save_for_backward(x, weight)
        return onednn_product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of the arguments of `forward`."""
        (grad,) = grads
        x, weight = ctx.saved_tensors
        of_x = onednn_product(grad, weight.t().contiguous())
        of_weight = onednn_product(grad.t().contiguous(), x.t().contiguous())
        return of_x, of_weight, grad.sum(0)


def compare(layer: Layer, repeats: int) -> dict[str, Any]:
    """Return the processor seconds of each way, and the medians of the ratios of neighbouring timings."""
    generator = torch.Generator().manual_seed(0)
    rows = layer.tokens * layer.batch_size
    x = torch.randn(rows, layer.inputs, generator=generator, requires_grad=True)
    weight = torch.randn(layer.outputs, layer.inputs, generator=generator, requires_grad=True)
    bias = torch.randn(layer.outputs, generator=generator, requires_grad=True)
    grad = torch.randn(rows, layer.outputs, generator=generator)
    plain = x.detach(), weight.detach(), bias.detach()

    def forward(function: Callable[..., Tensor]) -> None:
        function(*plain)

    def step(function: Callable[..., Tensor]) -> None:
        torch.autograd.grad(function(x, weight, bias), (x, weight, bias), grad)

    flop = 2 * rows * layer.inputs * layer.outputs
    counts = {"forward": max(1, int(STEP_S * 5e10 / flop)), "step": max(1, int(STEP_S * 5e10 / flop / 3))}
    counts = {name: min(count, 500) for name, count in counts.items()}
    functions = {
        ("forward", "F.linear"): lambda: forward(F.linear),
        ("forward", "oneDNN"): lambda: forward(onednn_product),
        ("step", "F.linear"): lambda: step(F.linear),
        ("step", "oneDNN"): lambda: step(OnednnLinear.apply),
    }

    def repeated(what: str, function: Callable[[], None]) -> Callable[[], None]:
        return lambda: [function() for _ in range(counts[what])] and None

    jobs = {f"{what}, {how}": repeated(what, function) for (what, how), function in functions.items()}
    seconds = interleaved(jobs, torch.device("cpu"), repeats, processor=True)
    seconds = {name: [t / counts[name.partition(",")[0]] for t in times] for name, times in seconds.items()}
    return {
        "network": layer.network,
        "inputs": layer.inputs,
        "outputs": layer.outputs,
        "rows": rows,
        "seconds": seconds,
        "ratio": {
            what: median(
                [a / b for a, b in zip(seconds[f"{what}, F.linear"], seconds[f"{what}, oneDNN"], strict=True)]
            )
            for what in ("forward", "step")
        },
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return geometric mean and range of the rows' ratios, and whether every step's reaches `WORTH`."""
    found: dict[str, Any] = {}
    for what in ("forward", "step"):
        ratios = [row["ratio"][what] for row in rows]
        mean = math.exp(math.fsum(map(math.log, ratios)) / len(ratios))
        found[what] = {"mean": mean, "least": min(ratios), "largest": max(ratios)}
    return {**found, "worth": bool(found["step"]["least"] >= WORTH)}


def text(found: dict[str, Any]) -> str:
    """Return the summary as a sentence."""
    forward, step = (
        f"{one['mean']:.2f} ({one['least']:.2f} to {one['largest']:.2f})"
        for one in (found["forward"], found["step"])
    )
    verdict = (
        "worth an engine" if found["worth"] else f"not worth an engine, which needs {WORTH} in every row"
    )
    return f"oneDNN over F.linear: forward {forward}, forward and backward {step}: {verdict}."


def _blas() -> str:
    """Return the line of torch's build that names its BLAS library."""
    lines = [line.strip(" -") for line in torch.__config__.show().splitlines()]
    return next((line for line in lines if "Math Kernel Library Version" in line), "")


if __name__ == "__main__":
    main()
