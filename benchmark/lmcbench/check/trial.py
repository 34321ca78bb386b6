"""Train a network for a few steps on made-up images, at a given image size and with a fitting adaptation."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lmcbench.connect.blending import Stack
from lmcbench.connect.network import Network
from lmcbench.data.batches import DeviceImages, Feed, make_stream
from lmcbench.data.dataset import Labels, Pixels
from lmcbench.spec.architectures import ADAPTATIONS, Architecture
from lmcbench.spec.recipe import Recipe
from lmcbench.train.build import BuildError, build
from lmcbench.train.choice import choose_engine
from lmcbench.train.engines import advance
from lmcbench.train.optimizer import slot_names
from lmcbench.train.train_state import (
    Tensors,
    TrainState,
    initial_state,
    load_state,
    named_tensors,
    save_state,
    state_dict,
)

CPU = torch.device("cpu")
UNADAPTED = "as it is"

IMAGES, BATCH, KINDS = 32, 8, 4
"""Number of images, batch size, and the most classes among the images: small, so that a check is fast."""

PASS = IMAGES // BATCH
"""Steps of one pass over the images."""

PASSES = 8
"""Most passes within which the loss must fall."""

FALL = 0.8
"""The loss has fallen when the mean of a pass is at most this share of the first pass's mean."""

RECIPES = {
    "SGD": Recipe(lr=0.05, clip_norm=1.0, schedule="constant", batch_size=BATCH, epochs=PASSES),
    "AdamW": Recipe(
        optimizer="adamw", lr=1e-3, clip_norm=1.0, schedule="constant", batch_size=BATCH, epochs=PASSES
    ),
}
"""Small learning rates and clipped gradients, so that networks without normalisation do not diverge."""

LARGE = 10_000_000
"""Weights above which the second recipe is tried only if the first fails, because a step takes seconds."""

FORKED = Recipe(lr=0.01, clip_norm=1.0, batch_size=BATCH, epochs=1)
"""The recipe of forks: its schedule and momentum depend on earlier steps."""

FORK, STOP = 2, PASS
"""Last step of the trunk, and of the training."""


@dataclass(frozen=True)
class Size:
    """The images a network is built for: `shape` (c, h, w) and the number of classes."""

    shape: tuple[int, int, int]
    classes: int

    def __str__(self) -> str:
        return f"{' x '.join(map(str, self.shape))}, {self.classes} classes"


@dataclass(frozen=True)
class Fit:
    """The adaptations that were tried.

    Attributes:
        architecture: with the first adaptation that fits; None if none does.
        others: further adaptations that fit.
        refused: adaptation -> why it does not fit.
    """

    architecture: Architecture | None
    others: tuple[str, ...]
    refused: dict[str, str]


def find_fit(asked: Architecture, size: Size, thorough: bool = True) -> Fit:
    """Find the first that fits: the network unchanged, or one of the adaptations.

    Args:
        asked: the network; an adaptation in it is the only one tried.
        size: of the images.
        thorough: also try the remaining adaptations after the first that fits.

    Raises:
        UserError: if the network cannot be found or imported.
        LogitsError: if it does not return logits, which no adaptation changes.
    """
    # reversed: patch4 fits only patch projections, small-stem every network that begins with a convolution
    tried: list[str | None] = [asked.adapt] if asked.adapt is not None else [None, *reversed(ADAPTATIONS)]
    fitting: list[Architecture] = []
    refused: dict[str, str] = {}
    for adapt in tried:
        candidate = asked.model_copy(update={"adapt": adapt})
        reason = why_unfit(candidate, size)
        if reason is not None:
            refused[adapt or UNADAPTED] = reason
            continue
        fitting.append(candidate)
        if not thorough:
            break
    others = tuple(architecture.adapt or UNADAPTED for architecture in fitting[1:])
    return Fit(fitting[0] if fitting else None, others, refused)


def why_unfit(architecture: Architecture, size: Size) -> str | None:
    """Return why the network cannot be built at this size; None if it can and gives finite logits."""
    try:
        model = build(architecture, size.shape, size.classes, 0)
    except BuildError as error:
        return error.reason
    images = torch.from_numpy(made_up_images(size)[0][:2]).float() / 255
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        is_finite = bool(torch.isfinite(model(images)).all())
    return None if is_finite else "its logits are not finite at this size"


def made_up_images(size: Size) -> tuple[Pixels, Labels]:
    """Return `IMAGES` separable images, always the same: a coarse pattern per class, plus noise.

    Returns:
        images `[n, c, h, w]` and labels `[n]`, at most 0 to `KINDS` - 1, in turn.
    """
    generator = np.random.Generator(np.random.Philox(0))
    channels, height, width = size.shape
    kinds = min(size.classes, KINDS)
    patterns = generator.integers(40, 216, (kinds, channels, 4, 4))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    labels = np.arange(IMAGES, dtype=np.int64) % kinds
    clean = patterns[labels][:, :, rows][:, :, :, columns]
    return (clean + generator.integers(-40, 41, clean.shape)).astype(np.uint8), labels


class Trial:
    """One network at one size, built and trained on demand, deterministically.

    Args:
        architecture: with its adaptation.
        size: of the images.
    """

    def __init__(self, architecture: Architecture, size: Size) -> None:
        self.architecture = architecture
        self.size = size
        pixels, labels = made_up_images(size)
        statistics = (pixels.mean((0, 2, 3)) / 255, pixels.std((0, 2, 3)) / 255 + 1e-3)
        self.data = DeviceImages(pixels, labels, statistics, CPU)
        self._built: dict[int, nn.Module] = {}

    @property
    def images(self) -> Tensor:
        """All images, normalised, `[n, c, h, w]`."""
        return self.data.split()[0].whole()

    @property
    def labels(self) -> Tensor:
        """Their classes, `[n]`."""
        return self.data.split()[1]

    def build_anew(self, seed: int = 0) -> nn.Module:
        """Call the network's factory."""
        return build(self.architecture, self.size.shape, self.size.classes, seed)

    def build(self, seed: int = 0) -> nn.Module:
        """Return a copy of the network of this seed; initialising a large one takes seconds."""
        if seed not in self._built:
            self._built[seed] = self.build_anew(seed)
        return copy.deepcopy(self._built[seed])

    @cached_property
    def network(self) -> Network:
        """The network as a run evaluates it."""
        return Network(self.build(), CPU)

    def mean_losses(self, recipe: Recipe) -> list[float]:
        """Return the mean loss of each pass in nats, up to the pass in which it has fallen."""
        model = self.build()
        state = initial_state(model, slot_names(recipe))
        means: list[float] = []
        for start in range(0, PASSES * PASS, PASS):
            state, losses = self._advance(model, state, recipe, 0, start, start + PASS)
            means.append(float(losses.double().mean()))
            if not means[-1] > FALL * means[0]:
                break
        return means

    @cached_property
    def full_run(self) -> tuple[nn.Module, TrainState]:
        """A training from step 0 to `STOP`: the network that was trained, and its last state."""
        model = self.build()
        return model, self._advance(model, initial_state(model, slot_names(FORKED)), FORKED, 0, 0, STOP)[0]

    def with_state(self, state: TrainState) -> nn.Module:
        """Return the network with a training state, including buffers that its state dict lacks."""
        model = self.build()
        own = named_tensors(model)
        with torch.no_grad():
            for name, value in (state.params | state.buffers).items():
                own[name].copy_(value)
        return model

    @cached_property
    def fork(self) -> TrainState:
        """The trunk's state at `FORK`, written to a file and read again."""
        model = self.build()
        state = self._advance(model, initial_state(model, slot_names(FORKED)), FORKED, 0, 0, FORK)[0]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trunk.safetensors"
            save_state(state, path)
            return load_state(path)

    @cached_property
    def siblings(self) -> tuple[TrainState, TrainState]:
        """Two siblings trained from the fork to `STOP`: with the trunk's noise, and with another.

        Each is trained in a new network, as in a resumed run: only the state comes from the trunk.
        """
        first, second = (
            self._advance(self.build(seed=1), self.fork, FORKED, noise, FORK, STOP)[0] for noise in (0, 1)
        )
        return first, second

    @property
    def state_dicts(self) -> tuple[Tensors, Tensors]:
        """The siblings as a run stores them."""
        first, second = (state_dict(self.network.model, state) for state in self.siblings)
        return first, second

    def recalibrated(self, states: Stack) -> Stack:
        """Return `states` with their statistics recalibrated on all images."""
        return self.network.recalibrate(states, self.images)

    def _advance(
        self, model: nn.Module, state: TrainState, recipe: Recipe, noise: int, start: int, stop: int
    ) -> tuple[TrainState, Tensor]:
        """Return the state at `stop` and the losses `[steps]`, by the engine that a run uses on a CPU."""
        items = np.arange(IMAGES)
        sequence = make_stream(items, items, "own", noise, noise, recipe.batch_size)
        feed = Feed(self.data, [sequence], recipe.augmentation)
        engine = choose_engine(
            self.architecture, model, self.size.shape, CPU.type, batch_size=recipe.batch_size
        )
        length = recipe.length(IMAGES)
        done = advance(engine, model, [state], feed, recipe, [length], [noise], start, stop)
        return done.states[0], done.losses[0]
