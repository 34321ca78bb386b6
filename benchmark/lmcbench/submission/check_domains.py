"""Check the domains of a record: those of its data, and those of each sibling's view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmcbench.results.record import Record
from lmcbench.spec.cells import Cell
from lmcbench.spec.datasets import Pins
from lmcbench.spec.domain_rules import DOMAINS, MIXED
from lmcbench.spec.domains import parse_groups
from lmcbench.spec.evaluation_shifts import DOMAIN, EVALUATION, is_domain
from lmcbench.spec.shifts import split_control
from lmcbench.submission.check_protocol import Problems

Counts = Mapping[str, int]


def check_domains(record: Record, cell: Cell, pins: Pins) -> Problems:
    """Compare the domains of data and views with the suite's, and with each other."""
    spec = cell.suite.data
    found: dict[str, Any] = {entry["split"]: entry.get("domains") for entry in record.data}
    views = (record.training or {}).get("domain_counts")
    if spec.domain is None:
        if views is not None or any(domains is not None for domains in found.values()):
            yield "data", "has domains, which the suite's data set has not"
        return
    by_domain = [f"{EVALUATION}{name}" for name in cell.suite.evaluations if is_domain(name)]
    for split in ("train", "test", *by_domain):
        if not isinstance(found.get(split), dict):
            yield f"data.{split}.domains", "is missing: the suite's data set has domains"
            return
    train, test = found["train"], found["test"]
    for split, domains in (("train", train), ("test", test)):
        if held := sorted(set(spec.hold_out) & set(domains)):
            yield f"data.{split}.domains", f"has {', '.join(held)}, which the suite holds out"
    for split in by_domain:
        name = split.removeprefix(f"{EVALUATION}{DOMAIN}")
        if list(found[split]) != [name]:
            yield f"data.{split}.domains", f"found {', '.join(found[split])}, must be {name} alone"
        elif name not in spec.hold_out and found[split][name] != test.get(name):
            yield f"data.{split}.n", f"found {found[split][name]}, the test set has {test.get(name)} of it"
    if record.training is None:
        return
    if views is None:
        yield "training.domain_counts", "is missing: the suite's data set has domains"
        return
    for i, view in enumerate(views):
        more = [name for name, n in view.items() if n > train.get(name, 0) * _most(cell)]
        if more:
            yield f"training.domain_counts.{i}", f"has more images of {', '.join(more)} than the training set"
    yield from _check_views(record, cell, train, views)


def _most(cell: Cell) -> int:
    """Return how often a network may see one image: a single one sees the views of all siblings."""
    return 1 if cell.networks > 1 else cell.suite.siblings


def _check_views(record: Record, cell: Cell, train: Counts, views: list[dict[str, Any]]) -> Problems:
    """Compare the domains of the views with those that follow from the shift."""
    base, same = split_control(cell.shift.name)
    k, where = cell.suite.siblings, "training.domain_counts"
    if base not in (DOMAINS, MIXED) or len(views) != cell.networks or cell.networks == 1:
        return
    groups = parse_groups(base, str(cell.shift.params["groups"]), train, k)
    parts = [{name: train[name] for name in train if name in group} for group in groups]
    if same:
        parts = [parts[cell.replicate % k]] * k
    sizes = [sum(part.values()) for part in parts]
    if base == DOMAINS and views != parts:
        yield where, f"found {views}, the siblings of {cell.shift.label} see {parts}"
    if base == MIXED:
        named = sorted(name for group in groups for name in group)
        if [sum(view.values()) for view in views] != sizes or any(sorted(view) != named for view in views):
            yield where, f"found {views}, the parts have {sizes} images of all of {', '.join(named)}"
    seen = (record.noise or {}).get("views")
    if seen is not None and seen != sizes:
        yield "noise.views", f"found {seen}, the domains have {sizes}"
