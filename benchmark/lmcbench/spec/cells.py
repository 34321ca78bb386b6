"""Cells and families: a suite expanded into units of results and units of scheduling."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from lmcbench.errors import UserError, printable, unknown
from lmcbench.spec.architectures import ARGUMENTS_LENGTH, Architecture, parse_architecture
from lmcbench.spec.canonical import digest
from lmcbench.spec.forks import WHOLE_BUDGET, Fork, equal_share
from lmcbench.spec.recipe import Recipe
from lmcbench.spec.seeds import Seeds
from lmcbench.spec.shifts import Shift, short_name
from lmcbench.spec.suite import MAX_CELLS, Suite
from lmcbench.spec.suite_files import explain_new_suite
from lmcbench.spec.sweep import TUNED

MAX_REPLICATES = 10_000
"""Replicates in one run; guards against a typing error that would fill the memory with cells."""


@dataclass(frozen=True)
class Cell:
    """The unit of results: one suite, architecture, recipe, training shift, fork and replicate."""

    suite: Suite
    architecture: Architecture
    shift: Shift
    fork: Fork
    replicate: int

    @cached_property
    def key(self) -> str:
        """16 hex digits that depend on everything that changes the numbers, and on nothing else."""
        return self.key_of(self.architecture.identity())

    def key_of(self, identity: Mapping[str, Any]) -> str:
        """Return the key for an `Architecture.identity()`, which a record has without the source file."""
        content = {
            "suite": self.suite.digest,
            "architecture": identity,
            "recipe": recipe_identity(self.suite, self.architecture.recipe),
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
    def has_analyses(self) -> bool:
        """Whether the suite allows analyses of this cell, whose siblings are trained at full length."""
        probe = self.suite.probe
        return (
            not self.fork.is_cost_matched
            and self.replicate < probe.replicates
            and self.shift.label in probe.shifts
        )

    @property
    def networks(self) -> int:
        """Number of networks it trains: K, or 1 for the comparator of a single network."""
        return 1 if self.fork.comparator == WHOLE_BUDGET else self.suite.siblings

    def length(self, n: int) -> int:
        """Return the training steps of each network, the trunk's included, for `n` training images."""
        full, per_epoch = self.recipe.length(n), self.recipe.steps_per_epoch(n)
        if not self.fork.is_cost_matched:
            return full
        latest = max(fork.step(per_epoch, full) for fork in self.suite.trunk_forks)
        return equal_share(latest, self.suite.siblings, full, self.networks)

    def fork_step(self, n: int) -> int:
        """Return the step at which siblings start, for `n` training images; 0 without a trunk."""
        return self.fork.step(self.recipe.steps_per_epoch(n), self.recipe.length(n))

    def summary(self) -> dict[str, Any]:
        """Return the cell as listed by `lmcbench suites NAME --json`."""
        return {
            "key": self.key,
            "architecture": self.architecture.label,
            "recipe": self.architecture.recipe,
            "shift": self.shift.label,
            "fork": self.fork.name,
            "replicate": self.replicate,
        }


def recipe_identity(suite: Suite, name: str) -> Any:
    """Return a recipe as in keys: its name, whose settings the digest contains, or a tuned one's settings."""
    if name != TUNED:
        return name
    return suite.recipes[name].model_dump(mode="json", exclude_defaults=True)


@dataclass(frozen=True)
class Family:
    """All cells of one architecture, recipe and replicate. They share the trunk and are run together."""

    suite: Suite
    architecture: Architecture
    replicate: int
    cells: tuple[Cell, ...]

    @property
    def key(self) -> str:
        """16 hex digits that identify the trunk; the selection of cells does not matter."""
        identity = {
            "suite": self.suite.digest,
            "architecture": self.architecture.identity(),
            "recipe": recipe_identity(self.suite, self.architecture.recipe),
            "replicate": self.replicate,
        }
        return digest(identity)[:16]

    @property
    def recipe(self) -> Recipe:
        """The recipe of all its cells."""
        return self.suite.recipes[self.architecture.recipe]

    @property
    def seeds(self) -> Seeds:
        """The seeds of its replicate."""
        return Seeds.of(self.suite.name, self.suite.version, self.replicate, self.suite.siblings)


@dataclass(frozen=True)
class Selection:
    """The selected part of a suite; an empty field selects all.

    Attributes:
        architectures: names and patterns, or architectures that the suite need not list.
        recipe_option: how the user states a recipe, for messages.
    """

    architectures: Sequence[str | Architecture] = ()
    shifts: Sequence[str] = ()
    forks: Sequence[str] = ()
    replicates: range | None = None
    recipe: str | None = None
    recipe_option: str = "--recipe "


def parse_replicates(text: str) -> range:
    """Parse `N` (replicates 0 to N - 1) or the half-open range `A:B`.

    Raises:
        UserError: for other text, an empty range, or more than `MAX_REPLICATES`.
    """
    match = re.fullmatch(r"(?:([0-9]{1,4000}):)?([0-9]{1,4000})", text)
    if match is None:
        raise UserError(f"Replicates {text!r} are not a range. Write a number N or a half-open range A:B.")
    chosen = range(int(match[1] or 0), int(match[2]))
    if not chosen:
        raise UserError(f"Replicates {text!r} are an empty range.")
    if chosen[-1] - chosen[0] >= MAX_REPLICATES:
        raise UserError(f"Replicates {text!r} are more than {MAX_REPLICATES:,}, the maximum of one run.")
    return chosen


def expand(suite: Suite, selection: Selection = Selection()) -> list[Cell]:
    """Return the selected cells of a suite, replicate by replicate in the suite's order.

    An architecture that the suite does not list (a timm name, `module:function` or `file.py:function`) is
    added if it is named in full and the selection has a recipe.

    Raises:
        UserError: if a pattern matches nothing, or a selected shift or fork has no cell because the suite has
            cost-matched comparators only under some shifts.
    """
    for pattern in (*selection.architectures, *selection.shifts, *selection.forks):
        if isinstance(pattern, str) and len(pattern) > ARGUMENTS_LENGTH:  # fnmatch takes quadratic time
            raise UserError(
                f"{printable(pattern, 60)!r} has {len(pattern):,} characters; "
                f"at most {ARGUMENTS_LENGTH:,} are allowed."
            )
    architectures = _architectures(suite, selection)
    all_shifts = [spec.shift for spec in suite.shifts]
    labels = [shift.label for shift in all_shifts]
    wanted = _matches(suite, [short_name(pattern) for pattern in selection.shifts], labels)
    shifts = [shift for shift in all_shifts if shift.label in wanted]
    selected = [Fork.parse(fork) for fork in selection.forks] or suite.fork_list
    for fork in selected:
        if fork not in suite.fork_list and fork.checkpoint is None:
            known = ", ".join(f.name for f in suite.fork_list)
            raise UserError(
                f"Suite {suite.name} has no fork {fork.name}. It has {known}. {explain_new_suite(suite)}"
            )
    given = {fork.identity: fork for fork in selected if fork.checkpoint is not None}
    forks = [*(fork for fork in suite.fork_list if fork in selected), *given.values()]
    places = suite.conditions_of(shifts, forks)
    _check_each_has_cells(suite, selection, forks, places)
    replicates = range(suite.replicates) if selection.replicates is None else selection.replicates
    if (count := len(replicates) * len(architectures) * len(places)) > MAX_CELLS:
        raise UserError(f"{count:,} cells are selected; at most {MAX_CELLS:,} are allowed. Select fewer.")
    return [
        Cell(suite, architecture, shift, fork, replicate)
        for replicate in replicates
        for architecture in architectures
        for shift, fork in places
    ]


def families(cells: Sequence[Cell]) -> list[Family]:
    """Group cells by trunk, in order of first appearance."""
    groups: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in cells:
        group = (cell.architecture.label, cell.architecture.recipe, cell.replicate)
        groups.setdefault(group, []).append(cell)
    return [Family(g[0].suite, g[0].architecture, g[0].replicate, tuple(g)) for g in groups.values()]


def _architectures(suite: Suite, selection: Selection) -> list[Architecture]:
    if selection.recipe == TUNED and TUNED not in suite.recipes:
        raise UserError(
            f"Recipe {TUNED!r} is the choice of 'lmcbench tune' for one network. Give its file: "
            "--tuning DIR/tuning.json"
        )
    if selection.recipe is not None and selection.recipe not in suite.recipes:
        refusal = unknown(f"recipe of suite {suite.name}", selection.recipe, suite.recipes)
        raise UserError(f"{refusal} {explain_new_suite(suite)}")
    patterns = selection.architectures or ["*"]
    chosen = []
    for pattern in patterns:
        if isinstance(pattern, Architecture):
            chosen.append(pattern)
            continue
        listed = [a for a in suite.architectures if _named(a, pattern)] or _spelled_otherwise(suite, pattern)
        if listed:
            chosen += listed
        elif _is_glob(pattern):
            raise UserError(f"No architecture of suite {suite.name} matches {pattern!r}. {_known(suite)}")
        elif selection.recipe is None:
            near = str(unknown("architecture", pattern, (a.name for a in suite.architectures)))
            raise UserError(
                f"{near} To run an architecture that suite {suite.name} does not list, "
                f"choose a recipe: {selection.recipe_option}{'|'.join(suite.recipes)}."
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
                f"{same.name} and {architecture.name} have the same label {same.label}. Rename one of them."
            )
    return list(by_label.values())


def _named(architecture: Architecture, pattern: str) -> bool:
    names = (architecture.name, architecture.label)
    return any(_is_match(name, pattern) for name in names)


def _spelled_otherwise(suite: Suite, pattern: str) -> list[Architecture]:
    """Return the suite's architectures with these arguments, in any order and notation."""
    if _is_glob(pattern) or "(" not in pattern:
        return []
    label = parse_architecture(pattern, suite.architectures[0].recipe).label
    return [a for a in suite.architectures if a.label == label]


def _is_glob(pattern: str) -> bool:
    # parentheses contain arguments, not a pattern
    return any(c in pattern.partition("(")[0] for c in "*?[")


def _known(suite: Suite) -> str:
    return f"Known: {', '.join(sorted({a.label for a in suite.architectures}))}."


def _check_each_has_cells(
    suite: Suite, selection: Selection, forks: Sequence[Fork], places: Sequence[tuple[Shift, Fork]]
) -> None:
    """Raise if a selected fork or shift has no cell, which would be skipped silently otherwise."""
    if not selection.forks:  # each shift has forks
        return
    idle = [fork.name for fork in forks if not any(fork == placed for _, placed in places)]
    missing = idle or [fork.name for fork in forks]
    under = ", ".join(dict.fromkeys(s.label for s, fork in suite.conditions if fork.name in missing))
    if idle:
        raise UserError(
            f"Suite {suite.name} has {' and '.join(idle)} only under {under}, none of which is selected. "
            "Select one of these shifts with --shift, or other forks with --fork."
        )
    for pattern in selection.shifts:
        if not any(_is_match(shift.label, short_name(pattern)) for shift, _ in places):
            raise UserError(
                f"Suite {suite.name} has {' and '.join(fork.name for fork in forks)} only under {under}, so "
                f"--shift {pattern} selects no cell. Remove it, or add another --fork."
            )


def _is_match(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _matches(suite: Suite, patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    """Return the names that match any pattern, or all names without patterns; each pattern must match."""
    if not patterns:
        return set(names)
    matched: set[str] = set()
    for pattern in patterns:
        hits = {name for name in names if _is_match(name, pattern)}
        if not hits:
            refusal = unknown(f"shift of suite {suite.name}", pattern, names)
            raise UserError(f"{refusal} {explain_new_suite(suite)}")
        matched |= hits
    return matched
