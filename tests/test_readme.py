"""The README stays true: its commands, links and code are of this repository."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pandas as pd
from scipy import stats

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINE = ["architecture", "recipe", "shift"]
WORTH = ["accuracy_mean", "disagreement", "ensemble_accuracy", "ensemble_gain", "soup"]


def test_the_two_commands_stand_alone_on_their_lines():
    setup = "python3 -m venv .venv && . .venv/bin/activate && pip install -e"
    assert f"\n{setup} . && lmcbench run digits\n" in README
    assert f"\n{setup} '.[dev]' && pytest\n" in README


def test_ci_runs_the_readmes_test_command():
    pattern = re.search(r'grep -m1 -E "(.+)" README.md', (ROOT / ".ci" / "run").read_text())
    assert pattern is not None
    assert len(re.findall(pattern[1], README, re.MULTILINE)) == 1


def test_links_lead_somewhere():
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("https://") or (ROOT / target).exists(), (document, target)


def quote():
    path = ROOT / "benchmark" / "evidence" / "quote.py"
    spec = importlib.util.spec_from_file_location("quote", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_papers_claims_are_quoted_from_the_evidence():
    assert quote().quoted(README) == README, "run: python benchmark/evidence/quote.py"


def test_speed_is_quoted_from_the_benchmarks_results():
    found = json.loads((ROOT / "benchmark/speed/results/cpu.json").read_text(encoding="utf-8"))
    over: dict[str, list[str]] = {"eager": [], "dataloader": []}
    for network in found["networks"]:
        rates = network["fleets"]["images_per_s"]
        for loop, ratios in over.items():
            best = max(rate for name, rate in rates.items() if name.startswith(loop))
            ratios.append(f"{rates['fleet 48'] / best:.1f}")
    said = README[README.index("All networks of a family advance") : README.index("## The words")]
    assert re.findall(r"(\d\.\d)(?: \(| times|,| and)", said) == over["eager"] + over["dataloader"]
    assert found["environment"]["repeats"] == 5


def test_a_quoted_claim_says_n_where_it_is_not_that_of_the_head():
    found = {"effect": "+0.1", "95 % interval": "-0.2 to +0.4", "n": "3", "verdict": "not supported"}
    cell = quote()._cell
    assert cell(found, 3) == "+0.1 (-0.2 to +0.4), not supported"
    assert cell(found, 5) == "+0.1 (-0.2 to +0.4, n = 3), not supported"
    assert cell(found | {"verdict": "not testable here: 2 replicates"}, 3).endswith(", no verdict")
    assert cell(found | {"95 % interval": "–"}, 3) == "–"


def test_what_is_said_of_the_second_order_form_is_in_the_report():
    said = README[README.index("Does the second-order form") : README.index("## What the papers claim")]
    report = (ROOT / "benchmark/evidence/digits-v2/report.md").read_text(encoding="utf-8")
    table = report.split("## Does the second-order form")[1].split("\n## ")[0]
    numbers = re.findall(r"-?\d\.\d\d(?: ± \d\.\d\d)?", said)
    assert len(numbers) >= 8
    for number in numbers:
        assert f" {number}" in table, number


def test_the_tables_of_the_run_are_in_the_evidence():
    cells = pd.read_csv(ROOT / "benchmark/evidence/digits-v2/records.csv", dtype={"fork": str})
    cells = cells[(cells["split"] == "test") & (cells["replicate"] < 3)]
    cells = cells.assign(accuracy=1 - cells["error"], soup=1 - cells["soup_error"])

    def shown(line, fork, column):
        of = cells[(cells[LINE] == line).all(axis=1) & (cells["fork"] == fork)]
        values = of.groupby("replicate")[column].mean()
        half = stats.t.ppf(0.975, 2) * values.std() / 3**0.5
        assert len(values) == 3
        return f"{100 * values.mean():.1f} ± {100 * half:.1f}"

    compared = 0
    for row in re.findall(r"^lmc_\S+ {2,}\w+ {2,}\S.*$", README, re.MULTILINE):
        texts = re.split(r" {2,}", row)
        line, numbers = texts[:3], texts[3:]
        if re.search(r"/1[28]\b", row):
            forks = ("0", "1", "3", "independent")
            said = {(fork, "error_chord"): text for fork, text in zip(forks, numbers[:4], strict=True)}
        elif numbers[0] == "whole-budget":
            said = {(numbers[0], "accuracy"): numbers[1]}
        else:
            said = {(numbers[0], name): text for name, text in zip(WORTH, numbers[1:6], strict=True)}
        for (fork, column), text in said.items():
            assert text.lstrip("+") == shown(line, fork, column), (row, column)
            compared += 1
    assert compared == 20 * 4 + 2 * (4 * 5 + 1)


def test_every_name_of_the_package_that_is_shown_exists():
    import lmcbench

    names = set(re.findall(r"lmcbench\.([a-z_]+)\(", README))
    assert {"trace_path", "barrier"} <= names
    for name in names:
        assert callable(getattr(lmcbench, name))
