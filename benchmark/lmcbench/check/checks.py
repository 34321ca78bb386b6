"""What a network must do to take part: one function per check, with advice for a network that fails it."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmcbench.check.trial import BATCH, FALL, FORK, IMAGES, LARGE, PASS, PASSES, RECIPES, STOP, Trial
from lmcbench.connect.blending import check_pair, unstack
from lmcbench.connect.interpolation import alpha_grid, score_states, states_on_line
from lmcbench.errors import counted
from lmcbench.train.checkpoints import load_checkpoint
from lmcbench.train.cost import step_flop
from lmcbench.train.stackability import reason_not_stackable
from lmcbench.train.train_state import named_tensors, save_tensors, state_dict

TOLERANCE = 1e-3
"""Largest difference between an image alone and in a batch, relative to the largest logit."""


class NotReadyError(Exception):
    """A check failed; the message says what was found."""


@dataclass(frozen=True)
class Outcome:
    """What a check that passed found.

    Attributes:
        text: for the table.
        data: the numbers, for `--json`.
        needed: False if the network has nothing to check.
    """

    text: str
    data: dict[str, Any] = field(default_factory=dict)
    needed: bool = True


@dataclass(frozen=True)
class Check:
    """One entry of the table.

    Attributes:
        asks: the requirement in a few words.
        run: performs the check; raises `NotReadyError`, or any error of the network's own code.
        todo: advice for a network that fails.
        needs: checks that must pass first.
    """

    asks: str
    run: Callable[[Trial], Outcome]
    todo: str
    needs: tuple[str, ...]


CHECKS: dict[str, Check] = {}
"""Name -> check, in the order they are run."""


def _check(
    name: str, asks: str, *needs: str, todo: str
) -> Callable[[Callable[[Trial], Outcome]], Callable[[Trial], Outcome]]:
    """Add the decorated function to the table."""

    def add(run: Callable[[Trial], Outcome]) -> Callable[[Trial], Outcome]:
        CHECKS[name] = Check(asks, run, todo, needs)
        return run

    return add


@_check(
    "logits",
    "logits of the right shape, finite",
    todo="Return one tensor [n, num_classes] for images [n, c, h, w], also for n = 1: no softmax, tuple or "
    "squeeze. NaN comes from dividing by zero, the logarithm of zero, or pooling away all pixels.",
)
def _logits(trial: Trial) -> Outcome:
    model = trial.build()
    classes = trial.size.classes
    for n in (1, BATCH):
        out = _outputs(model, trial.images[:n])
        _require_shape(out, n, classes)
        if not out.is_floating_point():
            raise NotReadyError(f"logits must be floating, found {out.dtype}")
        if not torch.isfinite(out).all():
            bad = int((~torch.isfinite(out)).sum())
            raise NotReadyError(f"{bad} of {out.numel()} logits of {n} images are NaN or infinite")
        if classes > 1 and (out >= 0).all() and torch.allclose(out.sum(1), out.new_ones(n), atol=TOLERANCE):
            raise NotReadyError("the outputs are probabilities: not negative, with sum 1 for each image")
    return Outcome(f"[n, {classes}], finite")


@_check(
    "seeds",
    "its seed alone decides its initial weights",
    "logits",
    todo="Draw initial weights with torch alone (torch.nn.init, torch.randn), not with NumPy or random, and "
    "set no seed: lmcbench sets it.",
)
def _seeds(trial: Trial) -> Outcome:
    first, other = (named_tensors(trial.build(seed)) for seed in (0, 1))
    again = named_tensors(trial.build_anew())
    for name, value in first.items():
        if not torch.equal(value, again[name]):
            raise NotReadyError(f"two networks built from one seed differ in {name}")
    if all(torch.equal(value, other[name]) for name, value in first.items()):
        raise NotReadyError("networks built from different seeds are equal")
    return Outcome("equal for one seed, different for another")


@_check(
    "repeatable",
    "the same output twice in eval mode",
    "logits",
    todo="Draw nothing and store nothing in eval mode: F.dropout needs training=self.training, and buffers "
    "may be updated only if self.training.",
)
def _repeatable(trial: Trial) -> Outcome:
    model = trial.build()
    before = {name: value.detach().clone() for name, value in named_tensors(model).items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        # the generator is not reset between the two passes, so random draws differ
        first, second = (model(trial.images[:BATCH]) for _ in range(2))
    if not torch.equal(first, second):
        gap = float((first - second).abs().max())
        raise NotReadyError(f"in eval mode the same images give other logits the second time, by {gap:.2g}")
    for name, value in named_tensors(model).items():
        if not torch.equal(before[name], value):
            raise NotReadyError(f"{name} changes in eval mode")
    return Outcome("the same bits for the same images")


@_check(
    "learns",
    "the loss falls",
    "logits",
    todo=f"The loss on {IMAGES} images that are easy to separate should fall to {FALL:g} of its first value "
    f"within {PASSES * PASS} steps of SGD (lr 0.05) or AdamW (lr 0.001). Look for a detached tensor, frozen "
    "weights, dead units, a softmax before the loss, or initial weights of a wrong scale.",
)
def _learns(trial: Trial) -> Outcome:
    weights = list(trial.build().parameters())
    if not any(p.requires_grad for p in weights):
        raise NotReadyError("no weight is trained: requires_grad is False for all of them")
    out = _outputs(trial.build_anew().train(), trial.images[:BATCH])
    _require_shape(out, BATCH, trial.size.classes, " in training mode")
    is_large = sum(p.numel() for p in weights) > LARGE
    losses: dict[str, list[float]] = {}
    texts: list[str] = []
    learned: list[str] = []
    for name, recipe in RECIPES.items():
        if is_large and learned:
            break
        means = losses[name] = trial.mean_losses(recipe)
        steps = len(means) * PASS
        if not all(math.isfinite(m) for m in means):
            texts.append(f"{name}: the loss is not finite after {steps} steps")
            continue
        texts.append(f"{name} {means[0]:.2f} to {means[-1]:.2f} nats in {steps} steps")
        if means[-1] <= FALL * means[0]:
            learned.append(name)
    if not learned:
        raise NotReadyError(f"the loss does not fall: {'; '.join(texts)}")
    if len(learned) < len(losses):
        texts.append(f"choose a recipe with {learned[0]}")
    finite = {name: [m if math.isfinite(m) else None for m in means] for name, means in losses.items()}
    return Outcome("; ".join(texts), {"losses": finite, "optimizers": learned})


@_check(
    "generators",
    "randomness from torch's generator only",
    "seeds",
    "repeatable",
    "learns",
    todo="Draw with torch (nn.Dropout, torch.rand) and set no seed: lmcbench seeds torch's generator at "
    "every step, so that a fork can be repeated.",
)
def _generators(trial: Trial) -> Outcome:
    before = random.getstate(), _numpy_state()
    model = trial.build_anew().train()
    ends = []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for seed in (0, 1):
            torch.default_generator.manual_seed(seed)
            model(trial.images[:BATCH])
            ends.append(torch.get_rng_state())
    if torch.equal(*ends):
        raise NotReadyError("it seeds torch's global generator in its forward pass")
    if random.getstate() != before[0]:
        raise NotReadyError("it draws from Python's global generator (module random)")
    if _numpy_state() != before[1]:
        raise NotReadyError("it draws from NumPy's global generator (np.random)")
    return Outcome("it draws from torch's generator or not at all")


@_check(
    "state",
    "its state dict is complete",
    "generators",
    todo="Create every weight in __init__ (not in forward), and keep everything that training changes in a "
    "parameter or in a buffer that is saved: self.register_buffer(NAME, TENSOR).",
)
def _state(trial: Trial) -> Outcome:
    trained, state = trial.full_run
    fresh = trial.build(seed=1)
    if changed := sorted(trained.state_dict().keys() ^ fresh.state_dict().keys()):
        raise NotReadyError(f"{changed[0]} is created or removed in training")
    saved = state_dict(trained, state)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        save_tensors(saved, path)
        fresh.load_state_dict(load_checkpoint(path, fresh))
    expected, found = (_outputs(model, trial.images[:BATCH]) for model in (trial.with_state(state), fresh))
    if not torch.equal(expected, found):
        gap = float((expected - found).abs().max())
        raise NotReadyError(f"saved and loaded, it gives other logits, by {gap:.2g}")
    unmoved = [name for name, momentum in state.slots["momentum"].items() if not momentum.any()]
    note = f"; no gradient reaches {len(unmoved)} of them, such as {unmoved[0]}" if unmoved else ""
    return Outcome(f"{len(saved)} tensors, saved and loaded{note}")


@_check(
    "forks",
    "a sibling continues as the trunk would",
    "state",
    todo="Keep nothing that training changes in Python attributes (counters, caches, warm-ups): only buffers "
    "and parameters are copied to a sibling.",
)
def _forks(trial: Trial) -> Outcome:
    full, forked = trial.full_run[1], trial.siblings[0]
    for name, value in (full.params | full.buffers).items():
        if not torch.equal(value, (forked.params | forked.buffers)[name]):
            raise NotReadyError(
                f"a trunk to step {FORK} and a sibling from there differ from one run to {STOP} in {name}"
            )
    return Outcome(f"trunk to step {FORK} and sibling to {STOP} equal one run, bit for bit")


@_check(
    "blends",
    "two siblings can be interpolated",
    "state",
    todo="Tensors that cannot be averaged (integers, booleans) must be equal in both siblings; the others "
    "must stay finite.",
)
def _blends(trial: Trial) -> Outcome:
    a, b = trial.state_dicts
    check_pair(a, b)
    grid = alpha_grid(3)
    path = states_on_line(trial.network, a, b, grid)
    for end, state, index in (("first", a, 0), ("second", b, -1)):
        for name, value in unstack(path)[index].items():
            if not torch.equal(value, state[name]):
                raise NotReadyError(f"the {end} end of the line is not the sibling itself in {name}")
    curve = score_states(trial.network, trial.recalibrated(path), trial.images, trial.labels).curve(grid)
    losses = ", ".join(f"{x:.2f}" for x in curve.loss)
    return Outcome(f"two siblings, ends bit for bit; loss {losses} nats on the line")


@_check(
    "recalibrates",
    "normalisation statistics can be recalibrated",
    "blends",
    todo="Use torch's BatchNorm classes or subclasses that keep its running_mean and running_var.",
)
def _recalibrates(trial: Trial) -> Outcome:
    stack = trial.network.prepare(trial.state_dicts)
    norms = tuple(f"{name}." for name in trial.network.norms)
    moved = [
        name
        for name, value in trial.full_run[1].buffers.items()
        if value.is_floating_point()
        and not name.startswith(norms)
        and not torch.equal(value, named_tensors(trial.build())[name])
    ]
    note = f"{moved[0]} changes in training and is interpolated, not recalibrated" if moved else ""
    if not norms:
        return Outcome(note or "no normalisation statistics", needed=False)
    once, twice = trial.recalibrated(stack), trial.recalibrated(trial.recalibrated(stack))
    for name, value in once.items():
        if not torch.isfinite(value).all():
            raise NotReadyError(f"{name} is not finite")
        if not torch.equal(value, twice[name]):
            raise NotReadyError(f"a second recalibration gives other bits in {name}")
    layers = counted(len(norms), "BatchNorm layer")
    return Outcome(f"{layers}{f'; {note}' if note else ''}", {"layers": len(norms)})


@_check(
    "alone",
    "an image's output does not depend on its batch",
    "blends",
    todo="In eval mode use stored statistics: no BatchNorm with track_running_stats=False, no mean over "
    "dimension 0, no layer that stays in training mode.",
)
def _alone(trial: Trial) -> Outcome:
    stack = trial.recalibrated(trial.network.prepare([trial.state_dicts[0]]))
    together = trial.network.logits(stack, trial.images[:BATCH])[0]
    alone = torch.cat([trial.network.logits(stack, image[None])[0] for image in trial.images[:BATCH]])
    gap = float((together - alone).abs().max() / together.abs().max().clamp(min=1e-12))
    if gap > TOLERANCE:
        raise NotReadyError(
            f"in eval mode the logits of an image depend on the others in its batch, by {100 * gap:.2g} %"
        )
    return Outcome(f"alone or in a batch: equal within {gap:.0e} of the largest logit", {"gap": gap})


@_check(
    "engines",
    "an engine can train it",
    "state",
    todo="Every network can be trained by the reference engine; see the error.",
)
def _engines(trial: Trial) -> Outcome:
    reason = reason_not_stackable(trial.build(), trial.size.shape)
    text = "reference and stacked" if reason is None else f"reference; not stacked: {reason}"
    return Outcome(text, {"stacked": reason is None, "reason": reason})


@_check(
    "cost",
    "its training FLOPs can be counted",
    "state",
    todo="A forward and a backward pass in training mode failed; see the error.",
)
def _cost(trial: Trial) -> Outcome:
    model = trial.build()
    params = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    flop = step_flop(model, trial.size.shape, BATCH) / BATCH
    unit, prefix = next((u, p) for u, p in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if flop >= u or p == "k")
    note = f", {frozen:,} frozen" if frozen else ""
    return Outcome(
        f"{params:,} weights{note}; {flop / unit:.3g} {prefix}FLOP to train on one image",
        {"params": params, "frozen": frozen, "train_flop_per_image": flop},
    )


def _numpy_state() -> tuple[bytes, int]:
    """Return the words of NumPy's global generator, and the position in them."""
    state: Any = np.random.get_state()
    return state[1].tobytes(), state[2]


@torch.no_grad()
def _outputs(model: nn.Module, images: Tensor) -> Any:
    """Return the model's output in its current mode, with the state of torch's generator restored."""
    with torch.random.fork_rng(devices=[]):
        return model(images)


def _require_shape(out: Any, n: int, classes: int, when: str = "") -> None:
    if not isinstance(out, Tensor) or out.shape != (n, classes):
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise NotReadyError(f"{counted(n, 'image')} must give logits [{n}, {classes}]{when}, found {found}")
