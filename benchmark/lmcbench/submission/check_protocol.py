"""Check that a record is a cell of its suite: identity, seeds, data, fork, status, splits and cost."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lmcbench.leaderboard.files import Fault
from lmcbench.results.record import Record
from lmcbench.results.run_folder import RunFolder
from lmcbench.spec.cells import Cell
from lmcbench.spec.datasets import Pins, is_path
from lmcbench.spec.evaluation_shifts import EVALUATION, has_own_images, is_domain, parse_shifted
from lmcbench.spec.learning import count_entropy, did_not_learn
from lmcbench.spec.recipe import Recipe
from lmcbench.spec.seeds import Seeds
from lmcbench.submission.entry import Entry
from lmcbench.submission.predictions_file import count_images

Problems = Iterator[tuple[str, str]]
"""Field and message of each fault."""

VIEWS = {
    "train_a": ("view", None),
    "train_b": (None, "view"),
    "test_a": (None, None),
    "test_b": (None, None),
}
"""Splits through one sibling's view, and the siblings' splits that their curves end at, if any."""


def find_cell(record: Record, file: str, entry: Entry) -> tuple[Cell | None, list[Fault]]:
    """Return the cell that a record is of, None if the suite has no such cell, and contradictions to it."""
    suite = entry.suite
    named = record.shift.model_dump(include={"name", "params", "noise", "fingerprint"})
    shift = next((s.shift for s in suite.shifts if s.shift.identity() == named), None)
    fork = next((f for f in suite.fork_list if f.name == record.fork.name), None)
    problems = list(_identity(record, entry))
    cell = None
    if shift is None:
        known = ", ".join(spec.shift.label for spec in suite.shifts)
        problems.append(("shift", f"found {_shown(record.shift.model_dump())}, the suite has {known}"))
    if fork is None:
        known = ", ".join(f.name for f in suite.fork_list)
        problems.append(("fork.name", f"found {record.fork.name!r}, the suite has {known}"))
    if shift is not None and fork is not None:
        under = [s.label for s, f in suite.conditions if f == fork]
        if shift.label in under:
            cell = Cell(suite, entry.architecture, shift, fork, record.replicate)
            problems += _differs("key", record.key, entry.key(cell))
            problems += _differs("protocol.alphas", record.protocol.get("alphas"), suite.protocol.grid)
        else:
            has = f"found {fork.name!r} under {shift.label}, the suite has it under {', '.join(under)}"
            problems.append(("fork.name", has))
    return cell, [Fault(file, field, f"{message}.") for field, message in problems]


def _identity(record: Record, entry: Entry) -> Problems:
    """Compare suite, architecture, recipe and seeds."""
    suite, name = entry.suite, entry.architecture.recipe
    found = record.suite.model_dump(include={"name", "version", "digest"})
    yield from _differs("suite", found, suite.identity())
    network = record.architecture.model_dump(include={"name", "kwargs", "adapt", "fingerprint"})
    yield from _differs("architecture", network, {"adapt": None, **entry.identity})
    yield from _differs("architecture.source", record.architecture.source, entry.architecture.source)
    yield from _differs("recipe.name", record.recipe["name"], name)
    try:
        recipe = Recipe.model_validate({key: v for key, v in record.recipe.items() if key != "name"})
        for key, value in suite.recipes[name]:
            yield from _differs(f"recipe.{key}", getattr(recipe, key), value)
    except ValidationError as error:
        for wrong in error.errors(include_url=False):
            yield ".".join(map(str, ("recipe", *wrong["loc"]))), wrong["msg"]
    seeds = Seeds.of(suite.name, suite.version, record.replicate, suite.siblings)._asdict()
    for role, expected in seeds.items():
        if record.seeds.get(role) != (list(expected) if isinstance(expected, tuple) else expected):
            yield f"seeds.{role}", f"not as derived from the suite and replicate {record.replicate}"


def _differs(field: str, found: object, expected: object) -> Problems:
    if found != expected:
        yield field, f"found {_shown(found)}, must be {_shown(expected)}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


def check_data(record: Record, cell: Cell, pins: Pins) -> Problems:
    """Compare the data with the suite's, and with the hashes and numbers of images that are pinned."""
    data = cell.suite.data
    expected = [
        ("train", data.name, pins.train, pins.train_n),
        ("test", data.name, pins.test, pins.test_n),
    ]
    for shift in filter(has_own_images, cell.suite.evaluations):
        pinned = data.shifted_sha256.get(shift)
        family = data.name if is_domain(shift) else parse_shifted(shift).family
        expected.append((f"{EVALUATION}{shift}", family, pinned, None))
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
            found = str(entry.get("sha256"))[:16]
            yield f"data.{split}.sha256", f"found {found}, the suite's is {pinned[:16]}: other images"


def check_fork(record: Record, cell: Cell, pins: Pins) -> Problems:
    """Compare the fork's epoch, step and share of training with those that follow from the suite."""
    expected: dict[str, Any] = {"epoch": cell.fork.epoch}
    if record.cost is not None:
        n = count_images(record, "train")
        step = cell.fork_step(n) if cell.fork.has_trunk else None
        expected |= {"step": step, "fraction": None if step is None else step / cell.length(n)}
        rate = None if step is None else cell.recipe.lr_at(step, cell.length(n))
        found = record.fork.learning_rate
        # the cosine's last bit depends on the machine
        if found is None or rate is None or not math.isclose(found, rate, rel_tol=1e-9, abs_tol=1e-15):
            yield from _differs("fork.learning_rate", found, rate)
    for key, value in expected.items():
        yield from _differs(f"fork.{key}", getattr(record.fork, key), value)
    accuracy = record.fork.trunk_accuracy
    if (accuracy is not None) != (cell.fork.has_trunk and record.status == "ok"):
        yield "fork.trunk_accuracy", f"found {accuracy} in a cell {record.status} of fork {cell.fork.name}"
    if accuracy is not None:
        n = count_images(record, "test")
        if abs(accuracy * n - round(accuracy * n)) > 1e-6 * n:
            yield "fork.trunk_accuracy", f"found {accuracy}, no whole number of {n} images"


def check_training(record: Record, cell: Cell, pins: Pins) -> Problems:
    """Check that the status follows from the final losses and labels of training, and these from the cell."""
    training = record.training
    if training is None:
        if record.status != "failed":
            yield "training", f"must not be null for a cell that is {record.status}"
        return
    losses, counts = training["losses"], training["label_counts"]
    if len(losses) != cell.networks:
        yield "training.losses", f"found {len(losses)}, the cell has {cell.networks} networks"
        return
    idle = [
        i
        for i, (loss, of_view) in enumerate(zip(losses, counts, strict=True))
        if loss is not None and did_not_learn(loss, count_entropy(of_view))
    ]
    if record.status == "ok" and (None in losses or idle):
        where = losses.index(None) if None in losses else idle[0]
        yield "status", f"found ok, but network {where} has a final loss of {losses[where]}: see training"
    if record.status == "did-not-learn" and (None in losses or not idle):
        yield "status", "found did-not-learn, but by its final losses and labels every network learned"
    for i, sibling in enumerate(record.siblings):
        yield from _differs(f"siblings.{i}.train_loss", sibling.train_loss, losses[i])
    n = count_images(record, "train")
    sizes = [sum(of_view) for of_view in counts]
    views = (record.noise or {}).get("views")
    if views is not None and len(sizes) == len(views) > 1 and sizes != views:
        yield "training.label_counts", f"found {sizes} images in all, the views have {views}"
    most = n if cell.networks > 1 else n * cell.suite.siblings
    if not all(1 <= size <= most for size in sizes):
        yield "training.label_counts", f"found {sizes} images, a view has 1 to {most}"
    if cell.shift.has_one_view and any(of_view != counts[0] for of_view in counts):
        yield "training.label_counts", "differ between siblings, which all see one view in a control"


def check_status(record: Record, cell: Cell, pins: Pins) -> Problems:
    """Check that a cell that is ok is complete, and that any other has a reason and no measurements."""
    if record.status != "ok":
        if record.status == "failed":
            yield "status", f"a failed cell is no result ({record.reason}); run it again"
        if not record.reason:
            yield "reason", f"must say why the cell is {record.status}"
        for field in ("siblings", "pairs", "ensemble", "corrected", "soup"):
            if getattr(record, field) not in (None, []):
                yield field, f"must be empty for a cell that is {record.status}"
        return
    if record.reason is not None:
        yield "reason", "must be null for a cell that is ok"
    if len(record.siblings) != cell.networks:
        yield "siblings", f"found {len(record.siblings)}, the cell has {cell.networks}"
    pairs = [(pair.i, pair.j) for pair in record.pairs]
    if pairs != list(combinations(range(cell.networks), 2)):
        yield "pairs", f"found {pairs}, must be all of {cell.networks} siblings"
    for field in ("ensemble", "corrected", "soup"):
        if getattr(record, field) is None and cell.networks > 1:
            yield field, "must not be null for a cell that is ok"
    calibration, protocol = record.protocol.get("calibration"), cell.suite.protocol
    if not isinstance(calibration, dict):
        yield "protocol.calibration", "is missing"
        return
    if not 1 <= calibration["n"] <= protocol.calibration:
        found = calibration["n"]
        yield "protocol.calibration.n", f"found {found}, the suite asks for {protocol.calibration}"
    if calibration.get("batches") != protocol.calibration_batches:
        found = calibration.get("batches")
        yield (
            "protocol.calibration.batches",
            f"found {found}, the suite asks for {protocol.calibration_batches}",
        )


def check_splits(record: Record, cell: Cell, pins: Pins) -> Problems:
    """Check that everything is measured on the suite's splits.

    A further split would enter the means over splits, and the rule of which logits are kept.
    """
    tests = {"test", *(f"{EVALUATION}{name}" for name in cell.suite.evaluations)}
    found: list[tuple[str, Collection[str], set[str]]] = []
    for s, sibling in enumerate(record.siblings):
        found.append((f"siblings.{s}.splits", sibling.splits, {"train", "view", *tests}))
        if sibling.recalibrated is not None:
            found.append((f"siblings.{s}.recalibrated", sibling.recalibrated, {"train", "view", *tests}))
    for p, pair in enumerate(record.pairs):
        views = set(VIEWS) & pair.curves.keys()
        found.append((f"pairs.{p}.curves", pair.curves, {"train", *tests, *views}))
        if pair.curves_uncalibrated is not None:
            wanted = {"train", "test", *(views & {"train_a", "train_b"})}
            # views that change no image
            alike = {split for split in ("test_a", "test_b") if split in pair.curves_uncalibrated}
            found.append((f"pairs.{p}.curves_uncalibrated", pair.curves_uncalibrated, wanted | alike))
        found.append((f"pairs.{p}.disagreement", pair.disagreement, tests))
    for field in ("ensemble", "corrected", "soup"):
        if (splits := getattr(record, field)) is not None:
            found.append((field, splits, tests))
    for field, splits, wanted in found:
        for split in sorted(wanted ^ set(splits)):
            yield field, f"split {split!r} is {'missing' if split in wanted else 'none of the suite'}"


def check_cost(record: Record, cell: Cell, pins: Pins) -> Problems:
    """Check that steps follow from the recipe and that FLOPs are not below a lower bound."""
    cost = record.cost
    if cost is None:
        if record.status == "ok":
            yield "cost", "must not be null for a cell that is ok"
        return
    n = count_images(record, "train")
    fork_step = cell.fork_step(n)
    steps = fork_step + cell.networks * (cell.length(n) - fork_step)
    if cost.train_steps != steps:
        yield "cost.train_steps", f"found {cost.train_steps:,}, the suite's recipe takes {steps:,}"
    # A weight of a matrix product or convolution takes a multiplication and an addition for each image
    # forward, and again for its gradient: 4 B. Half of that allows for weights that enter no product
    # (biases, normalisation, positions). A user's factory may share or skip weights, so it has no bound.
    shipped = cell.architecture.source in ("lmcbench", "timm")
    bound = 2.0 * cell.recipe.batch_size * (record.architecture.params or 0) * steps if shipped else 0.0
    if cost.train_flop < bound or cost.train_flop <= 0:
        yield "cost.train_flop", f"found {cost.train_flop:.4g}, the lower bound is {bound:.4g}"
    if cost.train_steps > 0 and cost.train_flop < 2**53 and cost.train_flop % cost.train_steps:
        yield "cost.train_flop", f"found {cost.train_flop!r}, not a whole number for each of the steps"
    if record.architecture.params is None or record.architecture.params < 1:
        yield "architecture.params", f"found {record.architecture.params}, must be at least 1"


def check_evidence(record: Record, cell: Cell, pins: Pins) -> Problems:
    """Check that files of the run are named as `lmcbench run` names them."""
    evidence = record.evidence or {}
    run = RunFolder(Path())
    if (predictions := evidence.get("predictions")) is not None:
        expected = run.predictions(record.key).as_posix()
        yield from _differs("evidence.predictions.path", predictions.get("path"), expected)
    for i, entry in enumerate(evidence.get("checkpoints") or []):
        expected = run.sibling(record.key, i).as_posix()
        yield from _differs(f"evidence.checkpoints.{i}.path", entry.get("path"), expected)
