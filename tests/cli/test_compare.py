"""The command 'compare': exit codes and what stands on standard output and error."""

import json
import subprocess
import sys

import pytest

from builders import make_record, toy_cell, toy_suite, write_run
from lmcbench.results.atomic_files import write_atomic
from lmcbench.results.run_folder import RunFolder


def records(barriers, **cell):
    return [make_record(toy_cell(replicate=r, **cell), barrier_error=b) for r, b in enumerate(barriers)]


BARRIERS = [0.1, 0.2, 0.15]
NOISY = [0.3, 0.1, 0.2]


@pytest.fixture
def gate(lmcbench, tmp_path):
    """Compare folders by name; 'base' is there. Returns exit code, standard output and error."""
    write_run(tmp_path / "base", records(BARRIERS))

    def run(head, *options, base="base"):
        if not isinstance(head, str):
            write_run(tmp_path / "head", head)
            head = "head"
        return lmcbench("compare", base, head, *options)

    return run


def test_identical(gate):
    code, out, err = gate(records(BARRIERS))
    assert (code, err) == (0, "")
    assert out.startswith("Identical: everything measured is equal to the last bit in all 3 cells.")


def test_one_cell_is_told_as_one(gate, tmp_path):
    write_run(tmp_path / "one", records(BARRIERS)[:1])
    code, out, _ = gate("one", base="one")
    assert code == 0
    assert out.startswith("Identical: everything measured is equal to the last bit in the one cell.")
    assert out.count(", 1 cell, 1 replicate; ") == 2


def test_changed(gate):
    code, out, err = gate(records([b + 0.3 for b in BARRIERS]))
    assert (code, err) == (1, "")
    assert "Changed: a tested measure moved by more than its margin (error_mid)." in out


def test_inconclusive_fails_or_warns(gate):
    code, out, err = gate(records(NOISY))
    assert code == 3
    assert out.startswith("Inconclusive: these replicates cannot tell (error_mid).")
    assert err.startswith("lmcbench compare: Inconclusive")
    assert gate("head", "--inconclusive", "fail")[0] == 3
    code, out, err = gate("head", "--inconclusive", "warn")
    assert code == 0
    assert err.startswith("lmcbench compare: Inconclusive")


@pytest.mark.parametrize(
    ("head", "code", "message"),
    [
        (lambda: records(BARRIERS, suite=toy_suite(version=2)), 4, "Not comparable: "),
        (
            lambda: records(BARRIERS)[:2],
            5,
            "Incomplete: cells are missing, failed or cannot be read (1 cell of base is missing",
        ),
        (
            lambda: [*records(BARRIERS)[:2], make_record(toy_cell(replicate=2), status="failed")],
            5,
            "1 cell failed",
        ),
        (lambda: [*records(BARRIERS)[:2], make_record(toy_cell(replicate=2), status="diverged")], 1, ""),
        (lambda: records([0.4])[:1], 5, "2 cells of base are missing"),
    ],
)
def test_bad_heads(gate, head, code, message):
    answer = gate(head())
    assert answer[0] == code
    assert message in answer[2]
    assert answer[2].count("\n") == (1 if message else 0)
    assert "Traceback" not in answer[2]


def test_one_replicate(gate, tmp_path):
    write_run(tmp_path / "one", records([0.1]))
    assert gate(records([0.1]), base="one")[0] == 0
    write_run(tmp_path / "two", records([0.4]))
    code, out, err = gate("two", base="one")
    assert code == 3
    said = "Inconclusive: one replicate cannot tell (error_mid)."
    assert out.startswith(f"{said}\n")
    assert err == f"lmcbench compare: {said}\n"
    # once as the verdict of all, once in the table
    assert out.lower().count("inconclusive") == 2
    assert out.count("shows no spread") == 1


def test_a_terminal_shows_the_verdict_once(gate, monkeypatch):
    head = records(NOISY)
    gate(head)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    code, out, err = gate(head)
    assert (code, err) == (3, "")
    assert out.startswith("Inconclusive: ")
    assert gate(head, "--json")[2].startswith("lmcbench compare: Inconclusive: ")


def test_nothing_there(gate, tmp_path):
    (tmp_path / "empty").mkdir()
    for head, message in (("empty", "Error: No records in empty."), ("none", "Error: none does not exist")):
        code, out, err = gate(head)
        assert (code, out) == (2, "")
        assert err.startswith(message)
        assert err.count("\n") == 1


def test_newer_schemas(gate, tmp_path):
    folder = RunFolder(tmp_path / "newer")
    folder.claim(toy_suite().identity(), [])
    write_atomic(folder.record("x"), json.dumps({"schema": "lmcbench/cell/3"}))
    write_run(tmp_path / "newer-run", records(BARRIERS))
    write_atomic(RunFolder(tmp_path / "newer-run").header, json.dumps({"schema": "lmcbench/run/2"}))
    for head in ("newer", "newer-run"):
        code, out, err = gate(head)
        assert (code, out) == (2, "")
        assert "Upgrade: pip install -U lmcbench." in err


def test_json_is_one_document_whatever_the_verdict(gate, tmp_path):
    write_run(tmp_path / "other", records(BARRIERS, suite=toy_suite(version=2)))
    write_run(tmp_path / "noisy", records(NOISY))
    for head, code in (("base", 0), ("noisy", 3), ("other", 4)):
        found, out, _ = gate(head, "--json")
        assert found == code
        assert json.loads(out)["exit_code"] == code
    reasons = json.loads(gate("noisy", "--json")[1])["reasons"]
    assert reasons == ["inconclusive: error_mid"]


def test_markdown(gate):
    code, out, _ = gate(records(NOISY), "--markdown", "--inconclusive", "warn")
    assert code == 0
    assert out.startswith("### lmcbench: inconclusive\n\nThese replicates cannot tell (error_mid).\n")


def test_options_that_do_not_fit(gate):
    code, out, err = gate("base", "--json", "--markdown")
    assert (code, out) == (2, "")
    assert "either --json or --markdown" in err
    assert gate("base", "--across", "seed")[0] == 2
    assert gate("base", "--suite", "digit")[0] == 2


def test_it_needs_neither_torch_nor_pandas(tmp_path):
    write_run(tmp_path / "base", records(BARRIERS))
    write_run(tmp_path / "head", records(NOISY))
    script = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'pandas']))\n"
        "from lmcbench.cli import main\nsys.argv = ['lmcbench', 'compare', 'base', 'head']\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 3, done.stderr
