"""The comparison with plain loops: a smoke test, and the page is that of the committed numbers."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).parents[2] / "benchmark" / "speed"


@pytest.fixture(scope="module")
def report():
    spec = importlib.util.spec_from_file_location("speed_report", SPEED / "report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def network(**rates):
    names = {"memory": "in memory", "loader": "DataLoader", "last": "channels last", "ours": "lmcbench"}
    return {"images_per_s": {names[name]: values for name, values in rates.items()}}


def test_ratios_are_of_repeats_that_were_timed_together(report):
    drifting = network(memory=[10, 20, 40], loader=[5, 10, 10], last=[15, 40, 60], ours=[12, 40, 90])
    assert report.ratios(drifting, "lmcbench") == [1.2, 2.0, 2.25]
    assert report.over_best(drifting) == 1.0  # of 0.8, 1.0, 1.5
    assert report.over_best(network(memory=[10], loader=[16], ours=[12])) == 0.75


def test_the_page_is_generated_from_the_results(report, tmp_path):
    found = json.loads((SPEED / "results" / "cpu.json").read_text(encoding="utf-8"))
    text = report.write_report(found, tmp_path / "cpu")
    assert text == (SPEED / "results" / "cpu.md").read_text(encoding="utf-8")
    assert (tmp_path / "cpu.png").stat().st_size > 10_000


@pytest.mark.slow_tier
def test_it_runs_and_keeps_what_other_networks_gave(tmp_path):
    for title in ("MLP", "ResNet-8"):
        command = [
            sys.executable,
            str(SPEED / "run.py"),
            "--quick",
            "--network",
            title,
            "--out",
            str(tmp_path),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ})
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "cpu.json").read_text())
    mlp, resnet = found["networks"]
    assert mlp["engines"] == {"lmcbench": "stacked"}
    assert resnet["engines"] == {"lmcbench": "channels-last", "lmcbench, bf16": "channels-last"}
    assert list(mlp["images_per_s"]) == ["DataLoader", "in memory", "lmcbench"]
    assert len(resnet["images_per_s"]) == 6
    assert all(
        rate > 0 for row in found["networks"] for rates in row["images_per_s"].values() for rate in rates
    )
    assert all(rate > 1e9 for rate in found["ceilings"].values())
    assert (tmp_path / "cpu.md").read_text().count("**Quick run") == 1


@pytest.mark.slow_tier
def test_linear_layers_are_compared(tmp_path):
    """A smoke test of the comparison, and the notes quote the committed numbers."""
    done = subprocess.run(
        [sys.executable, SPEED / "linear.py", "--quick"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(SPEED.parent), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("times as fast") == 2
    found = json.loads((SPEED / "results" / "linear-cpu.json").read_text(encoding="utf-8"))
    steps = [row["ratio"]["step"] for row in found["rows"]]
    assert found["summary"]["worth"] == (min(steps) >= 1.15)
    step = found["summary"]["step"]
    quoted = f"forward and backward {step['mean']:.2f} ({step['least']:.2f} to {step['largest']:.2f})"
    assert quoted in (SPEED / "NOTES.md").read_text(encoding="utf-8")
