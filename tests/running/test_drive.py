"""The driver, with an engine that follows a script: retries, losses, refusals, parts of families, status."""

from __future__ import annotations

import json
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from builders import make_record, toy_suite
from lmcbench.errors import UserError
from lmcbench.results import run_status as status_module
from lmcbench.results.atomic_files import write_atomic
from lmcbench.results.events import AttemptLog, EventLog, attempts, create_attempt, driver_path, drivers
from lmcbench.results.run_folder import RunFolder
from lmcbench.results.run_status import run_status
from lmcbench.running import drive
from lmcbench.running.attempt import Attempt, Ended, Outcome
from lmcbench.running.drive import Driver, FamiliesLostError
from lmcbench.running.other_machines import Expected, check_node, portable, portable_environment
from lmcbench.running.place import parse_place
from lmcbench.running.plan import Finished, Notice, Progress, Task, by_engine
from lmcbench.running.ray_executor import check_listening
from lmcbench.running.slurm_executor import Slurm
from lmcbench.running.units import depends_on_fleet, fill, whole_families
from lmcbench.spec.architectures import make_architecture
from lmcbench.spec.cells import Selection, expand, families
from lmcbench.train import choice

CELLS = expand(toy_suite(), Selection(["lmc_mlp"], ["none", "same-half"], ["0", "2"]))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(drive, "VISIBLE_S", 0.0)


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path / "r")
    made.claim(CELLS[0].suite.identity(), make_record(CELLS[0]).data)
    return made


def tasks(folder):
    return [Task(family, folder, {}, "cpu") for family in families(CELLS)]


class Scripted:
    """An engine: each attempt at a unit does the next thing of its script, at the second poll."""

    name = "scripted"
    is_remote = False

    def __init__(self, scripts=None, slots=2):
        self.slots = slots
        self.scripts = scripts or {}
        self.submitted, self.cancelled, self.attached, self.closed = [], [], [], 0

    def submit(self, work, unit):
        self.submitted.append(unit)
        script = self.scripts.get(unit, [])
        return Step(self, work, unit, script.pop(0) if script else "finish")

    def attach(self, log):
        return None

    def keeps(self, log):
        return False

    def wait(self, timeout):
        pass

    def close(self):
        self.closed += 1


class Step:
    def __init__(self, engine, work, unit, act):
        self.engine, self.work, self.unit, self.act, self.polls = engine, work, unit, act, 0
        EventLog(work.log).write("started")

    def ended(self):
        self.polls += 1
        if self.polls < 2 or self.act == "hang":
            return None
        log = EventLog(self.work.log)
        if self.act == "die":
            log.write("progress", done=0.25)
            return Ended(None, "exit code -9")
        if self.act == "refuse":
            return Ended(Outcome("refused", "no such network", 2))
        if self.act == "full":
            return Ended(Outcome("refused", "disk full.", 2, unwritable=True))
        if self.act == "interrupt":
            log.write("interrupted", done=0.5)
            return Ended(None)
        if self.act == "claim":  # says so, and has written nothing
            return Ended(Outcome("finished"))
        for cell in () if self.work.task.trunk_only else self.work.task.family.cells:
            write_atomic(self.work.task.folder.record(cell.key), make_record(cell).to_json())
            log.write("progress", done=1.0)
            log.write("cell", key=cell.key, status="ok", done=1.0)
        log.write("finished")
        return Ended(None)

    def cancel(self):
        self.engine.cancelled.append(self.unit)


def run(units, folder, engine, retries=2):
    events, driver = [], Driver(units, folder, engine, retries)
    try:
        for event in driver.run():
            events.append(event)
    except UserError as error:
        return events, error
    return events, None


def test_every_cell_is_shown_once_and_the_engine_is_closed(folder):
    engine = Scripted()
    events, error = run(whole_families(tasks(folder)), folder, engine)
    shown = [event.record.key for event in events if isinstance(event, Finished)]
    assert (error, sorted(shown), engine.closed) == (None, sorted(cell.key for cell in CELLS), 1)
    found = run_status(folder.root)
    assert (found.finished, found.cells, found.ended, found.drivers) == (8, 8, "complete", [])
    assert [unit.state for unit in found.units] == ["finished"] * 2
    # as a resumed run does, status counts records that a crash cut short as missing
    first, second = (folder.record(key) for key in shown[:2])
    first.write_text("")
    second.write_bytes(second.read_bytes()[:-40])
    found = run_status(folder.root)
    assert (found.finished, found.cells) == (6, 8)
    assert sum(unit.finished for unit in found.units) == 6


def test_a_unit_that_dies_is_retried_and_its_progress_taken_back(folder):
    units = whole_families(tasks(folder))
    events, error = run(units, folder, Scripted({units[0].name: ["die", "interrupt", "die"]}))
    assert error is None
    assert sum(event.cells for event in events if isinstance(event, Progress)) == pytest.approx(2.0)
    said = [event.text for event in events if isinstance(event, Notice)]
    assert [text.partition(": ")[2] for text in said] == [
        "attempt 1 of 3 failed and is retried: exit code -9",
        "interrupted, and resumed.",
        "attempt 2 of 3 failed and is retried: exit code -9",
    ]
    assert [log.end["event"] for log in attempts(folder, units[0].name)] == [
        "died",
        "interrupted",
        "died",
        "finished",
    ]


@pytest.mark.parametrize("act", ["die", "claim"])
def test_a_unit_that_fails_every_time_is_lost_and_the_others_finish(folder, act):
    units = whole_families(tasks(folder))
    engine = Scripted({units[0].name: [act] * 9})
    events, error = run(units, folder, engine, retries=1)
    assert isinstance(error, FamiliesLostError)
    assert error.exit_code == 5
    assert "1 family was lost, each after 2 attempts: lmc_mlp, replicate 0: " in str(error)
    assert engine.submitted.count(units[0].name) == 2
    assert sum(isinstance(event, Finished) for event in events) == 4
    found = run_status(folder.root)
    assert [(unit.state, unit.failed) for unit in found.units] == [("lost", 0), ("finished", 0)]
    assert found.ended == "incomplete"
    # another run tries again, as often
    engine = Scripted({units[0].name: ["die"]})
    assert run(units, folder, engine, retries=1)[1] is None
    assert engine.submitted.count(units[0].name) == 2


def test_attempts_of_a_killed_driver_count_only_while_they_lasted(folder):
    """The cap is in the folder: two failures before, one now."""
    units = whole_families(tasks(folder))
    for _ in range(2):
        EventLog(create_attempt(folder, units[0].name)).write("died")
    engine = Scripted({units[0].name: ["die"] * 9})
    assert isinstance(run(units, folder, engine, retries=2)[1], FamiliesLostError)
    assert engine.submitted.count(units[0].name) == 1


@pytest.mark.parametrize(("act", "code"), [("refuse", 2), ("full", 2)])
def test_bad_input_cancels_the_rest(folder, act, code):
    units = whole_families(tasks(folder))
    engine = Scripted({units[0].name: [act], units[1].name: ["hang"]})
    _, error = run(units, folder, engine)
    assert (error.exit_code, engine.cancelled, engine.closed) == (code, [units[1].name], 1)
    [log] = attempts(folder, units[1].name)
    assert (log.end["event"], log.counts) == ("cancelled", False)


def test_an_interrupted_driver_cancels_what_runs(folder):
    units = whole_families(tasks(folder))
    engine = Scripted({unit.name: ["hang"] for unit in units})
    driver = Driver(units, folder, engine, 2)
    events = driver.run()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    engine.wait = lambda timeout: os.kill(os.getpid(), signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(events)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (sorted(engine.cancelled), engine.closed) == (sorted(u.name for u in units), 1)
    assert run_status(folder.root).ended == "interrupted"


def test_parts_wait_for_their_trunk_and_are_lost_with_it(folder):
    units = fill(tasks(folder)[:1], 8, 1437)
    parts = {f"{rule}, fork {fork}" for rule in ("none", "disjoint-halves") for fork in (0, 2)}
    assert (units[0].part, {unit.part for unit in units[1:]}) == ("trunk", parts)
    keys = [key for unit in units for key in unit.keys]
    assert sorted(keys) == sorted(cell.key for cell in tasks(folder)[0].family.cells)
    engine = Scripted(slots=8)
    assert run(units, folder, engine)[1] is None
    assert engine.submitted[0] == units[0].name
    other = RunFolder(folder.root.parent / "other")
    other.claim(CELLS[0].suite.identity(), make_record(CELLS[0]).data)
    units = fill(tasks(other)[:1], 8, 1437)
    engine = Scripted({units[0].name: ["die"] * 3}, slots=8)
    _, error = run(units, other, engine, retries=0)
    assert engine.submitted == [units[0].name]
    assert "its trunk was lost" in str(error)


def test_bits_depend_on_the_fleet_where_stacked_is_asked_for_or_chosen_on_cuda(folder, monkeypatch):
    both = tasks(folder)

    def asked(engine):
        return [replace(task, conditions=by_engine(engine)) for task in both]

    assert [depends_on_fleet(asked(e)) for e in ("stacked", "auto", "reference")] == [True, False, False]
    monkeypatch.setitem(choice.STACKED, ("lmc_mlp", "cuda"), (1.0, 64))
    assert [depends_on_fleet(asked(e)) for e in ("stacked", "auto", "reference")] == [True, True, False]


def test_families_are_split_only_if_they_do_not_fill_the_engine(folder):
    both = tasks(folder)
    assert [unit.name for unit in fill(both, 1, 1437)] == [task.family.key for task in both]
    assert len(fill(both, 2, 1437)) == 10
    first = both[0].family
    [cell] = [cell for cell in first.cells if (cell.shift.label, cell.fork.name) == ("none", "2")]
    single = replace(both[0], family=replace(first, cells=(cell,)))
    assert [unit.name for unit in fill([single], 8, 1437)] == [first.key]
    # a trunk that is stored is not trained again
    for step in (0, cell.fork_step(1437)):
        write_atomic(folder.trunk(first.key, step), b"x")
    assert all(not unit.after and unit.keys for unit in fill(both[:1], 8, 1437))


def test_a_later_driver_notes_attempts_that_were_left_open(folder):
    units = whole_families(tasks(folder))
    path = create_attempt(folder, units[0].name, driver="gone")
    EventLog(path).write("started", host="x", host_id="elsewhere", pid=1, token="a")
    lines = path.read_text().replace('"time": 1', '"time": 0')
    path.write_text(lines)
    assert run(units, folder, Scripted())[1] is None
    [log, _] = attempts(folder, units[0].name)
    assert (log.end["event"], log.counts) == ("died", False)


# --- status --------------------------------------------------------------------------------------


def test_the_status_of_a_run_that_goes_on_and_was_killed(folder, lmcbench, monkeypatch):
    units = whole_families(tasks(folder))
    engine = Scripted({units[0].name: ["hang"]}, slots=1)
    driver = Driver(units, folder, engine, 2)
    events = driver.run()
    engine.wait = lambda timeout: EventLog(folder.attempt(units[0].name, 1)).write("progress", done=2.0)
    next(events)
    here = {"host": "node7", "host_id": "elsewhere", "pid": 1, "token": ""}
    EventLog(folder.attempt(units[0].name, 1)).write("started", **here)
    EventLog(folder.attempt(units[0].name, 1)).write("progress", done=2.0)
    found = run_status(folder.root)
    assert [(u.state, u.where, u.done) for u in found.units] == [
        ("running", "node7", 2.0),
        ("waiting", "", 0.0),
    ]
    assert found.remaining_s > 0
    code, out, _ = lmcbench("status", folder.root)
    assert code == 0
    assert "0 of 8 cells finished" in out
    assert "node7" in out
    code, out, _ = lmcbench("status", folder.root, "--json")
    assert json.loads(out)["units"][0]["state"] == "running"
    # the driver's process is gone, without a last word
    monkeypatch.setattr(status_module, "is_alive", lambda identity, last: False)
    found = run_status(folder.root)
    assert (found.ended, found.drivers, found.remaining_s) == ("killed", [], None)
    assert {unit.state for unit in found.units} == {"stopped"}
    code, out, _ = lmcbench("status", folder.root, "--watch")
    assert "was killed" in out


def test_the_status_of_what_is_no_run_is_refused(tmp_path, lmcbench):
    code, _, err = lmcbench("status", tmp_path)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "no run folder" in err


def test_a_queued_job_is_told_from_a_running_one(folder):
    units = whole_families(tasks(folder))
    path = driver_path(folder)
    path.parent.mkdir()
    path.touch()
    asked = [{"unit": u.name, "label": u.label, "cells": u.keys} for u in units]
    EventLog(path).write("asked", units=asked, host="a", pid=1, on="slurm")
    EventLog(path).write("ended", how="interrupted")
    job = create_attempt(folder, units[0].name, driver=path.name)
    EventLog(job).write("queued", job="17")
    assert [unit.state for unit in run_status(folder.root).units] == ["queued", "stopped"]
    EventLog(job).write("started", host="n1", host_id="elsewhere", pid=4, token="")
    first = run_status(folder.root).units[0]
    assert (first.state, first.where) == ("running", "n1, job 17")
    EventLog(job).write("interrupted", done=1.0, requeued=True)
    assert run_status(folder.root).units[0].state == "queued"
    [driver] = drivers(folder)
    assert driver.ended["how"] == "interrupted"


# --- places, nodes, paths ------------------------------------------------------------------------


def test_options_of_slurm():
    place = parse_place("slurm:partition=gpu,time=4:00:00,gres=gpu:a100:1,exclude=n1,n2,jobs=8")
    assert place == Slurm(
        {"partition": "gpu", "time": "4:00:00", "gres": "gpu:a100:1", "exclude": "n1,n2"}, 8
    )
    assert parse_place("slurm") == Slurm({}, None)


@pytest.mark.parametrize(
    ("on", "share", "keyword"),
    [
        ("kubernetes", 1, "Allowed for --on"),
        ("local:2", 1, "Allowed for --on"),
        ("slurm:fast", 1, "key=value"),
        ("slurm:partition=", 1, "key=value"),
        ("slurm:dependency=x", 1, "set by the run"),
        ("slurm:jobs=0", 1, "positive number"),
        ("ray://10.0.0.1:10001", 1, "client"),
        ("ray", 0, "more than 0"),
        ("ray", 2, "at most 1"),
        ("ray", float("nan"), "at most 1"),
        ("local", 0.5, "applies to --on ray"),
    ],
)
def test_bad_places_are_refused(on, share, keyword):
    with pytest.raises(UserError, match=keyword):
        parse_place(on, share)


def test_an_address_at_which_nothing_listens_is_refused_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        check_listening(address)
    with pytest.raises(UserError, match=f"Ray at {address} cannot be reached: .*refused.*ray start"):
        check_listening(address)
    check_listening("auto")  # a name of Ray's own


def test_a_node_with_other_versions_code_or_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lmcbench.running.other_machines.VISIBLE_S", 0.0)
    path = create_attempt(RunFolder(tmp_path), "0" * 16, token="secret")
    here = Expected.here("secret")
    check_node(here, path)
    for other, keyword in [
        (replace(here, versions=here.versions | {"torch": "1.0"}), "torch"),
        (replace(here, code="0" * 16), "source files of lmcbench differ"),
        (replace(here, token="of another folder"), "another folder"),
    ]:
        with pytest.raises(UserError, match=keyword):
            check_node(other, path)
    with pytest.raises(UserError, match="no such run"):
        check_node(here, tmp_path / "events" / "none.jsonl")


def test_tasks_for_other_machines_have_absolute_paths_and_the_same_keys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("def net(num_classes): ...\n")
    network = make_architecture("net.py:net", "fast", {}, None)
    cells = [replace(cell, architecture=network) for cell in CELLS]
    [family, _] = families(cells)
    moved = portable(Task(family, RunFolder(Path("r")), {}, "cpu", Path("data")))
    monkeypatch.chdir("/")
    assert (moved.folder.root, moved.data_dir) == (tmp_path / "r", tmp_path / "data")
    assert moved.family.architecture.path == tmp_path / "net.py"
    assert [cell.key for cell in moved.family.cells] == [cell.key for cell in family.cells]
    assert moved.family.key == family.key
    assert moved.family.architecture.label == "net.py:net"
    (tmp_path / "net.py").write_text("def net(num_classes): pass\n")
    assert moved.family.cells[0].architecture.fingerprint == network.fingerprint


def test_variables_for_other_machines(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "LMCBENCH_CACHE": "c",
        "HF_HOME": "/h",
        "HF_TOKEN": "s",
        "HF_HUB_OFFLINE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    found = portable_environment()
    assert found["LMCBENCH_CACHE"] == str(tmp_path / "c")
    assert (found["HF_HOME"], found["HF_HUB_OFFLINE"]) == ("/h", "1")
    assert "HF_TOKEN" not in found


def test_several_devices_without_ray_are_hinted_at(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("lmcbench.running.place.cuda_devices", lambda: 4)
    both = tasks(RunFolder(tmp_path))
    executor, units = parse_place("local").prepare(both, None, "auto", None)
    assert (executor.slots, len(units)) == (1, 2)
    assert "4 CUDA devices were found; one is used" in capsys.readouterr().err
    executor, units = parse_place("local").prepare(both, None, "cuda", 2)
    assert (executor.slots, [unit.task.memory_share for unit in units]) == (2, [0.5, 0.5])


def test_an_attempt_log_without_events_has_no_end(tmp_path):
    log = AttemptLog("a", 1, tmp_path / "none")
    assert (log.end, log.counts, log.started, log.done) == (None, False, None, 0.0)
    assert Attempt.__dataclass_fields__["expected"].default is None
