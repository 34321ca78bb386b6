"""README, CONTRIBUTING and docs/: commands, links, names and numbers in them agree with the repository."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import typer
from scipy import stats

import lmcbench
from lmcbench.cli import app
from lmcbench.spec.architectures import short_labels
from lmcbench.spec.suite_files import load_suite

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "benchmark").glob("*.md"),
    *(ROOT / "suites" / "tuning").glob("*.md"),
    ROOT / "leaderboard" / "SUBMITTING.md",
]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}
README, FINDINGS = TEXTS["README.md"], TEXTS["docs/findings.md"]
LINE = ["architecture", "recipe", "shift"]
WORTH = {
    "member": "accuracy_mean",
    "disagreement": "disagreement",
    "ensemble": "ensemble_accuracy",
    "gain": "ensemble_gain",
    "soup": "soup",
}
"""Columns of the README's second table, and of the evidence."""


def section(text, heading):
    return text.split(f"\n{heading}\n")[1].split("\n## ")[0]


def blocks(language=""):
    """Code blocks of a language, with the page that each is from."""
    pattern = rf"^```{language}\n(.*?)^```$"
    return [(name, block) for name, text in TEXTS.items() for block in re.findall(pattern, text, re.M | re.S)]


# --- commands ------------------------------------------------------------------------------------


def test_the_two_commands_stand_alone_on_their_lines():
    setup = "python3 -m venv .venv && . .venv/bin/activate && pip install -e"
    assert f"\n{setup} . && lmcbench run digits\n" in README
    assert f"\n{setup} '.[dev]' && pytest\n" in README


def test_ci_runs_the_commands_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    pattern = re.search(r'grep -m1 -E "(.+)" README.md', script)
    assert pattern is not None
    assert len(re.findall(pattern[1], README, re.MULTILINE)) == 1
    start, end = re.search(r"sed -n '/\^(.+)/,/\^(.+)/p' README.md", script).groups()
    lines = README[README.index(f"\n{start}") : README.index(f"\n{end}")].splitlines()
    assert len([line for line in lines if line.startswith("lmcbench ")]) == 6


def test_every_command_and_option_that_is_shown_exists():
    root = typer.main.get_command(app)
    shown = [line for _, block in blocks() for line in block.splitlines() if line.startswith("lmcbench ")]
    assert len(shown) > 20
    for line in shown:
        words = shlex.split(line.split(">")[0].split("&&")[0])[1:]
        command = root.commands[words.pop(0)]
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= known, line


def test_commands_that_need_data_or_machines_say_so():
    """Blocks run as they are, on images that scikit-learn has, or say what they need."""
    free = {"digits", "noise-grid"}
    for name, block in blocks():
        for line in block.splitlines():
            if not line.startswith("lmcbench "):
                continue
            words = shlex.split(line, comments=True)
            suite = words[2] if words[1] in ("run", "tune", "calibrate") else "digits"
            made = Path(suite).name in {"birds.toml", "digit-styles.toml", "long-tail.toml"}
            yours = words[1] == "measure" or re.search(r"SLUG|from:|mine\.py|\.\./", line)
            if not (suite in free or made) or "--on" in words or yours:
                assert "# needs " in block, f"{name}: {line}"


# --- links and names -----------------------------------------------------------------------------


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    page = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        assert path.exists(), f"{name}: {link}"
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), f"{name}: {link}"


def test_every_public_name_that_is_shown_exists():
    names = {n for text in TEXTS.values() for n in re.findall(r"lmcbench\.([a-z_]+)\(", text)}
    assert {"trace_path", "barrier", "load_records"} <= names
    assert names <= set(lmcbench.__all__)


def test_every_module_that_is_named_exists():
    for name in ("CONTRIBUTING.md", "docs/design.md", "docs/guide.md"):
        for path in re.findall(r"`([\w./]+/[\w./]*\w\.(?:py|toml|json))`", TEXTS[name]):
            if not re.search(r"KEY|SLUG|DIR", path):
                places = (ROOT, ROOT / "benchmark" / "lmcbench")
                assert any((place / path).exists() for place in places), f"{name}: {path}"


def test_every_test_of_an_oracle_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXTS["docs/oracles.md"])
    assert len(named) > 25
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"


def test_python_examples_are_python():
    examples = blocks("python")
    assert len(examples) >= 3
    for _, block in examples:
        ast.parse(block)


def test_the_example_of_a_suite_is_valid(tmp_path):
    (example,) = [block for name, block in blocks("toml") if name == "docs/own-data.md"]
    file = tmp_path / "birds.toml"
    file.write_text(example, encoding="utf-8")
    assert load_suite(str(file)).data.name == "./birds"


# --- numbers -------------------------------------------------------------------------------------


def load_script(name):
    path = ROOT / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)  # as when it is run
        spec.loader.exec_module(module)
    return module


def quote():
    return load_script("benchmark/evidence/quote.py")


def test_what_is_quoted_is_in_the_evidence():
    again = "run: python benchmark/evidence/quote.py"
    assert quote().quoted(FINDINGS) == FINDINGS, again
    assert quote().quoted_readme(README) == README, again


def test_a_quoted_claim_says_n_where_it_is_not_that_of_the_head():
    found = {"effect": "+0.1", "95 % interval": "-0.2 to +0.4", "n": "3", "verdict": "not supported"}
    cell = quote()._cell
    assert cell(found, 3) == "+0.1 (-0.2 to +0.4), not supported"
    assert cell(found, 5) == "+0.1 (-0.2 to +0.4, n = 3), not supported"
    assert cell(found | {"verdict": "not testable: 2 replicates"}, 3).endswith(", no verdict")
    assert cell(found | {"95 % interval": "–"}, 3) == "–"


def test_speed_is_quoted_from_the_benchmarks_results():
    found = json.loads((ROOT / "benchmark/speed/results/cpu.json").read_text(encoding="utf-8"))
    assert not found["quick"]
    assert len(found["networks"]) == 6
    said = load_script("benchmark/speed/report.py").quote(found)
    assert said in " ".join(README.split()), f"README should say: {said}"


def evidence(suite="digits"):
    """The measures of a suite's committed run on the test set, with the short names of networks."""
    [newest] = sorted((ROOT / "benchmark" / "evidence").glob(f"{suite}-v*"))[-1:]
    cells = pd.read_csv(newest / "records.csv.gz", dtype={"fork": str})
    short = short_labels(cells["architecture"].unique())
    return cells[cells["split"] == "test"].assign(
        architecture=cells["architecture"].map(short), soup=1 - cells["soup_error"]
    )


def test_the_range_of_barriers_is_that_of_the_evidence():
    cells = evidence()
    cells = cells[cells["architecture"] != "lmc_linear"]
    barriers = 100 * cells.groupby(["fork", *LINE])["error_chord"].mean()
    said = section(FINDINGS, "## In short, on digits").replace("\n  ", " ")
    mlp = barriers["0"].xs("lmc_mlp", level="architecture")
    assert mlp.max() < 2
    assert f"at fork 0 its mean barriers are {mlp.min():.1f} to {mlp.max():.1f} points" in said
    separated = barriers.drop("lmc_mlp", level="architecture")
    assert separated["0"].min() > 2
    first, far = (
        f"{of[f].min():.1f} to {of[f].max():.1f}" for of, f in ((separated, "0"), (barriers, "independent"))
    )
    assert f"separated by mean error barriers of {first} percentage points" in said
    assert f"networks are separated by barriers of {far} points" in said
    later = [f for f in barriers.index.unique("fork") if re.fullmatch(r"[\d.]+%?", f) and f != "0"]
    assert len(later) >= 2
    for fork in later:
        share = f"{fork.rstrip('%')} " + ("% of it" if fork.endswith("%") else "epoch")
        assert f"{barriers[fork].max():.1f} with {share}" in said


def test_the_difference_to_the_control_is_that_of_the_evidence():
    """At fork 0 under label-skew, the mean of the networks, paired by replicate."""
    cells = evidence()
    cells = cells[(cells["architecture"] != "lmc_linear") & (cells["fork"] == "0")]
    by = 100 * cells.groupby(["shift", "replicate"])["error_chord"].mean().unstack("shift")
    found = stats.ttest_rel(by["label-skew"], by["same(label-skew)"])
    low, high = found.confidence_interval(0.95)
    left = "a rise and a fall" if low < -2 else "a rise"
    assert high > 2
    mean = (by["label-skew"] - by["same(label-skew)"]).mean()
    said = " ".join(section(FINDINGS, "## In short, on digits").split())
    assert f"label-skew has {mean:+.1f} ({low:+.1f} to {high:+.1f}) points more than its control, " in said
    assert f"which leaves {left} of more than 2 points open" in said


def test_the_tables_of_the_readme_are_in_the_evidence():
    """Computed again from the measures of the cells, by replicate."""
    cells = evidence()
    n = cells["replicate"].nunique()

    def shown(line, fork, column):
        of = cells[(cells[LINE] == line).all(axis=1) & (cells["fork"] == fork)]
        values = of.groupby("replicate")[column].mean()
        if values.empty:
            return "–"
        half = stats.t.ppf(0.975, n - 1) * values.std() / n**0.5
        assert len(values) == n
        return f"{100 * values.mean():.1f} ± {100 * half:.1f}"

    block = README[README.index("```\nError barrier") :].partition("```\n")[2].partition("```")[0]
    compared = 0
    for table in block.strip().split("\n\n")[1::2]:
        heads, _, *rows = (re.split(r" {2,}", row) for row in table.splitlines())
        for row in rows:
            said = dict(zip(heads, row, strict=True))
            line = [said["architecture"].partition("(")[0], said["recipe"], said["shift"]]
            if "fork" in said:
                found = {(said["fork"], WORTH[name]): said[name] for name in WORTH}
            else:
                found = {(f, "error_chord"): said[f] for f in heads[3:-2]}
                assert said["n"] == str(n)
            for (fork, column), text in found.items():
                assert text.lstrip("+") == shown(line, fork, column), (row, column)
                compared += 1
    assert compared >= 3 * 4 + 3 * 5
    [figure] = re.findall(r"evidence/([a-z0-9-]+)-v\d+/figures/barriers.png", README)
    replicates = evidence(figure)["replicate"].nunique()
    assert re.findall(r"n = (\d+)\s+replicates", README) == [str(replicates), str(n)]
