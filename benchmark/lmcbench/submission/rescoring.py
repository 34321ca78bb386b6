"""Recompute what follows from stored logits, and compare it with the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmcbench.ensemble.adjusted import compare_corrected, fit_temperature, scale_line
from lmcbench.ensemble.rescore import measure_logits
from lmcbench.errors import UserError, counted
from lmcbench.leaderboard.files import PREDICTIONS, Fault, place_of
from lmcbench.results.cell_values import SPLIT
from lmcbench.results.record import PairRecord, Record, Score
from lmcbench.results.run_folder import labels_name, midpoint_name, recalibrated_name, soup_name
from lmcbench.spec.canonical import digest_bytes
from lmcbench.spec.datasets import Pins
from lmcbench.submission.check_measures import ENSEMBLE_FRACTIONS, ENSEMBLE_POSITIVE, is_close
from lmcbench.submission.check_views import all_close
from lmcbench.submission.predictions_file import (
    Logits,
    Tensors,
    cell_logits,
    classes_of,
    further_logits,
    kept_splits,
    load_tensors,
    split_cells,
    test_splits,
)
from lmcbench.submission.score_bounds import ScoreBounds, score_bounds

_PREDICTED = {*ENSEMBLE_FRACTIONS, *ENSEMBLE_POSITIVE, "ensemble_gain", "error_overlap"}
"""The keys of every `ensemble` of schema 1; later keys are rescored if the record has them."""


class Rescoring:
    """Check records against a file of logits.

    Attributes:
        faults: what differs.
        rescored: what was recomputed and is equal, in words.
        claimed: what cannot be recomputed because its logits were left out, in words.
        midpoints: keys of the cells whose midpoints on the test set were recomputed, for every pair.
    """

    def __init__(self, content: bytes, pins: Pins) -> None:
        self.pins = pins
        self.faults: list[Fault] = []
        self.rescored: list[str] = []
        self.claimed: list[str] = []
        self.midpoints: set[str] = set()
        self.cells: Mapping[str, Tensors] = {}
        try:
            self.cells, strange = split_cells(load_tensors(content))
        except UserError as error:
            self._fault(PREDICTIONS, "", str(error))
            return
        for name in strange:
            self._fault(PREDICTIONS, "", f"tensor {name!r} is not named KEY/SPLIT.")

    def _fault(self, file: str, field: str, message: str) -> None:
        self.faults.append(Fault(file, field, message))

    def check(self, records: Mapping[str, Record]) -> None:
        """Check every measured cell; `records` by their places in the submission."""
        if self.faults:
            return
        measured = {file: r for file, r in records.items() if r.status == "ok" and r.siblings}
        for key in sorted(self.cells.keys() - {r.key for r in measured.values()}):
            self._fault(place_of(key, PREDICTIONS), "", "belongs to no measured record.")
        classes = self._classes(measured.values())
        try:
            kept = kept_splits(list(measured.values()), classes) if classes is not None else {}
        except UserError:
            return  # another check reports records without the sizes of their data
        labels: dict[str, dict[str, str]] = {}
        whole = 0
        left_out = []
        for file, record in measured.items():
            name, splits = place_of(record.key, PREDICTIONS), kept.get(record.key, [SPLIT])
            if not splits and record.key not in self.cells:
                left_out.append(record)
                continue
            if record.key not in self.cells:
                self._fault(name, "", "is missing; the cell's predictions cannot be rescored.")
                continue
            tensors = self.cells[record.key]
            try:
                logits, truth = cell_logits(tensors, record, splits or [SPLIT])
                inner = further_logits(tensors, record, logits)
            except UserError as error:
                self._fault(name, "", str(error))
                continue
            self._check_hash(file, record, name, tensors)
            for split, given in truth.items():
                hashed = digest_bytes(given.astype("<i2").tobytes())
                labels.setdefault(labels_name(split), {})[name] = hashed
            self._check_logits(file, name, record, logits, truth)
            self._check_scores(file, record, logits, inner, truth)
            self._check_chance(file, record, truth)
            if SPLIT in logits:
                self.midpoints.add(record.key)
            whole += 1
        self._check_labels(labels, self.pins)
        which = f"{whole} of {counted(len(measured), 'cell')} from stored logits"
        self.rescored.append(
            f"ensembles, disagreements, siblings' test scores and losses at fitted temperatures of {which}"
        )
        self.rescored.append(f"midpoints, their barriers and soups of {which}")
        if left_out:
            self.claimed.append(
                f"predictions of {counted(len(left_out), 'cell')}, as all logits exceed 25 MB together"
            )
        if any(kept.get(r.key) and kept[r.key] != test_splits(r) for r in measured.values()):
            self.claimed.append("predictions under evaluation shifts, as all logits exceed 25 MB together")

    def _classes(self, measured: Iterable[Record]) -> int | None:
        """Return the number of classes, from the first cell whose logits can be read."""
        for record in measured:
            try:
                return classes_of(cell_logits(self.cells[record.key], record, [SPLIT])[1])
            except (UserError, LookupError):
                continue
        return None

    def _check_hash(self, file: str, record: Record, name: str, tensors: Tensors) -> None:
        """Compare the cell's tensors with the file that the run wrote, whose sha256 is in the record."""
        from safetensors.numpy import save

        said = ((record.evidence or {}).get("predictions") or {}).get("sha256")
        # without its evaluation shifts, a cell's file is another one than the run's
        if set(test_splits(record)) <= tensors.keys() and said != digest_bytes(save(dict(tensors))):
            self._fault(file, "evidence.predictions.sha256", f"is not that of {name}.")

    def _check_labels(self, labels: Mapping[str, Mapping[str, str]], pins: Pins) -> None:
        """Check that the labels of a split are the same in all cells, and those of the test set as pinned."""
        for field, hashes in sorted(labels.items()):
            known = pins.labels if field == labels_name(SPLIT) else None
            expected = known or Counter(hashes.values()).most_common(1)[0][0]
            whose = "the data set's" if known else "those of the other cells"
            for name, found in hashes.items():
                if found != expected:
                    self._fault(name, field, f"are not {whose}.")
            if known is None:
                split = field.removesuffix(".labels")
                which = "test labels" if split == SPLIT else f"labels of {split}"
                self.claimed.append(f"that the {which} are the data set's (the same in all cells)")

    def _check_logits(
        self,
        file: str,
        name: str,
        record: Record,
        logits: Mapping[str, Logits],
        labels: Mapping[str, NDArray[np.int64]],
    ) -> None:
        """Recompute the measures of predictions exactly, and check the scores of fp32 within bounds."""
        try:
            again = measure_logits(logits, labels)
        except UserError as error:
            self._fault(name, "", str(error))
            return
        for split in logits:
            for pair, held in enumerate(record.pairs):
                found, expected = held.disagreement.get(split), again.disagreement[held.i, held.j][split]
                if found != expected:
                    self._differs(file, f"pairs.{pair}.disagreement.{split}", found, expected)
            ensemble = {} if again.ensemble is None else again.ensemble[split]
            for key, expected_value in ensemble.items():
                held_values = (record.ensemble or {}).get(split, {})
                if key not in held_values and key not in _PREDICTED:
                    continue
                if key not in held_values or not is_close(held_values[key], expected_value):
                    self._differs(file, f"ensemble.{split}.{key}", held_values.get(key), expected_value)
            counts = (record.training or {}).get("label_counts") or []
            classes = logits[split].shape[-1]
            if any(len(of_view) != classes for of_view in counts):
                self._fault(
                    file,
                    "training.label_counts",
                    f"must have {classes} counts a sibling, as the logits classes.",
                )
            elif record.corrected is not None and len(counts) == len(logits[split]):
                corrected = compare_corrected(logits[split], labels[split], counts)
                held_corrected = record.corrected.get(split, {})
                for key, value in corrected.items():
                    same = all_close if isinstance(value, list) else is_close
                    if not same(held_corrected.get(key), value):
                        self._differs(file, f"corrected.{split}.{key}", held_corrected.get(key), value)
            functions = {} if again.functions is None else again.functions[split]
            held_functions = _flat((record.functions or {}).get(split, {}))
            for key, expected_value in _flat(functions).items():
                if record.functions is not None and not is_close(held_functions.get(key), expected_value):
                    self._differs(file, f"functions.{split}.{key}", held_functions.get(key), expected_value)

    def _check_scores(
        self,
        file: str,
        record: Record,
        logits: Mapping[str, Logits],
        inner: Mapping[str, Logits],
        labels: Mapping[str, NDArray[np.int64]],
    ) -> None:
        """Check scores of siblings, ends and midpoints of curves, and soups, within what fp16 leaves open.

        Losses at fitted temperatures are of the stored logits, and recomputed exactly.
        """
        for split, stored in logits.items():
            ends = [score_bounds(values, labels[split]) for values in stored]
            fits = [fit_temperature(values, labels[split]) for values in stored]
            again = inner.get(recalibrated_name(split))
            fresh = [] if again is None else [score_bounds(values, labels[split]) for values in again]
            for s, sibling in enumerate(record.siblings):
                if split in sibling.splits:
                    self._compare(file, f"siblings.{s}.splits.{split}", sibling.splits[split], ends[s])
                if fresh and split in (held := sibling.recalibrated or {}):
                    self._compare(file, f"siblings.{s}.recalibrated.{split}", held[split], fresh[s])
            for p, pair in enumerate(record.pairs):
                if fresh and split in (held_ends := pair.ends_recalibrated or {}):
                    for kind in ("loss", "error"):
                        for at, s in enumerate((pair.i, pair.j)):
                            value = getattr(held_ends[split], kind)[at]
                            where = f"pairs.{p}.ends_recalibrated.{split}.{kind}.{at}"
                            self._within(file, where, value, getattr(fresh[s], kind))
                if (curve := pair.curves.get(split)) is None:
                    continue
                places: list[tuple[int, ScoreBounds]] = [(0, ends[pair.i]), (-1, ends[pair.j])]
                middle = inner.get(midpoint_name(split, pair.i, pair.j))
                if middle is not None:
                    places.append((len(curve.loss) // 2, score_bounds(middle, labels[split])))
                    fit = fit_temperature(middle, labels[split])
                    self._check_scaled(file, p, pair, split, scale_line([fits[pair.i], fit, fits[pair.j]]))
                for at, bounds in places:
                    for kind, values in (("loss", curve.loss), ("error", curve.error)):
                        where = f"pairs.{p}.curves.{split}.{kind}.{at % len(values)}"
                        self._within(file, where, values[at], getattr(bounds, kind))
            if record.soup is None or split not in record.soup:
                continue
            if (own := inner.get(soup_name(split))) is not None:
                self._compare(file, f"soup.{split}", record.soup[split], score_bounds(own, labels[split]))
            elif (middle := inner.get(midpoint_name(split, 0, 1))) is not None and len(stored) == 2:
                # two siblings' soup is their midpoint, up to the last bits of fp32
                bounds = score_bounds(middle, labels[split], steps=2)
                self._compare(file, f"soup.{split}", record.soup[split], bounds)

    def _check_scaled(
        self, file: str, p: int, pair: PairRecord, split: str, again: Mapping[str, list[float]]
    ) -> None:
        """Compare the losses at fitted temperatures of pair `p`, if it has them."""
        held = (pair.temperature_scaled or {}).get(split, again)
        # the loss is flat around its least value: it is known better than where it lies
        for kind, tolerance in (("loss", 1e-9), ("inverse_temperature", 1e-6)):
            if not np.allclose(held[kind], again[kind], rtol=tolerance, atol=tolerance):
                where = f"pairs.{p}.temperature_scaled.{split}.{kind}"
                self._differs(file, where, held[kind], again[kind])

    def _check_chance(self, file: str, record: Record, labels: Mapping[str, NDArray[np.int64]]) -> None:
        """Recompute the number of images of the commonest test class."""
        for entry in record.data:
            held, given = entry.get("largest_class"), labels.get(entry["split"])
            if held is not None and given is not None and held != (largest := int(np.bincount(given).max())):
                self._differs(file, f"data.{entry['split']}.largest_class", held, largest)

    def _compare(self, file: str, field: str, score: Score, bounds: ScoreBounds) -> None:
        for kind in ("error", "loss", "ece"):
            self._within(file, f"{field}.{kind}", getattr(score, kind), getattr(bounds, kind))

    def _within(self, file: str, field: str, found: float, bounds: tuple[float, float] | None) -> None:
        if bounds is not None and not bounds[0] <= found <= bounds[1]:
            low, high = (f"{bound:.8g}" for bound in bounds)
            self._fault(file, field, f"found {found}, the stored logits give {low} to {high}.")

    def _differs(self, file: str, field: str, found: object, expected: object) -> None:
        self._fault(file, field, f"found {found}, the stored logits give {expected}.")


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested tables as one table with dotted names."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        inner = {f".{k}": v for k, v in _flat(value).items()} if isinstance(value, Mapping) else {"": value}
        found |= {f"{key}{rest}": v for rest, v in inner.items()}
    return found
