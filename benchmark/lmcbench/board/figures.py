"""Records in, every figure of a report out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmcbench.board.drawing import Drawing
from lmcbench.board.figures_basic import BASIC
from lmcbench.board.figures_probed import PROBED
from lmcbench.board.figures_worth import WORTH
from lmcbench.board.style import styled
from lmcbench.results.record import Record
from lmcbench.spec.forks import Fork

DRAWERS: tuple[Callable[[Sequence[Record]], Drawing | None], ...] = (*BASIC, *PROBED)
"""Figures of siblings and independent networks of full length."""


def draw(records: Sequence[Record]) -> list[Drawing]:
    """Every figure that the records have the numbers for."""
    # lines between networks of another length or number say nothing of this training
    forked = [r for r in records if not Fork.parse(r.fork.name).priced]
    with styled():
        drawn = [drawer(forked) for drawer in DRAWERS]
        drawn += [drawer(records) for drawer in WORTH]
    return [drawing for drawing in drawn if drawing is not None]
