"""`--on slurm`, on a real Slurm of one node: records equal those of a local run, whatever is killed."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from slurm_here import ask, cluster, missing

from conftest import PATIENCE, descendants, exposed, running, wait_until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        find_spec("submitit") is None, reason="submitit is not installed (pip install 'lmcbench[slurm]')"
    ),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]


@pytest.fixture(scope="module")
def slurm():
    """A cluster of one node with two cores and two pretended GPUs; its daemons' processes."""
    root = Path("/tmp") / f"lmcbench-slurm-{os.getpid()}"
    root.mkdir()
    try:
        with cluster(root) as daemons:
            yield daemons
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_left(slurm):
    """Nothing is in the queue after a test."""
    yield
    wait_until(lambda: not queue(), 60, f"jobs are left: {queue()}")


def queue() -> list[str]:
    """Return `ID|NAME|STATE` of jobs that wait or run."""
    return ask("squeue", "-h", "-o", "%i|%j|%T").splitlines()


def processes(site, out: str) -> set[int]:
    """Return the processes of attempts so far."""
    return {e["pid"] for events in site.events(out).values() for e in events if e["event"] == "started"}


def progressed(site, out: str) -> list[str]:
    """Return the jobs that have trained: one that has not is not requeued."""
    return [
        next(event["job"] for event in events if event["event"] == "started")
        for events in site.events(out).values()
        if any(event["event"] == "progress" and event["done"] for event in events)
    ]


def test_jobs_give_the_records_of_one_machine_with_a_gpu_each(slurm, site, local):
    process = site.start("r", "--on", "slurm:gres=gpu:1,time=10", "--device", "auto")
    wait_until(lambda: len(queue()) == 2, 120, "no jobs")
    names = {line.split("|")[1].rsplit("-", 1)[0] for line in queue()}
    assert len(names) == 1
    assert names.pop().startswith("lmcbench-")
    wait_until(lambda: processes(site, "r"), 120, "nothing was started")
    daemons = set().union(*(descendants(daemon.pid) for daemon in slurm))
    assert exposed(daemons | descendants(process.pid)) == set()
    _, errors = process.communicate(timeout=240 * PATIENCE)
    assert (process.returncode, errors) == (0, errors)
    assert site.results("r") == local
    started = [e for events in site.events("r").values() for e in events if e["event"] == "started"]
    assert sorted(event["gpus"] for event in started) == ["0", "1"]
    assert len(list((site.place / "r" / "logs").glob("*_log.out"))) == 2


def test_a_killed_job_is_resubmitted_without_sacct_and_a_hopeless_family_is_lost(slurm, site, local):
    site.act(t1="die-once", t2="die")
    code, errors = site.run("r", "--on", "slurm:time=10", "--retries", "1")
    assert code == 5
    assert "1 family was lost, each after 2 attempts" in errors
    assert "Slurm job" in errors
    found = site.results("r")
    assert len(found) == 2
    assert found == {key: local[key] for key in found}
    assert sorted(unit["state"] for unit in site.status("r")["units"]) == ["finished", "lost"]


def test_jobs_outlive_a_killed_driver_and_the_next_one_attaches_to_them(slurm, site, local):
    """With a third driver at the same time: no family is trained twice."""
    site.act(t1="slow", t2="slow")
    on = ("--on", "slurm:time=10")
    first = site.start("r", *on)
    wait_until(lambda: len(processes(site, "r")) == 2, 120, "the jobs did not start")
    first.kill()
    first.communicate()
    assert len(queue()) == 2
    status = site.status("r")
    assert (status["ended"], {unit["state"] for unit in status["units"]}) == ("killed", {"running"})
    both = [site.start("r", *on) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=240 * PATIENCE)
        assert (process.returncode, errors) == (0, errors)
    assert site.results("r") == local
    assert len(site.events("r")) == 2


def test_time_limits_and_preemption_are_survived_in_the_same_attempt(slurm, site, local):
    """Slurm signals a job before its limit; a job of a partition of higher priority takes its place."""
    site.act(t1="slow", t2="slow")
    process = site.start("r", "--on", "slurm:time=10,partition=low")
    wait_until(lambda: progressed(site, "r"), 120, "nothing was trained")
    ask("scancel", "--signal=USR2", progressed(site, "r")[0])  # what Slurm does before the limit
    wait_until(lambda: "interrupted" in site.kinds("r"), 60, "the signal was not heeded")
    requeued = [e for events in site.events("r").values() for e in events if e.get("requeued")]
    assert len(requeued) == 1
    assert list((site.place / "r" / "checkpoints").glob("interim-*"))
    wait_until(lambda: len(processes(site, "r")) == 3, 200, "it did not start again")
    urgent = ask("sbatch", "--parsable", "-p", "high", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3")
    assert urgent
    wait_until(lambda: site.kinds("r").count("interrupted") >= 2 or process.poll() is not None, 60)
    site.act()
    _, errors = process.communicate(timeout=300 * PATIENCE)
    assert (process.returncode, errors) == (0, errors)
    assert site.results("r") == local
    assert len(site.events("r")) == 2


def test_ctrl_c_cancels_the_jobs_which_store_their_training(slurm, site, local):
    site.act(t1="slow", t2="slow")
    process = site.start("r", "--on", "slurm:time=10")
    wait_until(lambda: progressed(site, "r"), 120, "nothing was trained")
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60 * PATIENCE) == 130
    process.communicate()
    wait_until(lambda: not queue(), 60, "jobs are left")
    wait_until(lambda: not running(processes(site, "r")), 30, "processes are left")
    assert list((site.place / "r" / "checkpoints").glob("interim-*"))
    assert site.status("r")["ended"] == "interrupted"
    site.act()
    assert site.run("r", "--jobs", "1")[0] == 0
    assert site.results("r") == local


def test_what_slurm_cannot_do_is_refused_with_its_reason(slurm, site):
    code, errors = site.run("r", "--on", "slurm:gres=gpu:99")
    assert code == 2
    assert errors.startswith("Error: Slurm rejected the job: ")
    assert "gres=gpu:99" in errors
    assert not (site.place / "r" / "records").exists()
    assert site.run("r", "--on", "slurm:partition=nowhere")[0] == 2


def test_a_users_error_in_a_job_ends_the_run_and_names_the_node(slurm, site):
    text = (site.place / "small.toml").read_text().replace("tag = 2", "gat = 2")
    (site.place / "small.toml").write_text(text)
    code, errors = site.run("r", "--on", "slurm:time=10")
    assert code == 2
    assert errors.startswith("Error: Node ")
    assert "gat" in errors
    assert "Traceback" not in errors
