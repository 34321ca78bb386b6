"""A Slurm cluster of one node on this machine, which listens on loopback only and ends with its block."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")

CONF = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=20
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 MaxTime=INFINITE DefaultTime=60
PartitionName=high Nodes=ALL PriorityTier=2 MaxTime=INFINITE DefaultTime=60
"""


def missing() -> str | None:
    """Return why no cluster can be started here; None if it can."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    for name in NEEDED:
        if shutil.which(name, path=path) is None:
            return f"{name} is not installed (Debian: slurm-wlm, munge)"
    return None if os.getuid() == 0 else "Slurm's daemons are started by root only"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def cluster(root: Path, cpus: int = 2, gpus: int = 2) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start a cluster whose files are in `root`; SLURM_CONF is set inside. Yields its processes."""
    for name in ("state", "spool"):
        (root / name).mkdir(parents=True)
    root.chmod(0o755)
    host = socket.gethostname().split(".")[0]
    conf = root / "slurm.conf"
    conf.write_text(
        CONF.format(host=host, root=root, port=free_port(), node_port=free_port(), cpus=cpus, gpus=gpus)
    )
    (root / "gres.conf").write_text(f"NodeName={host} Name=gpu File=/dev/tty[0-{gpus - 1}]\n")
    key = root / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    before = {name: os.environ.get(name) for name in ("SLURM_CONF", "PATH")}
    os.environ["SLURM_CONF"] = str(conf)
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        log = (root / f"{command[0]}.out").open("wb")
        started.append(
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        )

    try:
        start(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={root}/munge.socket",
            f"--pid-file={root}/munged.pid", f"--seed-file={root}/munged.seed",
            f"--log-file={root}/munged.log",
        )  # fmt: skip
        wait_for(lambda: (root / "munge.socket").exists(), 30, "munged did not start")
        start("slurmctld", "-D", "-f", str(conf))
        start("slurmd", "-D", "-f", str(conf), "-N", host)
        wait_for(lambda: "idle" in ask("sinfo", "-h", "-o", "%t"), 120, "no node of Slurm became idle")
        yield started
    finally:
        ask("scancel", f"--user={os.getuid()}")
        with suppress(TimeoutError):
            wait_for(lambda: not ask("squeue", "-h"), 30, "jobs are left")
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def ask(*command: str) -> str:
    """Return what one of Slurm's commands prints; empty if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    return done.stdout.strip() if done.returncode == 0 else ""


def wait_for(condition, seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(what)
        time.sleep(0.2)
