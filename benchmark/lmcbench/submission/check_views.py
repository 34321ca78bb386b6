"""Check the siblings' views: their sizes and domains, and the images of training curves and calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lmcbench.results.record import Record
from lmcbench.spec.cells import Cell
from lmcbench.spec.datasets import Pins
from lmcbench.spec.domain_rules import DOMAIN_SHIFTS, DOMAINS, MIXED
from lmcbench.spec.domains import parse_groups
from lmcbench.spec.evaluation_shifts import DOMAIN, EVALUATION, is_domain
from lmcbench.spec.recipe import noise_scale
from lmcbench.spec.shifts import ALIASES, split_control
from lmcbench.submission.check_protocol import Problems
from lmcbench.submission.predictions_file import count_images

PARTITIONS = ("disjoint-halves", "label-skew", "dirichlet")
"""Training shifts whose views divide the training set."""

LEAST = 10
"""Least images of each view among the training items of curves (`running/splits.py`, which needs torch)."""


def check_noise(record: Record, cell: Cell, pins: Pins) -> Problems:
    """Recompute the noise scales from the recipe and the sizes of the views."""
    if record.noise is None or record.status != "ok":
        return
    views, recipe = record.noise["views"], cell.recipe
    n = count_images(record, "train")
    if len(views) != cell.suite.siblings or not all(isinstance(v, int) and 1 <= v <= n for v in views):
        yield "noise.views", f"found {views}, must be {cell.suite.siblings} numbers of images up to {n}"
        return
    if min(views) < recipe.batch_size:
        yield "noise.views", f"found {views}, a view has at least one batch of {recipe.batch_size}"
        return
    damping = 1 - recipe.momentum if recipe.optimizer == "sgd" else 1.0
    scales = [noise_scale(recipe.lr, view, recipe.batch_size) for view in views]
    for key, expected in (("g", scales), ("g_momentum", [g / damping for g in scales])):
        found = record.noise.get(key)
        if not all_close(found, expected):
            yield f"noise.{key}", f"found {found}, the recipe gives {expected} on views of {views} images"
    yield from _check_sizes(views, n, cell)


def _check_sizes(views: list[int], n: int, cell: Cell) -> Problems:
    """Compare the sizes of views with each other and with the training set, as the kind of shift has them."""
    name = ALIASES.get(cell.shift.name, cell.shift.name)
    if name in DOMAIN_SHIFTS or cell.shift.source is not None:
        return  # sizes follow from the domains (`check_domains`), or from a user's file
    if name in PARTITIONS and sum(views) != n:
        yield "noise.views", f"found {views}, they divide {n} images"
    elif cell.shift.has_one_view and len(set(views)) > 1:
        yield "noise.views", f"found {views}, all siblings of a control have one view"
    elif name not in PARTITIONS and not cell.shift.has_one_view and views[0] != n:
        yield "noise.views", f"found {views}, sibling 0 sees all {n} images"
    if name not in (*PARTITIONS, "subset") and len(set(views)) > 1:
        yield "noise.views", f"found {views}, all siblings have as many images"


def check_images(record: Record, cell: Cell, pins: Pins) -> Problems:
    """Compare the numbers of images of training curves and calibration with the sizes of the views."""
    views = (record.noise or {}).get("views")
    if record.status != "ok" or views is None:
        return
    name = ALIASES.get(cell.shift.name, cell.shift.name)
    least, most = max(views), sum(views)  # of the items that siblings see
    if name in (*PARTITIONS, *DOMAIN_SHIFTS):
        least = most
    elif name in ("none", "subset") or cell.shift.has_one_view:
        most = least
    protocol = cell.suite.protocol
    found = (record.protocol.get("calibration") or {}).get("n")
    # the same image through two transforms is calibrated on once
    low, high = min(protocol.calibration, max(views)), min(protocol.calibration, most)
    if not isinstance(found, int) or not low <= found <= high:
        yield "protocol.calibration.n", f"found {found}, must be {_between(low, high)}"
    asked = protocol.train_eval
    if asked is not None:
        more = asked + LEAST * len(views) if asked < most else most
        least, most = min(asked, least), min(more, most)
        part = record.protocol.get("train_eval")
        found = part.get("n") if isinstance(part, dict) else None
        if not isinstance(found, int) or not least <= found <= most:
            yield "protocol.train_eval.n", f"found {found}, must be {_between(least, most)}"
            return
        least = most = found
    elif record.protocol.get("train_eval") is not None:
        yield "protocol.train_eval", "must be missing: the suite measures curves on all training items"
    parts: dict[int, int] = {}
    for p, pair in enumerate(record.pairs):
        whole = pair.curves["train"].n
        if not least <= whole <= most:
            yield f"pairs.{p}.curves.train.n", f"found {whole}, must be {_between(least, most)}"
        for split, sibling in (("train_a", pair.i), ("train_b", pair.j)):
            if split not in pair.curves:
                continue
            n = pair.curves[split].n
            low, high = min(LEAST, views[sibling]), min(whole, views[sibling])
            if asked is None:
                low = high = views[sibling]
            elif name == "none" or cell.shift.has_one_view:
                low = high = whole
            n_before = parts.setdefault(sibling, n)
            if not low <= n <= high or n != n_before:
                yield f"pairs.{p}.curves.{split}.n", f"found {n}, must be {_between(low, high)} in all pairs"
    if len(parts) == cell.networks > 1:
        whole, total = record.pairs[0].curves["train"].n, sum(parts.values())
        if total < whole or (name in (*PARTITIONS, *DOMAIN_SHIFTS) and total != whole):
            message = f"found {list(parts.values())} images of the views, which must add up to {whole}"
            yield "pairs.0.curves.train_a.n", message


def _between(low: int, high: int) -> str:
    return str(low) if low == high else f"between {low} and {high}"


def all_close(found: object, expected: list[float]) -> bool:
    """Return whether numbers are equal up to rounding."""
    return (
        isinstance(found, list)
        and len(found) == len(expected)
        and bool(np.allclose(np.asarray(found, dtype=np.float64), expected, rtol=1e-9, atol=1e-12))
    )


# --- domains -------------------------------------------------------------------------------------

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
    yield from _check_view_domains(record, cell, train, views)


def _most(cell: Cell) -> int:
    """Return how often a network may see one image: a single one sees the views of all siblings."""
    return 1 if cell.networks > 1 else cell.suite.siblings


def _check_view_domains(record: Record, cell: Cell, train: Counts, views: list[dict[str, Any]]) -> Problems:
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
