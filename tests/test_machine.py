"""Cores and GPU are found out on any system, and CUDA is not initialised for it."""

import ctypes
import os
from pathlib import Path

import pytest
import torch

from lmcbench import doctor, machine


def test_cores_are_those_the_process_is_bound_to_or_all(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert machine.usable_cores() == 3
    # macOS has no sched_getaffinity
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.usable_cores() == 6
    assert doctor.examine()["device"]["cpu_cores"] == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_cores() == 1


def test_torch_is_asked_where_a_driver_is_installed_and_only_there(monkeypatch):
    monkeypatch.delenv(machine.ASK_NVML, raising=False)
    asked = []

    def available():
        asked.append(os.environ.get(machine.ASK_NVML))
        return len(asked) == 1

    monkeypatch.setattr(torch.cuda, "is_available", available)
    monkeypatch.setattr(machine, "_can_load", lambda library: False)
    assert (machine.has_cuda(), asked) == (False, [])
    monkeypatch.setattr(machine, "_can_load", lambda library: library == machine.NVML)
    assert (machine.has_cuda(), asked) == (True, ["1"])
    assert (machine.has_cuda(), asked) == (False, ["1", "1"])  # a torch for CPUs beside a driver
    assert machine.ASK_NVML not in os.environ
    monkeypatch.setenv(machine.ASK_NVML, "0")
    machine.has_cuda()
    assert os.environ[machine.ASK_NVML] == "0"


def test_a_library_that_is_not_there_is_none():
    assert not machine._can_load("libno-such-library.so.9")


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library is not glibc 2.33")
def test_what_was_freed_and_kept_goes_back_to_the_system():
    # too small for the C library to map each by itself, and one stays in the way of the heap's end
    held = [bytearray(60_000) for _ in range(3000)]
    last = held[-1]
    full = resident()
    del held
    assert machine.release_memory()
    assert full - resident() > 150e6
    assert len(last) == 60_000


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert machine.release_memory() is False
