"""Event files: attempts have numbers of their own, damaged lines are skipped, ends are told apart."""

import json
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcbench.results import events
from lmcbench.results.atomic_files import WriteError
from lmcbench.results.events import AttemptLog, EventLog, EventReader, attempts, create_attempt, failures
from lmcbench.results.run_folder import RunFolder

UNIT = "0123456789abcdef"


def told(path, *kinds, **fields):
    for kind in kinds:
        EventLog(path).write(kind, **fields)


def test_attempts_are_numbered_and_units_kept_apart(tmp_path):
    folder = RunFolder(tmp_path)
    made = [
        create_attempt(folder, unit, token=str(i)) for i, unit in enumerate([UNIT, UNIT, f"{UNIT}.trunk"])
    ]
    assert [path.name for path in made] == [f"{UNIT}-1.jsonl", f"{UNIT}-2.jsonl", f"{UNIT}.trunk-1.jsonl"]
    (folder.events / "driver-x.jsonl").write_text("{}\n")
    assert [(log.unit, log.number) for log in attempts(folder)] == [
        (UNIT, 1),
        (UNIT, 2),
        (f"{UNIT}.trunk", 1),
    ]
    assert [log.submitted["token"] for log in attempts(folder, UNIT)] == ["0", "1"]


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "events").write_text("")
    with pytest.raises(WriteError, match="cannot be written"):
        create_attempt(RunFolder(tmp_path), UNIT)


def test_a_pipe_among_the_events_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.jsonl")
    assert EventReader(tmp_path / "x.jsonl").new() == []


def test_an_event_that_cannot_be_written_is_dropped(tmp_path):
    EventLog(tmp_path / "gone" / "a.jsonl").write("started")
    assert not (tmp_path / "gone").exists()


@given(st.lists(st.binary(max_size=30)))
def test_damaged_lines_are_skipped_and_whole_ones_read_once(tmp_path_factory, junk):
    path = tmp_path_factory.mktemp("e") / "a.jsonl"
    path.write_bytes(b"")
    reader, seen = EventReader(path), []
    for i, piece in enumerate(junk):
        with path.open("ab") as file:
            file.write(piece + b"\n")
        told(path, "progress", done=i)
        seen += [event["done"] for event in reader.new() if event["event"] == "progress"]
    assert seen == list(range(len(junk)))
    with path.open("ab") as file:
        file.write(b'{"event": "progress", "time": 1, "done": 7')
    assert reader.new() == []
    with path.open("ab") as file:
        file.write(b"}\n")
    assert [event["done"] for event in reader.new()] == [7]


CASES = [
    (["submitted"], None, False),
    (["submitted", "started", "progress"], None, False),
    (["started", "finished"], "finished", False),
    (["started", "failed"], "failed", True),
    (["started", "died"], "died", True),
    (["started", "refused"], "refused", False),
    (["started", "interrupted"], "interrupted", True),
    (["started", "progress", "interrupted", "cancelled"], "cancelled", False),
    (["started", "failed", "started"], None, False),
]


@pytest.mark.parametrize(("kinds", "end", "counts"), CASES)
def test_the_last_end_decides(tmp_path, kinds, end, counts):
    path = create_attempt(RunFolder(tmp_path), UNIT)
    told(path, *kinds)
    [log] = attempts(RunFolder(tmp_path))
    assert (None if log.end is None else log.end["event"], log.counts) == (end, counts)


def test_an_interruption_with_progress_or_a_requeue_is_no_failure(tmp_path):
    path = create_attempt(RunFolder(tmp_path), UNIT)
    told(path, "started", "interrupted", done=0.5)
    [log] = attempts(RunFolder(tmp_path))
    assert (log.end["event"], log.counts, log.done) == ("interrupted", False, 0.5)
    told(path, "interrupted", done=0.5, requeued=True)
    [log] = attempts(RunFolder(tmp_path))
    assert log.end is None
    told(path, "started")
    [log] = attempts(RunFolder(tmp_path))
    assert (log.end, log.done) == (None, 0.0)


def test_failures_are_counted_since_the_unit_was_given_up(tmp_path):
    folder = RunFolder(tmp_path)
    for end in ("failed", "died", "interrupted", "failed"):
        told(create_attempt(folder, UNIT), "started", end, done=1.0)
    assert failures(attempts(folder, UNIT)) == 3
    told(folder.attempt(UNIT, 2), "given-up")
    assert failures(attempts(folder, UNIT)) == 1


def test_a_writer_is_alive_by_its_process_here_and_by_its_last_event_elsewhere(monkeypatch):
    here, now = events.process_identity(), time.time()
    assert events.is_alive(here, 0.0)
    assert not events.is_alive(here | {"token": "of an earlier process"}, now)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert not events.is_alive(here | {"pid": child}, now)
    other = here | {"host_id": "elsewhere", "pid": child}
    assert events.is_alive(other, now)
    assert not events.is_alive(other, now - events.SILENT_S - 1)


def test_every_line_is_json_with_a_time(tmp_path):
    path = create_attempt(RunFolder(tmp_path), UNIT, on="local")
    [line] = path.read_text().splitlines()
    assert json.loads(line) | {"time": 0} == {"event": "submitted", "time": 0, "on": "local"}
    assert AttemptLog(UNIT, 1, path).submitted == {}
