"""A figure with its words."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure

from lmcbench.errors import counted
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


def replicates(count: int) -> str:
    """How many replicates, in words."""
    return f"n = {counted(count, 'replicate')}"


def fork_label(name: str) -> str:
    """A fork in titles and legends."""
    return name if name == INDEPENDENT else f"fork {name}"
