"""A figure with its words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from matplotlib.figure import Figure

from lmcbench.errors import counted
from lmcbench.results.labels import architecture_label
from lmcbench.results.record import Record
from lmcbench.spec.forks import INDEPENDENT


@dataclass(frozen=True)
class Drawing:
    """A figure with the words that belong to it.

    Attributes:
        name: of its file.
        title: its heading.
        caption: what is shown, on what, with n.
        figure: the picture.
    """

    name: str
    title: str
    caption: str
    figure: Figure


def replicates(*counts: int) -> str:
    """How many replicates, in words; of several series, the fewest and the most."""
    fewest = f"{min(counts)} to " if min(counts) < max(counts) else ""
    return f"n = {fewest}{counted(max(counts), 'replicate')}"


def replicates_of(records: Iterable[Record]) -> str:
    """How many replicates there are of an architecture, in words."""
    seen: dict[str, set[int]] = {}
    for record in records:
        seen.setdefault(architecture_label(record), set()).add(record.replicate)
    return replicates(*(len(found) for found in seen.values()))


def recipes_of(records: Iterable[Record]) -> dict[str, set[str]]:
    """Architecture -> its recipes."""
    found: dict[str, set[str]] = {}
    for record in records:
        found.setdefault(architecture_label(record), set()).add(record.recipe["name"])
    return found


def several_recipes(records: Iterable[Record]) -> str:
    """What is said below a mean over replicates where a network has several recipes; else nothing."""
    if all(len(recipes) == 1 for recipes in recipes_of(records).values()):
        return ""
    return " Of a network with several recipes, a replicate's value is their mean."


def fork_label(name: str) -> str:
    """A fork in titles and legends."""
    return name if name == INDEPENDENT else f"fork {name}"
