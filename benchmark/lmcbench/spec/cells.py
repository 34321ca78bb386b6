"""Cells and families: a suite expanded into what is run and what is recorded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from lmcbench.errors import UserError, unknown
from lmcbench.spec.architectures import Architecture, parse_architecture
from lmcbench.spec.canonical import digest
from lmcbench.spec.forks import WHOLE_BUDGET, Fork, equal_share
from lmcbench.spec.recipe import Recipe
from lmcbench.spec.seeds import Seeds
from lmcbench.spec.shifts import Shift, own_name
from lmcbench.spec.suite import Suite
from lmcbench.spec.suite_files import how_to_have_others

MOST_REPLICATES = 10_000
"""Of one run: a slip of the finger would fill the memory with cells."""


@dataclass(frozen=True)
class Cell:
    """One (suite, architecture, recipe, training shift, fork, replicate): the unit of results."""

    suite: Suite
    architecture: Architecture
    shift: Shift
    fork: Fork
    replicate: int

    @cached_property
    def key(self) -> str:
        """16 hex digits over what should change the numbers, and over nothing else (design section 5)."""
        return self.key_of(self.architecture.identity())

    def key_of(self, identity: Mapping[str, Any]) -> str:
        """The key where the architecture's identity is known without its source file."""
        content = {
            "suite": self.suite.digest,
            "architecture": identity,
            "recipe": self.architecture.recipe,
            "shift": self.shift.definition(),
            "fork": self.fork.identity,
            "replicate": self.replicate,
        }
        return digest(content)[:16]

    @property
    def recipe(self) -> Recipe:
        """The recipe the architecture is trained with."""
        return self.suite.recipes[self.architecture.recipe]

    @property
    def probed(self) -> bool:
        """Whether it is one of the suite's probe cells: a pair, trained at full length."""
        probe = self.suite.probe
        return (
            not self.fork.is_cost_matched
            and self.replicate < probe.replicates
            and self.shift.label in probe.shifts
        )

    @property
    def networks(self) -> int:
        """How many networks it trains: K siblings, or one."""
        return 1 if self.fork.comparator == WHOLE_BUDGET else self.suite.siblings

    def length(self, n: int) -> int:
        """Steps of the training of each of its networks, the trunk's included, on `n` training images."""
        full = self.recipe.length(n)
        latest = self.suite.latest_fork
        if not self.fork.is_cost_matched or latest is None:
            return full
        fork_step = latest.step(self.recipe.steps_per_epoch(n))
        return equal_share(fork_step, self.suite.siblings, full, self.networks)

    def summary(self) -> dict[str, Any]:
        """The cell as `lmcbench suites NAME --json` lists it."""
        return {
            "key": self.key,
            "architecture": self.architecture.label,
            "recipe": self.architecture.recipe,
            "shift": self.shift.label,
            "fork": self.fork.name,
            "replicate": self.replicate,
        }


@dataclass(frozen=True)
class Family:
    """All cells of one (architecture, recipe, replicate): they share the trunk."""

    suite: Suite
    architecture: Architecture
    replicate: int
    cells: tuple[Cell, ...]

    @property
    def key(self) -> str:
        """16 hex digits that name the trunk, whichever of its cells are asked for."""
        identity = {
            "suite": self.suite.digest,
            "architecture": self.architecture.identity(),
            "recipe": self.architecture.recipe,
            "replicate": self.replicate,
        }
        return digest(identity)[:16]

    @property
    def recipe(self) -> Recipe:
        """The recipe of every cell."""
        return self.suite.recipes[self.architecture.recipe]

    @property
    def seeds(self) -> Seeds:
        """The seeds of the replicate."""
        return Seeds.of(self.suite.name, self.suite.version, self.replicate, self.suite.siblings)


@dataclass(frozen=True)
class Selection:
    """Which part of a suite is asked for; empty means all."""

    architectures: Sequence[str] = ()
    shifts: Sequence[str] = ()
    forks: Sequence[str] = ()
    replicates: range | None = None
    recipe: str | None = None


def parse_replicates(text: str) -> range:
    """`N` (0 to N - 1) or the half-open `A:B`.

    Raises:
        UserError: for anything else, an empty range, or more than `MOST_REPLICATES`.
    """
    match = re.fullmatch(r"(?:(\d{1,4000}):)?(\d{1,4000})", text)
    if match is None:
        raise UserError(f"Replicates {text!r}: write a number N or a half-open range A:B.")
    chosen = range(int(match[1] or 0), int(match[2]))
    if not chosen:
        raise UserError(f"Replicates {text!r} is an empty range.")
    if chosen[-1] - chosen[0] >= MOST_REPLICATES:
        raise UserError(f"Replicates {text!r} are more than {MOST_REPLICATES:,}, the most of one run.")
    return chosen


def expand(suite: Suite, selection: Selection = Selection()) -> list[Cell]:
    """The cells of `suite` that `selection` asks for, replicate by replicate in the suite's order.

    An architecture that the suite does not list (any timm name, `module:function` or
    `file.py:function`) is added when it is named in full and a recipe is chosen.

    Raises:
        UserError: where a pattern matches nothing, with the nearest name; where a shift or fork that is asked
            for has no cell, as comparators of cost are not under every shift.
    """
    architectures = _architectures(suite, selection)
    all_shifts = [spec.shift for spec in suite.shifts]
    labels = [shift.label for shift in all_shifts]
    wanted = _matches(suite, [own_name(pattern) for pattern in selection.shifts], labels)
    shifts = [shift for shift in all_shifts if shift.label in wanted]
    asked = [Fork.parse(fork) for fork in selection.forks] or suite.fork_list
    for fork in asked:
        if fork not in suite.fork_list and fork.checkpoint is None:
            known = ", ".join(f.name for f in suite.fork_list)
            raise UserError(
                f"Suite {suite.name} has no fork {fork.name}. It has {known}. {how_to_have_others(suite)}"
            )
    given = {fork.identity: fork for fork in asked if fork.checkpoint is not None}
    forks = [*(fork for fork in suite.fork_list if fork in asked), *given.values()]
    places = suite.conditions_of(shifts, forks)
    _check_each_has_cells(suite, selection, forks, places)
    replicates = range(suite.replicates) if selection.replicates is None else selection.replicates
    return [
        Cell(suite, architecture, shift, fork, replicate)
        for replicate in replicates
        for architecture in architectures
        for shift, fork in places
    ]


def families(cells: Sequence[Cell]) -> list[Family]:
    """`cells` grouped by trunk, in order of first appearance."""
    groups: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in cells:
        group = (cell.architecture.label, cell.architecture.recipe, cell.replicate)
        groups.setdefault(group, []).append(cell)
    return [Family(g[0].suite, g[0].architecture, g[0].replicate, tuple(g)) for g in groups.values()]


def _architectures(suite: Suite, selection: Selection) -> list[Architecture]:
    if selection.recipe is not None and selection.recipe not in suite.recipes:
        refusal = unknown(f"recipe of suite {suite.name}", selection.recipe, suite.recipes)
        raise UserError(f"{refusal} {how_to_have_others(suite)}")
    patterns = selection.architectures or ["*"]
    chosen = []
    for pattern in patterns:
        listed = [a for a in suite.architectures if _named(a, pattern)]
        if listed:
            chosen += listed
        elif _is_glob(pattern):
            raise UserError(f"No architecture of suite {suite.name} matches {pattern!r}. {_known(suite)}")
        elif selection.recipe is None:
            near = str(unknown("architecture", pattern, (a.name for a in suite.architectures)))
            raise UserError(
                f"{near} To run an architecture that suite {suite.name} does not list, "
                f"choose a recipe: --recipe {'|'.join(suite.recipes)}."
            )
        else:
            chosen.append(parse_architecture(pattern, selection.recipe))
    if selection.recipe is not None:
        chosen = [a.model_copy(update={"recipe": selection.recipe}) for a in chosen]
    by_label: dict[tuple[str, str], Architecture] = {}
    for architecture in chosen:
        same = by_label.setdefault((architecture.label, architecture.recipe), architecture)
        if same != architecture:
            raise UserError(
                f"{same.name} and {architecture.name} would both be called {same.label}. Rename one of them."
            )
    return list(by_label.values())


def _named(architecture: Architecture, pattern: str) -> bool:
    names = (architecture.name, architecture.label)
    return any(_is_match(name, pattern) for name in names)


def _is_glob(pattern: str) -> bool:
    # not what stands in parentheses: there are arguments
    return any(c in pattern.partition("(")[0] for c in "*?[")


def _known(suite: Suite) -> str:
    return f"Known: {', '.join(sorted({a.label for a in suite.architectures}))}."


def _check_each_has_cells(
    suite: Suite, selection: Selection, forks: Sequence[Fork], places: Sequence[tuple[Shift, Fork]]
) -> None:
    """Refuse what is asked for by name and would be left out in silence."""
    if not selection.forks:  # every shift has the suite's other forks
        return
    under = ", ".join(suite.comparator_shifts or [])
    idle = [fork.name for fork in forks if not any(fork == placed for _, placed in places)]
    if idle:
        raise UserError(
            f"Suite {suite.name} has {' and '.join(idle)} only under {under}, none of which was asked for. "
            "Ask for one of them with --shift, or for other forks with --fork."
        )
    for pattern in selection.shifts:
        if not any(_is_match(shift.label, own_name(pattern)) for shift, _ in places):
            raise UserError(
                f"Suite {suite.name} has {' and '.join(fork.name for fork in forks)} only under {under}: "
                f"nothing is left of --shift {pattern}. Leave it out, or ask for another --fork besides."
            )


def _is_match(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _matches(suite: Suite, patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    """The suite's shifts that any pattern matches, all without patterns; each pattern must match one."""
    if not patterns:
        return set(names)
    matched: set[str] = set()
    for pattern in patterns:
        hits = {name for name in names if _is_match(name, pattern)}
        if not hits:
            refusal = unknown(f"shift of suite {suite.name}", pattern, names)
            raise UserError(f"{refusal} {how_to_have_others(suite)}")
        matched |= hits
    return matched
