"""Run one network at many weights: forward passes and recalibration of BatchNorm statistics."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.batchnorm import _BatchNorm

from lmcbench.connect.arguments import as_calibration, as_device, as_model
from lmcbench.connect.batchnorm_stats import chunked_conv2d, pool_statistics
from lmcbench.connect.blending import Stack, State, check_matches_model, stack, unstack
from lmcbench.connect.isolation import copy_model, isolated, without_autocast
from lmcbench.connect.loaders import Images, JoinedImages, equal_parts, first_images
from lmcbench.connect.parameter_swap import EvalCaches, ParameterSwap, graph_leaves
from lmcbench.errors import UserError, counted, describe, is_out_of_memory, may_be_out_of_memory
from lmcbench.memory_layout import Layout, choose_layout, to_layout, wide_contiguous
from lmcbench.results.logits import find_logits
from lmcbench.torch_functions import ReplacedFunctions
from lmcbench.values import as_integer

Name = TypeVar("Name")

MAX_IMAGES = 500
"""Maximum number of images per forward pass if the caller gives no batch size."""

SMALL_IMAGES = 600
"""Maximum number per pass on a CPU. 1,080 images of 8 x 8 in passes of 540 are as fast as any size for four
networks; in one pass, activations leave the cache (benchmark/speed/NOTES.md)."""

LARGE = 96 * 96
"""Pixels of an image above which fewer images are passed at once on a CPU."""

CALIBRATION_PIXELS = 2**21
"""Most pixels of a batch for recalibration if images are larger than `LARGE`: 41 images of 224 x 224."""


class Network:
    """A private copy of a model in eval mode, run at the weights of stacked states.

    The copy's own weights share the model's memory and are never used. Neither the caller's model nor the
    global generators are modified.

    Args:
        model: any classifier, images `[n, c, h, w]` -> logits `[n, classes]`.
        device: where to run; the model's own by default.
        batch_size: images per forward pass of one state; None: chosen by device and image size.
        stacked: run all states of a stack at once (vmap) instead of one after another. Falls back to the
            loop for a network that vmap cannot run. Faster on CUDA, where kernel launches dominate; on a
            CPU the loop wins from 256 images per pass (measured: 21 states of an MLP, a CNN and a ResNet
            at 8x8, 2026-11-21).
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
        # images get the dtype of the first floating parameter
        self.dtype = own[0].dtype
        self.batch_size = None if batch_size is None else as_integer(batch_size, "batch_size", 1)
        self.stacked = stacked
        self.limit: int | None = None
        """Maximum number of states in one stacked pass; None until memory runs out."""
        self.not_stacked: str | None = None
        """Why the states of a stack are run one after another although `stacked` was asked for."""
        self._has_guessed = False
        self._layouts: dict[tuple[int, int, int], Layout] = {}
        try:
            self.model = copy_model(model, shares_weights=True).to(self.device)
        except (RuntimeError, TypeError) as error:
            if is_out_of_memory(error):
                raise
            raise UserError(f"The model cannot be copied: {describe(error)}") from error
        self._parameters = ParameterSwap(self.model)
        self._eval_caches = EvalCaches(self.model)
        # a pass that computes with one of these parameters ignores the given weights
        self._own = {id(p): name for each in (model, self.model) for name, p in each.named_parameters()}
        # inference mode records no autograd graph, so the check is skipped
        self._is_checked: bool = torch.is_inference_mode_enabled()
        self.norms = {
            name: module
            for name, module in self.model.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        }

    def prepare(self, states: State | Sequence[State]) -> Stack:
        """Check states against the model and stack them on its device."""
        listed: list[State] = [states] if isinstance(states, Mapping) else list(states)
        for state in listed:
            check_matches_model(self.model, state)
        return {name: value.to(self.device) for name, value in stack(listed).items()}

    @torch.no_grad()
    def check_accepts(self, state: State, images: Images, what: str) -> None:
        """Run the network on two of the images; `what` names them in the error.

        Raises:
            UserError: if the network fails, with its exception as the cause.
        """
        here = {name: value.to(self.device) for name, value in state.items()}
        first = first_images(images, 2)
        try:
            self._check_uses_state(here, first)
        except UserError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            shape = list(first.shape[1:])
            raise UserError(f"{what}: the network fails on an image {shape}: {describe(error)}") from error

    def calibration(self, state: State, given: object) -> Images | None:
        """Check the images for recalibration that a caller gave; None stays None.

        Raises:
            UserError: if they are invalid or the network fails on them.
        """
        images = as_calibration(given)
        if images is not None:
            self.check_accepts(state, images, "calibration")
        return images

    @torch.no_grad()
    def logits(self, states: Stack, images: Images) -> Tensor:
        """Return the logits of all states on all images, `[S, n, classes]` in the model's dtype."""
        return torch.cat(list(self.batches(states, images)), dim=1)

    @torch.no_grad()
    def batches_of(self, states: Stack, splits: Mapping[Name, Images]) -> Iterator[tuple[Name, int, Tensor]]:
        """Yield the logits of several splits whose images are passed in one sequence.

        A pass may hold images of two splits, so that small ones take fewer passes. Logits have the bits of
        separate passes where kernels compute every image alike (docs/design.md, section 3.11).

        Args:
            states: stacked states.
            splits: images of one shape.

        Yields:
            Name of the split, position of the first image in it, and logits `[S, b, classes]`.
        """
        ends = [(name, len(images)) for name, images in splits.items() if len(images)]
        start = 0  # of the current split
        for logits in self.batches(states, JoinedImages(list(splits.values()))):
            while logits.shape[1]:
                name, size = ends[0]
                taken, logits = logits[:, : size - start], logits[:, size - start :]
                yield name, start, taken
                start += taken.shape[1]
                if start == size:
                    ends, start = ends[1:], 0

    @torch.no_grad()
    def batches(self, states: Stack, images: Images) -> Iterator[Tensor]:
        """Yield the logits batch by batch, `[S, b, classes]`."""
        states = self._with_own_buffers(states)
        size, part_size = self._sizes(images)
        with isolated(self.device):
            for part in images.split(part_size):
                for batch in torch.split(part, size):
                    logits = self._evaluate(states, batch)
                    if not self._is_checked:
                        self._check_uses_state(unstack(states)[0], batch[:2])
                    yield logits

    def _sizes(self, images: Images) -> tuple[int, int]:
        """Return how many images are passed at once, and how many are created at once.

        Without a requested batch size, all passes are of one size, so that the last one is not much smaller.
        """
        if self.batch_size is not None:
            return self.batch_size, self.batch_size
        first = first_images(images, 1)
        passes = -(-len(images) // self.images_per_pass(first))
        size = -(-len(images) // passes)
        # as many as a pass takes, if they are large
        return size, size if first[0, 0].numel() > LARGE else size * max(1, MAX_IMAGES // size)

    def _evaluate(self, states: Stack, batch: Tensor) -> Tensor:
        """Return the logits of all states on a batch, in the layout that the network has for such images.

        Passes with gradients (`forward`) keep the layout of the given images.
        """
        batch = batch.to(self.device, self.dtype)
        if batch.ndim != 4:
            return self._forward(states, batch)
        _, channels, height, width = batch.shape
        shape = channels, height, width
        if shape not in self._layouts:
            self._layouts[shape] = choose_layout(copy_model(self.model), shape, gradients=False)
        layout = self._layouts[shape]
        with wide_contiguous(self.model) if layout == "channels-last" else nullcontext():
            return self._forward(states, to_layout(batch, layout))

    def images_per_pass(self, images: Tensor) -> int:
        """Return the batch size: as requested, else 500; on a CPU 600, fewer for large images.

        Measured on one core (medians of 5 of processor time, 2026-11-21): ResNet-20 at 32 x 32, 2 states
        on 500 images in passes of 125, 250 and 500: 1.52, 1.67 and 2.13 s; a width-8 ResNet at 8 x 8,
        7 states on 1500 images: 0.40, 0.29 and 0.22 s.
        """
        if self.batch_size is not None:
            return self.batch_size
        if self.device.type == "cuda":
            return MAX_IMAGES
        pixels = images[0, 0].numel()
        if pixels > LARGE:  # activations of 125 images of 224 x 224 take 400 MB a layer
            return max(8, 125 * LARGE // pixels)
        return min(max(128_000 // pixels, 125), SMALL_IMAGES)

    def forward(self, state: State, batch: Tensor) -> Tensor:
        """Return the logits `[b, classes]` of one state on one batch, differentiable in the state's tensors.

        Raises:
            UserError: if the model returns anything else.
        """
        try:
            with without_autocast(self.device), self._parameters.use(state):
                out = find_logits(self.model(batch.to(self.device, self.dtype)))
        finally:
            self._eval_caches.clear()
        if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(batch):
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise UserError(f"The model must return logits [n, classes], found {shape}.")
        if not out.is_floating_point():
            raise UserError(f"The model must return floating logits [n, classes], found {out.dtype}.")
        return out

    def _with_own_buffers(self, tensors: State) -> dict[str, Tensor]:
        """Return the tensors with buffers copied: a network may write into them in eval mode too."""
        weights = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        return {name: value if name in weights else value.clone() for name, value in tensors.items()}

    def outputs(self, state: State, batch: Tensor) -> Tensor:
        """Return the logits `[b, classes]` of one state on one batch, in the layout of the images.

        Weights are not copied, so that a network that writes into them changes `state`. Buffers are.

        Raises:
            UserError: if the network computes with its own weights instead of the given ones. Some networks
                keep further references to their parameters: in a list, a closure, a compiled function.
        """
        here = {name: value.detach().to(self.device) for name, value in state.items()}
        with torch.enable_grad(), isolated(self.device):
            out = self.forward(self._with_own_buffers(here), batch)
        self._is_checked = True
        name = next((self._own[id(leaf)] for leaf in graph_leaves(out) if id(leaf) in self._own), None)
        if name is not None:
            raise UserError(
                f"The network computes with its own {name!r} instead of the given weights, because it keeps "
                "a second reference to it (in a list, closure or compiled function). Let forward read it "
                "from the module."
            )
        return out.detach()

    def _check_uses_state(self, state: State, images: Tensor) -> None:
        """Raise if the network computes with its own weights; `state` is not modified."""
        self.outputs({name: value.detach().clone() for name, value in state.items()}, images)

    @torch.no_grad()
    def recalibrate(self, states: Stack, images: Images, batches: int | None = None) -> Stack:
        """Return `states` with BatchNorm statistics computed on `images` `[n, c, h, w]`.

        `images` are split into `batches` of sizes equal up to one. Mean and unbiased variance are pooled by
        the law of total variance: exact at the first BatchNorm layer for any batching, and at every layer
        for a single batch; None: one, or for large images as few as `CALIBRATION_PIXELS` allows. A layer that
        runs several times in a pass gets the mean of its calls' statistics (torch's cumulative average,
        momentum None); one that never runs keeps its statistics. Networks without running statistics are
        returned unchanged.

        Raises:
            UserError: for fewer than two images per batch.
        """
        if not self.norms:
            return states
        if batches is None:
            pixels = first_images(images, 1)[0, 0].numel() if len(images) else 0
            batches = 1 if pixels <= LARGE else -(-len(images) * pixels // CALIBRATION_PIXELS)
        if len(images) < 2 * batches:
            raise UserError(
                f"Calibration needs at least two images per batch, found {counted(len(images), 'image')} for "
                f"{counted(batches, 'batch', 'batches')}."
            )
        with isolated(self.device), self.chunked_convolutions():
            return pool_statistics(
                self.model, self.norms, states, equal_parts(images, batches), self._evaluate
            )

    def chunked_convolutions(self) -> AbstractContextManager[object]:
        """Return a context that saves memory on a CPU when a batch must not be split."""
        return ReplacedFunctions({F.conv2d: chunked_conv2d}) if self.device.type == "cpu" else nullcontext()

    def _forward(self, states: Stack, batch: Tensor) -> Tensor:
        if self.stacked:
            try:
                return self._stacked(states, batch)
            except UserError:
                raise
            except Exception as error:  # vmap may raise anything in a network's code
                if is_out_of_memory(error):
                    raise
                self.stacked = False  # the loop may work, else it raises the network's own error
                self.not_stacked = describe(error)
        return torch.stack([self.forward(state, batch) for state in unstack(states)])

    def _stacked(self, states: Stack, batch: Tensor) -> Tensor:
        size = len(next(iter(states.values())))
        done: list[Tensor] = []
        start = 0
        while start < size:
            stop = size if self.limit is None else min(start + self.limit, size)
            # views, so that statistics written by layers reach the stack
            part = {name: value[start:stop] for name, value in states.items()}
            try:
                with warnings.catch_warnings():
                    # an operator without a batching rule runs once per state: slower, same result
                    warnings.filterwarnings("ignore", message="There is a performance drop")
                    done.append(vmap(lambda state: self.forward(state, batch))(part))
            except (RuntimeError, MemoryError) as error:
                guess = not self._has_guessed and may_be_out_of_memory(error)
                if stop - start == 1 or not (guess or is_out_of_memory(error)):
                    raise
                self._has_guessed |= guess
                self.limit = -(-(stop - start) // 2)
                continue
            start = stop
        return torch.cat(done)
