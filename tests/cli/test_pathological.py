"""Small or endless files that ask for much are refused with one message, little memory and little time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from builders import SUITE_TOML, make_record, toy_cell, write_run, write_submission
from lmcbench.results.atomic_files import compress

pytestmark = pytest.mark.slow_tier

MEMORY = 500 * 2**20
CPU_S = 12.0
"""Bound on the CPU time, of which starting takes 1 to 3 s on a busy machine."""

LIMIT_S = 300


OBSERVER = """
import json, resource, subprocess, sys
process = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([process.returncode, used.ru_maxrss * 1024, used.ru_utime + used.ru_stime]))
"""
"""Runs a command and prints its exit code, peak memory in bytes and CPU seconds.

A process of its own: a peak counts from the memory of the process that starts the command, and the tests have
much of it.
"""


def limited(folder, *arguments):
    """Run `lmcbench ARGUMENTS` in `folder`, check the bounds, and return exit code and standard error."""
    command = ["timeout", str(LIMIT_S), sys.executable, "-m", "lmcbench", *map(str, arguments)]
    process = subprocess.run(
        [sys.executable, "-c", OBSERVER, *command], cwd=folder, capture_output=True, text=True, check=True
    )
    code, memory, cpu = json.loads(process.stdout)
    assert "Traceback" not in process.stderr
    assert len(process.stderr) < 10_000
    assert memory < MEMORY
    assert cpu < CPU_S
    return code, process.stderr


def doubled_keys():
    """A record with 170,000 keys, of which the last one is doubled."""
    text = json.dumps(json.loads(make_record().to_json()))
    keys = ",".join(f'"k{i}":1' for i in [*range(170_000), 169_999])
    return f"{text[:-1]},{keys}}}"


def wide_pair():
    """A pair with 50,000 layers that lack every field."""
    [pair] = json.loads(make_record().to_json())["pairs"]
    return pair | {"layers": {"layers": {f"l{i}": {} for i in range(50_000)}}}


RECORDS = {
    "doubled keys": (doubled_keys, "more than 60,000 keys"),
    "brackets": (lambda: "[" * 500_000, "nest more than"),
    "digits": (lambda: '{"schema": ' + "1" * 1_000_000 + "}", "digits"),
    "long schema": (lambda: json.dumps({"schema": "lmcbench/cell/" + "1" * 1_000_000}), "Upgrade"),
    "numbers": (
        lambda: json.dumps(json.loads(make_record().to_json()) | {"protocol": {"alphas": [""] * 3_000_000}}),
        "is not a valid record",
    ),
    "layers": (
        lambda: json.dumps(json.loads(make_record().to_json()) | {"pairs": [wide_pair()]}),
        "is not a valid record",
    ),
    "siblings": (
        lambda: json.dumps(json.loads(make_record().to_json()) | {"pairs": [{}] * 300_000}),
        "is not a valid record",
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_records(tmp_path, name):
    make, keyword = RECORDS[name]
    folder = write_run(tmp_path / "run", [make_record()])
    path = folder.record(make_record(toy_cell(replicate=1)).key)
    path.write_text(make())
    code, errors = limited(tmp_path, "leaderboard", "run")
    assert keyword in errors
    assert code == (2 if keyword == "Upgrade" else 5)
    code, errors = limited(tmp_path, "report", "run", "--findings")
    assert keyword in errors
    submission = write_submission(tmp_path / "board", "mine", [make_record()])
    line = json.dumps(make()) if not make().startswith(("{", "[")) else make().replace("\n", "")
    (submission / "records.jsonl.gz").write_bytes(compress(f"{line}\n".encode()))
    code, errors = limited(tmp_path, "verify", "board/submissions/mine")
    assert code in (1, 2)
    assert "mine: refused" in errors


SUITES = {
    "dots": "a." * 31_000 + "a=1",
    "brackets": "a = " + "[" * 60_000 + "]" * 60_000,
    "tables": "[" + "a." * 16 + "a]\n" + "".join(f"[{'b.' * 15}k{i}]\n" for i in range(4_000)),
    "keys": "\n".join(f"k{i} = 1" for i in range(20_000)),
    "digits": "version = " + "1" * 200_000,
    "replicates": SUITE_TOML.replace("replicates = 2", "replicates = 1000000000"),
    "string": 'name = "' + "x" * 200_000 + '"',
    "large": "#" * 3_000_000,
}


@pytest.mark.parametrize("name", SUITES)
def test_suites(tmp_path, name):
    (tmp_path / "s.toml").write_text(SUITES[name])
    for arguments in (("suites", "s.toml"), ("run", "s.toml", "--dry-run")):
        code, errors = limited(tmp_path, *arguments)
        assert (code, errors.count("s.toml") > 0) == (2, True)


def test_meta_of_a_submission(tmp_path):
    folder = write_submission(tmp_path / "board", "mine", [make_record()])
    for name in ("dots", "brackets", "keys", "large"):
        (folder / "submission.toml").write_text(SUITES[name][:63_000] if name != "large" else SUITES[name])
        code, errors = limited(tmp_path, "verify", "board/submissions/mine")
        assert (code, "submission.toml" in errors) == (1, True)
        code, errors = limited(tmp_path, "leaderboard", "--leaderboard", "board")
        assert (code, "submission.toml" in errors) == (2, True)


def place(path: Path, kind: str):
    """Put something that never ends, or is very large, in place of a file."""
    path.unlink(missing_ok=True)
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(3 * 2**30)


@pytest.mark.parametrize("kind", ["device", "pipe", "large"])
def test_endless_files(tmp_path, kind):
    for name in ("submission.toml", "records.jsonl.gz", "predictions.safetensors"):
        folder = write_submission(tmp_path / name / "board", "mine", [make_record()])
        place(folder / name, kind)
        code, errors = limited(tmp_path / name, "verify", "board/submissions/mine")
        assert (code, name in errors) == (1, True)
        code, errors = limited(tmp_path / name, "leaderboard", "--leaderboard", "board")
        assert (code, name in errors) == (2, True)
    run = write_run(tmp_path / "run", [make_record(), make_record(toy_cell(replicate=1))])
    place(run.record(make_record().key), kind)
    for command in (("leaderboard", "run"), ("report", "run", "--findings"), ("compare", "run", "run")):
        code, errors = limited(tmp_path, *command)
        assert (code, f"{make_record().key}.json" in errors) == (5, True)
    place(run.header, kind)
    code, errors = limited(tmp_path, "leaderboard", "run")
    assert (code, "run.json" in errors) == (2, True)
    (tmp_path / "s.toml").unlink(missing_ok=True)
    place(tmp_path / "s.toml", kind)
    code, errors = limited(tmp_path, "suites", "s.toml")
    assert (code, "s.toml" in errors) == (2, True)


@pytest.mark.parametrize(
    "text",
    ["lmc_mlp(width=" + "[" * 60_000, "lmc_mlp(" + "a=1," * 20_000 + ")", "x" * 100_000, "(" * 100_000],
)
def test_arguments(tmp_path, text):
    code, errors = limited(tmp_path, "run", "digits", "--dry-run", "--arch", text)
    assert code == 2
    assert errors.startswith("Error: ")
