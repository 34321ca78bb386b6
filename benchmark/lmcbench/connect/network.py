"""One network run at many weights: forward passes and normalisation statistics."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.batchnorm import _BatchNorm

from lmcbench.connect.arguments import as_calibration, as_device, as_integer, as_model
from lmcbench.connect.batchnorm_stats import ChunkedConv2d, pooled_moments, record_batch_statistics
from lmcbench.connect.blending import COUNTER, STATISTICS, Stack, State, check_matches_model, stack, unstack
from lmcbench.connect.isolation import copy_model, isolated, without_autocast
from lmcbench.connect.parameter_swap import EvalCaches, ParameterSwap, graph_leaves
from lmcbench.errors import UserError, counted, describe, is_out_of_memory

MAX_IMAGES = 500
"""Images of one forward pass, unless a batch size is asked for."""


class Images(Protocol):
    """Images in order, floating, in batches `[b, c, h, w]`: a tensor, or what makes them when asked."""

    def __len__(self) -> int: ...

    def split(self, size: int, /) -> Iterable[Tensor]:
        """Batches of `size`, the last as large as what is left."""
        ...


class Network:
    """A private copy of a model in eval mode, through which stacks of states are passed.

    The caller's model is never touched, and no pass draws from the global generator for good.

    Args:
        model: any classifier, images `[n, c, h, w]` -> logits `[n, classes]`.
        device: where to run; the model's own by default.
        batch_size: images per forward pass of one state; None: what suits the device and their size.
        stacked: pass all states of a stack at once (vmap) rather than one after another, which a network
            that fails so does all the same. It pays where launching dominates, on CUDA; on a CPU the loop
            wins from 256 images per pass (measured: 21 states of an MLP, a CNN and a ResNet at 8x8,
            2026-11-21).
    """

    def __init__(
        self,
        model: nn.Module,
        device: str | torch.device | None = None,
        batch_size: int | None = None,
        stacked: bool = False,
    ) -> None:
        model = as_model(model)
        own = sorted(model.parameters(), key=lambda p: not p.is_floating_point())
        if not own:
            raise UserError("The model has no parameters.")
        if own[0].is_meta:
            raise UserError("The model is on the meta device: move it with to_empty(device='cpu') first.")
        self.device = as_device(device) if device is not None else own[0].device
        # that of images: of the first floating parameter, whatever integers and complex numbers stand before
        self.dtype = own[0].dtype
        self.batch_size = None if batch_size is None else as_integer(batch_size, "batch_size", 1)
        self.stacked = stacked
        self.limit: int | None = None
        """States in one stacked pass at most: all, until memory runs out."""
        try:
            self.model = copy_model(model).to(self.device)
        except (RuntimeError, TypeError) as error:
            if is_out_of_memory(error):
                raise
            raise UserError(f"The model cannot be copied: {describe(error)}") from error
        self._slots = ParameterSwap(self.model)
        self._keepers = EvalCaches(self.model)
        # of both, the caller's and ours: no pass is to compute with any of them
        self._own = {id(p): name for each in (model, self.model) for name, p in each.named_parameters()}
        self._heeds: bool = torch.is_inference_mode_enabled()  # where nobody can see what a pass has used
        self.norms = {
            name: module
            for name, module in self.model.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        }

    def prepare(self, states: State | Sequence[State]) -> Stack:
        """States checked against the model, stacked on its device."""
        listed: list[State] = [states] if isinstance(states, Mapping) else list(states)
        for state in listed:
            check_matches_model(self.model, state)
        return {name: value.to(self.device) for name, value in stack(listed).items()}

    @torch.no_grad()
    def check_accepts(self, state: State, images: Tensor, what: str) -> None:
        """Refuse images that the network fails on, by two of them; `what` they are.

        Raises:
            UserError: with what the network raised as its cause.
        """
        here = {name: value.to(self.device) for name, value in state.items()}
        try:
            self._check_heeds(here, images[:2])
        except UserError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            shape = list(images.shape[1:])
            raise UserError(f"{what}: the network fails on an image {shape}: {describe(error)}") from error

    def calibration(self, state: State, given: object) -> Tensor | None:
        """What a caller gave to take statistics on, checked like a split's images; None: nothing.

        Raises:
            UserError: naming the argument.
        """
        images = as_calibration(given)
        if images is not None:
            self.check_accepts(state, images, "calibration")
        return images

    @torch.no_grad()
    def logits(self, states: Stack, images: Images) -> Tensor:
        """Logits of all states on all images, `[S, n, classes]` in the model's dtype, eval mode."""
        return torch.cat(list(self.batches(states, images)), dim=1)

    @torch.no_grad()
    def batches(self, states: Stack, images: Images) -> Iterator[Tensor]:
        """The same batch by batch, `[S, b, classes]`; the last batch is never dropped."""
        # what a network writes into its buffers, in eval mode too, must not reach the next images' pass
        weights = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        states = {name: value if name in weights else value.clone() for name, value in states.items()}
        with isolated(self.device):
            for part in images.split(self.batch_size or MAX_IMAGES):
                for batch in torch.split(part, self.images_per_pass(part)):
                    logits = self._forward(states, batch.to(self.device, self.dtype))
                    if not self._heeds:
                        self._check_heeds(unstack(states)[0], batch[:2])
                    yield logits

    def images_per_pass(self, images: Tensor) -> int:
        """What was asked for, or 500; fewer of large images on a CPU, whose caches they should stay in.

        Measured on one core (medians of 5 of processor time, 2026-11-21): ResNet-20 at 32 x 32, 2 states
        on 500 images in passes of 125, 250 and 500: 1.52, 1.67 and 2.13 s; a width-8 ResNet at 8 x 8,
        7 states on 1500 images: 0.40, 0.29 and 0.22 s.
        """
        if self.batch_size is not None:
            return self.batch_size
        if self.device.type == "cuda":
            return MAX_IMAGES
        return min(max(128_000 // images[0, 0].numel(), 125), MAX_IMAGES)

    def forward(self, state: State, batch: Tensor) -> Tensor:
        """Logits `[b, classes]` of one state on one batch, eval mode; differentiable in the state's tensors.

        Raises:
            UserError: where the model returns anything else.
        """
        try:
            with without_autocast(self.device), self._slots.use(state):
                out = self.model(batch.to(self.device, self.dtype))
        finally:
            self._keepers.clear()
        if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(batch):
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise UserError(f"The model must return logits [n, classes], found {shape}.")
        if not out.is_floating_point():
            raise UserError(f"The model must return floating logits [n, classes], found {out.dtype}.")
        return out

    def _check_heeds(self, state: State, images: Tensor) -> None:
        """Refuse a network that computes with weights of its own in place of those it is given.

        Some hold on to them where nobody can take them away: in a list, a closure, a compiled function.
        `state` stays as it is, whatever the network writes into its buffers.
        """
        with torch.enable_grad(), isolated(self.device):
            out = self.forward({name: value.detach().clone() for name, value in state.items()}, images)
        self._heeds = True
        name = next((self._own[id(leaf)] for leaf in graph_leaves(out) if id(leaf) in self._own), None)
        if name is not None:
            raise UserError(
                f"The network computes with {name!r} of its own in place of the weights that it is given: it "
                "holds on to it besides as a parameter (in a list, a closure, a compiled function). "
                "Have forward read it from the module."
            )

    @torch.no_grad()
    def recalibrate(self, states: Stack, images: Tensor, batches: int = 1) -> Stack:
        """`states` with BatchNorm statistics taken anew on `images` `[n, c, h, w]` (design 3.3).

        Batch sizes are equal up to one. Mean and (unbiased) variance are pooled over batches by the
        law of total variance: exact at the first such layer for any batching, and at every layer for
        a single batch. A layer that runs several times in a pass has the mean over its calls of each
        call's mean and variance, as torch's cumulative average (momentum None); one that never runs
        keeps its statistics. The same images give the same bits. Networks without such layers: unchanged.

        Raises:
            UserError: for fewer than two images per batch.
        """
        if not self.norms:
            return states
        if len(images) < 2 * batches:
            raise UserError(
                f"Calibration needs at least two images per batch, found {counted(len(images), 'image')} for "
                f"{counted(batches, 'batch', 'batches')}."
            )
        aliases = self._aliases()
        fresh = dict(states)
        for name, names in aliases.items():
            for part in (*STATISTICS, COUNTER):
                if f"{name}.{part}" in states:
                    # one tensor under all names of a layer: only one of them is written to
                    fresh |= dict.fromkeys(
                        [f"{n}.{part}" for n in names], torch.zeros_like(states[f"{name}.{part}"])
                    )
        sizes: dict[str, list[int]] = {name: [] for name in self.norms}
        moments: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.norms}
        with (
            record_batch_statistics(self.model, self.norms) as counts,
            isolated(self.device),
            self.portions(),
        ):
            for batch in images.tensor_split(batches):
                self._forward(fresh, batch.to(self.device, self.dtype))
                for name in counts:
                    sizes[name].append(counts[name])
                    mean, var = fresh[f"{name}.running_mean"], fresh[f"{name}.running_var"]
                    # a copy: the next batch overwrites the buffers
                    moments[name].append(
                        (mean.to(torch.float64, copy=True), var.to(torch.float64, copy=True))
                    )
        for name, names in aliases.items():
            pooled = pooled_moments(sizes[name], moments[name]) if moments[name] else ()
            found = dict(zip(STATISTICS, pooled, strict=False))
            for key in (f"{n}.{part}" for n in names for part in (*STATISTICS, COUNTER)):
                if key in states:  # else the layer counts no batches
                    value = found.get(key.rpartition(".")[2])
                    fresh[key] = states[key] if value is None else value.to(states[key].dtype)
        return fresh

    def portions(self) -> AbstractContextManager[object]:
        """For passes of a batch that may not be split: on a CPU, whose convolutions copy it, in portions."""
        return ChunkedConv2d() if self.device.type == "cpu" else nullcontext()

    def _aliases(self) -> dict[str, list[str]]:
        """All names under which the state has each layer of `norms`: a module used twice may have two."""
        names = {id(module): (name, [name]) for name, module in self.norms.items()}
        for name, module in self.model.named_modules(remove_duplicate=False):
            first, found = names.get(id(module), (name, []))
            if name != first:
                found.append(name)
        return dict(names.values())

    def _forward(self, states: Stack, batch: Tensor) -> Tensor:
        if self.stacked:
            try:
                return self._stacked(states, batch)
            except UserError:
                raise
            except Exception as error:  # whatever a network's own code raises under vmap
                if is_out_of_memory(error):
                    raise
                self.stacked = False  # by itself it may run, and if not says why
        return torch.stack([self.forward(state, batch) for state in unstack(states)])

    def _stacked(self, states: Stack, batch: Tensor) -> Tensor:
        size = len(next(iter(states.values())))
        done: list[Tensor] = []
        start = 0
        while start < size:
            stop = size if self.limit is None else min(start + self.limit, size)
            # views: what a layer writes into its statistics reaches the whole stack
            part = {name: value[start:stop] for name, value in states.items()}
            try:
                with warnings.catch_warnings():
                    # an operator without a batching rule runs once per state: slower, but right
                    warnings.filterwarnings("ignore", message="There is a performance drop")
                    done.append(vmap(lambda state: self.forward(state, batch))(part))
            except (RuntimeError, MemoryError) as error:
                if stop - start == 1 or not is_out_of_memory(error):
                    raise
                self.limit = -(-(stop - start) // 2)
                continue
            start = stop
        return torch.cat(done)
