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
from lmcbench.data.batches import NormalisedImages
from lmcbench.data.dataset import Statistics
from lmcbench.data.selection import select_calibration
from lmcbench.ensemble.adjusted import compare_all_corrected, fit_temperature, scale_line
from lmcbench.ensemble.predictions import softmax
from lmcbench.ensemble.rescore import Logits, measure_logits
from lmcbench.ensemble.sub_ensembles import path_ensembles
from lmcbench.errors import UserError
from lmcbench.machine import release_memory
from lmcbench.results.curves import Array, chord_area
from lmcbench.results.record import (
    EndsRecord,
    PairRecord,
    Score,
    SiblingRecord,
    barrier_records,
    curve_records,
)
from lmcbench.results.run_folder import labels_name, midpoint_name, recalibrated_name, soup_name
from lmcbench.running.family_data import FamilyData
from lmcbench.running.splits import (
    Splits,
    TestSet,
    average_statistics,
    blend_statistics,
    logits_on_tests,
    pass_states,
    score_logits,
    state_at,
    to_stored,
)
from lmcbench.spec.canonical import digest
from lmcbench.spec.cells import Cell
from lmcbench.spec.recipe import noise_scale

GRADIENT_IMAGES = 300
"""Maximum number of images, over all views, for the gradient noise at the fork."""


@dataclass(frozen=True)
class Evaluation:
    """The parts of a record that come from evaluating a cell.

    Attributes:
        corrected: test split -> `compare_corrected`: without each member's label prior.
        functions: test split -> keys of `compare_errors`, and `sizes` from `ensembles_by_size`.
        noise: the noise scale of the recipe on each view, and the gradient noise at the fork.
        not_stacked: why states were evaluated one after another on a device where they are stacked.
        trunk_accuracy: accuracy of the trunk at the fork, as trained, on the test set; None without a trunk.
        predictions: tensors of the predictions file: labels, and logits of the siblings as trained and, with
            normalisation statistics, recalibrated; of the midpoint of each pair and, for more than two
            siblings, of the soup.
        calibration: number, batches and digest of the calibration images.
        train_eval: number and digest of the train split's items, if they are a subset.
    """

    siblings: list[SiblingRecord]
    pairs: list[PairRecord]
    ensemble: dict[str, dict[str, float | None]] | None
    corrected: dict[str, dict[str, Any]] | None
    soup: dict[str, Score] | None
    functions: dict[str, dict[str, Any]] | None
    noise: dict[str, Any]
    not_stacked: str | None
    trunk_accuracy: float | None
    predictions: dict[str, Logits]
    calibration: dict[str, Any]
    train_eval: dict[str, Any] | None


def evaluate(
    cell: Cell,
    data: FamilyData,
    states: Sequence[State],
    fork: State | None,
    train_losses: Sequence[float],
    label_counts: Sequence[Sequence[int]],
) -> Evaluation:
    """Evaluate the siblings of a cell, every line between two of them, and their average.

    Args:
        cell: the cell.
        data: its family's images and network.
        states: the siblings' state dicts.
        fork: the trunk's state dict at the fork; None if there is none.
        train_losses: the siblings' final training losses, for the record.
        label_counts: images of every class in each sibling's view.

    Raises:
        NotFiniteError: if a loss on a line is not finite.
    """
    protocol = cell.suite.protocol
    listed = _calibration_items(cell, data, protocol.calibration)
    network = Network(data.model, data.device, stacked=data.device.type == "cuda")
    splits = Splits.of(cell, data)
    passes = Passes(
        network,
        splits,
        data.train.split(torch.as_tensor(listed))[0],
        protocol.calibration_batches,
    )
    # before the lines, whose many points need as much memory again
    noise = _noise(cell, data, fork, passes.images(None) if network.norms else None)
    trunk_accuracy = None if fork is None else _test_accuracy(network, fork, data)
    release_memory()

    stack = network.prepare(states)
    own = splits.statistics
    as_trained = pass_states(network, stack, splits, statistics=own, keep=True)
    recalibrated = None
    if network.norms:
        recalibrated = pass_states(network, passes.recalibrate(stack, own), splits, statistics=own, keep=True)
    del stack
    labels = {name: splits.tests[t][1].cpu().numpy() for name, t in splits.named.items()}
    logits = {name: to_stored(as_trained.tests[t]) for name, t in splits.named.items()}
    predicted = measure_logits(logits, labels)
    fitted = {name: [fit_temperature(z, labels[name]) for z in stored] for name, stored in logits.items()}
    # midpoints, soup and recalibrated ends: stored, so that their scores can be recomputed
    further_logits: dict[str, Logits] = {}
    if recalibrated is not None:
        further_logits |= {
            recalibrated_name(name): to_stored(recalibrated.tests[t]) for name, t in splits.named.items()
        }

    def pair_record(i: int, j: int, grid: Array) -> PairRecord:
        inner, blended = [], []
        for alphas in chunk_points(grid[1:-1], states[i]):
            points = states_on_line(network, states[i], states[j], alphas)
            between = (
                None if own is None else [blend_statistics(own[i], own[j], float(alpha)) for alpha in alphas]
            )
            fresh = passes.recalibrate(points, between)
            inner.append(pass_states(network, fresh, splits, statistics=between, alphas=alphas))
            if recalibrated is not None:
                blended.append(
                    pass_states(network, points, splits, statistics=between, tests=[TestSet()], alphas=alphas)
                )
            del points, fresh  # before the next chunk is made
        path = as_trained.line(i, j, inner)
        curves = path.curves(splits, grid, i, j)
        scaled = {}
        for name, t in splits.named.items():
            midpoint = to_stored(path.tests[t][len(grid) // 2])
            further_logits[midpoint_name(name, i, j)] = midpoint
            at_mid = fit_temperature(midpoint, labels[name])
            scaled[name] = scale_line([fitted[name][i], at_mid, fitted[name][j]])
        uncalibrated = ends = None
        if recalibrated is not None:
            uncalibrated = curve_records(as_trained.line(i, j, blended).curves(splits, grid, i, j))
            ends = {
                name: EndsRecord(loss=curve.loss.tolist(), error=curve.error.tolist())
                for name, curve in recalibrated.line(i, j, []).curves(splits, grid[[0, -1]], i, j).items()
            }
        return PairRecord(
            i=i,
            j=j,
            curves=curve_records(curves),
            ends_recalibrated=ends,
            curves_uncalibrated=uncalibrated,
            barriers=barrier_records(curves),
            area={
                name: {
                    "loss": chord_area(curve.alphas, curve.loss),
                    "error": chord_area(curve.alphas, curve.error),
                }
                for name, curve in curves.items()
            },
            temperature_scaled=scaled,
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
        mean = None if own is None else average_statistics(own)
        souped = passes.recalibrate(network.prepare([average(states)]), None if mean is None else [mean])
        of_soup = logits_on_tests(network, souped, splits, mean)
        soup = {name: score_logits(of_soup[name][0], splits.tests[t][1]) for name, t in splits.named.items()}
        if len(states) > 2:
            further_logits |= {soup_name(name): to_stored(found[0]) for name, found in of_soup.items()}
    return Evaluation(
        pairs=pairs,
        siblings=[
            SiblingRecord(
                splits=as_trained.scores(splits, i),
                recalibrated=None if recalibrated is None else recalibrated.scores(splits, i),
                train_loss=loss,
            )
            for i, loss in enumerate(train_losses)
        ],
        ensemble=predicted.ensemble,
        corrected=compare_all_corrected(logits, labels, label_counts) if len(states) > 1 else None,
        soup=soup,
        functions=predicted.functions,
        noise=noise,
        not_stacked=network.not_stacked,
        trunk_accuracy=trunk_accuracy,
        predictions={
            **logits,
            **further_logits,
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


@dataclass(frozen=True)
class Passes:
    """Recalibration of a cell's networks.

    Attributes:
        network: the network.
        splits: the cell's splits.
        calibration: the images for normalisation statistics.
        batches: their number of batches.
    """

    network: Network
    splits: Splits
    calibration: NormalisedImages
    batches: int

    def images(self, statistics: Statistics | None) -> Tensor:
        """Return the calibration images, `[n, c, h, w]`, standardised by `statistics` if given."""
        given = self.calibration if statistics is None else self.calibration.standardised(statistics)
        return given.whole()

    def recalibrate(self, stack: Stack, statistics: Sequence[Statistics] | None) -> Stack:
        """Return the states with normalisation statistics of the calibration images.

        Args:
            stack: stacked states.
            statistics: channel statistics by which each state's images are standardised; None: as they are.
        """
        if not self.network.norms:
            return stack
        if statistics is None:
            return self.network.recalibrate(stack, self.images(None), self.batches)
        each = [
            self.network.recalibrate(state_at(stack, k), self.images(own), self.batches)
            for k, own in enumerate(statistics)
        ]
        return {name: torch.cat([part[name] for part in each]) for name in stack}


def _test_accuracy(network: Network, state: State, data: FamilyData) -> float:
    """Return the accuracy of a network as trained on the plain test set, fraction."""
    images, labels = data.tests[None].split()
    logits = network.logits(network.prepare([state]), images)
    return 1 - score_logits(logits[0], labels).error


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
        lazy, labels = data.train.split(torch.as_tensor(items))
        members = [torch.as_tensor(np.flatnonzero(np.isin(items, view))) for view in views]
        images = lazy.whole()
        for own, rows in zip(data.views[cell.key].statistics or [], members, strict=False):
            images[rows] = lazy.standardised(own).whole()[rows]  # as its sibling sees them
        try:
            gradient = gradient_noise(
                data.model, fork, (images, labels), members, calibration, device=data.device
            ).to_json()
        except (UserError, RuntimeError) as error:  # per-image gradients are not possible for every network
            gradient = {"skipped": str(error).partition("\n")[0]}
    return {
        "views": [len(view) for view in views],
        "g": scales,
        "g_momentum": [g / damping for g in scales],
        "gradient": gradient,
    }
