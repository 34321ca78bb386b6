"""Training shifts: the rules that give each sibling its view of the training data."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lmcbench.errors import UserError, unknown
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.seeds import permutation

Noise = Literal["own", "shared"]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class View:
    """What one sibling sees of the training set.

    Attributes:
        indices: positions in the full training set, `[m]` int64, sorted by class, then index.
        transform: the evaluation transform its images pass through (`gaussian_noise-3`), or None.
        labels: labels that replace the true ones, `[m]` int64, or None.
    """

    indices: Indices
    transform: str | None = None
    labels: Indices | None = None


Rule = Callable[..., list[View]]


@dataclass(frozen=True)
class ShiftKind:
    """One entry of the table: a rule (labels, k, seed, **params) -> k views, and what it is."""

    rule: Rule
    summary: str
    source: str

    @property
    def defaults(self) -> dict[str, Any]:
        """The rule's parameters with their default values."""
        parameters = inspect.signature(self.rule).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


# --- rules ---------------------------------------------------------------------------------------


def _none(labels: Indices, k: int, seed: int) -> list[View]:
    everything = View(by_class(labels, np.arange(len(labels))))
    return [everything] * k


def _disjoint_halves(labels: Indices, k: int, seed: int) -> list[View]:
    """Deal each class, shuffled, to the siblings in turn: parts differ by at most one image."""
    shuffled = permutation(seed, 0, len(labels))
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return [View(by_class(labels, dealt[i::k])) for i in range(k)]


def _label_skew(labels: Indices, k: int, seed: int, *, share: float = 0.8) -> list[View]:
    """Each class has one home among the siblings, which gets `share` of it; the others split the rest."""
    if not 1 / k <= share <= 1:
        raise UserError(f"label-skew: share must lie between 1/K = {1 / k:.3g} and 1, found {share}.")
    classes = np.unique(labels)
    homes = permutation(seed, 1, len(classes)) % k
    shuffled = permutation(seed, 0, len(labels))
    parts: list[list[Indices]] = [[] for _ in range(k)]
    dealt = 0
    for label, home in zip(classes, homes, strict=True):
        members = shuffled[labels[shuffled] == label]
        kept = round(share * len(members))
        parts[home].append(members[:kept])
        guests = [i for i in range(k) if i != home]
        for j, member in enumerate(members[kept:], start=dealt):
            parts[guests[j % len(guests)]].append(np.array([member]))
        dealt += len(members) - kept
    return [View(by_class(labels, np.concatenate(part))) for part in parts]


SHIFTS: dict[str, ShiftKind] = {
    "none": ShiftKind(_none, "every sibling sees the whole training set", "control"),
    "disjoint-halves": ShiftKind(
        _disjoint_halves, "K stratified parts without overlap, one for each sibling", "[H] covariate shift"
    ),
    "label-skew": ShiftKind(
        _label_skew,
        "each class mostly (share) at one sibling, the rest at the others",
        "[H] label shift, 80/20",
    ),
}
ALIASES = {"same-half": "same(disjoint-halves)"}
"""Shifts with a name of their own that are written as another."""


# --- a shift as a suite names it -----------------------------------------------------------------


@dataclass(frozen=True)
class Shift:
    """A named training shift with all its parameters and its noise mode.

    `name` may be `same(NAME)`: the control in which all siblings get one view of NAME, view r mod K
    in replicate r (design 3.8).
    """

    name: str
    params: Mapping[str, Any]
    noise: Noise = "own"

    @classmethod
    def parse(cls, name: str, params: Mapping[str, Any] | None = None, noise: Noise = "own") -> Shift:
        """The shift `name` with `params` over the rule's defaults.

        Raises:
            UserError: for an unknown name or parameter.
        """
        kind, _ = _resolve(name)
        given = dict(params or {})
        for key in given.keys() - kind.defaults.keys():
            raise unknown(f"parameter of shift {name}", key, kind.defaults)
        for key, default in kind.defaults.items():
            value = given.setdefault(key, default)
            if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
                given[key] = value = float(value)
            if type(value) is not type(default):
                raise UserError(
                    f"Shift {name}: {key} must be of type {type(default).__name__}, found {value!r}."
                )
        return cls(name, given, noise)

    @property
    def label(self) -> str:
        """The name in print: parameters where they are not the defaults, and shared noise."""
        defaults = _resolve(self.name)[0].defaults
        changed = {k: v for k, v in self.params.items() if v != defaults[k]}
        settings = [f"{k}={v}" for k, v in sorted(changed.items())]
        if self.noise == "shared":
            settings.append("noise=shared")
        return f"{self.name}[{','.join(settings)}]" if settings else self.name

    def identity(self) -> dict[str, Any]:
        """The shift as records and keys hold it."""
        return {"name": self.name, "params": dict(self.params), "noise": self.noise}

    def views(self, labels: Indices, k: int, seed: int, replicate: int) -> list[View]:
        """The views of `k` siblings of a training set with `labels` `[n]`.

        A pure function of its arguments: another shift in the suite changes nothing here.

        Raises:
            UserError: for parameters out of range, or a sibling left without images.
        """
        kind, same = _resolve(self.name)
        views = kind.rule(np.asarray(labels, dtype=np.int64), k, seed, **self.params)
        for i, view in enumerate(views):
            if len(view.indices) == 0:
                raise UserError(f"Shift {self.label} leaves sibling {i} of {k} without training images.")
        return [views[replicate % k]] * k if same else views


def _resolve(name: str) -> tuple[ShiftKind, bool]:
    """The table's entry behind `name`, and whether it is the `same` control of it."""
    target = ALIASES.get(name, name)
    same = target.startswith("same(") and target.endswith(")")
    base = target[len("same(") : -1] if same else target
    if base not in SHIFTS:
        raise unknown("shift", name, [*SHIFTS, *ALIASES, *(f"same({s})" for s in SHIFTS)])
    return SHIFTS[base], same


def by_class(labels: Indices, indices: Indices) -> Indices:
    """`indices` sorted by class, then index: the order in which shared noise counts positions."""
    return indices[np.lexsort((indices, labels[indices]))]


def views_digest(views: Sequence[View], labels: Indices) -> str:
    """Sha256 over what the views show: per sibling its indices, labels and transform."""
    text = hashlib.sha256()
    for view in views:
        shown = labels[view.indices] if view.labels is None else view.labels
        header = {"n": len(view.indices), "transform": view.transform}
        text.update(canonical_json(header).encode())
        text.update(np.ascontiguousarray(view.indices, dtype="<i8").tobytes())
        text.update(np.ascontiguousarray(shown, dtype="<i8").tobytes())
    return text.hexdigest()
