import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from lmcbench.results.atomic_files import remove_orphans
from lmcbench.train import train_state
from lmcbench.train.train_state import load_tensors, read_metadata, save_tensors


def test_weights_are_flushed_before_the_file_is_renamed(tmp_path, monkeypatch):
    """The cell's training file, which refers to them, is written and flushed later."""
    done, sync, replace = [], os.fsync, Path.replace
    monkeypatch.setattr("os.fsync", lambda number: (done.append(os.fstat(number).st_size), sync(number)))
    monkeypatch.setattr(Path, "replace", lambda a, b: (done.append(b.name), replace(a, b)))
    path = tmp_path / "k-0.safetensors"
    save_tensors({"weight": torch.ones(1000)}, path)
    assert done == [path.stat().st_size, "k-0.safetensors"]
    assert load_tensors(path)["weight"].equal(torch.ones(1000))


def test_others_may_read_weights_as_far_as_the_umask_lets_them(tmp_path):
    """As any other file; safetensors creates files that only their owner may read."""
    path, plain = tmp_path / "k.safetensors", tmp_path / "plain"
    previous = os.umask(0o027)
    try:
        save_tensors({"weight": torch.ones(3)}, path)
        plain.touch()
    finally:
        os.umask(previous)
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_killed_writer_leaves_nothing_that_is_not_swept(tmp_path):
    path = tmp_path / "k.safetensors"
    ended = multiprocessing.get_context("fork").Process(target=_killed_in_the_middle, args=(path,))
    ended.start()
    ended.join()
    assert ended.exitcode == -signal.SIGKILL
    left = [*tmp_path.iterdir()]
    assert left
    remove_orphans(tmp_path)
    assert not [*tmp_path.iterdir()]


def _killed_in_the_middle(path):
    def save(tensors, file, metadata):
        file.with_name(".tmpAbCdEf").write_bytes(b"half")  # as safetensors does
        os.kill(os.getpid(), signal.SIGKILL)

    train_state.save_file = save
    save_tensors({"weight": torch.ones(3)}, path)


@pytest.mark.parametrize(
    ("content", "keyword"),
    [
        (b"", "not a whole safetensors file"),
        (b"\xff" * 8, "not a whole safetensors file"),
        ((2).to_bytes(8, "little") + b"[]", "JSON object"),
        ((200_000).to_bytes(8, "little") + b"[" * 100_000 + b"]" * 100_000, "nest more than"),
        ((17 * 10**6).to_bytes(8, "little") + bytes(17 * 10**6), "at most 16.0 MB"),
        (None, "not a regular file"),
    ],
)
def test_a_header_is_bounded_before_it_is_parsed(tmp_path, content, keyword):
    path = tmp_path / "k-0.safetensors"
    os.mkfifo(path) if content is None else path.write_bytes(content)
    with pytest.raises(SafetensorError, match=keyword):
        load_tensors(path)
    assert read_metadata(path) == {}


def test_a_missing_file_raises_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "k-0.safetensors")
