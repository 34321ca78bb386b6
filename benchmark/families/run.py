"""Run `lmcbench check` on a small member of each of timm's module families, and write a table.

python benchmark/families/run.py                    all families, most of an hour on two cores
python benchmark/families/run.py --family vgg       only these; the other results are kept
python benchmark/families/run.py --render           only the table, from the stored results
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import resource
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import timm
import torch
from table import render

from lmcbench.check.check import Readiness, Target, run_checks
from lmcbench.check.trial import Size
from lmcbench.results.provenance import versions
from lmcbench.spec.architectures import Architecture

SIDES = (32, 64, 224, 240, 256)
"""Pixels a side, tried in this order until a member is ready."""

MEMBERS = 2
"""Members of a family that are tried, smallest first."""

HEAVIEST = 150_000_000
"""Weights of the largest network that is tried."""

HERE = Path(__file__).parent
FOUND = HERE / "results.json"
TABLE = HERE.parent / "families.md"


def main() -> None:
    """Parse the options, check, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", nargs="+", choices=timm.list_modules(), metavar="NAME", help="these only")
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each (2)")
    parser.add_argument("--limit", type=int, default=240, help="processor seconds for a family (240)")
    parser.add_argument("--render", action="store_true", help="only write the table")
    options = parser.parse_args()
    found: dict[str, Any] = json.loads(FOUND.read_text()) if FOUND.exists() else {"families": {}}
    if not options.render:
        torch.set_num_threads(1)
        names = options.family or timm.list_modules()
        for name, answer in examine_all(names, options.jobs, options.limit):
            found["families"][name] = answer
            print(f"{name}: {answer['status']} {answer['reason'] or ''}", flush=True)
            found["families"] = dict(sorted(found["families"].items()))
            found["environment"] = {
                "versions": versions(),
                "device": f"CPU, one thread a network, at most {options.limit} s of processor time a family",
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            }
            write(found)
    write(found)
    print(f"Wrote {TABLE}.")


def write(found: dict[str, Any]) -> None:
    """Write the results, the families that are missing, and the table."""
    found["untried"] = [name for name in timm.list_modules() if name not in found["families"]]
    FOUND.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    aligned = json.loads((HERE / "align.json").read_text(encoding="utf-8"))
    TABLE.write_text(render(found, aligned), encoding="utf-8")


def examine_all(names: Sequence[str], jobs: int, limit: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the result of each family as it is ready; each has a process with limited processor time."""
    context = multiprocessing.get_context("fork")
    waiting = list(names)
    working: dict[str, tuple[Any, Connection]] = {}
    last: dict[str, dict[str, Any]] = {}
    while waiting or working:
        while waiting and len(working) < jobs:
            name = waiting.pop(0)
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=examine, args=(name, limit, sender), daemon=True)
            process.start()
            sender.close()
            working[name] = process, receiver
        for receiver in wait([receiver for _, receiver in working.values()]):
            name = next(n for n, (_, r) in working.items() if r is receiver)
            try:
                last[name] = receiver.recv()
                continue
            except EOFError:
                process = working.pop(name)[0]
                process.join()
            answer = last[name]
            if answer["status"] == "unfinished":
                late = process.exitcode == -signal.SIGXCPU
                why = f"not finished in {limit} s" if late else f"the process ended with {process.exitcode}"
                answer |= {"status": "not ready", "reason": f"{why}, at {answer['reason']}"}
            yield name, answer


def examine(family: str, limit: int, sender: Connection) -> None:
    """Try sizes and members until one is ready; send intermediate results in case the process is killed."""
    # processor time, so that the result does not depend on the load of the machine
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 10))
    answer: dict[str, Any] = {"status": "unfinished", "reason": "counting weights"}
    sender.send(answer)
    members = sorted((weights(name), name) for name in timm.list_models(module=family))
    answer |= {"members": len(members), "weights": members[0][0], "network": members[0][1]}
    if members[0][0] > HEAVIEST:
        reason = (
            f"its smallest member has {members[0][0] / 1e6:.0f} million weights, more than are tried here"
        )
        sender.send(answer | {"status": "not ready", "reason": reason})
        return
    refusals: dict[str, str] = {}
    for side in SIDES:
        for count, name in members[:MEMBERS]:
            readiness = Readiness(Architecture(name=name, recipe="none"), Target(Size((3, side, side), 10)))
            answer |= {"network": name, "weights": count, "side": side, "built": None}
            for finding in run_checks(readiness, thorough=False):
                sender.send(answer | {"reason": f"check '{finding.check}' of {name} at {side} x {side}"})
            built = readiness.built
            answer |= {
                "built": None if built is None else built.label,
                "checks": {f.check: f.status for f in readiness.results},
            }
            if readiness.is_ready:
                data = {f.check: f.data for f in readiness.results}
                answer |= {
                    "optimizers": data["learns"]["optimizers"],
                    "stacked": data["engines"]["stacked"],
                    "train_flop_per_image": data["cost"]["train_flop_per_image"],
                }
                sender.send(answer | {"status": "ready", "reason": None})
                return
            failed = next(f for f in readiness.results if f.status == "failed")
            refusals[f"{name} at {side} x {side}"] = f"{failed.check}: {failed.found}"
    # prefer a failure after the network was built, then the largest size
    last = max(enumerate(refusals.items()), key=lambda item: (not item[1][1].startswith("builds"), item[0]))[
        1
    ]
    reason = f"{last[0]}: {last[1]}"
    sender.send(answer | {"status": "not ready", "reason": reason, "refusals": refusals})


def weights(name: str) -> int:
    """Count the weights of a network without allocating them."""
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name, num_classes=10).parameters())


if __name__ == "__main__":
    main()
