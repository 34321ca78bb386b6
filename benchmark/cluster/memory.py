"""Run a command; print its seconds and how much memory it takes from the machine, with all its processes.

python benchmark/cluster/memory.py lmcbench run SUITE --out RUN --on ray

The memory is how much less the machine has at the lowest point, so nothing else may run meanwhile (Linux).
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    """Watch the command until it ends."""
    before, start = available(), time.monotonic()
    lowest = before
    process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        lowest = min(lowest, available())
        time.sleep(0.05)
    print(f"{time.monotonic() - start:.1f} s, {before - lowest:.0f} MB, exit code {process.returncode}")


def available() -> float:
    """Return the memory that is available, in MB."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024 / 1e6


if __name__ == "__main__":
    main()
