"""The worked example of docs/own-shift.md: the page has the files, they run, and the views are as it says."""

import runpy
import shutil
from pathlib import Path

import numpy as np

from submitted import cli

DOCS = Path(__file__).parents[1] / "docs"
RULE, SUITE = (DOCS / "examples" / name for name in ("long_tail.py", "long-tail.toml"))


def test_the_page_has_both_files_in_full():
    page = (DOCS / "own-shift.md").read_text(encoding="utf-8")
    assert f"```python\n{RULE.read_text(encoding='utf-8')}```" in page
    assert f"```toml\n{SUITE.read_text(encoding='utf-8')}```" in page


def test_the_tails_are_opposite():
    labels = np.repeat(np.arange(10), 100)
    views = runpy.run_path(str(RULE))["long_tail"](labels, None, 3, np.random.default_rng(0))
    counts = [np.bincount(labels[view]) for view in views]
    assert counts[0][0] == counts[1][9] == 100
    assert counts[0][9] == counts[1][0] == 10
    assert (counts[0] == counts[1][::-1]).all()
    assert (counts[0] == counts[2]).all()
    assert all(len(np.unique(view)) == len(view) for view in views)


def test_the_example_runs_in_a_reduced_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(RULE, tmp_path)
    text = SUITE.read_text(encoding="utf-8")
    for before, after in (
        ("epochs = 6", "epochs = 1"),
        ("warmup_epochs = 1", "warmup_epochs = 0.5"),
        ("alphas = 5", "alphas = 3"),
        ("lmc_resnet", "lmc_linear"),
    ):
        assert before in text
        text = text.replace(before, after, 1)
    (tmp_path / SUITE.name).write_text(text, encoding="utf-8")
    code, out, err = cli("run", SUITE.name, "--dry-run")
    assert code == 0, err
    assert "9 cells" in out
    code, out, err = cli("run", SUITE.name, "--device", "cpu", "--jobs", "1", "--fork", "0")
    assert code == 0, err
    assert "same(long_tail.py:long_tail)" in out
