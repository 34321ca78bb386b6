"""Figures against the fork."""

from __future__ import annotations

import pandas as pd
import pytest

from lmcbench.report.figures.barriers import draw_against_fork


@pytest.mark.parametrize("count", [1, 3, 15])
def test_points_of_a_fork_stay_nearer_to_it_than_to_the_next(count):
    rows = [
        {
            "architecture": "lmc_mlp",
            "recipe": "mlp",
            "epochs": 16,
            "shift": f"shift-{k}",
            "fork": fork,
            "replicate": replicate,
            "height": 0.1 * replicate,
        }
        for k in range(count)
        for fork in ("0", "3%", "30%")
        for replicate in (0, 1)
    ]
    _, [axis] = draw_against_fork(pd.DataFrame(rows), "height", "height")
    low, high = axis.get_xlim()
    lines = [container.lines[0].get_xdata() for container in axis.containers]
    assert len(lines) == count
    for x in lines:
        assert [round(value) for value in x] == [0, 1, 2]
        assert low < min(x) < max(x) < high
        assert max(abs(value - round(value)) for value in x) <= 0.36
