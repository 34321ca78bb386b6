"""Measure a cell: its siblings' weights in, curves, predictions and what follows from them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lmcbench.bench import Seen, Workbench
from lmcbench.connect.network import Images, Network
from lmcbench.connect.path import alpha_grid, line, score
from lmcbench.connect.state import Stack, State, average
from lmcbench.data.calibration import calibration_items
from lmcbench.data.subset import stratified
from lmcbench.ensemble.predictions import expected_calibration_error, softmax
from lmcbench.ensemble.rescore import Logits, from_logits
from lmcbench.results.measures import Array, Curve, barrier
from lmcbench.results.record import BarrierRecord, CurveRecord, PairRecord, Score, SiblingRecord
from lmcbench.spec.canonical import digest
from lmcbench.spec.cells import Cell

Split = tuple[Images, Tensor]
"""Images and their labels `[n]`."""

FP16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Measured:
    """What measuring a cell gives: the parts of its record that are not known before."""

    siblings: list[SiblingRecord]
    pairs: list[PairRecord]
    ensemble: dict[str, dict[str, float | None]] | None
    soup: dict[str, Score] | None
    predictions: dict[str, Logits]
    calibration: dict[str, Any]
    train_eval: dict[str, Any] | None


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
    seen = bench.seen[cell.key]
    protocol = cell.suite.protocol
    union = np.unique(np.concatenate(seen.items))
    if protocol.train_eval is not None and protocol.train_eval < len(union):
        union = union[stratified(bench.pool.labels[union], protocol.train_eval)]
    shown = seen.items if cell.networks > 1 else [union]
    own = [torch.as_tensor(np.searchsorted(union, items[np.isin(items, union)])) for items in shown]
    train = bench.train.split(torch.as_tensor(union))
    tests = {name: bench.tests[transform].split() for name, transform in _tests(cell).items()}
    listed = calibration_items(seen.items, bench.pool.source, bench.pool.labels, protocol.calibration)
    calibration = bench.train.split(torch.as_tensor(listed))[0].whole()

    def recalibrated(stack: Stack) -> Stack:
        return network.recalibrate(stack, calibration, protocol.calibration_batches)

    as_trained = network.prepare(states)
    members = recalibrated(as_trained)
    outputs = _outputs(network, members, tests)
    scores = _scores(network.logits(members, train[0]), train[1], own, outputs, tests)
    raw = None
    if network.norms:
        raw_train, raw_tests = network.logits(as_trained, train[0]), _outputs(network, as_trained, tests)
        raw = _scores(raw_train, train[1], own, raw_tests, tests)
    logits = {name: _stored(output) for name, output in outputs.items()}
    labels = tests["test"][1].cpu().numpy()
    predicted = from_logits(logits, labels)

    grid = alpha_grid(protocol.alphas)
    pairs = []
    for i, j in combinations(range(len(states)), 2):
        path = line(network, states[i], states[j], grid)
        views = {"train_a": own[i], "train_b": own[j]}
        splits = tests | _pair_tests(bench, seen, i, j)
        curves = _curves(network, recalibrated(path), train, views, splits, grid)
        blended = _curves(network, path, train, views, splits, grid) if network.norms else None
        pairs.append(
            PairRecord(
                i=i,
                j=j,
                curves=_curve_records(curves),
                curves_uncalibrated=None if blended is None else _curve_records(blended),
                barriers={name: BarrierRecord(**asdict(barrier(curve))) for name, curve in curves.items()},
                disagreement=predicted.disagreement[i, j],
            )
        )
    soup = None
    if len(states) > 1:
        middle = recalibrated(network.prepare([average(states)]))
        soup = {name: score_logits(network.logits(middle, x)[0], y) for name, (x, y) in tests.items()}
    return Measured(
        siblings=[
            SiblingRecord(splits=scores[i], as_trained=None if raw is None else raw[i], train_loss=loss)
            for i, loss in enumerate(train_losses)
        ],
        pairs=pairs,
        ensemble=predicted.ensemble,
        soup=soup,
        predictions={**logits, "test.labels": labels.astype(np.int16)},
        calibration={
            "n": len(listed),
            "batches": protocol.calibration_batches,
            "items": digest(listed.tolist()),
        },
        train_eval=None
        if protocol.train_eval is None
        else {"n": len(union), "items": digest(union.tolist())},
    )


def _tests(cell: Cell) -> dict[str, str | None]:
    """The test set and its evaluation shifts: name of the split -> transform."""
    return {"test": None} | {f"test:{name}": name for name in cell.suite.evaluations}


def _pair_tests(bench: Workbench, seen: Seen, i: int, j: int) -> dict[str, Split]:
    """The test set through each sibling's view, for shifts that transform images (design 3.2)."""
    if not any(seen.transforms):
        return {}
    views = {"test_a": seen.transforms[i], "test_b": seen.transforms[j]}
    return {name: bench.tests[transform].split() for name, transform in views.items()}


def score_logits(logits: Tensor, labels: Tensor) -> Score:
    """Error, loss and calibration of one network from its logits `[n, classes]`."""
    loss = F.cross_entropy(logits, labels, reduction="none").double().mean()
    wrong = (logits.argmax(-1) != labels).double().mean()
    ece = expected_calibration_error(softmax(logits.cpu().numpy()), labels.cpu().numpy())
    return Score(error=float(wrong), loss=float(loss), ece=ece)


def _outputs(network: Network, members: Stack, tests: Mapping[str, Split]) -> dict[str, Tensor]:
    """Logits of all siblings on every test split, `[K, n, classes]`."""
    return {name: network.logits(members, images) for name, (images, _) in tests.items()}


def _scores(
    train: Tensor,
    labels: Tensor,
    own: Sequence[Tensor],
    outputs: Mapping[str, Tensor],
    tests: Mapping[str, Split],
) -> list[dict[str, Score]]:
    """Each sibling on everything the siblings were trained on, on its own view, and on the tests.

    Args:
        train: logits on the training items, `[K, n, classes]`.
        labels: of those items, `[n]`.
        own: each sibling's rows among them.
        outputs: logits on the test splits.
        tests: the splits, for their labels.
    """
    scores = [
        {
            "train": score_logits(logits, labels),
            "view": score_logits(logits[rows.to(labels.device)], labels[rows.to(labels.device)]),
        }
        for logits, rows in zip(train, own, strict=True)
    ]
    for name, (_, targets) in tests.items():
        for sibling, logits in zip(scores, outputs[name], strict=True):
            sibling[name] = score_logits(logits, targets)
    return scores


def _curves(
    network: Network,
    path: Stack,
    train: Split,
    views: Mapping[str, Tensor],
    tests: Mapping[str, Split],
    grid: Array,
) -> dict[str, Curve]:
    """The path's curves on every split; a view is left out where it is the whole (design 3.2)."""
    everything = score(network, path, *train, name="train")
    curves = {"train": everything.curve(grid)}
    curves |= {
        name: everything.curve(grid, rows) for name, rows in views.items() if 0 < len(rows) < len(train[1])
    }
    curves |= {name: score(network, path, *split, name=name).curve(grid) for name, split in tests.items()}
    return curves


def _curve_records(curves: Mapping[str, Curve]) -> dict[str, CurveRecord]:
    return {
        name: CurveRecord(loss=c.loss.tolist(), error=c.error.tolist(), n=c.n) for name, c in curves.items()
    }


def _stored(logits: Tensor) -> Logits:
    """Logits as they are kept: fp16, what is beyond its range at its ends."""
    kept: Logits = logits.clamp(-FP16_MAX, FP16_MAX).half().cpu().numpy()
    return kept
