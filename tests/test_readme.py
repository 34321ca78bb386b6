"""The README stays true: its commands, links and code are of this repository."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


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


def test_every_name_of_the_package_that_is_shown_exists():
    import lmcbench

    names = set(re.findall(r"lmcbench\.([a-z_]+)\(", README))
    assert {"trace_path", "barrier"} <= names
    for name in names:
        assert callable(getattr(lmcbench, name))
