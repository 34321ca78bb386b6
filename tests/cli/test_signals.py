"""Commands that are told to end: in order, with exit code 130, and nothing left running."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from builders import SUITE_TOML
from lmcbench import catalogue
from lmcbench.results.record_parser import read_record
from lmcbench.running import attempt

REPLICATES = 100
"""More than are done before the signal comes."""

COMMAND = ["run", "toy.toml", "--out", "r", "--jobs", "2", "--arch", "lmc_mlp", "--shift", "none"]
COMMAND += ["--fork", "0", "--replicates"]

STUB = """
import sys, time, types

family = types.ModuleType("lmcbench.running.family")
family.reopen_data = lambda task: True

def run_family(task, dataset):
    BODY
    from builders import make_record
    from lmcbench.results.atomic_files import write_atomic
    from lmcbench.running.plan import Finished

    for cell in task.family.cells:
        record = make_record(cell)
        write_atomic(task.folder.record(cell.key), record.to_json())
        yield Finished(record)
        time.sleep(0.5)

family.run_family = run_family
sys.modules["lmcbench.running.family"] = family
"""
"""Imported by every process at its start, so that workers write made-up records: they start without torch."""

MAIN = """
import fcntl, os, termios

from lmcbench.cli import main

if os.isatty(0):
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
main()
"""
"""The command; a terminal on standard input becomes its controlling terminal."""


def default_signals():
    """As in a shell's foreground job: what runs the tests may ignore these, and children inherit that."""
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)


def started(tmp_path, replicates=REPLICATES, body="pass", **streams):
    (tmp_path / "toy.toml").write_text(SUITE_TOML)
    (tmp_path / "sitecustomize.py").write_text(STUB.replace("BODY", body))
    paths = [str(tmp_path), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *COMMAND, str(replicates)],
        cwd=tmp_path,
        start_new_session=True,
        preexec_fn=default_signals,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams,
    )


def kept(tmp_path):
    """How many cells are finished; whole all of them, and nothing begun beside them."""
    records = list((tmp_path / "r" / "records").iterdir())
    assert {read_record(path).status for path in records} == {"ok"}
    assert not list((tmp_path / "r").rglob("*.partial"))
    return len(records)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])  # hung up: see the closed terminal
def test_a_run_that_is_told_to_end_keeps_what_is_finished(tmp_path, signum):
    """Told are all its processes, as a terminal does."""
    process = started(tmp_path)
    assert any(b"| replicate" in line for line in process.stdout)
    os.killpg(process.pid, signum)
    # ends when the last process that has them open does: workers too
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    *before, said = errors.decode().splitlines()
    assert all(" cells after " in line for line in before), before  # progress, each minute
    assert said.startswith("Interrupted. ")
    assert f" of {REPLICATES} cells are finished and kept in r; run the same command again" in said
    assert 1 <= kept(tmp_path) < REPLICATES


def test_workers_end_with_a_command_that_is_killed(tmp_path):
    process = started(tmp_path)
    assert any(b"| replicate" in line for line in process.stdout)
    process.kill()
    process.communicate(timeout=600)
    assert len(list((tmp_path / "r" / "records").iterdir())) < REPLICATES


def test_a_worker_that_is_told_again_ends_in_order():
    """By the service manager and by its parent: a second exception would break off the tidying."""
    tidied = []

    def told():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            tidied.append("whole")

    before = signal.signal(signal.SIGTERM, attempt.interrupt_once)
    try:
        with pytest.raises(SystemExit, match="143"):
            told()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert tidied == ["whole"]


def test_a_closed_terminal_ends_a_run_in_order(tmp_path):
    ours, theirs = pty.openpty()
    process = started(tmp_path, **dict.fromkeys(("stdin", "stdout", "stderr"), theirs))
    os.close(theirs)
    said = b""
    while b"| replicate" not in said:
        assert select.select([ours], [], [], 600)[0], said
        said += os.read(ours, 4096)
    os.close(ours)
    assert process.wait(timeout=600) == 130
    assert 1 <= kept(tmp_path) < REPLICATES


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_every_command_can_be_told_to_end(lmcbench, monkeypatch, signum):
    monkeypatch.setattr(catalogue, "list_suites", lambda: os.kill(os.getpid(), signum))
    signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    assert lmcbench("suites") == (130, "", "")


def test_a_second_signal_does_not_break_off_the_ending(lmcbench, monkeypatch):
    """A terminal that is closed tells its jobs, and its shell tells them again."""
    ended = []

    def told():
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            ended.append("whole")

    monkeypatch.setattr(catalogue, "list_suites", told)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert lmcbench("suites") == (130, "", "")
    assert ended == ["whole"]


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGTERM])
def test_what_is_ignored_stays_ignored(lmcbench, monkeypatch, signum):
    """As `nohup lmcbench run ... &` asks for."""
    listed = catalogue.list_suites

    def told():
        os.kill(os.getpid(), signum)
        return listed()

    monkeypatch.setattr(catalogue, "list_suites", told)
    signal.signal(signum, signal.SIG_IGN)
    code, out, err = lmcbench("suites")
    assert (code, err) == (0, "")
    assert "digits" in out
    assert signal.getsignal(signum) is signal.SIG_IGN


def test_a_network_that_ends_its_worker_is_reported(tmp_path):
    """With code 0 as well, which would keep the parent waiting."""
    _, errors = (process := started(tmp_path, 2, "raise SystemExit(0)")).communicate(timeout=600)
    assert process.returncode == 5
    assert b"the network's code ended its process (exit code 0)" in errors


def test_a_worker_that_takes_its_time_to_end_does_not_complain(tmp_path):
    """The parent terminates it when all records are there, while libraries clean up behind it."""
    process = started(tmp_path, 2, "import atexit; atexit.register(time.sleep, 1)")
    _, errors = process.communicate(timeout=600)
    assert (process.returncode, kept(tmp_path)) == (0, 2)
    assert "Traceback" not in errors.decode()
    assert "ignored" not in errors.decode()
