"""The measured cells of one suite, found by what they are, and single numbers read off them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lmcbench.errors import UserError
from lmcbench.results.cell_values import SPLIT, architecture_label, shift_label
from lmcbench.results.curves import Array, Curve, barrier, chord_excess
from lmcbench.results.record import Record
from lmcbench.spec.architectures import BASELINE
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.evaluation_shifts import EVALUATION
from lmcbench.spec.forks import Fork
from lmcbench.spec.shifts import ALIASES
from lmcbench.stats.estimates import FITTED


class Line(NamedTuple):
    """One row of a table: a network, how it is trained, and what shifts its siblings' data."""

    architecture: str
    recipe: str
    shift: str


class Cells:
    """The records of one suite; those that were measured (`ok`) can be asked for by what they are.

    Raises:
        UserError: for records of more than one suite.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = sorted(records, key=lambda r: (*line_of(r), r.fork.name, r.replicate, r.key))
        suites = sorted({(r.suite.name, r.suite.version, r.suite.digest[:12]) for r in self.records})
        if len(suites) > 1:
            names = ", ".join(f"{name} v{version} ({digest})" for name, version, digest in suites)
            raise UserError(f"Claims are tested within one suite; these records are of {names}.")
        self.ok = [r for r in self.records if r.status == "ok"]
        self._found = {self._place(r, *_shift(r), r.fork.name): r for r in self.ok}

    def of(self, architecture: str) -> Cells:
        """The same for one architecture."""
        return Cells(r for r in self.records if architecture_label(r) == architecture)

    def without_baseline(self) -> Cells:
        """The same without the permanent baseline, whose convex loss gives constants."""
        return Cells(r for r in self.records if not is_baseline(r))

    def architectures(self) -> list[str]:
        """Labels, the smallest network first."""
        size: dict[str, int] = {}
        for r in self.records:
            label = architecture_label(r)
            size[label] = max(size.get(label, 0), r.architecture.params or 0)
        return sorted(size, key=lambda label: (size[label], label))

    def evaluations(self) -> list[str]:
        """The splits of evaluation shifts that any cell was measured on."""
        splits = (s for r in self.ok for sibling in r.siblings for s in sibling.splits)
        return sorted({s for s in splits if s.startswith(EVALUATION)})

    def forked(self) -> Iterator[Record]:
        """The measured cells whose siblings leave a trunk."""
        return (r for r in self.ok if r.fork.epoch is not None)

    def forks(self, record: Record) -> list[str]:
        """All forks of the record's line, measured or not, from the earliest."""
        line = line_of(record)
        epochs = {r.fork.name: r.fork.epoch for r in self.records if line_of(r) == line}
        return sorted((f for f, epoch in epochs.items() if epoch is not None), key=lambda f: epochs[f] or 0.0)

    def beside(self, record: Record, fork: str) -> Record | None:
        """The measured cell that differs from `record` in its fork only."""
        return self._found.get(self._place(record, *_shift(record), fork))

    def control(self, record: Record) -> Record | None:
        """The measured cell whose siblings share one view of the record's shift (design 3.8)."""
        name, params = _shift(record)
        return self._found.get(self._place(record, f"same({name})", params, record.fork.name))

    @staticmethod
    def _place(record: Record, shift: str, params: str, fork: str) -> tuple[object, ...]:
        return architecture_label(record), record.recipe["name"], shift, params, fork, record.replicate


def line_of(record: Record) -> Line:
    """The table row that the record belongs to."""
    return Line(architecture_label(record), record.recipe["name"], shift_label(record))


def is_baseline(record: Record) -> bool:
    """Whether the network is the permanent baseline (design 3.9)."""
    return record.architecture.source == "lmcbench" and record.architecture.name == BASELINE


def is_control(record: Record) -> bool:
    """Whether siblings have one view, so that nothing but noise tells them apart."""
    name = _shift(record)[0]
    return name == "none" or name.startswith("same(")


def uncalibrated_barrier(record: Record, split: str = SPLIT) -> float | None:
    """Error barrier with normalisation statistics blended as they are; None without such layers."""
    found = []
    for pair in record.pairs:
        curve = (pair.curves_uncalibrated or {}).get(split)
        if curve is not None:
            whole = Curve(record.protocol["alphas"], curve.loss, curve.error, curve.n)
            found.append(barrier(whole).error_chord)
    return _mean(found)


def prediction(record: Record, name: str, split: str = SPLIT) -> float | None:
    """A measure of `compare_predictions` on a split."""
    return (record.ensemble or {}).get(split, {}).get(name)


def distance(record: Record) -> float | None:
    """Euclidean distance between siblings, mean over pairs."""
    found = [p.geometry["distance_ab"] for p in record.pairs if p.geometry and "distance_ab" in p.geometry]
    return _mean(found)


def view_size(record: Record) -> float | None:
    """Images in a sibling's view, mean over siblings; None where an old record does not tell."""
    if record.noise is not None:
        return _mean(record.noise["views"])
    if "train_eval" in record.protocol:
        return None
    sizes = []
    for pair in record.pairs:
        for view in ("train_a", "train_b"):
            # a view is left out where it is the whole (design 3.2)
            curve = pair.curves.get(view, pair.curves.get("train"))
            if curve is not None:
                sizes.append(curve.n)
    return _mean(sizes)


def is_fitted(record: Record) -> bool:
    """Whether every sibling fits its own view: an underfit pair is at no minimum to be connected."""
    views = [s.splits["view"].error for s in record.siblings if "view" in s.splits]
    return len(views) == len(record.siblings) and max(views) <= FITTED


def else_equal_recipe(record: Record) -> str:
    """All of the recipe but its name and what sets the noise scale: learning rate and batch size."""
    rest = {k: v for k, v in record.recipe.items() if k not in ("name", "lr", "batch_size")}
    return canonical_json(rest)


def _shift(record: Record) -> tuple[str, str]:
    """The shift's name, aliases resolved, and everything else about it."""
    name = ALIASES.get(record.shift.name, record.shift.name)
    return name, canonical_json([dict(record.shift.params), record.shift.noise])


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return float(np.mean(found)) if found else None


Grid = dict[str, dict[str, Record]]
"""Architecture -> fork -> record."""


def order(records: Iterable[Record]) -> list[Record]:
    """Small networks first, then by replicate, shift (none first) and fork."""

    def rank(record: Record) -> tuple[Any, ...]:
        shift = shift_label(record)
        return (
            record.architecture.params or 0,
            architecture_label(record),
            record.replicate,
            shift != "none",
            shift,
            Fork.parse(record.fork.name).order,
        )

    return sorted(records, key=rank)


def measured(records: Iterable[Record]) -> list[Record]:
    """Those that were measured, in that order."""
    return [r for r in order(records) if r.status == "ok"]


def held(record: Record, name: str) -> dict[str, Any] | None:
    """A further measure of the record's first pair; None where it was not, or could not be, taken."""
    if not record.pairs:
        return None
    found = (record.pairs[0].model_extra or {}).get(name)
    return found if isinstance(found, dict) and "skipped" not in found else None


def further(record: Record, name: str) -> dict[str, Any]:
    """The same of a record that has it, as those of `shown` do."""
    found = held(record, name)
    assert found is not None
    return found


def shown(records: Iterable[Record], name: str) -> Grid:
    """One shift, replicate and recipe of every architecture with the measure: none and the lowest first."""
    cells: Grid = {}
    chosen: dict[str, tuple[int, str, str]] = {}
    for record in order(records):
        if held(record, name) is None:
            continue
        label = architecture_label(record)
        which = (record.replicate, shift_label(record), record.recipe["name"])
        if chosen.setdefault(label, which) == which:
            cells.setdefault(label, {})[record.fork.name] = record
    return cells


def of_shift(cells: Grid) -> str:
    """What the cells have in common, for captions."""
    one = next(iter(next(iter(cells.values())).values()))
    return f"shift {shift_label(one)}, replicate {one.replicate}"


def forks_of(cells: Grid) -> list[str]:
    """Every fork of the cells, in order."""
    return sorted({f for row in cells.values() for f in row}, key=lambda name: Fork.parse(name).order)


def excess(alphas: Sequence[float], values: Sequence[float]) -> Array:
    """S(alpha), how far values are above the chord between their ends."""
    return chord_excess(np.array(alphas), np.array(values))


def interior(values: Array) -> float:
    """The greatest inside 0 < alpha < 1, signed."""
    return float(values[1:-1].max())
