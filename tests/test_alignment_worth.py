"""The tables of docs/align.md are those of the stored rows, with intervals that a naive sum gives."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def summary() -> ModuleType:
    spec = importlib.util.spec_from_file_location("summary", ROOT / "benchmark" / "alignment" / "summary.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_tables_of_the_stored_rows(summary) -> None:
    page = summary.PAGE.read_text(encoding="utf-8")
    assert summary.render(page, summary.read()) == page


def test_differences_are_paired_by_replicate(summary) -> None:
    """Replicate 2 lacks weight matching: the difference leaves it out."""
    rows = [
        {
            "suite": "s-v1", "network": "net(depth=1)", "replicate": str(replicate), "method": method,
            "statistics": "blended", "error_barrier": error, "loss_barrier": "1",
        }
        for replicate, method, error in [
            (0, "weights", "0.5"), (1, "weights", "0.3"),
            (2, "activations", "0.9"), (1, "activations", "0.2"), (0, "activations", "0.1"),
        ]
    ]  # fmt: skip
    found = summary.Measured(rows)
    half = 12.706 * math.sqrt(((-40 + 25) ** 2 + (-10 + 25) ** 2) / 2)
    assert f"| s, net | activations | 2 | -25.0 ± {half:.1f} | - |" in summary.differences(found)
    assert "| s, net | activations | 3 | 40.0 ± " in summary.heights(found)
