"""The table of what a network must do to take part: one entry a check, with what to do where it fails."""

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
from lmcbench.train.train_state import Tensors, holders, save_tensors, state_dict

TOLERANCE = 1e-3
"""Of the largest logit: between an image alone and among others, far above rounding in fp32."""


class NotReadyError(Exception):
    """A check failed: its message says what was found."""


@dataclass(frozen=True)
class Found:
    """What a check that passed has found.

    Attributes:
        text: for a person.
        data: the numbers, for `--json`.
        needed: False where the network has nothing to be checked.
    """

    text: str
    data: dict[str, Any] = field(default_factory=dict)
    needed: bool = True


@dataclass(frozen=True)
class Check:
    """One entry of the table.

    Attributes:
        asks: what is asked of the network, in a few words.
        look: finds out; raises `NotReadyError` or whatever the network's code raises.
        todo: what to do where it fails.
        needs: checks without which it says nothing.
    """

    asks: str
    look: Callable[[Trial], Found]
    todo: str
    needs: tuple[str, ...] = ()


def _logits(trial: Trial) -> Found:
    model = trial.build()
    classes = trial.size.classes
    for n in (1, BATCH):
        out = _outputs(model, trial.images[:n])
        _refuse_shape(out, n, classes)
        if not out.is_floating_point():
            raise NotReadyError(f"logits are floating, found {out.dtype}")
        if not torch.isfinite(out).all():
            bad = int((~torch.isfinite(out)).sum())
            raise NotReadyError(f"{bad} of {out.numel()} logits of {n} images are NaN or infinite")
        if classes > 1 and (out >= 0).all() and torch.allclose(out.sum(1), out.new_ones(n), atol=TOLERANCE):
            raise NotReadyError("they are probabilities: none is negative, and each image's sum to 1")
    return Found(f"[n, {classes}], finite")


def _seeds(trial: Trial) -> Found:
    same, other = (holders(trial.build(seed)) for seed in (0, 1))
    again = holders(trial.build_anew())
    for name, value in same.items():
        if not torch.equal(value, again[name]):
            raise NotReadyError(f"two networks built from one seed differ in {name}")
    if all(torch.equal(value, other[name]) for name, value in same.items()):
        raise NotReadyError("networks built from different seeds are the same")
    return Found("one seed, one network; another seed, another")


def _repeatable(trial: Trial) -> Found:
    model = trial.build()
    before = _copies(model)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        # the generator goes on between the two: what is drawn differs
        first, second = (model(trial.images[:BATCH]) for _ in range(2))
    if not torch.equal(first, second):
        gap = float((first - second).abs().max())
        raise NotReadyError(f"in eval mode the same images give other logits the second time, by {gap:.2g}")
    _refuse_changed(before, _copies(model), "changes in eval mode")
    return Found("the same images, the same bits")


def _generators(trial: Trial) -> Found:
    held = random.getstate(), _numpy_state()
    model = trial.build_anew().train()
    ends = []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for seed in (0, 1):
            torch.default_generator.manual_seed(seed)
            model(trial.images[:BATCH])
            ends.append(torch.get_rng_state())
    if torch.equal(*ends):
        raise NotReadyError("it seeds torch's global generator in its forward pass")
    if random.getstate() != held[0]:
        raise NotReadyError("it draws from Python's global generator (module random)")
    if _numpy_state() != held[1]:
        raise NotReadyError("it draws from NumPy's global generator (np.random)")
    return Found("it draws from torch's generator only, if at all")


def _learns(trial: Trial) -> Found:
    weights = list(trial.build().parameters())
    if not any(p.requires_grad for p in weights):
        raise NotReadyError("no weight is trained: requires_grad is False for all of them")
    _refuse_shape(
        _outputs(trial.build_anew().train(), trial.images[:BATCH]),
        BATCH,
        trial.size.classes,
        " in training mode",
    )
    large = sum(p.numel() for p in weights) > LARGE
    passes: dict[str, list[float]] = {}
    texts: list[str] = []
    learned: list[str] = []
    for name, recipe in RECIPES.items():
        if large and learned:
            break
        means = passes[name] = trial.falling(recipe)
        if not all(math.isfinite(m) for m in means):
            texts.append(f"{name}: the loss is not finite after {len(means) * PASS} steps")
            continue
        texts.append(f"{name} {means[0]:.2f} to {means[-1]:.2f} nats in {len(means) * PASS} steps")
        if means[-1] <= FALL * means[0]:
            learned.append(name)
    if not learned:
        raise NotReadyError(f"the loss does not fall: {'; '.join(texts)}")
    if len(learned) < len(passes):
        texts.append(f"choose a recipe with {learned[0]}")
    kept = {n: [m if math.isfinite(m) else None for m in means] for n, means in passes.items()}
    return Found("; ".join(texts), {"losses": kept, "optimizers": learned})


def _state(trial: Trial) -> Found:
    used, state = trial.whole
    fresh = trial.build(seed=1)
    if moved := sorted(used.state_dict().keys() ^ fresh.state_dict().keys()):
        raise NotReadyError(f"{moved[0]} comes into being, or goes, in training")
    saved = state_dict(used, state)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        save_tensors(saved, path)
        fresh.load_state_dict(load_checkpoint(path, fresh))
    expected, found = (_outputs(model, trial.images[:BATCH]) for model in (trial.holding(state), fresh))
    if not torch.equal(expected, found):
        gap = float((expected - found).abs().max())
        raise NotReadyError(f"saved and loaded, it gives other logits, by {gap:.2g}")
    unmoved = [name for name, momentum in state.slots["momentum"].items() if not momentum.any()]
    note = f"; no gradient reaches {len(unmoved)} of them, as {unmoved[0]}" if unmoved else ""
    return Found(f"{len(saved)} tensors, saved and loaded{note}")


def _forks(trial: Trial) -> Found:
    whole, forked = trial.whole[1], trial.siblings[0]
    for name, value in (whole.params | whole.buffers).items():
        if not torch.equal(value, (forked.params | forked.buffers)[name]):
            raise NotReadyError(
                f"a trunk to step {FORK} and a sibling from there differ from one run to {STOP} in {name}"
            )
    return Found(f"trunk to step {FORK} and sibling to {STOP} equal one run, bit for bit")


def _blends(trial: Trial) -> Found:
    a, b = trial.state_dicts
    check_pair(a, b)
    grid = alpha_grid(3)
    path = states_on_line(trial.network, a, b, grid)
    for end, state, index in (("first", a, 0), ("second", b, -1)):
        for name, value in unstack(path)[index].items():
            if not torch.equal(value, state[name]):
                raise NotReadyError(f"the {end} end of the line is not the sibling itself in {name}")
    curve = score_states(trial.network, trial.recalibrated(path), trial.images, trial.labels).curve(grid)
    return Found(
        f"two siblings, ends bit for bit; loss {', '.join(f'{x:.2f}' for x in curve.loss)} nats on the line"
    )


def _recalibrates(trial: Trial) -> Found:
    stack = trial.network.prepare(trial.state_dicts)
    own = {f"{name}." for name in trial.network.norms}
    moved = [
        name
        for name, value in trial.whole[1].buffers.items()
        if value.is_floating_point()
        and not any(name.startswith(layer) for layer in own)
        and not torch.equal(value, holders(trial.build())[name])
    ]
    note = f"{moved[0]} changes in training and is blended as it is" if moved else ""
    if not own:
        return Found(note or "no normalisation statistics", needed=False)
    once, twice = trial.recalibrated(stack), trial.recalibrated(trial.recalibrated(stack))
    for name, value in once.items():
        if not torch.isfinite(value).all():
            raise NotReadyError(f"{name} is not finite")
        if not torch.equal(value, twice[name]):
            raise NotReadyError(f"taking statistics anew twice gives other bits in {name}")
    return Found(f"{counted(len(own), 'BatchNorm layer')}{f'; {note}' if note else ''}", {"layers": len(own)})


def _alone(trial: Trial) -> Found:
    stack = trial.recalibrated(trial.network.prepare([trial.state_dicts[0]]))
    together = trial.network.logits(stack, trial.images[:BATCH])[0]
    alone = torch.cat([trial.network.logits(stack, image[None])[0] for image in trial.images[:BATCH]])
    gap = float((together - alone).abs().max() / together.abs().max().clamp(min=1e-12))
    if gap > TOLERANCE:
        raise NotReadyError(
            f"in eval mode the logits of an image depend on the others in its batch, by {100 * gap:.2g} %"
        )
    return Found(f"alone or in a batch: the same within {gap:.0e} of the largest logit", {"gap": gap})


def _engines(trial: Trial) -> Found:
    reason = reason_not_stackable(trial.build(), trial.size.shape)
    if reason is None:
        return Found("one after another, and stacked", {"stacked": True, "reason": None})
    return Found(f"one after another; not stacked: {reason}", {"stacked": False, "reason": reason})


def _cost(trial: Trial) -> Found:
    model = trial.build()
    params = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    flop = step_flop(model, trial.size.shape, BATCH) / BATCH
    note = f", {frozen:,} frozen" if frozen else ""
    return Found(
        f"{params:,} weights{note}; {_flop(flop)} to train on one image",
        {"params": params, "frozen": frozen, "train_flop_per_image": flop},
    )


CHECKS = {
    "logits": Check(
        "logits of the right shape, finite",
        _logits,
        "Return one tensor [n, num_classes] for images [n, c, h, w], n = 1 included: no softmax, tuple or "
        "squeeze. NaN comes from dividing by zero, the logarithm of zero, or pooling away all pixels.",
    ),
    "seeds": Check(
        "its seed alone decides its first weights",
        _seeds,
        "Draw first weights with torch alone (torch.nn.init, torch.randn), never with NumPy or random, and "
        "set no seed: lmcbench sets it.",
        ("logits",),
    ),
    "repeatable": Check(
        "the same output twice in eval mode",
        _repeatable,
        "Draw nothing and store nothing in eval mode: F.dropout needs training=self.training, a buffer that "
        "follows the data is to be updated if self.training.",
        ("logits",),
    ),
    "learns": Check(
        "the loss falls",
        _learns,
        f"Its loss on {IMAGES} images that are easily told apart should fall to {FALL:g} of the first within "
        f"{PASSES * PASS} steps of SGD (lr 0.05) or AdamW (lr 0.001). Look for a detached tensor, frozen "
        "weights, dead units, a softmax before the loss, or first weights of a wrong scale.",
        ("logits",),
    ),
    "generators": Check(
        "randomness from torch's generator only",
        _generators,
        "Draw with torch (nn.Dropout, torch.rand) and seed nothing: lmcbench keys torch's generator at every "
        "step, so that a fork can be repeated.",
        ("seeds", "repeatable", "learns"),
    ),
    "state": Check(
        "its state dict is all of it",
        _state,
        "Make every weight in __init__ (not in forward), and keep what training changes as a parameter or as "
        "a buffer that is saved: self.register_buffer(NAME, TENSOR).",
        ("generators",),
    ),
    "forks": Check(
        "a fork goes on as the trunk would",
        _forks,
        "Keep nothing that training changes in Python attributes (counters, caches, warm-ups): only buffers "
        "and parameters are copied to a sibling.",
        ("state",),
    ),
    "blends": Check(
        "two siblings can be blended",
        _blends,
        "Tensors that cannot be averaged (integers, booleans) must be the same in both siblings; others must "
        "stay finite.",
        ("state",),
    ),
    "recalibrates": Check(
        "normalisation statistics can be taken anew",
        _recalibrates,
        "Use torch's BatchNorm classes or subclasses that keep its running_mean and running_var.",
        ("blends",),
    ),
    "alone": Check(
        "an image's output is its own",
        _alone,
        "In eval mode use stored statistics: no BatchNorm with track_running_stats=False, no mean over "
        "dimension 0, no layer that is left in training mode.",
        ("blends",),
    ),
    "engines": Check(
        "an engine takes it",
        _engines,
        "Every network trains one after another; look at the error.",
        ("state",),
    ),
    "cost": Check(
        "its training FLOPs can be counted",
        _cost,
        "Look at the error: a forward and a backward pass in training mode failed.",
        ("state",),
    ),
}
"""Name -> check, in the order they are made."""


def _numpy_state() -> tuple[bytes, int]:
    """Words of NumPy's global generator, and the position among them."""
    state: Any = np.random.get_state()
    return state[1].tobytes(), state[2]


@torch.no_grad()
def _outputs(model: nn.Module, images: Tensor) -> Any:
    """What the network returns, in the mode it is in; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        return model(images)


def _refuse_shape(out: Any, n: int, classes: int, when: str = "") -> None:
    if not isinstance(out, Tensor) or out.shape != (n, classes):
        shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise NotReadyError(
            f"logits [{n}, {classes}] are expected of {counted(n, 'image')}{when}, found {shape}"
        )


def _copies(model: nn.Module) -> Tensors:
    return {name: value.detach().clone() for name, value in holders(model).items()}


def _refuse_changed(before: Tensors, after: Tensors, what: str) -> None:
    for name, value in before.items():
        if not torch.equal(value, after[name]):
            raise NotReadyError(f"{name} {what}")


def _flop(value: float) -> str:
    for unit, name in ((1e9, "GFLOP"), (1e6, "MFLOP")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value / 1e3:.3g} kFLOP"
