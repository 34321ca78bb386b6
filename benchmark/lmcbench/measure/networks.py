"""Score networks, their ensemble, the lines between them and their soups, on one set of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmcbench.connect.arguments import LazySplit, Split
from lmcbench.connect.blending import State, average, states_per_chunk, unstack
from lmcbench.connect.geometry import geometry
from lmcbench.connect.interpolation import trace_path
from lmcbench.connect.loaders import Images, whole
from lmcbench.connect.network import Network
from lmcbench.connect.soups import greedy_soup
from lmcbench.ensemble.predictions import compare_predictions, softmax
from lmcbench.errors import UserError
from lmcbench.machine import release_memory
from lmcbench.measure.verdict import Wrong
from lmcbench.results.curves import Curve
from lmcbench.results.record import EndsRecord, PairRecord, barrier_records, curve_records
from lmcbench.running.analyses import AnalysisInput, analyze
from lmcbench.running.splits import score_logits, to_stored


@dataclass(frozen=True)
class Outputs:
    """Logits of S states by split, `[S, n, classes]`, with the labels `[n]`."""

    logits: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]

    def wrong(self, state: int, split: str) -> Wrong:
        """Return whether each image is misclassified, `[n]`."""
        return (self.logits[split][state].argmax(-1).cpu() != self.labels[split]).numpy()


def scores_of(outputs: Outputs, state: int, splits: Mapping[str, LazySplit]) -> dict[str, Any]:
    """Return a state's scores by split."""
    return {
        name: score_logits(logits[state], splits[name][1].to(logits.device)).model_dump()
        for name, logits in outputs.logits.items()
    }


@dataclass(frozen=True)
class Siblings:
    """The networks as given, and with recalibrated statistics if they have any.

    Attributes:
        scores: of each, by split.
        recalibrated: likewise; None without normalisation statistics.
        ensemble: of all of them, by split.
        disagreement: by pair, by split.
        wrong: whether each misclassifies each image of the first split, `[S, n]`.
        ensemble_wrong: whether their ensemble does, `[n]`.
    """

    scores: list[dict[str, Any]]
    recalibrated: list[dict[str, Any]] | None
    ensemble: dict[str, Any]
    disagreement: dict[tuple[int, int], dict[str, float]]
    wrong: Wrong
    ensemble_wrong: Wrong

    def records(self) -> list[dict[str, Any]]:
        """Return the scores of each network as entries of `siblings`."""
        if self.recalibrated is None:
            return [{"splits": scores} for scores in self.scores]
        both = zip(self.scores, self.recalibrated, strict=True)
        return [{"splits": scores, "recalibrated": again} for scores, again in both]


class Bench:
    """A network, the splits and calibration images that its states are measured on."""

    def __init__(
        self, model: nn.Module, device: torch.device, splits: Mapping[str, LazySplit], alphas: int
    ) -> None:
        self.model, self.device, self.splits, self.alphas = model, device, splits, alphas
        self.network = Network(model, device, stacked=device.type == "cuda")
        self.calibration: Images | None = None
        self.grid: list[float] = []

    def outputs(
        self, states: Sequence[State], recalibrate: bool = False, names: Sequence[str] | None = None
    ) -> Outputs:
        """Return the logits of states on all splits; a few states are stacked at a time.

        Raises:
            UserError: if a state, which `names` names, has outputs that are not finite.
        """
        found: dict[str, list[Tensor]] = {name: [] for name in self.splits}
        size = states_per_chunk(states[0])
        for start in range(0, len(states), size):
            stack = self.network.prepare(states[start : start + size])
            if recalibrate and self.calibration is not None:
                stack = self.network.recalibrate(stack, self.calibration)
            for name, (images, _) in self.splits.items():
                found[name].append(self.network.logits(stack, images))
            del stack  # frees its memory before the next states are stacked
        release_memory()
        logits = {name: torch.cat(parts) for name, parts in found.items()}
        for split, values in logits.items():
            finite = values.isfinite().all(-1).all(-1)
            if not bool(finite.all()):
                bad = int(finite.int().argmin())
                name = f"State {bad}" if names is None else names[bad]
                when = " with recalibrated statistics" if recalibrate else ""
                raise UserError(
                    f"{name}{when} has outputs on split {split!r} that are not finite. Check its weights, "
                    "--mean and --std."
                )
        return Outputs(
            logits,
            {name: labels for name, (_, labels) in self.splits.items()},
        )

    def score_siblings(self, states: Sequence[State], files: Sequence[str] | None = None) -> Siblings:
        """Score every network, and their ensemble; `files` name the states in errors."""
        given = self.outputs(states, names=files)
        recalibrated = None
        if self.calibration is not None:
            again = self.outputs(states, recalibrate=True, names=files)
            recalibrated = [scores_of(again, i, self.splits) for i in range(len(states))]
        ensemble: dict[str, Any] = {}
        disagreement: dict[tuple[int, int], dict[str, float]] = {
            pair: {} for pair in combinations(range(len(states)), 2)
        }
        first = next(iter(self.splits))
        for name, (_, labels) in self.splits.items():
            stored = to_stored(given.logits[name])  # fp16, as in a run's records
            probabilities = softmax(stored)
            ensemble[name] = compare_predictions(probabilities, labels.numpy())
            top = stored.argmax(-1)
            for i, j in disagreement:
                disagreement[i, j][name] = float((top[i] != top[j]).mean())
            if name == first:
                ensemble_wrong = probabilities.mean(0).argmax(-1) != labels.numpy()
        return Siblings(
            [scores_of(given, i, self.splits) for i in range(len(states))],
            recalibrated,
            ensemble,
            disagreement,
            np.stack([given.wrong(i, first) for i in range(len(states))]),
            ensemble_wrong,
        )

    def pair(
        self,
        siblings: Siblings,
        states: Sequence[State],
        i: int,
        j: int,
        fork: State | None,
        measures: Sequence[str],
    ) -> dict[str, Any]:
        """Return the entry of `pairs` for networks i and j."""
        a, b = states[i], states[j]
        plain = self._curves(a, b)
        self.grid = next(iter(plain.values())).alphas.tolist()
        curves, ends = plain, None
        if self.calibration is not None and siblings.recalibrated is not None:
            curves = self._curves(a, b, self.calibration)
            both = siblings.recalibrated[i], siblings.recalibrated[j]
            ends = {
                name: EndsRecord(
                    loss=[scores[name]["loss"] for scores in both],
                    error=[scores[name]["error"] for scores in both],
                )
                for name in plain
            }
        record = PairRecord(
            i=i,
            j=j,
            curves=curve_records(curves),
            ends_recalibrated=ends,
            curves_uncalibrated=None if ends is None else curve_records(plain),
            barriers=barrier_records(curves),
            disagreement=siblings.disagreement[i, j],
            geometry=geometry(fork, a, b).to_json(),
        ).model_dump()
        if measures:  # analyses pass the images many times
            splits, calibration = self._loaded
            given = AnalysisInput(
                self.model, a, b, fork, splits, calibration, self.alphas, device=self.device
            )
            record |= {name: analyze(name, given) for name in measures}
        return record

    @cached_property
    def _loaded(self) -> tuple[dict[str, Split], Tensor | None]:
        """The splits and calibration images as tensors on the device, the same for all pairs."""
        splits = {
            name: (whole(images).to(self.device), labels.to(self.device))
            for name, (images, labels) in self.splits.items()
        }
        return splits, None if self.calibration is None else whole(self.calibration).to(self.device)

    def _curves(self, a: State, b: State, calibration: Images | None = None) -> dict[str, Curve]:
        # without a batch size, so that memory depends neither on the number nor on the size of the images
        found = trace_path(
            self.model, a, b, self.splits, self.alphas, calibration, batch_size=None, device=self.device
        )
        release_memory()
        return found

    def soup(self, states: Sequence[State]) -> dict[str, Tensor]:
        """Return the average of the states, recalibrated if there are normalisation statistics."""
        mixed = average(states)
        if self.calibration is None:
            return mixed
        (found,) = unstack(self.network.recalibrate(self.network.prepare([mixed]), self.calibration))
        return {name: found[name].cpu() for name in mixed}

    def greedy(self, states: Sequence[State], select: LazySplit) -> tuple[list[int], dict[str, Tensor]]:
        """Return the members of the greedy soup in the order of their entry, and the soup."""
        images, labels = select

        def accuracy(state: State) -> float:
            logits = self.network.logits(self.network.prepare([state]), images)[0]
            return float((logits.argmax(-1).cpu() == labels).double().mean())

        members = greedy_soup(
            [accuracy(state) for state in states],
            lambda chosen: accuracy(self.soup([states[i] for i in chosen])),
        )
        if len(members) == 1:  # the best network alone stays as it was trained
            return members, dict(states[members[0]])
        return members, self.soup([states[i] for i in members])
