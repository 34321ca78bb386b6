"""Nothing foreign reaches a terminal, Markdown or HTML raw, whatever records and suites say."""

import json
import re
from itertools import pairwise

import pytest

from builders import SUITE_TOML, make_record, toy_cell, write_run
from lmcbench.errors import UserError
from lmcbench.results.record_parser import parse_record

EVIL = "\x1b[31m\x07\x9b2J<script>alert(1)</script>|x\n\r\u202e$\\frac{$"


def paths(value, path=()):
    """Yield the path of every string in a parsed JSON value."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(inner, (*path, name))


def poisoned(record):
    """Return the record with hostile text in every string that may hold any: one by one, where accepted."""
    table = json.loads(record.to_json())
    table["architecture"]["kwargs"] = {"width": "wide"}
    table["env"] = {"device": "cpu", "engine": "stacked", "versions": {"torch": "2"}}
    for *above, last in list(paths(table)):
        holder = table
        for name in above:
            holder = holder[name]
        kept = holder[last]
        if last in ("key", "split", "noise", "source") or "shift" in above or "fork" in above:
            continue
        holder[last] = f"{kept}{EVIL}"
        try:
            parse_record(json.dumps(table), "poisoned")
        except UserError:
            holder[last] = kept
    return parse_record(json.dumps(table), "poisoned")


def check_terminal(*texts):
    for text in texts:
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
        assert "\nIdentical" not in text


def check_pages(folder):
    pages = [p for p in folder.rglob("*") if p.suffix in (".md", ".html")]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        check_terminal(text)
        assert "<script>alert" not in text
        lines = [line for line in text.splitlines() if line.startswith("|")]
        for line, after in pairwise(lines):
            if re.fullmatch(r"[|:-]+", after):  # a header and its rule
                assert len(re.findall(r"(?<!\\)\|", line)) == after.count("|")
    return pages


@pytest.fixture
def runs(tmp_path):
    """Return two runs of hostile records; one cell of each failed."""
    for name in ("base", "head"):
        barrier = 0.1 if name == "base" else 0.4
        records = [
            *(make_record(toy_cell(replicate=r), barrier_error=barrier + r / 50) for r in range(2)),
            make_record(toy_cell(replicate=2), status="failed"),
        ]
        write_run(tmp_path / name, list(map(poisoned, records)))
    return tmp_path


def test_the_records_are_hostile():
    record = poisoned(make_record(toy_cell(replicate=2), status="failed"))
    assert EVIL in str(record.architecture.kwargs.get("width", "")) + str(record.recipe["name"])
    assert EVIL in record.env["device"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("report", "base"), 0),
        (("report", "base", "--findings"), 0),
        (("leaderboard", "base"), 0),
        (("compare", "base", "head"), 5),
        (("compare", "base", "head", "--markdown"), 5),
        (("compare", "base", "head", "--json"), 5),
        (("compare", "base", f"no{EVIL}"), 2),
        (("submit", "base", "--name", "x"), 2),
        (("submit", "base", "--name", f"x{EVIL}"), 2),
        (("run", f"no{EVIL}"), 2),
        (("run", "toy.toml", "--arch", f"lmc_mlp(width={EVIL})"), 2),
        (("suites", f"no{EVIL}.toml"), 2),
        (("archs", f"no{EVIL}"), 2),
        (("measure", f"no{EVIL}", "b", "--arch", "lmc_mlp", "--data", "digits"), 2),
        ((f"no{EVIL}",), 2),
        (("suites", f"--no{EVIL}"), 2),
        ((f"--no{EVIL}",), 2),
    ],
)
def test_no_command_passes_control_characters_or_markup(lmcbench, runs, arguments, code):
    (runs / "toy.toml").write_text(SUITE_TOML)
    found, out, err = lmcbench(*arguments)
    assert found == code, err
    check_terminal(out, err)
    if "--markdown" in arguments:
        assert "<script" not in out
    if arguments[0] == "report":
        assert check_pages(runs)


def test_a_suite_with_a_hostile_description_is_shown(lmcbench, tmp_path):
    escaped = json.dumps(f"{EVIL}{'long ' * 20_000}")
    (tmp_path / "toy.toml").write_text(SUITE_TOML.replace('"two small networks"', escaped))
    code, out, err = lmcbench("suites", "toy.toml")
    assert (code, err) == (0, "")
    check_terminal(out)
    assert len(out) < 10_000
    check_terminal(*lmcbench("run", "toy.toml", "--dry-run")[1:])


def test_a_long_message_is_cut(lmcbench):
    code, out, err = lmcbench("suites", "x" * 100_000)
    assert (code, out) == (2, "")
    assert len(err) < 2_100
