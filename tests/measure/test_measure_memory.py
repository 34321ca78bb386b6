"""Memory of `lmcbench measure`: bounded in the number of images and of networks, with unchanged numbers."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lmcbench.connect import blending
from lmcbench.data import decode
from lmcbench.data.decode import read_items
from lmcbench.measure.networks import Bench
from lmcbench.spec.architectures import Architecture
from lmcbench.train.build import build

torch.set_num_threads(1)

SIDE = 224

SCRIPT = r"""
import json, re
from pathlib import Path
from lmcbench.cli import main
try:
    main()
except SystemExit as error:
    assert not error.code, error.code
# not ru_maxrss, which a process has from the one that started it
print(json.dumps(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])))
"""


def network(shape, seed=0):
    return build(Architecture(name="lmc_resnet", recipe="x", kwargs={"width": 2}), shape, 2, seed)


def save_images(folder, count):
    draw = np.random.default_rng(count)
    for i in range(count):
        path = folder / f"class{i % 2}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(draw.integers(0, 256, (7, 7, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE)).save(path)


@pytest.mark.slow_tier
def test_memory_does_not_depend_on_the_number_of_images(tmp_path):
    """600 more images are 90 MB as bytes and 360 MB as floats; peaks differ by less than 40 MB."""
    for i in range(2):
        linear = build(Architecture(name="lmc_linear", recipe="x"), (3, SIDE, SIDE), 2, i)
        save_file(linear.state_dict(), tmp_path / f"{i}.safetensors")
    environment = {
        "PYTHONPATH": ":".join(sys.path),
        "LMCBENCH_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    peaks = []
    for count in (60, 660):
        save_images(tmp_path / str(count) / "train", 20)
        save_images(tmp_path / str(count) / "test", count)
        command = ["measure", "0.safetensors", "1.safetensors", "--data", f"./{count}", "--alphas", "3"]
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, *command, "--arch", "lmc_linear", "--device", "cpu"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        peaks.append(json.loads(done.stdout.splitlines()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 40, peaks


def test_files_are_read_a_few_at_a_time(tmp_path, monkeypatch):
    files = [tmp_path / str(i) for i in range(7)]
    for i, file in enumerate(files):
        file.write_bytes(bytes([i]) * (100 if i != 5 else 1000))
    monkeypatch.setattr(decode, "READ_BYTES", 250)
    found = list(read_items(files, range(7)))
    assert [[item.label for item in items] for items in found] == [[0, 1], [2, 3], [4], [5], [6]]
    assert all(item.data == files[item.label].read_bytes() for items in found for item in items)
    monkeypatch.setattr(decode, "READ_BYTES", 10**6)
    monkeypatch.setattr(decode, "READ_IMAGES", 3)
    assert [len(items) for items in read_items(files, range(7))] == [3, 3, 1]


def test_networks_are_stacked_a_few_at_a_time_with_the_same_bits(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(30, 1, 8, 8, generator=generator)
    states = [network((1, 8, 8), i).state_dict() for i in range(5)]
    bench = Bench(network((1, 8, 8)), torch.device("cpu"), {"test": (images, torch.arange(30) % 2)}, 3)
    bench.calibration = images
    together = bench.outputs(states, recalibrate=True).logits["test"]
    sizes = []
    prepare = bench.network.prepare
    monkeypatch.setattr(bench.network, "prepare", lambda some: sizes.append(len(some)) or prepare(some))
    size = sum(value.numel() * value.element_size() for value in states[0].values())
    monkeypatch.setattr(blending, "MAX_BYTES", 2 * size)
    assert torch.equal(bench.outputs(states, recalibrate=True).logits["test"], together)
    assert sizes == [2, 2, 1]
