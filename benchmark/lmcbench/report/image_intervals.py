"""The instability area of a run with an interval over replicates and test images, from stored logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from lmcbench.errors import UserError
from lmcbench.results.cell_values import SPLIT, architecture_label, shift_label
from lmcbench.results.curves import Array
from lmcbench.results.logits import cross_entropy
from lmcbench.results.record import Record
from lmcbench.results.run_folder import labels_name, midpoint_name
from lmcbench.spec.canonical import digest_bytes
from lmcbench.spec.forks import INDEPENDENT
from lmcbench.stats.estimates import Estimate, estimate_over_images
from lmcbench.stats.instability_area import LAST_SHARE, areas_of_draws, fork_share, headline_records
from lmcbench.untrusted import read_bytes

PREDICTION_BYTES = 2**30
"""Largest file of one cell's predictions that is read."""

Network = tuple[str, str]
"""Labels of architecture and recipe."""

Excess = dict[float | str, dict[int, Array]]
"""Share of training at the fork, or `independent` -> replicate -> D of every test image, nats, `[n]`."""


def areas_over_images(records: Iterable[Record], folder: Path) -> dict[Network, Estimate]:
    """Return the instability area of every network with complete logits in a run folder.

    The mean differs from that of records by the rounding of the stored fp16 logits.

    Args:
        records: of one suite.
        folder: the run folder; predictions that are missing or damaged leave their network out.

    Returns:
        By architecture and recipe; without networks whose area is undefined in some replicate.
    """
    wanted: dict[Network, dict[str, Excess]] = {}
    incomplete: set[Network] = set()
    for record in headline_records(list(records)):
        network = (architecture_label(record), record.recipe["name"])
        share = fork_share(record)
        values = _excess(record, folder) if record.status == "ok" and network not in incomplete else None
        if values is None:
            incomplete.add(network)
            continue
        place = wanted.setdefault(network, {}).setdefault(shift_label(record), {})
        place.setdefault(INDEPENDENT if share is None else share, {})[record.replicate] = values
    found = {}
    for network, shifts in sorted(wanted.items()):
        if network not in incomplete and (statistic := _statistic(shifts)) is not None:
            images = len(next(iter(next(iter(next(iter(shifts.values())).values())).values())))
            seed = int(digest_bytes("/".join(network).encode())[:8], 16)
            area = estimate_over_images(statistic, images, np.random.default_rng(seed))
            if area.mean is not None:
                found[network] = area
    return found


def _excess(record: Record, folder: Path) -> Array | None:
    """Return D of every test image, averaged over pairs, `[n]`; None without logits."""
    # imported here: tables of records need no safetensors
    from safetensors import SafetensorError
    from safetensors.numpy import load

    file = (record.evidence or {}).get("predictions")
    if not file:
        return None
    try:
        tensors = load(read_bytes(folder / file["path"], limit=PREDICTION_BYTES, within=folder))
        labels = tensors[labels_name(SPLIT)].astype(np.int64)
        ends = cross_entropy(tensors[SPLIT], labels)
        pairs = [
            cross_entropy(tensors[midpoint_name(SPLIT, p.i, p.j)], labels) - (ends[p.i] + ends[p.j]) / 2
            for p in record.pairs
        ]
    except (UserError, SafetensorError, LookupError, ValueError):
        return None
    return np.asarray(np.mean(pairs, axis=0))


def _statistic(shifts: Mapping[str, Excess]) -> Callable[[Array], Array] | None:
    """Return the area as a function of image weights; None unless all replicates have all forks."""
    stacks = []
    replicates = {r for excess in shifts.values() for values in excess.values() for r in values}
    for excess in shifts.values():
        shares = sorted(key for key in excess if not isinstance(key, str))
        whole = all(values.keys() == replicates for values in excess.values())
        if not whole or INDEPENDENT not in excess or not {0.0, LAST_SHARE} <= set(shares):
            return None
        order: list[float | str] = [*shares, INDEPENDENT]
        stacks.append((shares, np.array([[excess[key][r] for r in sorted(replicates)] for key in order])))

    def areas(weights: Array) -> Array:
        found = [areas_of_draws(shares, stack @ weights.T) for shares, stack in stacks]
        return np.asarray(np.mean(found, axis=0).T)

    return areas
