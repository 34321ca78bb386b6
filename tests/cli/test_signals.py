"""Commands that are told to end: in order, with exit code 130, and nothing left running."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys

import pytest

from builders import SUITE_TOML
from lmcbench import catalogue
from lmcbench.results.record import read_record
from lmcbench.running import workers

REPLICATES = 100
"""More than a pipe holds: what waits for workers must not keep the command from ending."""

COMMAND = [sys.executable, "-m", "lmcbench", "run", "toy.toml", "--out", "r", "--jobs", "2"]
COMMAND += ["--arch", "lmc_mlp", "--shift", "none", "--fork", "0", "--replicates", str(REPLICATES)]


def heard():
    """As a shell's foreground job: what runs the tests may ignore these, and so would what they start."""
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)


def started(tmp_path, command=COMMAND, **options):
    (tmp_path / "toy.toml").write_text(SUITE_TOML)
    return subprocess.Popen(
        command,
        cwd=tmp_path,
        start_new_session=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": heard} | options,
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
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    [said] = errors.decode().splitlines()
    assert said.startswith("Interrupted. ")
    assert f" of {REPLICATES} cells are finished and kept in r; the same command goes on" in said
    assert 1 <= kept(tmp_path) < REPLICATES


def test_workers_end_with_a_command_that_is_killed(tmp_path):
    process = started(tmp_path)
    assert any(b"| replicate" in line for line in process.stdout)
    process.kill()
    process.communicate(timeout=10)
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

    before = signal.signal(signal.SIGTERM, workers._leave)
    try:
        with pytest.raises(SystemExit, match="143"):
            told()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert tidied == ["whole"]


def test_a_closed_terminal_ends_a_run_in_order(tmp_path):
    ours, theirs = pty.openpty()
    script = (
        "import fcntl, sys, termios\n"
        "from lmcbench.cli import main\n"
        "if __name__ == '__main__':\n"
        "    fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        f"    sys.argv[1:] = {COMMAND[3:]!r}\n"
        "    main()\n"
    )
    (tmp_path / "started.py").write_text(script)
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    process = started(tmp_path, [sys.executable, "started.py"], **streams)
    os.close(theirs)
    said = b""
    while b"| replicate" not in said:
        assert select.select([ours], [], [], 120)[0], said
        said += os.read(ours, 4096)
    os.close(ours)
    assert process.wait(timeout=30) == 130
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


def test_a_network_that_ends_its_worker_is_said_to(tmp_path):
    """With code 0 as well, which would keep the parent waiting."""
    (tmp_path / "leaves.py").write_text("def leaves(num_classes, in_chans):\n    raise SystemExit(0)\n")
    command = [*COMMAND[: COMMAND.index("--arch")], "--arch", "leaves.py:leaves", "--recipe", "fast"]
    process = started(tmp_path, [*command, "--shift", "none", "--fork", "0", "--replicates", "2"])
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 5
    assert b"A worker process died (exit code 1)" in errors


def test_a_worker_that_takes_its_time_to_end_does_not_complain(tmp_path):
    """Told by its parent, which has all that it waited for, while libraries tidy up behind it."""
    (tmp_path / "slow.py").write_text(
        "import atexit, multiprocessing, time\nfrom torch import nn\n"
        "if multiprocessing.parent_process() is not None:\n    atexit.register(time.sleep, 3)\n"
        "def net(num_classes, in_chans, img_size):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * img_size**2, num_classes))\n"
    )
    command = [*COMMAND[: COMMAND.index("--arch")], "--arch", "slow.py:net", "--recipe", "fast"]
    process = started(tmp_path, [*command, "--shift", "none", "--fork", "0", "--replicates", "2"])
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, kept(tmp_path)) == (0, 2)
    assert "Traceback" not in errors.decode()
    assert "ignored" not in errors.decode()
