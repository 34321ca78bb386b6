"""A training shift of a suite: rule, parameters and noise mode."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lmcbench.errors import UserError, unknown
from lmcbench.spec import shift_rules
from lmcbench.spec.architectures import ARGUMENTS_LENGTH, fingerprint_of
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.domain_rules import DOMAIN_SHIFTS, MIXED
from lmcbench.spec.domains import Domains
from lmcbench.spec.own_shifts import is_own, own_views, portable_name, read_source
from lmcbench.spec.shift_rules import OWN_NORMALISATION, Indices, ShiftKind, View

Noise = Literal["own", "shared"]

SHIFTS: Mapping[str, ShiftKind] = ChainMap(DOMAIN_SHIFTS, shift_rules.SHIFTS)
"""Every training shift by name."""

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

    Attributes:
        name: of the table, or `FILE.py:FUNCTION` without the file's folder.
        params: all parameters; those given, for a user's own rule.
        noise: the noise mode.
        source: `PATH.py:FUNCTION` of a user's own rule, else None.
        fingerprint: of its file, else None.
    """

    name: str
    params: Mapping[str, Any]
    noise: Noise = "own"
    source: str | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        if self.source is None:
            _resolve(self.name)[0].check(**self.params)

    @classmethod
    def parse(cls, name: str, params: Mapping[str, Any] | None = None, noise: Noise = "own") -> Shift:
        """Return the shift `name`, with `params` in place of the rule's defaults.

        Raises:
            UserError: for an unknown name or parameter, or a value out of range.
        """
        base, same = split_control(name)
        if is_own(base):
            return cls._own(base, same, params or {}, noise)
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

    @classmethod
    def _own(cls, source: str, same: bool, params: Mapping[str, Any], noise: Noise) -> Shift:
        """Return the shift of a user's rule, which is read but not executed."""
        try:
            length = len(canonical_json(dict(params)))
        except (TypeError, ValueError):
            raise UserError(
                f"Shift {source}: parameters must be finite numbers, strings, booleans, or lists and tables "
                "of them."
            ) from None
        if length > ARGUMENTS_LENGTH:
            raise UserError(f"Shift {source}: parameters of {length:,} characters are too long.")
        name = portable_name(source)
        fingerprint = fingerprint_of(read_source(source))
        return cls(f"same({name})" if same else name, dict(params), noise, source, fingerprint)

    @property
    def label(self) -> str:
        """The printed name, with parameters that differ from their defaults and with shared noise."""
        settings = [f"{k}={v}" for k, v in sorted(self._changed().items())]
        if self.noise == "shared":
            settings.append("noise=shared")
        return f"{self.name}[{','.join(settings)}]" if settings else self.name

    @property
    def has_one_view(self) -> bool:
        """Whether all siblings get the same view of a shift, as in `same(...)`."""
        return split_control(self.name)[1]

    @property
    def is_control(self) -> bool:
        """Whether it is what another shift is compared with: `same(...)` or `mixed(domains)`."""
        return self.has_one_view or self.name == MIXED

    @property
    def rule(self) -> str:
        """The name of its rule, which a shift and its control have in common."""
        kind = _resolve(self.name)[0]
        return next(name for name, known in SHIFTS.items() if known is kind)

    @property
    def has_own_statistics(self) -> bool:
        """Whether each sibling's images are standardised by the statistics of its own view."""
        return self.source is None and _resolve(self.name)[0] is SHIFTS[OWN_NORMALISATION]

    @property
    def needs_domains(self) -> bool:
        """Whether the shift needs data with domains."""
        return self.source is None and _resolve(self.name)[0].needs_domains

    def identity(self) -> dict[str, Any]:
        """Return the shift as in records, with all parameters."""
        return {"name": self.name, "params": dict(self.params), "noise": self.noise, **self._mark()}

    def definition(self) -> dict[str, Any]:
        """Return the shift as in digests and keys: without defaults, so that rules can get new parameters."""
        given: dict[str, Any] = {"name": self.name, **self._mark()}
        if changed := self._changed():
            given["params"] = changed
        if self.noise != "own":
            given["noise"] = self.noise
        return given

    def _mark(self) -> dict[str, str]:
        """Return what tells a user's own rule from others of its name."""
        return {} if self.fingerprint is None else {"fingerprint": self.fingerprint}

    def _changed(self) -> dict[str, Any]:
        """Return the parameters that differ from their defaults; all of a user's own rule."""
        if self.source is not None:
            return dict(self.params)
        defaults = _resolve(self.name)[0].defaults
        return {k: v for k, v in self.params.items() if v != defaults[k]}

    def views(
        self, labels: Indices, k: int, seed: int, replicate: int, domains: Domains | None = None
    ) -> list[View]:
        """Return the views of `k` siblings, which do not depend on the suite's other shifts.

        Args:
            labels: labels of the training set, `[n]`.
            k: number of siblings.
            seed: the replicate's seed for role `shift`.
            replicate: the replicate; it chooses the view of a control.
            domains: domains of the training set; None if the data have none.

        Raises:
            UserError: for parameters out of range, domains that do not suit the shift, or a sibling without
                images.
        """
        labels = np.asarray(labels, dtype=np.int64)
        same = self.has_one_view
        if self.source is not None:
            assert self.fingerprint is not None
            views = own_views(self.source, self.fingerprint, self.params, labels, k, seed, domains)
        else:
            kind, _ = _resolve(self.name)
            if kind.needs_domains and domains is None:
                raise UserError(f"Shift {self.name} needs data with domains. {HOW_TO_NAME_DOMAINS}")
            given = (domains,) if kind.needs_domains else ()
            views = kind.rule(labels, k, seed, *given, **self.params)
        for i, view in enumerate(views):
            if len(view.indices) == 0:
                raise UserError(f"Shift {self.label} leaves sibling {i} of {k} without training images.")
        return [views[replicate % k]] * k if same else views


HOW_TO_NAME_DOMAINS = (
    'Name the column of domains under [data] of the suite, as in domain = "hospital"; domain = "folder" '
    "for folders DOMAIN/CLASS."
)


def split_control(name: str) -> tuple[str, bool]:
    """Return the shift that a name is of, and whether it is its control `same(...)`.

    Examples:
        >>> split_control("same-half"), split_control("mixed(domains)")
        (('disjoint-halves', True), ('mixed(domains)', False))
    """
    target = ALIASES.get(name, name)
    same = target.startswith("same(") and target.endswith(")")
    return (target[len("same(") : -1] if same else target), same


def is_one_view(name: str) -> bool:
    """Return whether all siblings see the same images under a shift: without one, and in `same(...)`."""
    base, same = split_control(name)
    return same or base == "none"


def _resolve(name: str) -> tuple[ShiftKind, bool]:
    """Return the entry of the table for `name`, and whether `name` is its control `same(...)`."""
    base, same = split_control(name)
    if base not in SHIFTS:
        raise unknown("shift", name, [*SHIFTS, *ALIASES, *(f"same({s})" for s in SHIFTS)])
    return SHIFTS[base], same
