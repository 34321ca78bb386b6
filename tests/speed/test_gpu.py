"""The half hour on a GPU, as a smoke test on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmark" / "speed" / "gpu.py"


@pytest.mark.slow_tier
def test_parts_run_on_a_cpu_and_write_their_rows(tmp_path):
    parts = ("facts", "nondet", "equal", "engines")
    command = [sys.executable, str(SCRIPT), *parts, "--device", "cpu", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ})
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu-cpu.json").read_text())["parts"]
    assert list(found) == list(parts)
    products = [row["relative_error"] for row in found["facts"]["rows"] if "relative_error" in row]
    assert all(0 < error < 2e-6 for error in products)
    assert [row["raised"] for row in found["nondet"]["rows"]] == [None] * 3
    equalities = [
        value
        for row in found["equal"]["rows"]
        for key, value in row.items()
        if key not in ("network", "precision")
    ]
    assert equalities == [True] * 15
    assert (tmp_path / "gpu-cpu.md").read_text().count("## ") == len(parts)
