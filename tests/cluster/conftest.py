"""A small experiment whose network misbehaves when told to, run by the command line on Ray and Slurm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SUITE = """
name = "small"
version = 1
description = "for tests"
shifts = ["label-skew"]
forks = [1, "independent"]
replicates = 1
[data]
name = "digits"
train_size = 400
test_size = 100
[protocol]
alphas = 3
calibration = 50
[recipes.short]
lr = 0.1
batch_size = 100
epochs = 3
"""

NETWORKS = """
[[architectures]]
name = "PLACE/net.py:net"
recipe = "short"
kwargs = { tag = TAG }
"""

NET = """
import json, os, signal, time
from pathlib import Path
from torch import nn

HERE = Path(__file__).parent


class Net(nn.Module):
    def __init__(self, num_classes, in_chans, img_size, tag):
        super().__init__()
        self.tag = str(tag)
        self.layer = nn.Linear(in_chans * img_size**2, num_classes)

    def forward(self, x):
        if self.training and (HERE / "act.json").exists():
            act = json.loads((HERE / "act.json").read_text()).get(self.tag)
            if act == "die" or (act == "die-once" and self.first()):
                os.kill(os.getpid(), signal.SIGKILL)
            if act == "memory":
                raise MemoryError("no memory left")
            if act == "slow":
                time.sleep(0.5)
        return self.layer(x.flatten(1))

    def first(self):
        try:
            os.close(os.open(HERE / f"died-{self.tag}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


def net(num_classes, in_chans, img_size, tag=0):
    return Net(num_classes, in_chans, img_size, tag)
"""


def pytest_collection_modifyitems(config, items):
    """Skip what starts Ray or Slurm unless it is asked for."""
    if "cluster" not in config.getoption("markexpr").replace("not cluster", ""):
        for item in items:
            if item.get_closest_marker("cluster") is not None:
                item.add_marker(pytest.mark.skip(reason="starts Ray or Slurm; ask for it with -m cluster"))


class Site:
    """A shared folder with a suite of two networks, tags 1 and 2."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.started: list[subprocess.Popen[str]] = []
        (place / "net.py").write_text(NET)
        networks = "".join(NETWORKS.replace("PLACE", str(place)).replace("TAG", tag) for tag in "12")
        (place / "small.toml").write_text(SUITE + networks)

    def act(self, **acts: str) -> None:
        """Tell networks how to misbehave from now on: `act(t1="slow")`."""
        (self.place / "act.json").write_text(json.dumps({tag[1:]: act for tag, act in acts.items()}))

    def start(self, out: str, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "lmcbench", "run", "small.toml", "--device", "cpu", "--out", out]
        process = subprocess.Popen(
            [*command, *options],
            cwd=self.place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=default_signals,
        )
        self.started.append(process)
        return process

    def run(self, out: str, *options: str) -> tuple[int, str]:
        """Return exit code and standard error."""
        process = self.start(out, *options)
        _, errors = process.communicate(timeout=300 * PATIENCE)
        return process.returncode, errors

    def end(self) -> None:
        """End what a failed test left."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def events(self, out: str) -> dict[str, list[dict]]:
        """Return the events of every attempt by file name."""
        return {
            path.name: [json.loads(line) for line in path.read_text().splitlines()]
            for path in sorted((self.place / out / "events").glob("[!d]*.jsonl"))
        }

    def kinds(self, out: str) -> list[str]:
        """Return the kinds of all events of attempts."""
        return [event["event"] for events in self.events(out).values() for event in events]

    def results(self, out: str) -> dict[str, dict]:
        """Return every record by key, less times and environment."""
        found = {}
        for path in sorted((self.place / out / "records").iterdir()):
            record = json.loads(path.read_bytes())
            record["env"] = record["env"]["engine"]
            for name in ("train_s", "eval_s", "peak_bytes"):
                (record["cost"] or {}).pop(name, None)  # a failed cell has no cost
            found[path.stem] = record
        return found

    def status(self, out: str) -> dict:
        done = subprocess.run(
            [sys.executable, "-m", "lmcbench", "status", out, "--json"],
            cwd=self.place,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)


PATIENCE = float(os.environ.get("CLUSTER_PATIENCE", "1"))
"""Factor of all waiting times, for a busy machine."""


def default_signals() -> None:
    """As in a shell's foreground job: what runs the tests may ignore these, and children inherit that."""
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)


def wait_until(condition, seconds: float = 120, what: str = "it did not happen") -> None:
    until = time.monotonic() + PATIENCE * seconds
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.1)


@pytest.fixture(scope="session")
def local(tmp_path_factory):
    """The records of a run on this machine."""
    site = Site(tmp_path_factory.mktemp("local"))
    assert site.run("r", "--jobs", "1")[0] == 0
    found = site.results("r")
    assert len(found) == 4
    assert {record["status"] for record in found.values()} == {"ok"}
    return found


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.end()


def descendants(pid: int) -> set[int]:
    """Return a process and all its children, theirs, and so on."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def running(pids: set[int]) -> set[int]:
    """Return those of the processes that still run."""
    found = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            found.add(pid)
    return found


def exposed(pids: set[int]) -> set[str]:
    """Return the addresses beyond loopback that processes listen on, as in /proc/net/tcp."""
    sockets = set()
    for pid in pids:
        try:
            sockets |= {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, state, inode = fields[1].partition(":")[0], fields[3], fields[9]
            loopback = address.endswith("7F") or address == "00000000000000000000000001000000"
            mapped = address.startswith("0000000000000000FFFF0000") and address.endswith("7F")
            if state == "0A" and not (loopback or mapped) and f"socket:[{inode}]" in sockets:
                found.add(f"{table} {fields[1]}")
    return found
