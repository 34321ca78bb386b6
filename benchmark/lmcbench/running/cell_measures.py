"""Measure a cell: its siblings' weights in, curves, predictions and what follows from them out."""

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
from lmcbench.machine import give_back_memory
from lmcbench.results.curves import Array, Curve, chord_area
from lmcbench.results.record import PairRecord, Score, SiblingRecord, barrier_records, curve_records
from lmcbench.results.run_folder import labels_name
from lmcbench.running.evaluate import (
    Passed,
    Splits,
    open_splits,
    pass_members,
    pass_path,
    score_logits,
    stored_logits,
)
from lmcbench.running.family_data import Seen, Workbench
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
    seen, protocol = bench.seen[cell.key], cell.suite.protocol
    listed = select_calibration(seen.items, bench.pool.source, bench.pool.labels, protocol.calibration)
    network = Network(bench.model, bench.device, stacked=bench.device.type == "cuda")
    splits = open_splits(cell, bench, seen)
    calibration = bench.train.split(torch.as_tensor(listed))[0].whole()
    # before the lines, whose many points take as much memory again
    noise = _noise(cell, bench, seen, fork, calibration if network.norms else None)
    give_back_memory()
    passing = _Passing(network, splits, calibration, protocol.calibration_batches)
    members, raw = passing.members(states)
    labels = {name: splits.tests[t][1].cpu().numpy() for name, t in splits.named.items()}
    logits = {name: stored_logits(members.tests[t]) for name, t in splits.named.items()}
    predicted = measure_logits(logits, labels)
    grid = alpha_grid(protocol.alphas)
    pairs = []
    for i, j in combinations(range(len(states)), 2):
        path, blended = passing.between(states, i, j, grid, members, raw)
        curves = path.curves(splits, grid, i, j)
        pairs.append(
            PairRecord(
                i=i,
                j=j,
                curves=curve_records(curves),
                curves_uncalibrated=None
                if blended is None
                else curve_records(blended.curves(splits, grid, i, j)),
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
        del path, blended  # or the next line would be passed beside them
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
        soup=passing.soup(states) if len(states) > 1 else None,
        functions=predicted.functions,
        noise=noise,
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


@dataclass(frozen=True)
class _Passing:
    """How states of a cell are passed: with statistics taken anew, and as they are where that differs.

    Attributes:
        network: of the states.
        splits: what they are passed through.
        calibration: images `[m, c, h, w]` for normalisation statistics.
        batches: that those are passed in.
    """

    network: Network
    splits: Splits
    calibration: Tensor
    batches: int

    def recalibrated(self, states: Stack) -> Stack:
        """The states with normalisation statistics taken anew."""
        return self.network.recalibrate(states, self.calibration, self.batches)

    def members(self, states: Sequence[State]) -> tuple[Passed, Passed | None]:
        """The siblings, and as trained; None where the network has no statistics."""
        stack = self.network.prepare(states)
        members = pass_members(self.network, self.recalibrated(stack), self.splits)
        # what blending does to statistics is shown where everybody looks, not under every shift of the tests
        raw = pass_members(self.network, stack, self.splits, [None]) if self.network.norms else None
        return members, raw

    def between(
        self, states: Sequence[State], i: int, j: int, grid: Array, members: Passed, raw: Passed | None
    ) -> tuple[Passed, Passed | None]:
        """The line from sibling i to j, and with blended statistics; its ends were passed as members."""
        path, blended = [], []
        for alphas in chunk_points(grid[1:-1], states[i]):
            inner = states_on_line(self.network, states[i], states[j], alphas)
            path.append(pass_path(self.network, self.recalibrated(inner), self.splits, alphas))
            if raw is not None:
                blended.append(pass_path(self.network, inner, self.splits, alphas, [None]))
            del inner  # or the next stretch would be made beside it
        return members.between(i, j, path), None if raw is None else raw.between(i, j, blended)

    def soup(self, states: Sequence[State]) -> dict[str, Score]:
        """The plain average of the siblings on every test split."""
        middle = self.recalibrated(self.network.prepare([average(states)]))
        return {
            name: score_logits(
                self.network.logits(middle, self.splits.tests[t][0])[0], self.splits.tests[t][1]
            )
            for name, t in self.splits.named.items()
        }


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
        items = select_calibration(seen.items, bench.pool.source, bench.pool.labels, GRADIENT_IMAGES)
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
