"""The table of timm's families: complete, generated from the results, and reproducible (with -m families)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

FAMILIES = Path(__file__).parents[2] / "benchmark" / "families"
FOUND = json.loads((FAMILIES / "results.json").read_text(encoding="utf-8"))
ANSWERS = FOUND["families"]


def test_at_least_nine_in_ten_are_ready_and_the_others_have_a_reason():
    import timm

    if timm.__version__ == FOUND["environment"]["versions"]["timm"]:
        assert sorted(ANSWERS) == sorted(timm.list_modules())
    assert FOUND["untried"] == []
    ready = [name for name, answer in ANSWERS.items() if answer["status"] == "ready"]
    assert len(ready) >= 0.9 * len(ANSWERS)
    for name in ANSWERS.keys() - set(ready):
        assert ANSWERS[name]["status"] == "not ready"
        assert len(ANSWERS[name]["reason"]) > 20


def test_the_table_is_made_of_what_was_found():
    spec = importlib.util.spec_from_file_location("families_table", FAMILIES / "table.py")
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    aligned = json.loads((FAMILIES / "align.json").read_text(encoding="utf-8"))
    assert (FAMILIES.parent / "families.md").read_text(encoding="utf-8") == table.render(FOUND, aligned)


@pytest.mark.families
@pytest.mark.parametrize("family", [name for name, answer in ANSWERS.items() if answer["status"] == "ready"])
def test_what_was_ready_is_ready(family):
    from lmcbench.check.check import Readiness, Target, run_checks
    from lmcbench.check.trial import Size
    from lmcbench.spec.architectures import Architecture

    torch.set_num_threads(1)
    answer = ANSWERS[family]
    size = Size((3, answer["side"], answer["side"]), 10)
    readiness = Readiness(Architecture(name=answer["network"], recipe="none"), Target(size))
    failed = [(f.check, f.found) for f in run_checks(readiness, thorough=False) if f.status == "failed"]
    assert failed == []
    assert readiness.built.label == answer["built"]
