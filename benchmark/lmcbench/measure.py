"""Measure two checkpoints of the user's own, as a run measures a pair of siblings."""

from __future__ import annotations

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
from lmcbench.data.selection import calibration_items, stratified
from lmcbench.data.sources import open_dataset
from lmcbench.ensemble.predictions import compare_predictions, softmax
from lmcbench.errors import UserError, counted, unknown
from lmcbench.machine import choose_device, compute_exactly
from lmcbench.results.record import PairRecord, Score, barrier_records, curve_records
from lmcbench.running.analyses import Found, Probed, names_of, take
from lmcbench.running.evaluate import score_logits, stored_logits
from lmcbench.spec.architectures import parse_architecture
from lmcbench.train.build import build
from lmcbench.train.checkpoints import load_checkpoint

SPLITS = ("test", "train")


@dataclass(frozen=True)
class Request:
    """What is to be measured, as a user says it.

    Attributes:
        a: file of the first network's weights.
        b: file of the second's.
        architecture: timm name, `module:function` or `file.py:function`.
        data: a data set's name or path.
        arch_kwargs: further arguments of the architecture.
        image_size: pixels a side that images are resized to; None: as they are.
        mean: per channel, of pixels scaled to 0..1; None: the training set's.
        std: likewise.
        splits: of the data set.
        images: a stratified subset of so many of each split; None: all.
        calibration: training images for normalisation statistics; 0: blended as they are.
        fork: file of the state both left; None: independent networks.
        measures: of the table of further measures, or `all`.
        alphas: points on the line.
    """

    a: Path
    b: Path
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


def measure(request: Request, data_dir: Path | None = None, device: str = "auto") -> Found:
    """One object shaped like `pairs[0]` of a record, plus `siblings`, `ensemble`, `soup`, `normalisation`.

    Curves are those of `trace_path`, with statistics recalibrated where the network has any. Pixels are
    normalised by `normalisation`, per channel and of pixels scaled to 0..1; nothing in a checkpoint says
    whether that is how its network was trained.

    Raises:
        UserError: for files that are not two states of this network, unknown names, missing data.
    """
    for split in request.splits:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
    names = names_of(request.measures)
    where = choose_device(device)
    compute_exactly(where)
    for path in (request.a, request.b, *([] if request.fork is None else [request.fork])):
        if not path.is_file():  # said before anything slow is done
            raise UserError(f"There is no file {path}.")
    dataset = open_dataset(request.data, data_dir)
    shape = (
        dataset.shape
        if request.image_size is None
        else (dataset.shape[0], request.image_size, request.image_size)
    )
    architecture = parse_architecture(request.architecture, "none", request.arch_kwargs)
    model = build(architecture, shape, len(dataset.classes), 0).to(where)
    a, b = load_checkpoint(request.a, model), load_checkpoint(request.b, model)
    fork = None if request.fork is None else load_checkpoint(request.fork, model)
    check_pair(a, b)
    images = _Images(dataset, request, where)
    splits = {name: images.split(name) for name in dict.fromkeys(request.splits)}
    network = Network(model, where, stacked=where.type == "cuda")
    calibration = images.calibration() if network.norms and request.calibration else None
    curves = trace_path(model, a, b, splits, request.alphas, calibration, device=where)
    blended = (
        trace_path(model, a, b, splits, request.alphas, device=where) if calibration is not None else None
    )
    as_trained = network.prepare([a, b, average([a, b])])
    members = as_trained if calibration is None else network.recalibrate(as_trained, calibration)
    scores: list[dict[str, Score]] = [{}, {}, {}]
    raw: list[dict[str, Score]] = [{}, {}]
    ensemble, disagreement = {}, {}
    for name, (pixels, labels) in splits.items():
        outputs = network.logits(members, pixels)
        for score, logits in zip(scores, outputs, strict=True):
            score[name] = score_logits(logits, labels)
        if calibration is not None:
            for score, logits in zip(raw, network.logits(as_trained, pixels), strict=False):
                score[name] = score_logits(logits, labels)
        # of fp16 logits, as a run keeps them (design section 6)
        kept = stored_logits(outputs[:2])
        ensemble[name] = compare_predictions(softmax(kept), labels.cpu().numpy())
        disagreement[name] = float((kept[0].argmax(-1) != kept[1].argmax(-1)).mean())
    pair = PairRecord(
        i=0,
        j=1,
        curves=curve_records(curves),
        curves_uncalibrated=None if blended is None else curve_records(blended),
        barriers=barrier_records(curves),
        disagreement=disagreement,
        geometry=geometry(fork, a, b).to_json(),
    )
    probed = Probed(model, a, b, fork, splits, calibration, request.alphas, device=where)
    siblings = [
        {"splits": _plain(scores[i]), "as_trained": _plain(raw[i]) if calibration is not None else None}
        for i in range(2)
    ]
    return {
        **pair.model_dump(),
        **{name: take(name, probed) for name in names},
        "siblings": siblings,
        "ensemble": ensemble,
        "soup": _plain(scores[2]),
        "normalisation": images.normalisation(),
        "alphas": curves[next(iter(splits))].alphas.tolist(),
    }


class _Images:
    """The images of a request, as the network sees them."""

    def __init__(self, dataset: Dataset, request: Request, device: torch.device) -> None:
        self.dataset, self.request, self.device = dataset, request, device
        channels = dataset.shape[0]
        # the training set's are not asked for where both are given: it may have none to divide by
        asked = request.mean is None or request.std is None
        mean, std = dataset.statistics if asked else (np.zeros(channels), np.ones(channels))
        for option, given, own in (("--mean", request.mean, mean), ("--std", request.std, std)):
            if given is not None and len(given) not in (1, len(own)):
                found = f"{counted(len(given), 'number')} for {counted(len(own), 'channel')}"
                raise UserError(f"{option}: {found}; give one for all, or one each.")
            if given is not None and not np.isfinite(given).all():
                raise UserError(f"{option} must be finite, found {', '.join(f'{v:g}' for v in given)}.")
        if request.std is not None and min(request.std) <= 0:
            raise UserError("--std must be above 0.")
        self.statistics = (
            mean if request.mean is None else np.broadcast_to(np.array(request.mean), mean.shape).copy(),
            std if request.std is None else np.broadcast_to(np.array(request.std), std.shape).copy(),
        )

    def normalisation(self) -> Found:
        """Mean and standard deviation per channel, and where each is from: `given`, or the `training set`."""
        whose = {True: "training set", False: "given"}
        given = {"mean": self.request.mean, "std": self.request.std}
        return {
            name: {"values": values.tolist(), "from": whose[given[name] is None]}
            for name, values in zip(("mean", "std"), self.statistics, strict=True)
        }

    def split(self, name: str) -> Split:
        images: ImageSet = getattr(self.dataset, name)
        if self.request.images is None:
            return self._seen(images, np.arange(len(images)))
        return self._seen(images, stratified(images.labels, min(self.request.images, len(images))))

    def calibration(self) -> torch.Tensor:
        """As for siblings that both saw the whole training set (design 3.3)."""
        train = self.dataset.train
        everything = np.arange(len(train))
        listed = calibration_items(
            [everything, everything], everything, train.labels, self.request.calibration
        )
        return self._seen(train, listed)[0]

    def _seen(self, images: ImageSet, rows: np.ndarray) -> Split:
        chosen = DeviceImages(images.images[rows], images.labels[rows], self.statistics, self.device)
        lazy, labels = chosen.split()
        pixels = lazy.whole()
        size = self.request.image_size
        if size is not None and pixels.shape[-2:] != (size, size):
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        return pixels, labels


def _plain(scores: dict[str, Score]) -> Found:
    return {name: score.model_dump() for name, score in scores.items()}
