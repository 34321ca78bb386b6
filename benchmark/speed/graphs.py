"""A training step as a CUDA graph, on streams side by side, and compiled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from probe import Probe, Row, first_line
from torch import Tensor
from torch.func import functional_call, vmap
from workloads import Work, fleet

from lmcbench.train.engines import _loss, _stack
from lmcbench.train.fused import fused
from lmcbench.train.optimizer import update


def graph(probe: Probe) -> Iterator[Row]:
    """A step launched operator by operator, replayed as a CUDA graph, and graphs side by side on streams."""
    for work, precision in probe.cases(probe.main):
        for stacked, n in ((False, 1), (True, probe.members)):
            step = _stepper(probe, work, n, precision, stacked)
            row: Row = {"network": work.name, "precision": precision, "members": n}
            row["eager_ms_member"] = 1e3 * probe.seconds(step) / n
            if probe.cuda:
                try:
                    one = _capture(step)
                    row["graph_ms_member"] = 1e3 * probe.seconds(one.replay) / n
                    for k in () if stacked else (2, 4, 8):
                        graphs = [_capture(_stepper(probe, work, 1, precision, False)) for _ in range(k)]
                        streams = [torch.cuda.Stream() for _ in range(k)]
                        row[f"streams_{k}_ms_member"] = 1e3 * probe.seconds(_together(graphs, streams)) / k
                except Exception as error:
                    row["raised"] = first_line(error)
            yield row


def compiled(probe: Probe) -> Iterator[Row]:
    """The stacked step with torch.compile, alone and in a CUDA graph."""
    for work, precision in probe.cases(probe.main[:1] if probe.quick else probe.main):
        row: Row = {"network": work.name, "precision": precision}
        began = time.perf_counter()
        try:
            step = _stepper(probe, work, probe.members, precision, True, compiled=True)
            step()
            row["built_s"] = time.perf_counter() - began
            row["ms_member"] = 1e3 * probe.seconds(step) / probe.members
            if probe.cuda:
                row["graph_ms_member"] = 1e3 * probe.seconds(_capture(step).replay) / probe.members
        except Exception as error:
            row["raised"] = first_line(error)
        yield row


def _stepper(
    probe: Probe, work: Work, n: int, precision: str, stacked: bool, compiled: bool = False
) -> Callable[[], None]:
    """One training step on a fixed batch, without the feed, which a CUDA graph can capture."""
    recipe = work.recipe(precision)
    model, states, feed = fleet(work, n, recipe, probe.device)
    model.train()
    images, labels = next(iter(feed(list(range(n)), 0, 1)))
    if not stacked:
        params, slots = dict(model.named_parameters()), states[0].copy().slots

        def step() -> None:
            grads = torch.autograd.grad(_loss(recipe, model, images[0], labels[0]), list(params.values()))
            with torch.no_grad():
                update(recipe, params, grads, slots, 0.01, 0)

        return step
    joined = _stack(states, model.state_dict().keys())
    weights = [w.requires_grad_() for w in joined.params.values()]
    rates = torch.full((n,), 0.01, device=probe.device)

    def loss_of(params: Any, buffers: Any, x: Tensor, y: Tensor) -> Tensor:
        return _loss(recipe, lambda batch: functional_call(model, (params, buffers), (batch,)), x, y)

    losses_of = vmap(loss_of)
    if compiled:
        losses_of = torch.compile(losses_of, fullgraph=True)

    def stacked_step() -> None:
        if compiled:  # the fused operators hide from the compiler
            loss = losses_of(joined.params, joined.buffers, images, labels)
        else:
            with fused():
                loss = losses_of(joined.params, joined.buffers, images, labels)
        ones = torch.ones_like(loss)
        grads = torch.autograd.grad(loss, weights, ones, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            update(recipe, joined.params, grads, joined.slots, rates, 0)

    return stacked_step


def _capture(step: Callable[[], None]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        step()
    return captured


def _together(graphs: list[Any], streams: list[Any]) -> Callable[[], None]:
    def replay() -> None:
        for captured, stream in zip(graphs, streams, strict=True):
            with torch.cuda.stream(stream):
                captured.replay()

    return replay
