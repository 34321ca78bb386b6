"""The list of entries that benchmark/entries/make.py makes, and the commands that it runs."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from lmcbench.results.tuning import read_tuning
from lmcbench.spec.suite_files import load_suite
from lmcbench.train.choice import STACKED

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_entries", ROOT / "benchmark/entries/make.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def commands(script, monkeypatch, *arguments):
    """The commands that the script runs, without the program."""
    found = []
    monkeypatch.setattr(script, "lmcbench", lambda *words: found.append([str(word) for word in words]))
    monkeypatch.setattr(script.shutil, "copy", lambda source, target: None)
    monkeypatch.setattr(sys, "argv", ["make.py", *map(str, arguments)])
    script.main()
    return found


def test_the_list_has_the_suites_networks_and_many_of_timms(script):
    listed = script.Entries.read(ROOT / "benchmark/entries/digits.toml")
    networks = [script.architecture(entry) for entry in listed.entries]
    assert {a.label for a in load_suite("digits").architectures} <= {a.label for a in networks}
    timm = [a for a in networks if a.source == "timm"]
    assert len(timm) >= 8
    assert all((a.name, "cpu") in STACKED for a in timm)
    assert len({entry.name for entry in listed.entries}) == len(listed.entries) >= 10
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry.name) for entry in listed.entries)


def test_committed_tunings_are_of_their_entries(script):
    listed = script.Entries.read(ROOT / "benchmark/entries/digits.toml")
    suite = load_suite(listed.suite)
    networks = {entry.name: script.architecture(entry) for entry in listed.entries}
    for path in sorted((ROOT / "benchmark/entries/tuning").glob("*.json")):
        tuning = read_tuning(path)
        tuning.check(suite, path.name)
        tuning.check_architecture(networks[path.stem].identity(), networks[path.stem].label, path.name)


def test_an_entry_is_tuned_run_submitted_and_verified(script, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "HERE", tmp_path)
    where = ["--list", ROOT / "benchmark/entries/digits.toml", "--runs", "r", "--leaderboard", tmp_path]
    tune, run, submit, verify = commands(script, monkeypatch, "timm-vit", *where)
    tuning, submission = tmp_path / "tuning/timm-vit.json", tmp_path / "submissions/timm-vit"
    assert tune[:3] == ["tune", "digits", "--arch"]
    assert tune[-2:] == ["--out", "r/timm-vit-tuning"]
    assert run[4:] == [
        "--recipe",
        "tuned",
        "--tuning",
        str(tuning),
        "--replicates",
        "10",
        "--out",
        "r/timm-vit",
    ]
    assert submit[:4] == ["submit", "r/timm-vit", "--name", "timm-vit"]
    assert verify == ["verify", str(submission), "--record"]
    # what exists is not made again, and the suite's own networks have its recipes
    tuning.parent.mkdir(exist_ok=True)
    tuning.touch()
    submission.mkdir(parents=True)
    assert [c[0] for c in commands(script, monkeypatch, "timm-vit", *where)] == ["run", "verify"]
    assert [c[0] for c in commands(script, monkeypatch, "lmc-mlp", *where)] == ["run", "submit", "verify"]
    [again] = commands(script, monkeypatch, "lmc-mlp", "--nonce", "word", *where)
    assert again[2:] == ["--rerun", "5", "--nonce", "word", "--record"]
    with pytest.raises(SystemExit):
        commands(script, monkeypatch, "lmc-mpl", *where)
