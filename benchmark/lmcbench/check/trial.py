"""How a network is built for images of a size: as published, or with which adaptation."""

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
from lmcbench.data.batches import DeviceImages, Feed
from lmcbench.data.dataset import Labels, Pixels
from lmcbench.data.streams import stream
from lmcbench.spec.architectures import ADAPTATIONS, Architecture
from lmcbench.spec.recipe import Recipe
from lmcbench.train.build import BuildError, build
from lmcbench.train.engines import advance
from lmcbench.train.optimizer import slot_names
from lmcbench.train.stackability import choose_engine
from lmcbench.train.train_state import (
    Tensors,
    TrainState,
    holders,
    initial_state,
    load_state,
    save_state,
    state_dict,
)

AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Fit:
    """What was tried, and what is taken.

    Attributes:
        architecture: with the adaptation that is taken; None where none fits.
        others: further adaptations that fit too.
        refused: what was tried and does not fit, with the reason.
    """

    architecture: Architecture | None
    others: tuple[str, ...]
    refused: dict[str, str]


def fit(asked: Architecture, size: Size, thorough: bool = True) -> Fit:
    """The first that fits of: the network as it is, and each adaptation; the one asked for, if one is.

    Args:
        asked: the network; an adaptation in it is the only one tried.
        size: of the images.
        thorough: try the other adaptations too where the first fits.

    Raises:
        UserError: where the network cannot be found or imported.
        LogitsError: where it does not give logits: no adaptation will mend that.
    """
    # reversed: patch4 fits only what projects patches, small-stem whatever begins with a convolution
    wanted: list[str | None] = [asked.adapt] if asked.adapt is not None else [None, *reversed(ADAPTATIONS)]
    taken: Architecture | None = None
    others: list[str] = []
    refused: dict[str, str] = {}
    for adapt in wanted:
        candidate = asked.model_copy(update={"adapt": adapt})
        reason = why_not(candidate, size)
        if reason is not None:
            refused[adapt if adapt is not None else AS_IT_IS] = reason
        elif taken is None:
            taken = candidate
            if not thorough:
                break
        else:
            assert adapt is not None
            others.append(adapt)
    return Fit(taken, tuple(others), refused)


def why_not(architecture: Architecture, size: Size) -> str | None:
    """Why the network cannot be built at this size; None where it can, and gives finite logits."""
    try:
        model = build(architecture, size.shape, size.classes, 0)
    except BuildError as error:
        return error.reason
    images = torch.from_numpy(made_up_images(size)[0][:2]).float() / 255
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        finite = bool(torch.isfinite(model(images)).all())
    return None if finite else "its logits are not finite at this size"


CPU = torch.device("cpu")
IMAGES, BATCH, KINDS = 32, 8, 4
"""Images, images of a batch, and the most classes that are shown: few, so that minutes become seconds."""

PASS = IMAGES // BATCH
"""Steps in which every image is seen once."""

PASSES = 8
"""At most so many passes for the loss to fall."""

FALL = 0.8
"""The mean loss of a pass over that of the first pass, below which the loss has fallen."""

RECIPES = {
    "SGD": Recipe(lr=0.05, clip_norm=1.0, schedule="constant", batch_size=BATCH, epochs=PASSES),
    "AdamW": Recipe(
        optimizer="adamw", lr=1e-3, clip_norm=1.0, schedule="constant", batch_size=BATCH, epochs=PASSES
    ),
}
"""Two mild recipes, clipped so that networks without normalisation survive them."""

LARGE = 10_000_000
"""Weights beyond which the second recipe is tried only where the first fails: a step then takes seconds."""

FORKED = Recipe(lr=0.01, clip_norm=1.0, batch_size=BATCH, epochs=1)
"""For forks: its schedule and its momentum depend on the steps before."""

FORK, STOP = 2, PASS
"""Steps of the trunk, and of the whole."""


@dataclass(frozen=True)
class Size:
    """What a network is to be built for: images `shape` (c, h, w) of so many classes."""

    shape: tuple[int, int, int]
    classes: int

    def __str__(self) -> str:
        return f"{' x '.join(map(str, self.shape))}, {self.classes} classes"


def made_up_images(size: Size) -> tuple[Pixels, Labels]:
    """`IMAGES` images of a coarse pattern for each class, and noise; separable, and the same every time.

    Returns:
        images `[n, c, h, w]` and labels `[n]`, 0 to `KINDS` - 1 at most, in turn.
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
    """One network at one size: built when asked for, trained for a few steps, always in the same way.

    Args:
        architecture: with the adaptation it is to be built with.
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
        """All images as a network sees them, `[n, c, h, w]`."""
        return self.data.split()[0].whole()

    @property
    def labels(self) -> Tensor:
        """Their classes, `[n]`."""
        return self.data.split()[1]

    def build_anew(self, seed: int = 0) -> nn.Module:
        """The network, by its factory."""
        return build(self.architecture, self.size.shape, self.size.classes, seed)

    def build(self, seed: int = 0) -> nn.Module:
        """The same as a copy of one that was built once: large ones take seconds to be drawn."""
        if seed not in self._built:
            self._built[seed] = self.build_anew(seed)
        return copy.deepcopy(self._built[seed])

    @cached_property
    def network(self) -> Network:
        """What measures it, as a run does."""
        return Network(self.build(), CPU)

    def falling(self, recipe: Recipe) -> list[float]:
        """The mean loss of each pass in nats, up to the pass in which it has fallen."""
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
    def whole(self) -> tuple[nn.Module, TrainState]:
        """One run from 0 to `STOP`: the network that was trained, and the state it ended in."""
        model = self.build()
        return model, self._advance(model, self._initial(model), FORKED, 0, 0, STOP)[0]

    def holding(self, state: TrainState) -> nn.Module:
        """The network, anew, with all of a training state in it: also what a state dict leaves out."""
        model = self.build()
        own = holders(model)
        with torch.no_grad():
            for name, value in (state.params | state.buffers).items():
                own[name].copy_(value)
        return model

    @cached_property
    def fork(self) -> TrainState:
        """The trunk's state at `FORK`, by way of a file."""
        model = self.build()
        state = self._advance(model, self._initial(model), FORKED, 0, 0, FORK)[0]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trunk.safetensors"
            save_state(state, path)
            return load_state(path)

    @cached_property
    def siblings(self) -> tuple[TrainState, TrainState]:
        """Two that leave the fork and train to `STOP`: with the trunk's own noise, and with another.

        Each in a network of its own, as in a run that is resumed: nothing but the state is the trunk's.
        """
        first, second = (
            self._advance(self.build(seed=1), self.fork, FORKED, noise, FORK, STOP)[0] for noise in (0, 1)
        )
        return first, second

    @property
    def state_dicts(self) -> tuple[Tensors, Tensors]:
        """The siblings as a run keeps them."""
        first, second = (state_dict(self.network.model, state) for state in self.siblings)
        return first, second

    def recalibrated(self, states: Stack) -> Stack:
        """`states` with their statistics taken anew on all images."""
        return self.network.recalibrate(states, self.images)

    def _initial(self, model: nn.Module) -> TrainState:
        return initial_state(model, slot_names(FORKED))

    def _advance(
        self, model: nn.Module, state: TrainState, recipe: Recipe, noise: int, start: int, stop: int
    ) -> tuple[TrainState, Tensor]:
        """The state at `stop` and the losses `[steps]`, by the engine that a run takes on a CPU."""
        everything = np.arange(IMAGES)
        sequence = stream(everything, everything, "own", noise, noise, recipe.batch_size)
        feed = Feed(self.data, [sequence], recipe.augmentation)
        engine = choose_engine(self.architecture, model, self.size.shape, CPU.type)
        length = recipe.length(IMAGES)
        done = advance(engine, model, [state], feed, recipe, [length], [noise], start, stop)
        return done.states[0], done.losses[0]
