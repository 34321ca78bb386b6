"""Measure a cell: its siblings' weights in, curves, predictions and what follows from them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmcbench.connect.geometry import geometry
from lmcbench.connect.gradients import gradient_noise
from lmcbench.connect.network import Network
from lmcbench.connect.path import alpha_grid, line
from lmcbench.connect.state import Stack, State, average
from lmcbench.data.calibration import calibration_items
from lmcbench.ensemble.path import path_ensembles
from lmcbench.ensemble.predictions import softmax
from lmcbench.ensemble.rescore import Logits, from_logits
from lmcbench.errors import UserError
from lmcbench.results.measures import Curve, chord_area
from lmcbench.results.record import PairRecord, Score, SiblingRecord, barrier_records, curve_records
from lmcbench.results.store import labels_name
from lmcbench.running.bench import Seen, Workbench
from lmcbench.running.logits import score_logits, stored_logits
from lmcbench.running.passes import Passed, Splits, open_splits, pass_members, pass_path
from lmcbench.spec.canonical import digest
from lmcbench.spec.cells import Cell
from lmcbench.spec.recipe import noise_scale

GRADIENT_IMAGES = 300
"""Images of all views on which the gradient noise at the fork is taken."""


@dataclass(frozen=True)
class Measured:
    """What measuring a cell gives: the parts of its record that are not known before.

    Attributes:
        functions: per test split, what `compare_errors` says and, under `sizes`, `ensembles_by_size`.
        noise: the recipe's noise scale on each sibling's view, and the gradient noise at the fork.
    """

    siblings: list[SiblingRecord]
    pairs: list[PairRecord]
    ensemble: dict[str, dict[str, float | None]] | None
    soup: dict[str, Score] | None
    functions: dict[str, dict[str, Any]] | None
    noise: dict[str, Any]
    predictions: dict[str, Logits]
    calibration: dict[str, Any]
    train_eval: dict[str, Any] | None


def measure_cell(
    cell: Cell, bench: Workbench, states: Sequence[State], fork: State | None, train_losses: Sequence[float]
) -> Measured:
    """Curves, barriers, predictions, ensembles, geometry and noise of a cell (design sections 3 and 6).

    Args:
        cell: the cell.
        bench: its family's data and network.
        states: the siblings' state dicts.
        fork: the state they left; None where there is none.
        train_losses: their final training losses, for the record.

    Raises:
        UserError: where a loss on the path is not finite.
    """
    network = Network(bench.model, bench.device, stacked=bench.device.type == "cuda")
    seen, protocol = bench.seen[cell.key], cell.suite.protocol
    splits = open_splits(cell, bench, seen)
    listed = calibration_items(seen.items, bench.pool.source, bench.pool.labels, protocol.calibration)
    calibration = bench.train.split(torch.as_tensor(listed))[0].whole()

    def recalibrated(stack: Stack) -> Stack:
        return network.recalibrate(stack, calibration, protocol.calibration_batches)

    as_trained = network.prepare(states)
    members = pass_members(network, recalibrated(as_trained), splits)
    # what blending does to statistics is shown where everybody looks, not under every shift of the tests
    raw = pass_members(network, as_trained, splits, [None]) if network.norms else None
    labels = {name: splits.tests[t][1].cpu().numpy() for name, t in splits.named.items()}
    logits = {name: stored_logits(members.tests[t]) for name, t in splits.named.items()}
    predicted = from_logits(logits, labels)

    grid = alpha_grid(protocol.alphas)
    pairs = []
    for i, j in combinations(range(len(states)), 2):
        # the ends are the members, passed already
        inner = line(network, states[i], states[j], grid[1:-1])
        path = members.between(i, j, pass_path(network, recalibrated(inner), splits))
        curves = path.curves(splits, grid, i, j)
        blended = None
        if raw is not None:
            between = raw.between(i, j, pass_path(network, inner, splits, [None]))
            blended = between.curves(splits, grid, i, j)
        pairs.append(
            PairRecord(
                i=i,
                j=j,
                curves=curve_records(curves),
                curves_uncalibrated=None if blended is None else curve_records(blended),
                barriers=barrier_records(curves),
                area={name: _area(curve) for name, curve in curves.items()},
                disagreement=predicted.disagreement[i, j],
                geometry=geometry(fork, states[i], states[j]).to_json(),
                path_ensemble={
                    name: path_ensembles(softmax(path.tests[t].cpu().numpy()), labels[name], grid)
                    for name, t in splits.named.items()
                },
            )
        )
    soup = None
    if len(states) > 1:
        middle = recalibrated(network.prepare([average(states)]))
        soup = {
            name: score_logits(network.logits(middle, splits.tests[t][0])[0], splits.tests[t][1])
            for name, t in splits.named.items()
        }
    return Measured(
        siblings=[
            SiblingRecord(
                splits=_scores(members, splits, i),
                as_trained=None if raw is None else _scores(raw, splits, i),
                train_loss=loss,
            )
            for i, loss in enumerate(train_losses)
        ],
        pairs=pairs,
        ensemble=predicted.ensemble,
        soup=soup,
        functions=predicted.functions,
        noise=_noise(cell, bench, seen, fork, calibration if network.norms else None),
        predictions={**logits, **{labels_name(n): found.astype(np.int16) for n, found in labels.items()}},
        calibration={
            "n": len(listed),
            "batches": protocol.calibration_batches,
            "items": digest(listed.tolist()),
        },
        train_eval=None
        if protocol.train_eval is None
        else {"n": len(splits.items), "items": digest(splits.items.tolist())},
    )


def _scores(members: Passed, splits: Splits, i: int) -> dict[str, Score]:
    """Sibling i on everything the siblings were trained on, on its own view, and on the tests."""
    assert members.train_logits is not None
    logits, labels = members.train_logits[i], splits.train[1]
    own = splits.own[i].to(labels.device)
    found = {"train": score_logits(logits, labels), "view": score_logits(logits[own], labels[own])}
    for name, t in splits.named.items():
        if t in members.tests:
            found[name] = score_logits(members.tests[t][i], splits.tests[t][1])
    return found


def _noise(
    cell: Cell, bench: Workbench, seen: Seen, fork: State | None, calibration: Tensor | None
) -> dict[str, Any]:
    """The recipe's noise scale on each view [H], and the gradient noise at the fork, within and between."""
    recipe = cell.recipe
    sizes = [len(items) for items in seen.items]
    scales = [noise_scale(recipe.lr, n, recipe.batch_size) for n in sizes]
    damping = 1 - recipe.momentum if recipe.optimizer == "sgd" else 1.0
    found: dict[str, Any] = {
        "views": sizes,
        "g": scales,
        "g_momentum": [g / damping for g in scales],
        "gradient": None,
    }
    if fork is not None and cell.networks > 1:
        items = calibration_items(seen.items, bench.pool.source, bench.pool.labels, GRADIENT_IMAGES)
        images, labels = bench.train.split(torch.as_tensor(items))
        held = [torch.as_tensor(np.flatnonzero(np.isin(items, view))) for view in seen.items]
        try:
            found["gradient"] = gradient_noise(
                bench.model, fork, (images.whole(), labels), held, calibration, device=bench.device
            ).to_json()
        except (UserError, RuntimeError) as error:  # a network that cannot be mapped over images
            found["gradient"] = {"skipped": str(error).partition("\n")[0]}
    return found


def _area(curve: Curve) -> dict[str, float]:
    return {
        "loss": chord_area(curve.alphas, curve.loss),
        "error": chord_area(curve.alphas, curve.error),
    }
