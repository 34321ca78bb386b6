"""A figure with its words, and what figures of many panels share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure


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


def blank(axes: Any, used: int) -> None:
    """Hide the panels after the first `used`."""
    for axis in axes.flat[used:]:
        axis.set_visible(False)


def replicates(count: int) -> str:
    """How many replicates, in words."""
    return f"n = {count} replicate{'s' * (count > 1)}"
