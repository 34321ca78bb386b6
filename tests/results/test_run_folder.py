import json
import os
import pickle
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builders import make_record, toy_cell, toy_suite, write_run
from lmcbench.errors import UserError
from lmcbench.results import atomic_files
from lmcbench.results.atomic_files import (
    STALE,
    WriteError,
    host_id,
    partial_path,
    remove_orphans,
    replacing,
    write_atomic,
)
from lmcbench.results.record_files import find_records, read_records
from lmcbench.results.run_folder import RunFolder, read_header

SUITE = toy_suite().identity()


def content(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- writing -------------------------------------------------------------------------------------


def test_a_file_is_written_whole_with_its_folders(tmp_path):
    write_atomic(tmp_path / "a" / "b" / "text.md", "12 ± 3\n")
    write_atomic(tmp_path / "a" / "b" / "text.md", b"bytes")
    assert content(tmp_path) == {"text.md": b"bytes"}
    write_atomic(tmp_path / "text.md", "12 ± 3\n")
    assert (tmp_path / "text.md").read_bytes() == "12 ± 3\n".encode()


@pytest.mark.parametrize("fault", ["write", "fsync", "replace"])
def test_a_failed_write_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch, fault):
    path = tmp_path / "record.json"
    write_atomic(path, "before")

    def fail(*_):
        raise OSError(28, "No space left on device")

    place = {"write": "pathlib.Path.write_bytes", "fsync": "os.fsync", "replace": "pathlib.Path.replace"}
    monkeypatch.setattr(place[fault], fail)
    with pytest.raises(WriteError) as caught:
        write_atomic(path, "after")
    assert str(caught.value) == f"{path} cannot be written: No space left on device."
    assert pickle.loads(pickle.dumps(caught.value)).strerror == "No space left on device"
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    assert content(tmp_path) == {"record.json": b"before"}


@pytest.mark.parametrize("name", ["", ".", "..", "/", "folder", "folder/.."])
def test_a_folder_is_no_file_to_write(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError, match="cannot be written: it is a folder"):
        write_atomic(Path(name), "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_the_partial_file_lies_beside_the_target_and_is_no_record(tmp_path, monkeypatch):
    seen = []

    def look(*_):
        seen.extend(p.name for p in (tmp_path / "records").iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", look)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "records" / "k.json", "{}")
    [name] = seen
    assert re.fullmatch(rf"\.k\.json\.{host_id()}-{os.getpid()}-[0-9a-f]{{14}}\.partial", name)
    assert list((tmp_path / "records").iterdir()) == []


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    done, sync, replace = [], os.fsync, Path.replace
    monkeypatch.setattr("os.fsync", lambda number: (done.append(os.fstat(number).st_size), sync(number)))
    monkeypatch.setattr(Path, "replace", lambda a, b: (done.append(b.name), replace(a, b)))
    write_atomic(tmp_path / "k.json", "{}")
    assert done == [2, "k.json"]


@pytest.fixture
def ended():
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="states of processes are read on Linux")
def test_a_process_that_ended_without_being_waited_for_leaves_orphans(tmp_path):
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    path = tmp_path / f".run.json.{host_id()}-{process.pid}-0123456789abcd.partial"
    path.write_text("x")
    RunFolder(tmp_path).remove_stale_files()
    assert not path.exists()
    process.wait()


def test_orphans_are_removed_and_files_being_written_stay(tmp_path, ended):
    here, token = host_id(), "0123456789abcd"
    mine = partial_path(tmp_path / "records" / "mine.json").name
    young = [
        f"records/{mine}",
        f"records/.k.json.{here}-{os.getppid()}-{token}.partial",
        f"records/.k.json.elsewhere_12345678-{ended}-{token}.partial",
        f"records/.k.json.{ended}.partial",  # an earlier version
        "records/k.json",
    ]
    orphans = [
        f".run.json.{here}-{ended}-{token}.partial",
        f"records/.k.json.{here}-{ended}-{token}.partial",
        f"records/.k.json.{here}-{os.getpid()}-{token}.partial",  # an earlier process of the same id
        f".digits.{here}-{ended}-{token}.partial/submission.toml",
    ]
    old = [f"checkpoints/.k-0.safetensors.elsewhere_12345678-7-{token}.partial", ".run.json.7.partial"]
    others = ["checkpoints/.mine.partial", "notes.7.partial", "records/old.json"]
    for name in young + orphans + old + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
        age = STALE + 60 if name in old + others else STALE - 60
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    RunFolder(tmp_path).remove_stale_files()
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*young, *others}


def test_a_folder_is_orphaned_when_nothing_in_it_is_written(tmp_path):
    folder = tmp_path / ".mine.elsewhere_12345678-7-0123456789abcd.partial"
    (folder / "source").mkdir(parents=True)
    (folder / "source" / "net.py").write_text("x")
    target = tmp_path / "target"
    target.mkdir()
    link = tmp_path / ".link.7.partial"
    link.symlink_to(target)
    past = (time.time() - STALE - 60,) * 2
    for path in (folder, folder / "source", link):
        os.utime(path, past, follow_symlinks=False)
    remove_orphans(tmp_path)
    assert folder.exists()
    assert (link.is_symlink(), target.exists()) == (False, True)
    os.utime(folder / "source" / "net.py", past)
    remove_orphans(tmp_path)
    assert not folder.exists()


def test_writers_with_equal_process_ids_and_host_names_do_not_meet(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 7)
    monkeypatch.setattr(atomic_files, "host_id", lambda: "same_host")
    path = tmp_path / "k.json"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("a")
        second.write_text("b")
    assert content(tmp_path) == {"k.json": b"a"}  # the last to finish


def test_hosts_and_containers_have_different_names(monkeypatch):
    names = set()
    for host in ("node1", "node2", "a.b-c é" * 40, "\ud800"):
        monkeypatch.setattr("socket.gethostname", lambda name=host: name)
        names.add(host_id.__wrapped__())
        for link in ("pid:[1]", "pid:[2]"):
            with monkeypatch.context() as patch:
                patch.setattr(Path, "readlink", lambda _, link=link: link)
                names.add(host_id.__wrapped__())
    assert len(names) == 12
    assert all(re.fullmatch(r"[A-Za-z0-9_]{0,16}_[0-9a-f]{8}", name) for name in names)


@pytest.mark.parametrize("name", ["n" * 255, "\N{SNOWMAN}" * 85])
def test_the_longest_names_can_be_written(tmp_path, name):
    write_atomic(tmp_path / name, "x")
    assert content(tmp_path) == {name: b"x"}


# --- the folder ----------------------------------------------------------------------------------


def test_every_file_has_its_place(tmp_path):
    folder = RunFolder(tmp_path)
    assert [
        str(path.relative_to(tmp_path))
        for path in (
            folder.header,
            folder.record("k"),
            folder.predictions("k"),
            folder.sibling("k", 1),
            folder.training("k"),
            folder.trunk("f", 44),
            folder.table,
        )
    ] == [
        "run.json",
        "records/k.json",
        "predictions/k.safetensors",
        "checkpoints/k-1.safetensors",
        "checkpoints/k.json",
        "checkpoints/trunk-f-44.safetensors",
        "leaderboard.md",
    ]


def test_a_new_or_empty_folder_becomes_the_suites(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new/deep"):
        folder = RunFolder(tmp_path / name)
        folder.check(SUITE)
        assert content(tmp_path) == {} or name != "empty"  # checking writes nothing
        folder.claim(SUITE, [])
        folder.check(SUITE)
        expected = {"schema": "lmcbench/run/1", "suite": SUITE, "data": [], "made": {}}
        assert read_header(folder.header) == expected
        assert json.loads(folder.header.read_bytes())["suite"] == SUITE


def test_run_json_lists_every_command_once(tmp_path):
    folder = RunFolder(tmp_path / "r")
    versions = {"python": "3.11.7", "timm": None}
    for command in ("lmcbench run toy", "lmcbench run toy", "lmcbench run toy --replicates 3:4"):
        with folder.claimed(SUITE, [], {"commands": [command], "citation": "A & B", "versions": versions}):
            (folder.root / "x").touch()
    assert read_header(folder.header)["made"] == {
        "commands": ["lmcbench run toy", "lmcbench run toy --replicates 3:4"],
        "citation": "A & B",
        "versions": versions,
    }


def test_of_several_claims_one_is_made_and_the_others_check_it(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.claim(SUITE, [])
    assert not folder.claim(SUITE, [])
    with pytest.raises(UserError, match="is a run of suite toy"):
        folder.claim(SUITE | {"digest": "other"}, [])
    assert read_header(folder.header)["suite"] == SUITE


@pytest.mark.parametrize("links", [True, False])
def test_a_claim_made_between_check_and_write_is_kept(tmp_path, monkeypatch, links):
    """The other process claims the folder when the first has seen that nobody did."""
    folder, other = RunFolder(tmp_path / "r"), toy_suite(version=2).identity()
    written = os.fsync

    def meanwhile(number):
        monkeypatch.setattr("os.fsync", written)
        if not links:
            monkeypatch.setattr(Path, "hardlink_to", unsupported)
        folder.claim(other, [])

    def unsupported(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.fsync", meanwhile)
    if links:
        with pytest.raises(UserError, match="is a run of suite toy version 2"):
            folder.claim(SUITE, [])
        assert read_header(folder.header)["suite"] == other
    else:  # without links the last claim stands
        folder.claim(SUITE, [])
        assert read_header(folder.header)["suite"] == SUITE
    assert [path.name for path in folder.root.iterdir()] == ["run.json"]


def test_a_claim_made_while_the_folder_is_looked_at_is_seen(tmp_path, monkeypatch):
    folder, entries = RunFolder(tmp_path), Path.iterdir

    def claimed_meanwhile(path):
        monkeypatch.setattr(Path, "iterdir", entries)
        folder.claim(SUITE, [])
        return entries(path)

    monkeypatch.setattr(Path, "iterdir", claimed_meanwhile)
    folder.check(SUITE)
    assert folder.header.exists()


def test_processes_that_claim_at_once_agree(tmp_path):
    suites = [toy_suite(version=version).identity() for version in range(1, 9)]

    def claim(suite):
        try:
            return RunFolder(tmp_path / "r").claim(suite, [])
        except UserError:
            return None

    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(claim, suites))
    assert made.count(True) == 1
    assert read_header(tmp_path / "r" / "run.json")["suite"] == suites[made.index(True)]


@pytest.mark.parametrize("name", [".run.json.7.partial", ".run.json.node_01234567-8-0123456789abcd.partial"])
def test_a_folder_whose_first_writer_was_killed_can_be_claimed(tmp_path, name):
    (tmp_path / name).write_text('{"schema"')
    folder = RunFolder(tmp_path)
    folder.check(SUITE)
    assert folder.claim(SUITE, [])
    (tmp_path / "run.json").unlink()
    (tmp_path / ".hidden").touch()
    with pytest.raises(UserError, match="exists and is not a run folder"):
        folder.check(SUITE)


def test_a_claim_is_undone_when_the_run_does_not_begin(tmp_path):
    new, empty, begun = (RunFolder(tmp_path / name) for name in ("runs/new", "empty", "begun"))
    empty.root.mkdir()

    def fail(folder, written=False):
        with folder.claimed(SUITE, []):
            assert folder.header.exists()
            if written:
                write_atomic(folder.record("k"), "{}")
            raise UserError("no such device")

    for folder, written in ((new, False), (empty, False), (begun, True), (begun, False)):
        with pytest.raises(UserError, match="no such device"):
            fail(folder, written)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "empty"]
    assert not list(empty.root.iterdir())
    assert begun.header.exists()


def test_other_data_than_a_folder_was_made_with_are_refused(tmp_path):
    def data(train, **more):
        return [{"name": "pets", "split": s, "sha256": sha} for s, sha in {"train": train, **more}.items()]

    said, silent = RunFolder(tmp_path / "said"), RunFolder(tmp_path / "silent")
    said.check_data(data("a" * 64), [])  # nothing is there yet
    said.claim(SUITE, data("a" * 64, test="b" * 64))
    # folders that were claimed before they said it have it in their records
    write_atomic(silent.header, json.dumps({"schema": "lmcbench/run/1", "suite": SUITE}))
    held = [make_record().model_copy(update={"data": data("a" * 64, test="b" * 64)})]
    for folder, records in ((said, []), (silent, held)):
        folder.check_data(data("a" * 64, test="b" * 64), records)
        folder.check_data(data("a" * 64, more="c" * 64), records)
        with pytest.raises(UserError, match=r"split test of pets has sha256 c{12} now and had b{12}"):
            folder.check_data(data("a" * 64, test="c" * 64), records)


def test_a_folder_of_another_suite_is_refused(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim(SUITE, [])
    other = toy_suite(version=2).identity()
    with pytest.raises(UserError) as refused:
        folder.check(other)
    assert str(refused.value) == (
        f"{tmp_path} is a run of suite toy version 1 with digest {SUITE['digest'][:12]}, "
        f"not toy version 2 with digest {other['digest'][:12]}. Choose another folder with --out, "
        "or resume it with toy-v1."
    )


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"exists and is not a run folder\. Choose another with --out"):
        RunFolder(tmp_path).check(SUITE)
    with pytest.raises(UserError, match="exists and is not a run folder"):
        RunFolder(tmp_path / "thesis.tex").check(SUITE)
    with pytest.raises(UserError, match=r"cannot be written: .*thesis\.tex is a file"):
        RunFolder(tmp_path / "thesis.tex" / "run").check(SUITE)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UserError, match=f"cannot be written: {tmp_path} is read-only"):
        RunFolder(tmp_path / "run").check(SUITE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged: Expecting"),
        ('{"suite": NaN}', "is damaged: NaN"),
        ("[" * 100_000, "is damaged: lists and objects nest"),
        (" " * (17 * 10**6), "has 17.0 MB"),
        ("", "is damaged: Expecting"),
        ("[]", "is not a lmcbench/run file"),
        ('{"schema": "lmcbench/cell/1"}', "is not a lmcbench/run file"),
        ('{"schema": "lmcbench/run/2"}', "reads up to lmcbench/run/1. Upgrade"),
        ('{"schema": "lmcbench/run/1"}', "suite is missing"),
        ('{"schema": "lmcbench/run/1", "suite": {"name": "x"}}', "suite is missing"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path, text, message):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=message):
        RunFolder(tmp_path).check(SUITE)


# --- what is finished ----------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "finished"), [("ok", True), ("diverged", True), ("failed", False)])
def test_results_are_finished_and_failures_are_tried_again(tmp_path, status, finished):
    record = make_record(status=status)
    folder = write_run(tmp_path, [record])
    assert folder.finished(record.key) == (record if finished else None)
    assert folder.finished("0" * 16) is None


def test_a_record_cut_by_a_crash_is_made_again(tmp_path):
    record = make_record()
    folder = write_run(tmp_path, [record])
    whole = folder.record(record.key).read_bytes()
    for length in range(0, len(whole) - 2, 1 + len(whole) // 200):
        folder.record(record.key).write_bytes(whole[:length])
        assert folder.finished(record.key) is None
    folder.record(record.key).write_bytes(bytes(len(whole)))  # a power failure left zeros
    assert folder.finished(record.key) is None


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("lmcbench/cell/3", "Upgrade"),
        ("lmcbench/cell/1", "of an earlier version"),
        ("else", "is not a lmcbench/cell"),
    ],
)
def test_what_must_not_be_overwritten_is_refused(tmp_path, schema, message):
    path = RunFolder(tmp_path).record("k")
    write_atomic(path, json.dumps({"schema": schema}))
    with pytest.raises(UserError, match=message):
        RunFolder(tmp_path).finished("k")


def test_a_record_that_cannot_be_read_or_is_anothers_is_refused(tmp_path):
    record = make_record()
    folder = write_run(tmp_path, [record])
    folder.record(record.key).rename(folder.record("0" * 16))
    with pytest.raises(UserError, match=f"another cell, {record.key}"):
        folder.finished("0" * 16)


def special_file(path, kind):
    """Put something at `path` that is not a regular file, or one that is too large to read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "fifo link":
        os.mkfifo(path.with_suffix(".fifo"))
        path.symlink_to(path.with_suffix(".fifo"))
    else:
        with path.open("wb") as file:
            file.truncate(3 * 2**30)


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "fifo link", "3 GB"])
def test_special_and_huge_files_are_refused_by_name(tmp_path, kind):
    """A pipe would block for ever and a device never ends."""
    reason = {"3 GB": "has 3,221.2 MB", "folder": "cannot be read: Is a directory"}
    message = f"run.json {reason.get(kind, 'is not a regular file')}"
    special_file(tmp_path / "run" / "run.json", kind)
    with pytest.raises(UserError, match=message):
        RunFolder(tmp_path / "run").check(SUITE)
    with pytest.raises(UserError, match=message):
        read_records(tmp_path / "run")
    folder = write_run(tmp_path / "records", [make_record()])
    special_file(folder.record("0" * 16), kind)
    message = message.replace("run.json", rf"{'0' * 16}\.json")
    with pytest.raises(UserError, match=message):
        folder.measured()
    with pytest.raises(UserError, match=message):
        read_records(folder.root)
    with pytest.raises(UserError, match=message):
        read_records(folder.record("0" * 16).parent)


@pytest.mark.parametrize(
    "text", ['{\n "a": NaN\n}\n', '{\n "a": 1,\n "a": 1\n}\n', '{\n "a": 1e999\n}', "null"]
)
def test_an_edited_record_is_refused_and_kept(tmp_path, text):
    path = RunFolder(tmp_path).record("k")
    write_atomic(path, text)
    with pytest.raises(UserError, match=r"k\.json is (damaged|not)"):
        RunFolder(tmp_path).finished("k")


# --- finding -------------------------------------------------------------------------------------


def test_records_are_found_from_the_run_its_records_or_one_of_them(tmp_path):
    folder = write_run(tmp_path / "run", [make_record(toy_cell(replicate=r)) for r in range(3)])
    (folder.records / ".k.json.17.partial").write_text("{")
    paths = sorted(folder.records.glob("[0-9a-f]*.json"))
    assert find_records(folder.root) == find_records(folder.records) == paths
    assert len(paths) == 3
    assert find_records(paths[0]) == paths[:1]


def test_where_there_are_no_records_is_said(tmp_path):
    with pytest.raises(UserError, match=r"none does not exist\. Give a run folder"):
        find_records(tmp_path / "none")
    with pytest.raises(UserError, match="No records in"):
        find_records(tmp_path)
    RunFolder(tmp_path).claim(SUITE, [])
    with pytest.raises(UserError, match="No records in"):
        find_records(tmp_path)
    (tmp_path / "submissions").mkdir()
    with pytest.raises(UserError, match="or one of its submissions"):
        find_records(tmp_path)


def test_a_cell_in_two_files_is_refused(tmp_path):
    record = make_record()
    folder = write_run(tmp_path, [record])
    write_atomic(folder.record("0" * 16), folder.record(record.key).read_bytes())
    with pytest.raises(UserError, match=f"record {record.key} in 2 files"):
        read_records(folder.root)


def test_the_records_of_a_run_of_a_newer_schema_are_refused(tmp_path):
    folder = write_run(tmp_path, [make_record()])
    assert len(read_records(folder.root)) == 1
    folder.header.write_text('{"schema": "lmcbench/run/2"}')
    with pytest.raises(UserError, match=r"reads up to lmcbench/run/1\. Upgrade"):
        read_records(folder.root)
