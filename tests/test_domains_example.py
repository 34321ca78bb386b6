"""The worked example of docs/domains.md runs, in a reduced form, and shows what the page says."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from lmcbench.spec.suite_files import load_suite
from submitted import cli

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLES = DOCS / "examples"


@pytest.fixture
def styles(tmp_path, monkeypatch):
    """A folder with 300 digits in three styles."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["digit_styles.py", "styles", "300"])
    runpy.run_path(str(EXAMPLES / "digit_styles.py"), run_name="__main__")
    return tmp_path / "styles"


def test_the_example_runs_in_a_reduced_form(styles, tmp_path):
    assert sorted(folder.name for folder in styles.iterdir()) == ["chalk", "ink", "outline"]
    assert len(list(styles.rglob("*.png"))) == 300
    text = (EXAMPLES / "digit-styles.toml").read_text(encoding="utf-8")
    for before, after in (
        ("epochs = 40", "epochs = 3"),
        ("warmup_epochs = 2", "warmup_epochs = 1"),
        ('forks = [0, "30%"]', "forks = [0]"),
        ("alphas = 11", "alphas = 3"),
        ("batch_size = 32", "batch_size = 8"),
    ):
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "small.toml").write_text(text)
    code, out, err = cli("run", "small.toml", "--device", "cpu", "--jobs", "1")
    assert code == 0, err
    assert "Error barrier by pair of domains" in out
    for pair in ("chalk | ink", "chalk | outline", "ink | outline", "mean of pairs"):
        assert pair in out
    assert "domains: sibling 0 chalk, sibling 1 ink, sibling 2 outline." in out


def test_the_page_names_the_files_and_the_domains_of_the_example():
    page = (DOCS / "domains.md").read_text(encoding="utf-8")
    suite = load_suite(str(EXAMPLES / "digit-styles.toml"))
    assert [name.removeprefix("domain:") for name in suite.evaluations] == ["chalk", "ink", "outline"]
    for name in ("digit_styles.py", "digit-styles.toml"):
        assert f"examples/{name}" in page
    assert all(f"`{style}`" in page for style in ("chalk", "ink", "outline"))
    revisions = re.findall(r"at ([0-9a-f]{8})\b", page)
    assert len(revisions) == 4
