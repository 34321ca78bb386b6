"""Checks of a record, made one by one into faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from lmcbench.errors import UserError
from lmcbench.leaderboard.entry import fork_of
from lmcbench.leaderboard.files import Fault
from lmcbench.leaderboard.predictions_file import count_images
from lmcbench.results.record import Record
from lmcbench.spec.cells import Cell
from lmcbench.spec.datasets import Pins, is_path
from lmcbench.spec.evaluation_shifts import EVALUATION, is_shifted, parse_shifted

Found = Iterator[tuple[str, str]]
"""Field and message of what is wrong."""


Check = Callable[[Record, Cell, Pins], Found]


def collect(checks: Sequence[Check], record: Record, file: str, cell: Cell, pins: Pins) -> list[Fault]:
    """The faults that some checks find in a record; one that its contents trip up is a fault too."""
    faults = []
    for check in checks:
        try:
            found = list(check(record, cell, pins))
        except UserError as error:
            found = [("data", str(error).rstrip("."))]
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            # extra keys of a record may hold anything
            found = [("", f"cannot be checked: {type(error).__name__}: {error}")]
        faults += [Fault(file=file, field=field, message=f"{message}.") for field, message in found]
    return faults


def check_data(record: Record, cell: Cell, pins: Pins) -> Found:
    """The suite's data, with the hashes and numbers of images that are pinned."""
    data = cell.suite.data
    expected = [
        ("train", data.name, pins.train, pins.train_n),
        ("test", data.name, pins.test, pins.test_n),
    ]
    for shift in filter(is_shifted, cell.suite.evaluations):
        pinned = data.shifted_sha256.get(shift)
        expected.append((f"{EVALUATION}{shift}", parse_shifted(shift).family, pinned, None))
    for split, name, pinned, n in expected:
        entries = [entry for entry in record.data if entry.get("split") == split]
        if len(entries) != 1 or not isinstance(entries[0].get("n"), int) or entries[0]["n"] < 1:
            yield "data", f"must have one entry of split {split!r} with its number of images"
            continue
        [entry] = entries
        # records name a user's own data by the last part of their path
        if entry.get("name") != name and not is_path(name):
            yield f"data.{split}.name", f"found {entry.get('name')!r}, the suite's is {name!r}"
        if n is not None and entry["n"] != n:
            yield f"data.{split}.n", f"found {entry['n']}, the suite's has {n}"
        if pinned is not None and entry.get("sha256") != pinned:
            yield (
                f"data.{split}.sha256",
                f"found {str(entry.get('sha256'))[:16]}, the suite's is {pinned[:16]}: other images",
            )


def check_fork(record: Record, cell: Cell, pins: Pins) -> Found:
    """The fork's epoch, step and share of training follow from suite and images."""
    expected = fork_of(cell, count_images(record, "train"))
    if record.cost is None:
        expected = {"epoch": expected["epoch"]}
    for key, value in expected.items():
        if getattr(record.fork, key) != value:
            yield f"fork.{key}", f"found {getattr(record.fork, key)}, must be {value}"


def check_status(record: Record, cell: Cell, pins: Pins) -> Found:
    """A cell that is ok has everything; one that diverged has a reason and nothing else."""
    if record.status == "failed":
        yield "status", f"a failed cell is no result ({record.reason}); run it again"
    if record.status == "ok":
        if record.reason is not None:
            yield "reason", "must be null for a cell that is ok"
        if len(record.siblings) != cell.networks:
            yield "siblings", f"found {len(record.siblings)}, the cell has {cell.networks}"
        pairs = [(pair.i, pair.j) for pair in record.pairs]
        if pairs != list(combinations(range(cell.networks), 2)):
            yield "pairs", f"found {pairs}, must be all of {cell.networks} siblings"
        if (record.ensemble is None or record.soup is None) and cell.networks > 1:
            yield "ensemble" if record.ensemble is None else "soup", "must not be null for a cell that is ok"
        if not isinstance(record.protocol.get("calibration"), dict):
            yield "protocol.calibration", "is missing"
        else:
            yield from _calibration(record.protocol["calibration"], cell)
        return
    if not record.reason:
        yield "reason", f"must say why the cell is {record.status}"
    for field in ("siblings", "pairs"):
        if getattr(record, field):
            yield field, f"must be empty for a cell that is {record.status}"
    for field in ("ensemble", "soup"):
        if getattr(record, field) is not None:
            yield field, f"must be null for a cell that is {record.status}"


def _calibration(found: Mapping[str, Any], cell: Cell) -> Found:
    protocol = cell.suite.protocol
    if not 1 <= found["n"] <= protocol.calibration:
        yield "protocol.calibration.n", f"found {found['n']}, the suite asks for {protocol.calibration}"
    if found.get("batches") != protocol.calibration_batches:
        yield (
            "protocol.calibration.batches",
            f"found {found.get('batches')}, the suite asks for {protocol.calibration_batches}",
        )


def train_steps(cell: Cell, n: int) -> int:
    """Optimizer steps of all networks of a cell on `n` training images, a shared trunk counted once."""
    fork_step = cell.fork.step(cell.recipe.steps_per_epoch(n))
    return fork_step + cell.networks * (cell.length(n) - fork_step)


def check_cost(record: Record, cell: Cell, pins: Pins) -> Found:
    """Steps follow from the recipe, FLOPs have a floor, and nothing is negative."""
    cost = record.cost
    if cost is None:
        if record.status == "ok":
            yield "cost", "must not be null for a cell that is ok"
        return
    steps = train_steps(cell, count_images(record, "train"))
    if cost.train_steps != steps:
        yield "cost.train_steps", f"found {cost.train_steps:,}, the suite's recipe takes {steps:,}"
    floor = _flop_floor(record, cell) * steps
    if cost.train_flop < floor or cost.train_flop <= 0:
        yield "cost.train_flop", f"found {cost.train_flop:.4g}, the arithmetic's floor is {floor:.4g}"
    if cost.train_steps > 0 and cost.train_flop < 2**53 and cost.train_flop % cost.train_steps:
        yield "cost.train_flop", f"found {cost.train_flop!r}, not a whole number for each of the steps"
    for field in ("train_s", "eval_s", "peak_bytes"):
        if getattr(cost, field) < 0:
            yield f"cost.{field}", f"found {getattr(cost, field)}, must not be negative"
    if record.architecture.params is None or record.architecture.params < 1:
        yield "architecture.params", f"found {record.architecture.params}, must be at least 1"


def _flop_floor(record: Record, cell: Cell) -> float:
    """The least floating point operations of one step of one network.

    A weight of a matrix product or convolution takes a multiplication and an addition for each image
    forward, and again for its gradient: 4 B. Half of that allows for the weights that enter no product
    (biases, normalisation, positions). A user's factory may share or skip weights, so it has no floor.
    """
    if cell.architecture.source in ("lmcbench", "timm"):
        return 2.0 * cell.recipe.batch_size * (record.architecture.params or 0)
    return 0.0
