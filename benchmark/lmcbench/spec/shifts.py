"""A training shift of a suite: rule, parameters and noise mode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lmcbench.errors import UserError, unknown
from lmcbench.spec.shift_rules import OWN_NORMALISATION, SHIFTS, Indices, ShiftKind, View

Noise = Literal["own", "shared"]

ALIASES = {"same-half": "same(disjoint-halves)"}
"""Short names, as used in records and digests, and the shifts they stand for."""


def short_name(name: str) -> str:
    """Return the short name of a shift if it has one: `same-half` for `same(disjoint-halves)`."""
    return next((short for short, full in ALIASES.items() if full == name), name)


@dataclass(frozen=True)
class Shift:
    """A named training shift with all its parameters and its noise mode.

    `same(NAME)` is the control of shift NAME: all siblings get the same view, which is view r mod K of NAME
    in replicate r (docs/design.md, section 3.8).
    """

    name: str
    params: Mapping[str, Any]
    noise: Noise = "own"

    def __post_init__(self) -> None:
        _resolve(self.name)[0].check(**self.params)

    @classmethod
    def parse(cls, name: str, params: Mapping[str, Any] | None = None, noise: Noise = "own") -> Shift:
        """Return the shift `name`, with `params` in place of the rule's defaults.

        Raises:
            UserError: for an unknown name or parameter, or a value out of range.
        """
        name = short_name(name)
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
        """The printed name, with parameters that differ from their defaults and with shared noise."""
        settings = [f"{k}={v}" for k, v in sorted(self._changed().items())]
        if self.noise == "shared":
            settings.append("noise=shared")
        return f"{self.name}[{','.join(settings)}]" if settings else self.name

    @property
    def is_control(self) -> bool:
        """Whether all siblings get the same view, as in `same(...)`."""
        return _resolve(self.name)[1]

    @property
    def has_own_statistics(self) -> bool:
        """Whether each sibling's images are standardised by the statistics of its own view."""
        return _resolve(self.name)[0] is SHIFTS[OWN_NORMALISATION]

    def identity(self) -> dict[str, Any]:
        """Return the shift as in records, with all parameters."""
        return {"name": self.name, "params": dict(self.params), "noise": self.noise}

    def definition(self) -> dict[str, Any]:
        """Return the shift as in digests and keys: without defaults, so that rules can get new parameters."""
        given: dict[str, Any] = {"name": self.name}
        if changed := self._changed():
            given["params"] = changed
        if self.noise != "own":
            given["noise"] = self.noise
        return given

    def _changed(self) -> dict[str, Any]:
        """Return the parameters that differ from their defaults."""
        defaults = _resolve(self.name)[0].defaults
        return {k: v for k, v in self.params.items() if v != defaults[k]}

    def views(self, labels: Indices, k: int, seed: int, replicate: int) -> list[View]:
        """Return the views of `k` siblings, which do not depend on the suite's other shifts.

        Args:
            labels: labels of the training set, `[n]`.
            k: number of siblings.
            seed: the replicate's seed for role `shift`.
            replicate: the replicate; it chooses the view of a control.

        Raises:
            UserError: for parameters out of range, or a sibling without images.
        """
        kind, same = _resolve(self.name)
        views = kind.rule(np.asarray(labels, dtype=np.int64), k, seed, **self.params)
        for i, view in enumerate(views):
            if len(view.indices) == 0:
                raise UserError(f"Shift {self.label} leaves sibling {i} of {k} without training images.")
        return [views[replicate % k]] * k if same else views


def _resolve(name: str) -> tuple[ShiftKind, bool]:
    """Return the entry of the table for `name`, and whether `name` is its control `same(...)`."""
    target = ALIASES.get(name, name)
    same = target.startswith("same(") and target.endswith(")")
    base = target[len("same(") : -1] if same else target
    if base not in SHIFTS:
        raise unknown("shift", name, [*SHIFTS, *ALIASES, *(f"same({s})" for s in SHIFTS)])
    return SHIFTS[base], same
