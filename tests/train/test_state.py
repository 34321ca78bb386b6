import os
from pathlib import Path

import torch

from lmcbench.train.train_state import load_tensors, save_tensors


def test_weights_are_on_the_disk_before_they_take_their_place(tmp_path, monkeypatch):
    """What vouches for them, a cell's training file, is written later and flushed too."""
    done, sync, replace = [], os.fsync, Path.replace
    monkeypatch.setattr("os.fsync", lambda number: (done.append(os.fstat(number).st_size), sync(number)))
    monkeypatch.setattr(Path, "replace", lambda a, b: (done.append(b.name), replace(a, b)))
    path = tmp_path / "k-0.safetensors"
    save_tensors({"weight": torch.ones(1000)}, path)
    assert done == [path.stat().st_size, "k-0.safetensors"]
    assert load_tensors(path)["weight"].equal(torch.ones(1000))
