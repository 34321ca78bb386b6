"""Measure checkpoints of the user's own, as a run measures a pair of siblings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from lmcbench.connect.arguments import Split
from lmcbench.connect.blending import average, check_pair
from lmcbench.connect.geometry import geometry
from lmcbench.connect.interpolation import trace_path
from lmcbench.connect.network import Network
from lmcbench.data.batches import DeviceImages
from lmcbench.data.dataset import Dataset, ImageSet
from lmcbench.data.selection import select_calibration, select_stratified
from lmcbench.data.sources import open_dataset
from lmcbench.ensemble.predictions import compare_predictions, softmax
from lmcbench.errors import UserError, counted, unknown
from lmcbench.machine import choose_device, compute_exactly
from lmcbench.results.record import PairRecord, barrier_records, curve_records
from lmcbench.running.analyses import AnalysisInput, analyze, select_analyses
from lmcbench.running.splits import score_logits, to_stored
from lmcbench.spec.architectures import parse_architecture
from lmcbench.train.build import build
from lmcbench.train.checkpoints import load_checkpoint
from lmcbench.untrusted import check_regular

SPLITS = ("test", "train")


@dataclass(frozen=True)
class Request:
    """The checkpoints to measure, and how.

    Attributes:
        checkpoints: files with the weights of the two networks.
        architecture: timm name, `module:function` or `file.py:function`.
        data: a data set's name or path.
        arch_kwargs: keyword arguments of the architecture.
        image_size: pixels a side that images are resized to; None: no resizing.
        mean: per channel, of pixels scaled to 0..1, or one number for all; None: the training set's.
        std: likewise.
        splits: of the data set.
        images: size of the stratified subset of each split; None: all images.
        calibration: training images for normalisation statistics; 0: the statistics are interpolated.
        fork: file of the state both networks were trained from; None: they are independent.
        measures: names of further analyses, or `all`.
        alphas: points on the line.
    """

    checkpoints: tuple[Path, Path]
    architecture: str
    data: str
    arch_kwargs: dict[str, Any] = field(default_factory=dict)
    image_size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    splits: Sequence[str] = ("test",)
    images: int | None = None
    calibration: int = 1000
    fork: Path | None = None
    measures: Sequence[str] = ()
    alphas: int = 21


def measure(request: Request, data_dir: Path | None = None, device: str = "auto") -> dict[str, Any]:
    """Return an object like `pairs[0]` of a record, plus `siblings`, `ensemble`, `soup`, `normalisation`.

    Curves are those of `trace_path`, recalibrated where the network has normalisation statistics.
    `normalisation` has the mean and standard deviation that pixels (scaled to 0..1) were normalised by.

    Raises:
        UserError: for files that are not states of this network, unknown names or missing data.
    """
    for split in request.splits:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
    names = select_analyses(request.measures)
    where = choose_device(device)
    compute_exactly(where)
    for path in (*request.checkpoints, *([] if request.fork is None else [request.fork])):
        if not path.exists():  # checked before anything slow
            raise UserError(f"There is no file {path}.")
        if not path.is_dir():
            check_regular(path, limit=sys.maxsize)
    dataset = open_dataset(request.data, data_dir)
    channels, *sides = dataset.shape
    height, width = sides if request.image_size is None else (request.image_size, request.image_size)
    architecture = parse_architecture(request.architecture, "none", request.arch_kwargs)
    model = build(architecture, (channels, height, width), len(dataset.classes), 0).to(where)
    states = [load_checkpoint(path, model) for path in request.checkpoints]
    fork = None if request.fork is None else load_checkpoint(request.fork, model)
    a, b = states
    check_pair(a, b)

    images = _Images(dataset, request, where)
    splits = {name: images.split(name) for name in dict.fromkeys(request.splits)}
    network = Network(model, where, stacked=where.type == "cuda")
    calibration = images.calibration() if network.norms and request.calibration else None
    curves = trace_path(model, a, b, splits, request.alphas, calibration, device=where)
    uncalibrated = (
        trace_path(model, a, b, splits, request.alphas, device=where) if calibration is not None else None
    )
    as_trained = network.prepare([*states, average(states)])
    evaluated = as_trained if calibration is None else network.recalibrate(as_trained, calibration)
    scores: list[dict[str, Any]] = [{} for _ in (*states, "soup")]
    raw: list[dict[str, Any]] = [{} for _ in states]
    ensemble, disagreement = {}, {}
    for name, (pixels, labels) in splits.items():
        outputs = network.logits(evaluated, pixels)
        for of_state, logits in zip(scores, outputs, strict=True):
            of_state[name] = score_logits(logits, labels).model_dump()
        if calibration is not None:
            for of_state, logits in zip(raw, network.logits(as_trained, pixels), strict=False):
                of_state[name] = score_logits(logits, labels).model_dump()
        stored = to_stored(outputs[: len(states)])  # fp16, as in a run's records
        ensemble[name] = compare_predictions(softmax(stored), labels.cpu().numpy())
        disagreement[name] = float((stored[0].argmax(-1) != stored[1].argmax(-1)).mean())
    pair = PairRecord(
        i=0,
        j=1,
        curves=curve_records(curves),
        curves_uncalibrated=None if uncalibrated is None else curve_records(uncalibrated),
        barriers=barrier_records(curves),
        disagreement=disagreement,
        geometry=geometry(fork, a, b).to_json(),
    )
    given = AnalysisInput(model, a, b, fork, splits, calibration, request.alphas, device=where)
    return {
        **pair.model_dump(),
        **{name: analyze(name, given) for name in names},
        "siblings": [
            {"splits": scores[i], "as_trained": None if calibration is None else raw[i]}
            for i in range(len(states))
        ],
        "ensemble": ensemble,
        "soup": scores[-1],
        "normalisation": images.normalisation(),
        "alphas": curves[next(iter(splits))].alphas.tolist(),
    }


class _Images:
    """The images of a request, normalised and resized for the network."""

    def __init__(self, dataset: Dataset, request: Request, device: torch.device) -> None:
        self.dataset, self.request, self.device = dataset, request, device
        given = {"mean": request.mean, "std": request.std}
        channels = dataset.shape[0]
        # computed only if needed: it raises for a channel without variance
        own = dataset.statistics if None in given.values() else (np.zeros(channels), np.ones(channels))
        for option, values in given.items():
            if values is None:
                continue
            if len(values) not in (1, channels):
                found = f"{counted(len(values), 'number')} for {counted(channels, 'channel')}"
                raise UserError(f"--{option}: {found}; give one for all channels, or one each.")
            if not np.isfinite(values).all():
                raise UserError(f"--{option} must be finite, found {', '.join(f'{v:g}' for v in values)}.")
        if request.std is not None and min(request.std) <= 0:
            raise UserError("--std must be above 0.")
        mean, std = (
            default if values is None else np.broadcast_to(np.array(values), default.shape).copy()
            for values, default in zip(given.values(), own, strict=True)
        )
        self.statistics = mean, std

    def normalisation(self) -> dict[str, Any]:
        """Return mean and standard deviation per channel, each from `given` or the `training set`."""
        return {
            name: {"values": values.tolist(), "from": "training set" if given is None else "given"}
            for name, values, given in zip(
                ("mean", "std"), self.statistics, (self.request.mean, self.request.std), strict=True
            )
        }

    def split(self, name: str) -> Split:
        images: ImageSet = getattr(self.dataset, name)
        if self.request.images is None:
            return self._prepared(images, np.arange(len(images)))
        return self._prepared(images, select_stratified(images.labels, min(self.request.images, len(images))))

    def calibration(self) -> torch.Tensor:
        """Return the calibration images of two siblings that both saw the whole training set."""
        train = self.dataset.train
        items = np.arange(len(train))
        rows = select_calibration([items, items], items, train.labels, self.request.calibration)
        return self._prepared(train, rows)[0]

    def _prepared(self, images: ImageSet, rows: np.ndarray) -> Split:
        chosen = DeviceImages(images.images[rows], images.labels[rows], self.statistics, self.device)
        lazy, labels = chosen.split()
        pixels = lazy.whole()
        size = self.request.image_size
        if size is not None and pixels.shape[-2:] != (size, size):
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        return pixels, labels
