"""Measure a cell: its siblings' weights in, curves, predictions and what follows from them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from lmcbench.connect.network import Network
from lmcbench.connect.path import Split, alpha_grid, line, score
from lmcbench.connect.state import Stack, State, average
from lmcbench.data.calibration import calibration_items
from lmcbench.ensemble.predictions import compare_predictions, expected_calibration_error, softmax
from lmcbench.family import Workbench
from lmcbench.results.measures import Array, Curve, barrier
from lmcbench.results.record import BarrierRecord, CurveRecord, PairRecord, Score, SiblingRecord
from lmcbench.spec.canonical import digest
from lmcbench.spec.cells import Cell
from numpy.typing import NDArray
from torch import Tensor

Logits = NDArray[np.float16]
"""Stored test logits of the siblings, `[K, n, classes]` fp16."""

FP16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Measured:
    """What measuring a cell gives: the parts of its record that are not known before."""

    siblings: list[SiblingRecord]
    pairs: list[PairRecord]
    ensemble: dict[str, dict[str, float | None]]
    soup: dict[str, Score]
    predictions: dict[str, Logits]
    calibration: dict[str, Any]


def measure_cell(
    cell: Cell, bench: Workbench, states: Sequence[State], train_losses: Sequence[float]
) -> Measured:
    """Curves, barriers, predictions, ensemble and soup of a cell's siblings (design sections 3 and 6).

    Args:
        cell: the cell.
        bench: its family's data and network.
        states: the siblings' state dicts.
        train_losses: their final training losses, for the record.

    Raises:
        UserError: where a loss on the path is not finite.
    """
    cuda = bench.device.type == "cuda"
    network = Network(bench.model, bench.device, stacked=cuda)
    views = bench.views[cell.key]
    union = np.unique(np.concatenate(views))
    images = {
        "train": bench.train.split(torch.as_tensor(union)),
        "test": bench.test.split(),
    }
    listed = calibration_items(views, bench.pool.source, bench.pool.labels, cell.suite.protocol.calibration)
    calibration = bench.train.split(torch.as_tensor(listed))[0]
    batches = cell.suite.protocol.calibration_batches

    as_trained = network.prepare(states)
    members = network.recalibrate(as_trained, calibration, batches)
    own = [torch.as_tensor(np.searchsorted(union, view)) for view in views]
    outputs = {base: network.logits(members, x) for base, (x, _) in images.items()}
    raw = {base: network.logits(as_trained, x) for base, (x, _) in images.items()} if network.norms else None
    siblings = [
        SiblingRecord(
            splits=_scores(outputs, images, own[i], i),
            as_trained=None if raw is None else _scores(raw, images, own[i], i),
            train_loss=loss,
        )
        for i, loss in enumerate(train_losses)
    ]

    logits = _stored(outputs["test"])
    labels = images["test"][1].cpu().numpy()
    top = logits.argmax(-1)
    grid = alpha_grid(cell.suite.protocol.alphas)
    pairs = []
    for i, j in combinations(range(len(states)), 2):
        path = line(network, states[i], states[j], grid)
        recalibrated = network.recalibrate(path, calibration, batches)
        curves = _curves(network, recalibrated, images, own[i], own[j], grid)
        blended = _curves(network, path, images, own[i], own[j], grid) if network.norms else None
        pairs.append(
            PairRecord(
                i=i,
                j=j,
                curves=_curve_records(curves),
                curves_uncalibrated=None if blended is None else _curve_records(blended),
                barriers={name: BarrierRecord(**asdict(barrier(curve))) for name, curve in curves.items()},
                disagreement={"test": float((top[i] != top[j]).mean())},
            )
        )
    soup = network.recalibrate(network.prepare([average(states)]), calibration, batches)
    return Measured(
        siblings=siblings,
        pairs=pairs,
        ensemble={"test": compare_predictions(softmax(logits), labels)},
        soup={"test": score_logits(network.logits(soup, images["test"][0])[0], images["test"][1])},
        predictions={"test": logits, "test.labels": labels.astype(np.int16)},
        calibration={"n": len(listed), "batches": batches, "items": digest(listed.tolist())},
    )


def score_logits(logits: Tensor, labels: Tensor) -> Score:
    """Error, loss and calibration of one network from its logits `[n, classes]`."""
    loss = F.cross_entropy(logits, labels, reduction="none").double().mean()
    wrong = (logits.argmax(-1) != labels).double().mean()
    ece = expected_calibration_error(softmax(logits.cpu().numpy()), labels.cpu().numpy())
    return Score(error=float(wrong), loss=float(loss), ece=ece)


def _scores(
    outputs: Mapping[str, Tensor], images: Mapping[str, Split], own: Tensor, i: int
) -> dict[str, Score]:
    """Sibling i on everything the siblings were trained on, on its own view, and on the test set."""
    logits, labels = outputs["train"][i], images["train"][1]
    own = own.to(labels.device)
    return {
        "train": score_logits(logits, labels),
        "view": score_logits(logits[own], labels[own]),
        "test": score_logits(outputs["test"][i], images["test"][1]),
    }


def _curves(
    network: Network, path: Stack, images: Mapping[str, Split], own_a: Tensor, own_b: Tensor, grid: Array
) -> dict[str, Curve]:
    """The path's curves on every split; the views' are left out where they are the whole (design 3.2)."""
    train = score(network, path, *images["train"], name="train")
    curves = {"train": train.curve(grid)}
    for name, own in (("train_a", own_a), ("train_b", own_b)):
        if len(own) < len(images["train"][1]):
            curves[name] = train.curve(grid, own)
    curves["test"] = score(network, path, *images["test"], name="test").curve(grid)
    return curves


def _curve_records(curves: Mapping[str, Curve]) -> dict[str, CurveRecord]:
    return {
        name: CurveRecord(loss=c.loss.tolist(), error=c.error.tolist(), n=c.n) for name, c in curves.items()
    }


def _stored(logits: Tensor) -> Logits:
    """Logits as they are kept: fp16, what is beyond its range at its ends."""
    kept: Logits = logits.clamp(-FP16_MAX, FP16_MAX).half().cpu().numpy()
    return kept
