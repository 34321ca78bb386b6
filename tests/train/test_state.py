import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

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
