"""The command line as a person meets it, in the test's own process."""

import os

# before torch is loaded, here and in subprocesses: the test processes use all cores, with one thread each
os.environ.setdefault("OMP_NUM_THREADS", "1")

import multiprocessing
import signal
import sys

# tests start hundreds of processes, which would each compile the package again
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import pytest
from hypothesis import settings

# a loaded machine is no fault of the code
settings.register_profile("lmcbench", deadline=None)
settings.load_profile("lmcbench")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def pytest_xdist_auto_num_workers():
    """Return one process more than cores: tests that wait for commands they started leave a core idle."""
    return (os.cpu_count() or 1) + 1


def pytest_runtest_teardown():
    """Return to one thread: with more threads than cores, small operations wait for each other."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture
def forked_workers(monkeypatch):
    """Start worker processes as forks: they need not import torch, and their results are equal."""
    from lmcbench.running import workers

    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda method: fork)


@pytest.fixture
def lmcbench(tmp_path, monkeypatch, capsys):
    """Run `lmcbench ARGUMENTS` in an empty folder; returns exit code, standard output and error."""
    from lmcbench import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lmcbench", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    yield run
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
