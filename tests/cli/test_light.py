"""The command line without training: what it prints, and bad input that leaves no trace."""

import io
import json
import re
import subprocess
import sys

import pytest

from builders import SUITE_TOML, make_record, toy_cell, toy_suite, write_run, write_submission
from lmcbench.cli.app import GROUPS
from lmcbench.results.atomic_files import write_atomic
from lmcbench.results.run_folder import RunFolder
from lmcbench.spec.architectures import OWN_NETWORKS
from lmcbench.spec.cells import expand
from lmcbench.spec.suite_files import load_suite

FEW_TOML = re.sub(r"shifts = .*\nforks = .*", 'shifts = ["none"]\nforks = [0, "independent"]', SUITE_TOML)
"""The toy suite with 8 cells, for tests that show a whole run."""


def few_suite():
    return toy_suite(shifts=["none"], forks=[0, "independent"])


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()} | {
        p.relative_to(folder): None for p in folder.rglob("*") if p.is_dir()
    }


# --- showing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--help",),
        ("-h",),
        ("landscape",),
        *[(c, "-h") for c in ("suites", "shifts", "archs", "run", "leaderboard")],
    ],
)
def test_help_is_an_answer(lmcbench, arguments):
    code, out, err = lmcbench(*arguments)
    assert (code, err) == (0, "")
    assert "Usage: lmcbench" in out


def test_help_lists_the_commands_and_the_flags_of_run(lmcbench):
    _, out, _ = lmcbench()
    listed = re.findall(r"^  (\w[\w-]*)  ", out, re.M)
    groups = re.findall(r"^([A-Z].*):$", out, re.M)
    assert groups == ["Options", *GROUPS], "a command is in no group"
    assert set(listed) == {name for names in GROUPS.values() for name in names}
    assert "..." not in out.partition("Run and measure:")[2], "a first sentence too long to be listed whole"
    assert "..." not in lmcbench("landscape")[1].partition("Commands:")[2]
    _, out, _ = lmcbench("run", "--help")
    flags = [
        "--arch",
        "--shift",
        "--fork",
        "--replicates",
        "--out",
        "--device",
        "--jobs",
        "--data-dir",
        "--dry-run",
    ]
    assert [flag for flag in flags if flag not in out] == []


def test_suites_lists_what_is_published(lmcbench):
    code, out, _ = lmcbench("suites")
    assert code == 0
    listed = " ".join(out.split())
    assert "Do shifted data move siblings apart?" in listed
    assert "Two small networks of timm's" not in listed  # the first sentence alone
    code, out, err = lmcbench("suites", "--json")
    assert (code, err) == (0, "")
    [digits] = [s for s in json.loads(out) if s["name"] == "digits"]
    assert digits["digest"] == load_suite("digits").digest
    assert digits["cells"] == len(expand(load_suite("digits")))


@pytest.mark.parametrize("named", ["digits", "toy.toml"])
def test_a_suite_as_json_announces_every_cell(lmcbench, tmp_path, named):
    (tmp_path / "toy.toml").write_text(SUITE_TOML)
    code, out, err = lmcbench("suites", named, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    suite = load_suite(named)
    assert list(found) == ["name", "version", "digest", "cells"]
    assert (found["name"], found["version"], found["digest"]) == (suite.name, suite.version, suite.digest)
    assert found["cells"] == [
        {
            "key": cell.key,
            "architecture": cell.architecture.label,
            "recipe": cell.architecture.recipe,
            "shift": cell.shift.label,
            "fork": cell.fork.name,
            "replicate": cell.replicate,
        }
        for cell in expand(suite)
    ]


def test_a_suite_as_text_has_its_facts(lmcbench, tmp_path):
    (tmp_path / "toy.toml").write_text(SUITE_TOML)
    code, out, _ = lmcbench("suites", "toy.toml")
    assert code == 0
    assert "48 in 4 families" in out
    assert toy_suite().digest in out
    assert re.search(r"forks +0, 2, independent", out)


def test_shifts_and_architectures_are_listed(lmcbench):
    _, out, _ = lmcbench("shifts", "--json")
    tables = json.loads(out)
    listed = {s["name"]: s for s in tables["shifts"]}
    assert {"none", "disjoint-halves", "label-skew"} <= listed.keys()
    assert listed["label-skew"]["params"] == {"share": 0.8}
    evaluations = [t["name"] for t in tables["transforms"]]
    assert {"fog-1..5", "cifar10-c:CORRUPTION-1..5", "cifar10.1:v4|v6"} <= set(evaluations)
    _, text, _ = lmcbench("shifts")
    assert all(name in text for name in [*listed, *evaluations])
    assert "same-half = same(disjoint-halves)" in text
    _, out, _ = lmcbench("archs", "--json")
    assert [a["name"] for a in json.loads(out)] == list(OWN_NETWORKS)


@pytest.mark.parametrize("command", [("shifts",), ("archs",), ("suites", "digits")])
def test_tables_explain_every_column_and_cite_papers_in_full(lmcbench, command):
    _, out, _ = lmcbench(*command)
    lines = out.splitlines()
    rules = [i for i, line in enumerate(lines) if re.fullmatch(r"-+(  -+)+", line)]
    assert rules
    for i in rules:
        heads = [lines[i - 1][m.start() : m.end()].strip() for m in re.finditer("-+", lines[i])]
        assert all(heads), heads
    assert not re.search(r"\[[HSF]\]", out)


def test_a_suite_says_under_which_shifts_its_comparators_are(lmcbench):
    _, out, _ = lmcbench("suites", "digits")
    assert "(independent-equal-cost and whole-budget under none only)" in out
    _, out, _ = lmcbench("suites", "cifar10-shift")
    assert "only)" not in out


def test_a_dry_run_says_what_would_be_run_and_writes_nothing(lmcbench, tmp_path):
    code, out, err = lmcbench(
        "run", "digits", "--arch", "*mlp", "--shift", "none", "--replicates", "5:7", "--dry-run"
    )
    suite = load_suite("digits")
    assert (code, err) == (0, "")
    assert f"digits version {suite.version}: {2 * len(suite.forks)} cells, in runs/digits" in out
    assert "2 families to train: lmc_mlp" in out
    whole = f"The cost of the whole suite ({len(expand(suite))} cells) is {suite.cost}"
    assert out.endswith(f"Data: digits, found in scikit-learn\n{whole}.\n")
    _, out, _ = lmcbench("run", "digits", "--measure", "all", "--dry-run")
    assert out.endswith(f"{whole}; further measures come on top.\n")
    (tmp_path / "toy.toml").write_text(SUITE_TOML)
    _, out, _ = lmcbench("run", "toy.toml", "--dry-run")
    assert out.endswith("\nThe suite does not state what it costs.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["toy.toml"]
    _, out, _ = lmcbench("run", "fashion-shift", "--dry-run", "--data-dir", str(tmp_path))
    assert "Data: fashion-mnist, not found. " in out
    assert "lmcbench data fetch fashion-mnist" in out


def test_a_record_of_another_suite_is_not_taken_for_a_finished_cell(lmcbench, tmp_path):
    """Its name says the same, its content was edited."""
    (tmp_path / "toy.toml").write_text(FEW_TOML)
    folder = write_run(tmp_path / "out", [make_record(cell) for cell in expand(few_suite())])
    path = sorted(folder.records.glob("*.json"))[0]
    path.write_text(path.read_text().replace(few_suite().digest, "0" * 64))
    code, out, err = lmcbench("run", "toy.toml", "--out", "out")
    assert (code, out) == (2, "")
    assert f"{path.name} has suite digest 000000000000, its folder has {few_suite().digest[:12]}" in err


def test_a_finished_run_has_nothing_to_do(lmcbench, tmp_path):
    (tmp_path / "toy.toml").write_text(FEW_TOML)
    write_run(tmp_path / "out", [make_record(cell, barrier_error=0.123) for cell in expand(few_suite())])
    before = content(tmp_path)
    code, out, err = lmcbench("run", "toy.toml", "--out", "out")
    assert (code, err) == (0, "")
    assert "8 are finished already, 0 to do" in out
    assert "12.3 ± 0.0" in out
    after = content(tmp_path)
    table = after.pop((tmp_path / "out" / "leaderboard.md").relative_to(tmp_path)).decode()
    assert after == before
    assert table.startswith("# toy version 1\n\n### Instability: ")


def test_what_a_suite_lacks_is_had_by_a_copy_of_its_file(lmcbench, tmp_path):
    for asked in (["--fork", "2"], ["--shift", "classes"], ["--recipe", "own"]):
        code, out, err = lmcbench("run", "digits", *asked)
        assert (code, out) == (2, "")
        assert "new suite: lmcbench suites digits --toml > mine.toml" in err
    code, out, err = lmcbench("suites", "digits", "--toml")
    assert (code, err) == (0, "")
    (tmp_path / "mine.toml").write_text(out)
    assert load_suite("mine.toml") == load_suite("digits")
    mine = out.replace('name = "digits"', 'name = "mine"', 1).replace("forks = [0, ", "forks = [0, 2, ")
    (tmp_path / "mine.toml").write_text(mine)
    code, out, err = lmcbench("run", "mine.toml", "--fork", "2", "--dry-run")
    assert (code, err) == (0, "")
    _, _, err = lmcbench("run", "mine.toml", "--fork", "7")
    assert "new suite: copy its file" in err
    for asked in (["--toml"], ["digits", "--toml", "--json"]):
        assert lmcbench("suites", *asked)[0] == 2


def test_a_folders_page_shows_all_that_it_holds_whatever_was_asked_for_last(lmcbench, tmp_path):
    (tmp_path / "toy.toml").write_text(FEW_TOML)
    write_run(tmp_path / "out", [make_record(cell) for cell in expand(few_suite())])
    code, out, _ = lmcbench("run", "toy.toml", "--out", "out", "--arch", "lmc_linear", "--replicates", "1")
    assert code == 0
    assert "toy version 1: 2 cells" in out
    assert "lmc_mlp" not in out
    assert "are in out, the table of all its 8 cells in out/leaderboard.md." in out
    page = (tmp_path / "out" / "leaderboard.md").read_text()
    assert page.count("| lmc_mlp") == page.count("| lmc_linear") > 0
    assert lmcbench("run", "toy.toml", "--out", "out")[0] == 0
    assert (tmp_path / "out" / "leaderboard.md").read_text() == page


def test_a_torn_record_of_another_cell_fails_no_run_that_did_not_ask_for_it(lmcbench, tmp_path):
    (tmp_path / "toy.toml").write_text(FEW_TOML)
    records = [make_record(cell) for cell in expand(few_suite())]
    folder = write_run(tmp_path / "out", records)
    assert lmcbench("run", "toy.toml", "--out", "out")[0] == 0
    page = folder.table.read_text()
    torn = next(record.key for record in records if record.architecture.name == "lmc_mlp")
    folder.record(torn).write_text('{"schema": ')
    code, out, err = lmcbench("run", "toy.toml", "--out", "out", "--arch", "lmc_linear", "--replicates", "1")
    assert code == 0
    assert out.endswith("Records and checkpoints are in out.\n")
    assert f"leaderboard.md was not written: out/records/{torn}.json is damaged" in err
    assert folder.table.read_text() == page


# --- refusals ------------------------------------------------------------------------------------


def refused(answer, message):
    """Exit 2 with one message and no traceback."""
    code, out, err = answer
    assert message in err
    assert code == 2
    assert "Traceback" not in err
    assert out == ""
    return True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "digit"], "Error: Unknown suite 'digit'. Did you mean 'digits'"),
        (["suites", "digit"], "Error: Unknown suite 'digit'. Did you mean 'digits'"),
        (["run", "DIGITS"], "Error: Unknown suite 'DIGITS'. Did you mean 'digits'"),
        (["run", "digits-v9"], "Error: Unknown suite 'digits-v9'. Did you mean 'digits-v3'"),
        (
            ["run", "."],
            "Error: Unknown suite '.'. Known: cifar10-cpu-ensemble, cifar10-cpu-ensemble-original, ",
        ),
        (["run", "none.toml"], "Error: No suite file none.toml."),
        (["run", "digits", "--arch", "lmc_mpl"], "Unknown architecture 'lmc_mpl'. Did you mean 'lmc_mlp'"),
        (["run", "digits", "--arch", "x*"], "No architecture of suite digits matches 'x*'"),
        (
            ["run", "digits", "--arch", "net.py:f", "--recipe", "mlp"],
            "Architecture 'net.py:f': file net.py does not exist",
        ),
        (["run", "digits", "--recipe", "mpl"], "Unknown recipe of suite digits 'mpl'. Did you mean 'mlp'"),
        (
            ["run", "digits", "--shift", "lable-skew"],
            "Unknown shift of suite digits 'lable-skew'. Did you mean 'label-skew'",
        ),
        (["run", "digits", "--fork", "7"], "Suite digits has no fork 7. It has 0, "),
        (["run", "digits", "--fork", "-1"], "Unknown fork '-1'. Allowed: an epoch"),
        (["run", "digits", "--replicates", "3:1"], "Replicates '3:1' are an empty range"),
        (["run", "digits", "--replicates", "99999999999"], "are more than 10,000"),
        (["run", "digits", "--replicates", "two"], "half-open range A:B"),
        (["run", "digits", "--jobs", "0"], "--jobs"),
        (["run", "digits", "--device", "tpu"], "--device"),
        (["run", "digits", "--wrong"], "--wrong"),
        (["run"], "SUITE"),
        (["rum"], "rum"),
        (["archs", "no_such_net*"], "No architecture matches 'no_such_net*'"),
        (["leaderboard"], "leaderboard is no leaderboard: it has no folder 'submissions'"),
        (["leaderboard", "none"], "none does not exist. Give a run folder"),
        (["leaderboard", "."], "No records in ."),
    ],
)
def test_bad_input_is_one_message_and_nothing_is_written(lmcbench, tmp_path, arguments, message):
    assert refused(lmcbench(*arguments), message)
    assert content(tmp_path) == {}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[data]", "[protocol]\nalphas = 20\n[data]", "toy.toml: protocol.alphas: must be odd"),
        ("lr = 0.1", "lr = -0.1", "toy.toml: recipes.fast.lr: Input should be greater than 0 (found -0.1)."),
        ("replicates =", "replicate =", "toy.toml: replicate: unknown key. Did you mean 'replicates'"),
        (
            '"lmc_mlp"',
            '"lmc_mpl"',
            "toy.toml: architectures.1.name: Unknown architecture 'lmc_mpl'. Did you mean 'lmc_mlp'",
        ),
        ('"lmc_mlp"', '"net.py:f"', "Error: Architecture 'net.py:f': file net.py does not exist."),
        (
            '"lmc_mlp"',
            '"no_net:f"',
            "Error: Architecture 'no_net:f': module 'no_net' is not on the import path.",
        ),
        (
            "version = 1",
            'version = "one"',
            "toy.toml: version: Input should be a valid integer (found 'one').",
        ),
    ],
)
@pytest.mark.parametrize("command", ["run", "suites"])
def test_a_faulty_suite_file_is_refused_by_file_and_key(lmcbench, tmp_path, command, old, new, message):
    (tmp_path / "toy.toml").write_text(SUITE_TOML.replace(old, new))
    before = content(tmp_path)
    assert refused(lmcbench(command, "toy.toml"), message)
    assert content(tmp_path) == before


def test_a_folder_of_another_suite_is_refused_and_kept(lmcbench, tmp_path):
    write_run(tmp_path / "runs" / "digits", [make_record()])
    before = content(tmp_path)
    assert refused(lmcbench("run", "digits"), "runs/digits is a run of suite toy version 1")
    assert content(tmp_path) == before


def test_a_folder_of_other_things_is_refused_and_kept(lmcbench, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    before = content(tmp_path)
    assert refused(lmcbench("run", "digits", "--out", "out"), "out exists and is not a run folder")
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    "arguments",
    [["leaderboard", "out"], ["leaderboard", "out/records/{key}.json"], ["run", "toy.toml", "--out", "out"]],
)
def test_a_record_of_a_newer_schema_is_refused_and_kept(lmcbench, tmp_path, arguments):
    (tmp_path / "toy.toml").write_text(SUITE_TOML)
    cell = toy_cell()
    folder = RunFolder(tmp_path / "out")
    folder.claim(cell.suite.identity(), [])
    write_atomic(folder.record(cell.key), json.dumps({"schema": "lmcbench/cell/3", "key": cell.key}))
    before = content(tmp_path)
    answer = lmcbench(*[a.format(key=cell.key) for a in arguments])
    assert refused(
        answer, "has schema lmcbench/cell/3; this lmcbench reads up to lmcbench/cell/2. Upgrade: pip"
    )
    assert content(tmp_path) == before


def test_a_run_folder_of_a_newer_schema_is_refused(lmcbench, tmp_path):
    write_atomic(RunFolder(tmp_path / "out").header, json.dumps({"schema": "lmcbench/run/2"}))
    assert refused(lmcbench("run", "digits", "--out", "out"), "Upgrade: pip")


def test_a_run_without_records_has_no_table(lmcbench, tmp_path):
    RunFolder(tmp_path / "out").claim(toy_suite().identity(), [])
    assert refused(lmcbench("leaderboard", "out"), "No records in out")
    (tmp_path / "empty").mkdir()
    assert refused(lmcbench("leaderboard", "empty"), "No records in empty")


# --- the leaderboard -----------------------------------------------------------------------------


def test_the_leaderboard_is_written_checked_and_found_out_of_date(lmcbench, tmp_path):
    board = tmp_path / "leaderboard"
    write_submission(board, "one", [make_record(barrier_error=0.123)])
    code, out, err = lmcbench("leaderboard", "--check")
    assert (code, out) == (1, "")
    assert "leaderboard/README.md is out of date.\n" in err
    assert "Run 'lmcbench leaderboard' and commit what it writes." in err
    assert not (board / "README.md").exists()

    written = ("README.md", "index.html", "results/one/summary.json")
    said = "".join(f"Wrote leaderboard/{name}.\n" for name in written)
    assert lmcbench("leaderboard") == (0, said, "")
    assert all((board / name).exists() for name in written)
    assert lmcbench("leaderboard", "--check") == (0, "leaderboard is up to date.\n", "")
    assert lmcbench("leaderboard") == (0, "leaderboard is up to date.\n", "")

    write_submission(board, "two", [make_record(toy_cell("lmc_linear"))])
    before = content(tmp_path)
    assert lmcbench("leaderboard", "--check")[0] == 1
    assert content(tmp_path) == before
    assert lmcbench("leaderboard", "--leaderboard", board)[0] == 0
    assert lmcbench("leaderboard", "--check", "--leaderboard", board)[0] == 0


def test_the_leaderboard_is_exported_and_left_alone(lmcbench, tmp_path):
    record = make_record(toy_cell(shift="label-skew"), barrier_error=0.123)
    write_submission(tmp_path / "leaderboard", "one", [record])
    before = content(tmp_path)
    code, out, err = lmcbench("leaderboard", "--json", "--csv", "numbers.csv")
    assert (code, err) == (0, "Wrote numbers.csv.\n")
    [entry] = json.loads(out)["entries"]
    assert (entry["entry"], entry["suite"], entry["rank"]) == ("one", "toy", None)
    assert entry["instability_area"] == {"0": None}
    assert entry["barrier"] == entry["shifts"]["label-skew"]["barrier"] == pytest.approx(0.123)
    assert entry["barrier_half"] is None
    after = content(tmp_path)
    lines = after.pop((tmp_path / "numbers.csv").relative_to(tmp_path)).decode().splitlines()
    assert (len(lines), after) == (3, before)
    code, out, err = lmcbench("leaderboard", "--csv", "-")
    # every row names the command that wrote it
    written = [line.replace("--json --csv numbers.csv", "--csv -") for line in lines]
    assert (code, out.splitlines(), err) == (0, written, "")
    assert all("lmcbench leaderboard --csv -," in line for line in written[1:])
    (tmp_path / "numbers.csv").unlink()
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--check"), "are of the leaderboard, not of one run"),
        (("run", "--json"), "are of the leaderboard, not of one run"),
        (("--latex", "-", "--csv", "-"), "only one of --json, --csv - and --latex - can print"),
        (("--check", "--json"), "--check writes nothing"),
        (("--check", "--csv", "x.csv"), "--check writes nothing"),
        (("--json", "--csv", "-"), "only one of --json, --csv - and --latex - can print"),
        (("--csv", "t", "--latex", "./t"), "--csv and --latex are both t; give two files"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(lmcbench, tmp_path, arguments, message):
    write_submission(tmp_path / "leaderboard", "one", [make_record()])
    before = content(tmp_path)
    code, out, err = lmcbench("leaderboard", *arguments)
    assert (code, out) == (2, "")
    assert message in re.sub(r"[\s│]+", " ", err)
    assert content(tmp_path) == before


def test_one_runs_table_is_printed(lmcbench, tmp_path):
    write_run(tmp_path / "run", [make_record(toy_cell(replicate=r), barrier_error=0.2) for r in range(2)])
    before = content(tmp_path)
    code, out, err = lmcbench("leaderboard", "run")
    assert (code, err) == (0, "")
    assert re.search(r"lmc_mlp.*\nnone +20\.0 ± 0\.0 +0/2", out)
    assert content(tmp_path) == before


def test_as_a_program(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "lmcbench", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )

    bad = run("run", "digit")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("Error: Unknown suite 'digit'. Did you mean 'digits'")
    assert bad.stderr.count("\n") == 1
    good = run("suites", "digits", "--json")
    assert good.returncode == 0
    assert json.loads(good.stdout)["version"] == 3
    assert content(tmp_path) == {}


def test_findings_are_written_beside_the_report(lmcbench, tmp_path):
    records = [
        make_record(toy_cell(shift=shift, replicate=r), barrier_error=height * (1 + r / 10))
        for shift, height in (("disjoint-halves", 0.3), ("same-half", 0.1))
        for r in range(3)
    ]
    run = write_run(tmp_path / "run", records).root
    code, out, err = lmcbench("report", run, "--findings")
    assert (code, err) == (0, "")
    assert "supported" in out
    text = (run / "findings.md").read_text(encoding="utf-8")
    assert text.startswith("# Findings: toy version 1\n")
    row = next(line for line in text.splitlines() if "over its same(...) control" in line)
    assert "+22.00" in row
    assert row.split("|")[-2].strip() == "supported"
    assert "### Stability points" in text
    assert not (run / "report.md").exists()


# --- terminals and file systems ------------------------------------------------------------------


def narrow_terminal(monkeypatch, encoding):
    """Make standard output a terminal that lacks characters; return it."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    return sys.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_tables_are_shown_where_the_terminal_lacks_their_characters(
    lmcbench, tmp_path, monkeypatch, encoding
):
    write_run(tmp_path / "run", [make_record(status="diverged")])  # its table has a dash, no number
    terminal = narrow_terminal(monkeypatch, encoding)
    assert lmcbench("leaderboard", "run") == (0, "", "")
    terminal.flush()
    assert terminal.buffer.getvalue().count(b"\n") > 10


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_run_stores_its_table_whatever_the_terminal(lmcbench, tmp_path, monkeypatch, encoding):
    (tmp_path / "toy.toml").write_text(FEW_TOML)
    cells = expand(load_suite(str(tmp_path / "toy.toml")))
    folder = write_run(tmp_path / "run", [make_record(cell) for cell in cells])
    narrow_terminal(monkeypatch, encoding)
    assert lmcbench("run", "toy.toml", "--out", "run") == (0, "", "")
    assert "±" in folder.table.read_text(encoding="utf-8")


@pytest.mark.parametrize("target", ["file", "file/below"])
def test_what_the_system_refuses_is_one_message(lmcbench, tmp_path, target):
    write_run(tmp_path / "run", [make_record(toy_cell(replicate=r)) for r in range(2)])
    (tmp_path / "file").write_text("mine")
    before = content(tmp_path)
    code, out, err = lmcbench("report", "run", "--out", target)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"Error: file[^:]*: (Not a directory|File exists)\.\n", err)
    assert content(tmp_path) == before


def test_the_shell_completes_commands(lmcbench, monkeypatch):
    monkeypatch.setenv("_LMCBENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "lmcbench su")
    monkeypatch.setenv("COMP_CWORD", "1")
    code, out, _ = lmcbench()
    assert code == 0
    assert set(out.split()) == {"suites", "submit"}
