"""Runs that are killed, on a full disk, or beside others in one folder are resumed to equal records."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from contextlib import suppress
from importlib import import_module
from multiprocessing.resource_tracker import _resource_tracker
from pathlib import Path

import pytest

from lmcbench import cli

SUITE = """
name = "tiny"
version = 1
description = "for tests"
shifts = ["label-skew"]
forks = [1, "independent"]
replicates = 2
[data]
name = "digits"
train_size = 320
test_size = 50
[protocol]
alphas = 3
calibration = 64
train_eval = 100
[recipes.short]
lr = 0.1
batch_size = 64
epochs = 2
[[architectures]]
name = "lmc_linear"
recipe = "short"
"""

CELLS = 4

KILLS = 20
"""Moments of a run with one process; the usual suite tries some of them."""


class Run:
    """The command `lmcbench run`, in a forked process: it starts at once, and its limits are its own.

    Args:
        root: the run folder.
        jobs: processes.
        before: called first in the new process.
    """

    def __init__(self, root, jobs=1, before=None):
        suite = root.parent / "tiny.toml"
        if not suite.exists():  # another run may be reading it
            suite.write_text(SUITE)
        self.output, write = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(write)
            return
        try:
            os.setsid()
            for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(signum, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(write, 2)
            _resource_tracker._fd = None  # of an earlier test, closed in the next line
            os.closerange(3, 256)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
            command = f"lmcbench run {suite} --out {root} --device cpu --jobs {jobs}"
            sys.argv = command.split()
            if before is not None:
                before()
            cli.main()
        except SystemExit as end:
            code = end.code or 0
            (root.parent / "modules").write_text("\n".join(sys.modules))
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 99
        finally:
            with suppress(OSError):
                sys.stderr.flush()
            os._exit(code)

    def wait(self):
        """Return the exit code, negative for a signal, and standard error."""
        with os.fdopen(self.output, "rb") as file:
            errors = file.read().decode()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), errors


def fork_workers():
    """Let this process start its workers as forks, which need not import torch."""
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method: fork


class KillAt:
    """Kill this process at its operation `at` on files of a folder, counted from 0.

    Operations are to open, rename, link, remove and create; a write counts twice: before, and half done.
    """

    def __init__(self, root, at, count_file=None):
        self.root, self.at, self.count, self.count_file = str(root), at, 0, count_file

    def __call__(self):
        write = Path.write_bytes

        def write_bytes(path, content):
            write(path, content[: len(content) // 2])
            self.hook("half", (path,))
            return write(path, content)

        Path.write_bytes = write_bytes
        sys.addaudithook(self.hook)

    def hook(self, event, arguments):
        if event not in ("half", "open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir"):
            return
        if str(arguments[0]).startswith(self.root):
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.count += 1
            if self.count_file is not None:
                self.count_file.write(str(self.count))
                self.count_file.seek(0)
                self.count_file.flush()


def results(root):
    """Return every record by key, less times and environment."""
    found = {}
    for path in sorted((root / "records").iterdir()):
        record = json.loads(path.read_bytes())
        cost = record["cost"]
        record["env"] = record["env"]["engine"]
        del cost["train_s"], cost["eval_s"], cost["peak_bytes"]
        found[path.name] = record
    return found


def check_resumed(root, expected, jobs=1, before=None):
    """Run again; the records equal those of a run that was not interrupted, and nothing else is left."""
    assert Run(root, jobs, before).wait() == (0, "")
    assert results(root) == expected
    assert not list(root.rglob("*.partial"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The records of a run that was not interrupted, and its number of operations on files."""
    root = tmp_path_factory.mktemp("whole") / "r"
    counted = root.parent / "count"
    assert Run(root, before=lambda: KillAt(root, None, counted.open("w"))()).wait() == (0, "")
    for name in (root.parent / "modules").read_text().split():  # so that forked processes have them
        with suppress(ImportError):
            import_module(name)
    found = results(root)
    assert len(found) == CELLS
    assert all(record["status"] == "ok" for record in found.values())
    return found, int(counted.read_text())


@pytest.fixture
def expected(whole):
    """The records of a run that was not interrupted."""
    return whole[0]


def moments(operations):
    """The first operations, which create the folder and `run.json`, and later ones by chance."""
    return [*range(1, 8), *sorted(random.Random(20).sample(range(8, operations), KILLS - 7))]


USUAL = (0, 4, 16)
"""Places in `moments` that the usual suite tries."""


@pytest.mark.parametrize(
    "place", [pytest.param(k, marks=() if k in USUAL else pytest.mark.slow_tier) for k in range(KILLS)]
)
def test_a_killed_run_is_resumed_to_equal_records(tmp_path, whole, place):
    root, (expected, operations) = tmp_path / "r", whole
    at = moments(operations)[place]
    assert Run(root, before=KillAt(root, at)).wait() == (-signal.SIGKILL, "")
    check_resumed(root, expected)


@pytest.mark.parametrize(
    ("group", "cells", "start"),
    [
        (True, 0, fork_workers),
        *(
            pytest.param(group, cells, None, marks=pytest.mark.slow_tier)
            for group in (True, False)
            for cells in (0, 1)
        ),
    ],
)
def test_a_killed_run_of_two_processes_is_resumed_to_equal_records(tmp_path, expected, group, cells, start):
    """All its processes are killed, or the first one only, whose workers are still ending at the next run."""
    root, chance = tmp_path / "r", random.Random(2 * cells + group)
    run, began = Run(root, jobs=2, before=start), time.monotonic()
    while len(list(root.glob("records/[!.]*"))) < cells or not (root / "run.json").exists():
        assert time.monotonic() < began + 600
        time.sleep(0.02)
    time.sleep(chance.random() / (20 if cells or start else 1))
    (os.killpg if group else os.kill)(run.pid, signal.SIGKILL)
    # the cells after the first one, or all of forked workers, may be finished before the kill
    assert run.wait()[0] in ((-signal.SIGKILL, 0) if cells or start else (-signal.SIGKILL,))
    check_resumed(root, expected, jobs=2, before=start)


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow_tier)])
def test_processes_may_work_in_one_folder_at_once(tmp_path, expected, processes):
    root = tmp_path / "r"
    runs = [Run(root) for _ in range(processes)]
    assert [run.wait() for run in runs] == [(0, "")] * processes
    assert results(root) == expected
    assert not list(root.rglob("*.partial"))


@pytest.mark.parametrize("after", [0, 4, *(pytest.param(n, marks=pytest.mark.slow_tier) for n in (1, 9))])
@pytest.mark.parametrize("number", [errno.ENOSPC, pytest.param(errno.EROFS, marks=pytest.mark.slow_tier)])
def test_a_full_or_read_only_disk_ends_a_run_with_one_message(tmp_path, expected, number, after):
    """From some write on, nothing more can be written."""
    root, written, fsync = tmp_path / "r", [], os.fsync

    def fail(descriptor):
        if len(written) == after:
            raise OSError(number, os.strerror(number))
        written.append(fsync(descriptor))

    code, errors = Run(root, before=lambda: setattr(os, "fsync", fail)).wait()
    check_message(errors, f"cannot be written: {os.strerror(number)}.")
    assert code == (5 if after else 2)
    assert ("run the same command again to resume" in errors) == root.exists() == bool(after)
    check_resumed(root, expected)


@pytest.mark.parametrize(
    ("size", "code"),
    [(8000, 5), *(pytest.param(*case, marks=pytest.mark.slow_tier) for case in ((100, 2), (2000, 5)))],
)
def test_a_limit_on_the_size_of_files_ends_a_run_with_one_message(tmp_path, expected, size, code):
    """Too small for run.json, for weights, and for records."""
    root = tmp_path / "r"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    found, errors = Run(root, before=limit).wait()
    check_message(errors, f"cannot be written: {os.strerror(errno.EFBIG)}.")
    assert (found, root.exists()) == (code, code == 5)
    check_resumed(root, expected)


FEW = [(0, 1), (0, 2), (1, 2), (4, 1), (4, 2)]


@pytest.mark.parametrize(
    ("free", "jobs"), [(1, 1), *(pytest.param(*case, marks=pytest.mark.slow_tier) for case in FEW)]
)
def test_a_run_with_few_file_descriptors_ends_with_one_message(tmp_path, expected, jobs, free):
    root = tmp_path / "r"

    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (3 + free, 3 + free))

    code, errors = Run(root, jobs, before=limit).wait()
    if code == 2:
        check_message(errors, os.strerror(errno.EMFILE))
        assert not root.exists()
    elif code:
        assert code == 5
        assert "Traceback" not in errors
    check_resumed(root, expected)


def check_message(errors, keyword):
    [line] = errors.splitlines()
    assert line.startswith("Error: ")
    assert keyword in line
