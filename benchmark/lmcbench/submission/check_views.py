"""Check numbers of images: of the siblings' views, of the training items that curves use, of calibration."""

from __future__ import annotations

import numpy as np

from lmcbench.results.record import Record
from lmcbench.spec.cells import Cell
from lmcbench.spec.datasets import Pins
from lmcbench.spec.domain_rules import DOMAIN_SHIFTS
from lmcbench.spec.recipe import noise_scale
from lmcbench.spec.shifts import ALIASES
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
    elif name.startswith("same(") and len(set(views)) > 1:
        yield "noise.views", f"found {views}, all siblings of a control have one view"
    elif name not in PARTITIONS and not name.startswith("same(") and views[0] != n:
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
    elif name in ("none", "subset") or name.startswith("same("):
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
            elif name == "none" or name.startswith("same("):
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
