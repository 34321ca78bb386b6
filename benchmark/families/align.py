"""Align a small member of each of timm's module families, and add a table to `benchmark/families.md`.

python benchmark/families/align.py                    families without a result, small networks first
python benchmark/families/align.py --family vgg       only these; the other results are kept
python benchmark/families/align.py --again            all families
python benchmark/families/align.py --permute          only permute; a run without it matches these later
python benchmark/families/align.py --render           only the table, from the stored results

Weights are drawn at random. Three questions are asked: is the function kept when all units are permuted at
random (largest difference of logits over the largest logit; in double precision as well if single precision
gives more than 1e-4), is the permuted copy recovered bit for bit, and do two independent draws come nearer to
each other.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import timm
import torch
from run import FOUND, TABLE
from table import TOLERANCE, render
from torch import Tensor, nn

from lmcbench.connect.function_check import logit_difference
from lmcbench.connect.permutation_spec import trace_permutations
from lmcbench.connect.unit_groups import permute_state
from lmcbench.connect.weight_matching import match_weights
from lmcbench.errors import UserError
from lmcbench.results.provenance import versions
from lmcbench.train.adapt import small_stem

ALIGNED = Path(__file__).with_name("align.json")

LARGE = 150_000_000
"""Weights from which units are not matched, only permuted."""


def main() -> None:
    """Parse the options, align, and write the results after every family."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", nargs="+", choices=timm.list_modules(), metavar="NAME", help="these only")
    parser.add_argument("--again", action="store_true", help="also families that have a result")
    parser.add_argument("--permute", action="store_true", help="do not match: quicker")
    parser.add_argument("--render", action="store_true", help="only write the table")
    parser.add_argument("--limit", type=int, default=120, help="processor seconds for a family (120)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ready = json.loads(FOUND.read_text(encoding="utf-8"))
    aligned: dict[str, Any] = {"families": {}}
    if ALIGNED.exists():
        aligned = json.loads(ALIGNED.read_text(encoding="utf-8"))
    members = {name: a for name, a in ready["families"].items() if a["status"] == "ready"}
    names = options.family or sorted(members, key=lambda name: members[name]["weights"])
    if not options.family and not options.again:
        done = aligned["families"]
        names = [
            n for n in names if n not in done or (not options.permute and is_unmatched(done[n], members[n]))
        ]
    for name in [] if options.render else names:
        answer = limited(members[name], options.limit, options.permute)
        aligned["families"][name] = answer
        print(name, answer, flush=True)
        write(ready, aligned)
    write(ready, aligned)


def write(ready: dict[str, Any], aligned: dict[str, Any]) -> None:
    """Write results and table."""
    aligned |= {"versions": versions(), "families": dict(sorted(aligned["families"].items()))}
    ALIGNED.write_text(json.dumps(aligned, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    TABLE.write_text(render(ready, aligned), encoding="utf-8")


def is_unmatched(answer: dict[str, Any], member: dict[str, Any]) -> bool:
    """Return whether a network was permuted and is small enough to be matched, which was left out."""
    return answer["reason"] is None and answer["recovered"] is None and member["weights"] <= LARGE


def limited(member: dict[str, Any], limit: int, permute: bool) -> dict[str, Any]:
    """Return the results of one network, from a process of limited processor time."""
    receiver, sender = get_context("fork").Pipe(duplex=False)
    process = get_context("fork").Process(target=examine, args=(member, limit, permute, sender), daemon=True)
    process.start()
    sender.close()
    answer: dict[str, Any] = {"reason": f"not finished in {limit} s of processor time"}
    try:
        while True:
            answer = receiver.recv()
    except EOFError:
        process.join()
    return answer


def examine(member: dict[str, Any], limit: int, permute: bool, sender: Connection) -> None:
    """Send the results of one network. After an error, send those obtained so far."""
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 10))
    model, side = build(member), member["side"]
    state = drawn(model, 0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, side, side, generator=generator)
    start = time.process_time()
    try:
        spec = trace_permutations(model, images)
    except UserError as error:
        sender.send({"reason": str(error)})
        return
    copy = permute_state(state, spec, spec.random(generator))
    difference = logit_difference(model, state, copy, images)
    double = None
    if not difference <= TOLERANCE:
        double = logit_difference(model, state, copy, images, torch.float64)
    answer: dict[str, Any] = {
        "network": member["built"],
        "groups": len(spec.free),
        "units": sum(group.size for group in spec.groups),
        "fixed": spec.fixed,
        "fixed_share": spec.fixed_share,
        "difference": difference,
        "difference_double": double,
        "trace_s": round(time.process_time() - start, 2),
        "recovered": None,
        "nearer": None,
        "reason": None,
    }
    sender.send(answer)
    if permute or sum(p.numel() for p in model.parameters()) > LARGE:
        return
    found = permute_state(copy, spec, match_weights(spec, state, copy))
    answer["recovered"] = all(torch.equal(found[name], value) for name, value in state.items())
    sender.send(answer)
    other = drawn(model, 1)
    moved = permute_state(other, spec, match_weights(spec, state, other))
    answer["nearer"] = [distance(state, other), distance(state, moved)]
    sender.send(answer)


def build(member: dict[str, Any]) -> nn.Module:
    """Build a family's network at the size at which it is ready."""
    name, side = member["network"], member["side"]
    try:
        model = timm.create_model(name, num_classes=10, img_size=side)
    except Exception:  # most convolutional networks do not take a size
        model = timm.create_model(name, num_classes=10)
    if member["built"].endswith("+small-stem"):
        small_stem(model)
    return model.eval()


def drawn(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return a random state in which no unit is like another."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in model.state_dict().items():
        if not value.is_floating_point() or value.ndim == 0:
            state[name] = value
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            state[name] = (noise.abs() + 0.5).to(value)
        elif value.ndim == 1:
            state[name] = (value + 0.3 * noise).to(value)
        else:
            state[name] = (noise * value[0].numel() ** -0.5).to(value)
    return state


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the Euclidean distance of all floating tensors."""
    return math.sqrt(
        sum(float((a - other[name]).square().sum()) for name, a in one.items() if a.is_floating_point())
    )


if __name__ == "__main__":
    main()
