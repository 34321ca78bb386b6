"""A training shift as a suite names it: rule, parameters and noise mode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lmcbench.errors import UserError, unknown
from lmcbench.spec.shift_rules import SHIFTS, Indices, ShiftKind, View

Noise = Literal["own", "shared"]

ALIASES = {"same-half": "same(disjoint-halves)"}
"""Shifts with a name of their own, by which records and digests call them, and what they stand for."""


def own_name(name: str) -> str:
    """`name`, or what the shift is called that it spells out: `same-half` for `same(disjoint-halves)`."""
    return next((own for own, spelled in ALIASES.items() if spelled == name), name)


@dataclass(frozen=True)
class Shift:
    """A named training shift with all its parameters and its noise mode.

    `name` may be `same(NAME)`: the control in which all siblings get one view of NAME, view r mod K
    in replicate r (design 3.8).
    """

    name: str
    params: Mapping[str, Any]
    noise: Noise = "own"

    def __post_init__(self) -> None:
        _resolve(self.name)[0].check(**self.params)

    @classmethod
    def parse(cls, name: str, params: Mapping[str, Any] | None = None, noise: Noise = "own") -> Shift:
        """The shift `name` with `params` over the rule's defaults.

        Raises:
            UserError: for an unknown name or parameter, or a value out of range.
        """
        name = own_name(name)
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
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"Shift {name}: {key} must be finite, found {value}.")
        return cls(name, given, noise)

    @property
    def label(self) -> str:
        """The name in print: parameters where they are not the defaults, and shared noise."""
        settings = [f"{k}={v}" for k, v in sorted(self._changed().items())]
        if self.noise == "shared":
            settings.append("noise=shared")
        return f"{self.name}[{','.join(settings)}]" if settings else self.name

    @property
    def is_control(self) -> bool:
        """Whether all siblings get one view of it, `same(...)` (design 3.8)."""
        return _resolve(self.name)[1]

    def identity(self) -> dict[str, Any]:
        """The shift as records hold it, with every parameter."""
        return {"name": self.name, "params": dict(self.params), "noise": self.noise}

    def definition(self) -> dict[str, Any]:
        """The shift as digests and keys hold it: without defaults, so that rules can get new parameters."""
        given: dict[str, Any] = {"name": self.name}
        if changed := self._changed():
            given["params"] = changed
        if self.noise != "own":
            given["noise"] = self.noise
        return given

    def _changed(self) -> dict[str, Any]:
        """The parameters that are not their defaults."""
        defaults = _resolve(self.name)[0].defaults
        return {k: v for k, v in self.params.items() if v != defaults[k]}

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
