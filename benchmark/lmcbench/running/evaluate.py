"""Evaluate a trained cell: curves, barriers, predictions, ensembles, geometry and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmcbench.connect.blending import Stack, State, average
from lmcbench.connect.geometry import geometry
from lmcbench.connect.gradient_noise import gradient_noise
from lmcbench.connect.interpolation import alpha_grid, chunk_points, states_on_line
from lmcbench.connect.network import Network
from lmcbench.data.selection import select_calibration
from lmcbench.ensemble.predictions import softmax
from lmcbench.ensemble.rescore import Logits, measure_logits
from lmcbench.ensemble.sub_ensembles import path_ensembles
from lmcbench.errors import UserError
from lmcbench.machine import release_memory
from lmcbench.results.curves import Array, chord_area
from lmcbench.results.record import PairRecord, Score, SiblingRecord, barrier_records, curve_records
from lmcbench.results.run_folder import labels_name, midpoint_name, soup_name
from lmcbench.running.family_data import FamilyData
from lmcbench.running.splits import Splits, pass_line, pass_siblings, score_logits, to_stored
from lmcbench.spec.canonical import digest
from lmcbench.spec.cells import Cell
from lmcbench.spec.recipe import noise_scale

GRADIENT_IMAGES = 300
"""Maximum number of images, over all views, for the gradient noise at the fork."""


@dataclass(frozen=True)
class Evaluation:
    """The parts of a record that come from evaluating a cell.

    Attributes:
        functions: test split -> keys of `compare_errors`, and `sizes` from `ensembles_by_size`.
        noise: the noise scale of the recipe on each view, and the gradient noise at the fork.
        not_stacked: why states were evaluated one after another on a device where they are stacked.
        predictions: tensors of the predictions file: labels, and logits of the siblings, of the midpoint of
            each pair and, for more than two siblings, of the soup.
        calibration: number, batches and digest of the calibration images.
        train_eval: number and digest of the train split's items, if they are a subset.
    """

    siblings: list[SiblingRecord]
    pairs: list[PairRecord]
    ensemble: dict[str, dict[str, float | None]] | None
    soup: dict[str, Score] | None
    functions: dict[str, dict[str, Any]] | None
    noise: dict[str, Any]
    not_stacked: str | None
    predictions: dict[str, Logits]
    calibration: dict[str, Any]
    train_eval: dict[str, Any] | None


def evaluate(
    cell: Cell, data: FamilyData, states: Sequence[State], fork: State | None, train_losses: Sequence[float]
) -> Evaluation:
    """Evaluate the siblings of a cell, every line between two of them, and their average.

    Args:
        cell: the cell.
        data: its family's images and network.
        states: the siblings' state dicts.
        fork: the trunk's state dict at the fork; None if there is none.
        train_losses: the siblings' final training losses, for the record.

    Raises:
        NotFiniteError: if a loss on a line is not finite.
    """
    protocol = cell.suite.protocol
    listed = _calibration_items(cell, data, protocol.calibration)
    network = Network(data.model, data.device, stacked=data.device.type == "cuda")
    splits = Splits.of(cell, data)
    images = data.train.split(torch.as_tensor(listed))[0].whole()
    # before the lines, whose many points need as much memory again
    noise = _noise(cell, data, fork, images if network.norms else None)
    release_memory()

    def recalibrate(stack: Stack) -> Stack:
        return network.recalibrate(stack, images, protocol.calibration_batches)

    stack = network.prepare(states)
    recalibrated = pass_siblings(network, recalibrate(stack), splits)
    # networks with normalisation statistics are also evaluated without recalibration, on the plain test set
    as_trained = pass_siblings(network, stack, splits, [None]) if network.norms else None
    del stack
    labels = {name: splits.tests[t][1].cpu().numpy() for name, t in splits.named.items()}
    logits = {name: to_stored(recalibrated.tests[t]) for name, t in splits.named.items()}
    predicted = measure_logits(logits, labels)
    inner_logits: dict[str, Logits] = {}  # midpoints and soup: stored, so that their scores can be recomputed

    def pair_record(i: int, j: int, grid: Array) -> PairRecord:
        inner, blended = [], []
        for alphas in chunk_points(grid[1:-1], states[i]):
            points = states_on_line(network, states[i], states[j], alphas)
            inner.append(pass_line(network, recalibrate(points), splits, alphas))
            if as_trained is not None:
                blended.append(pass_line(network, points, splits, alphas, [None]))
            del points  # before the next chunk is made
        path = recalibrated.line(i, j, inner)
        curves = path.curves(splits, grid, i, j)
        for name, t in splits.named.items():
            inner_logits[midpoint_name(name, i, j)] = to_stored(path.tests[t][len(grid) // 2])
        uncalibrated = None
        if as_trained is not None:
            uncalibrated = curve_records(as_trained.line(i, j, blended).curves(splits, grid, i, j))
        return PairRecord(
            i=i,
            j=j,
            curves=curve_records(curves),
            curves_uncalibrated=uncalibrated,
            barriers=barrier_records(curves),
            area={
                name: {
                    "loss": chord_area(curve.alphas, curve.loss),
                    "error": chord_area(curve.alphas, curve.error),
                }
                for name, curve in curves.items()
            },
            disagreement=predicted.disagreement[i, j],
            geometry=geometry(fork, states[i], states[j]).to_json(),
            path_ensemble={
                name: path_ensembles(softmax(path.tests[t].cpu().numpy()), labels[name], grid)
                for name, t in splits.named.items()
            },
        )

    grid = alpha_grid(protocol.alphas)
    pairs = [pair_record(i, j, grid) for i, j in combinations(range(len(states)), 2)]
    soup: dict[str, Score] | None = None
    if len(states) > 1:
        souped = pass_soup(network, recalibrate(network.prepare([average(states)])), splits)
        soup = {name: score_logits(souped[t], splits.tests[t][1]) for name, t in splits.named.items()}
        if len(states) > 2:
            inner_logits |= {soup_name(name): to_stored(souped[t]) for name, t in splits.named.items()}
    return Evaluation(
        pairs=pairs,
        siblings=[
            SiblingRecord(
                splits=recalibrated.scores(splits, i),
                as_trained=None if as_trained is None else as_trained.scores(splits, i),
                train_loss=loss,
            )
            for i, loss in enumerate(train_losses)
        ],
        ensemble=predicted.ensemble,
        soup=soup,
        functions=predicted.functions,
        noise=noise,
        not_stacked=network.not_stacked,
        predictions={
            **logits,
            **inner_logits,
            **{labels_name(n): found.astype(np.int16) for n, found in labels.items()},
        },
        calibration={
            "n": len(listed),
            "batches": protocol.calibration_batches,
            "items": digest(listed.tolist()),
        },
        train_eval=None
        if protocol.train_eval is None
        else {"n": len(splits.items), "items": digest(splits.items.tolist())},
    )


def pass_soup(network: Network, soup: Stack, splits: Splits) -> dict[str | None, Tensor]:
    """Return the soup's logits on every test split's images, `[n, classes]`, by transform."""
    return {t: network.logits(soup, splits.tests[t][0])[0] for t in {*splits.named.values()}}


def _calibration_items(cell: Cell, data: FamilyData, n: int) -> np.ndarray:
    return select_calibration(data.views[cell.key].items, data.pool.source, data.pool.labels, n)


def _noise(cell: Cell, data: FamilyData, fork: State | None, calibration: Tensor | None) -> dict[str, Any]:
    """Return the noise scale on each view (Hepburn et al., 2025, arXiv 2511.04514) and the gradient noise.

    The gradient noise is None without a fork, and for a single network.
    """
    recipe, views = cell.recipe, data.views[cell.key].items
    scales = [noise_scale(recipe.lr, len(view), recipe.batch_size) for view in views]
    damping = 1 - recipe.momentum if recipe.optimizer == "sgd" else 1.0
    gradient: dict[str, Any] | None = None
    if fork is not None and cell.networks > 1:
        items = _calibration_items(cell, data, GRADIENT_IMAGES)
        images, labels = data.train.split(torch.as_tensor(items))
        members = [torch.as_tensor(np.flatnonzero(np.isin(items, view))) for view in views]
        try:
            gradient = gradient_noise(
                data.model, fork, (images.whole(), labels), members, calibration, device=data.device
            ).to_json()
        except (UserError, RuntimeError) as error:  # per-image gradients are not possible for every network
            gradient = {"skipped": str(error).partition("\n")[0]}
    return {
        "views": [len(view) for view in views],
        "g": scales,
        "g_momentum": [g / damping for g in scales],
        "gradient": gradient,
    }
