"""Print what an executor costs, from the event files of finished runs.

    python benchmark/cluster/overheads.py RUN [RUN ...]

Of each run folder: seconds from the start of the driver to the first attempt that works, and per unit the
median seconds from its submission to its start, and from its start to its first training (with imports).
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from lmcbench.results.events import attempts, drivers
from lmcbench.results.run_folder import RunFolder


def main() -> None:
    """Print a table with one row a run."""
    print("| run | on | units | to the first start, s | per unit: queue, s | start to training, s |")
    print("|---|---|---|---|---|---|")
    for root in map(Path, sys.argv[1:]):
        folder = RunFolder(root)
        driver, logs = next(drivers(folder)), attempts(folder)
        starts = [log.started["time"] for log in logs if log.started]
        queued = [log.started["time"] - log.submitted["time"] for log in logs if log.started]
        trained = [
            next(e["time"] for e in log.events if e["event"] == "progress") - log.started["time"]
            for log in logs
            if log.started and any(e["event"] == "progress" for e in log.events)
        ]
        times = [min(starts) - driver.asked["time"], *map(statistics.median, (queued, trained))]
        row = [root.name, driver.asked["on"], len(logs), *(f"{seconds:.1f}" for seconds in times)]
        print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
