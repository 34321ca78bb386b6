"""Check whether an architecture is ready for the images of a suite, and print the table of checks."""

from __future__ import annotations

import contextlib
import shlex
import sys
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from lmcbench.check.checks import CHECKS, NotReadyError
from lmcbench.check.trial import UNADAPTED, Fit, Size, Trial, find_fit
from lmcbench.data.decode import Resize
from lmcbench.data.open_dataset import open_dataset
from lmcbench.data.sources import SOURCES
from lmcbench.errors import UserError, describe
from lmcbench.spec.architectures import Architecture, architecture_label, imports_beside
from lmcbench.spec.suite import Suite
from lmcbench.spec.suite_files import command_name, load_suite, published_suites
from lmcbench.train.build import LogitsError, find_factory

Status = Literal["passed", "failed", "not needed", "not tried"]

LARGER = (64, 224)
"""Pixels a side tried, besides the suites' sizes, for a network that does not fit."""

ANY_SIZE = (
    "Make it callable as f(num_classes=, in_chans=) for any image size: either with strides and poolings "
    "that leave at least one pixel, or with a parameter named img_size."
)

MARKS = {"passed": "ok", "failed": "FAILED"}
WIDTH = 110
"""Of a line of the table, characters."""


@dataclass(frozen=True)
class Target:
    """One size to check.

    Attributes:
        size: images and classes.
        suites: suites with this size; none if the user gave the size.
    """

    size: Size
    suites: tuple[Suite, ...] = ()

    def __str__(self) -> str:
        names = ", ".join(suite.name for suite in self.suites)
        return f"{self.size}{f' (suite {names})' if names else ''}"


@dataclass(frozen=True)
class CheckResult:
    """One row of the table.

    Attributes:
        check: `builds`, or a name in `CHECKS`.
        asks: the requirement.
        status: the outcome.
        found: what was found, or why the check was not tried.
        todo: advice, if it failed.
        data: the numbers.
    """

    check: str
    asks: str
    status: Status
    found: str
    todo: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass
class Readiness:
    """The results at one size.

    Attributes:
        asked: the architecture as the user named it.
        target: the size.
        built: the architecture with its adaptation; None if it could not be built.
        results: the rows so far.
    """

    asked: Architecture
    target: Target
    built: Architecture | None = None
    results: list[CheckResult] = field(default_factory=list)

    @property
    def is_ready(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> list[CheckResult]:
        """The checks that failed."""
        return [result for result in self.results if result.status == "failed"]

    def to_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return {
            "shape": list(self.target.size.shape),
            "classes": self.target.size.classes,
            "suites": [suite.name for suite in self.target.suites],
            "architecture": None if self.built is None else self.built.label,
            "adapt": None if self.built is None else self.built.adapt,
            "ready": self.is_ready,
            "checks": [asdict(result) for result in self.results],
        }


def find_targets(
    names: Sequence[str],
    image_size: int | None = None,
    channels: int | None = None,
    classes: int | None = None,
    data_dir: Path | None = None,
) -> list[Target]:
    """Return the distinct sizes of the suites; numbers that are given replace the suites' own.

    Raises:
        UserError: for an unknown suite, or if a suite's own data set is missing.
    """
    by_size: dict[Size, list[Suite]] = {}
    for name in names:
        suite = load_suite(name)
        source = SOURCES.get(suite.data.name)
        if source is not None:
            (c, h, w), n = source.shape, source.classes
        else:  # a data set of the user's own
            side = suite.data.image_size
            dataset = open_dataset(suite.data.name, data_dir, None if side is None else Resize(side))
            (c, h, w), n = dataset.shape, len(dataset.classes)
        size = Size((channels or c, image_size or h, image_size or w), classes or n)
        by_size.setdefault(size, []).append(suite)
    is_given = (image_size, channels, classes) != (None, None, None)
    return [Target(size, () if is_given else tuple(suites)) for size, suites in by_size.items()]


def run_checks(readiness: Readiness, thorough: bool = True) -> Iterator[CheckResult]:
    """Run every check, yield each row when it is known, and add it to `readiness`.

    What the network prints goes to standard error, its warnings are dropped, and torch uses one thread.

    Args:
        readiness: the network and the size.
        thorough: also look for other adaptations and sizes that fit.

    Raises:
        UserError: if the network cannot be found or imported.
    """
    torch.set_num_threads(1)
    results = _results(readiness, thorough)
    while True:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = next(results, None)
        if result is None:
            return
        readiness.results.append(result)
        yield result


def _results(readiness: Readiness, thorough: bool) -> Iterator[CheckResult]:
    asked, size = readiness.asked, readiness.target.size
    find_factory(asked)
    asks = "it can be built for images of this size"
    try:
        fit = find_fit(asked, size, thorough)
    except LogitsError as error:
        yield CheckResult("builds", asks, "passed", str(size))
        logits = CHECKS["logits"]
        yield CheckResult("logits", logits.asks, "failed", str(error).rstrip("."), logits.todo)
        yield from _not_tried(list(CHECKS)[1:], "logits")
        return
    if fit.architecture is None:
        reasons = "; ".join(f"{adaptation}: {reason}" for adaptation, reason in fit.refused.items())
        yield CheckResult("builds", asks, "failed", reasons, _advice(asked, size, thorough))
        yield from _not_tried(CHECKS, "builds")
        return
    readiness.built = fit.architecture
    yield CheckResult("builds", asks, "passed", _fit_text(fit, size), data={"others": list(fit.others)})
    trial = Trial(fit.architecture, size)
    statuses: dict[str, Status] = {}
    for name, check in CHECKS.items():
        missing = [need for need in check.needs if statuses[need] in ("failed", "not tried")]
        if missing:
            statuses[name] = "not tried"
            yield from _not_tried([name], missing[0])
            continue
        try:
            outcome = check.run(trial)
        except Exception as error:  # including every error of the network's own code
            is_ours = isinstance(error, NotReadyError | UserError)
            found = str(error).rstrip(".") if is_ours else describe(error, asked.path)
            statuses[name] = "failed"
            yield CheckResult(name, check.asks, "failed", found, check.todo)
        else:
            statuses[name] = "passed" if outcome.needed else "not needed"
            yield CheckResult(name, check.asks, statuses[name], outcome.text, data=outcome.data)


def _not_tried(names: Iterable[str], cause: str) -> Iterator[CheckResult]:
    for name in names:
        yield CheckResult(name, CHECKS[name].asks, "not tried", f"{cause} must pass first")


def _fit_text(fit: Fit, size: Size) -> str:
    assert fit.architecture is not None
    parts = [f"{size}, {UNADAPTED if fit.architecture.adapt is None else f'with +{fit.architecture.adapt}'}"]
    if UNADAPTED in fit.refused:
        parts[0] += f" ({UNADAPTED}: {fit.refused[UNADAPTED]})"
    if fit.others:
        parts.append(f"also fits: +{', +'.join(fit.others)}")
    if fit.architecture.path is not None and (beside := imports_beside(fit.architecture.path)):
        parts.append(f"cannot be submitted while it imports {', '.join(beside)} beside it")
    return "; ".join(parts)


def _advice(asked: Architecture, size: Size, thorough: bool) -> str:
    """Return what to try: no adaptation, or a larger size that fits."""
    if asked.adapt is not None:
        plain = asked.model_copy(update={"adapt": None})
        return f"Without +{asked.adapt}, any adaptation that fits is used: lmcbench check {_typed(plain)}."
    if not thorough:
        return ANY_SIZE
    options: dict[Size, str] = {}
    for name in published_suites():
        source = SOURCES.get(load_suite(name).data.name)
        if source is not None:
            options.setdefault(Size(source.shape, source.classes), f"--suite {name}")
    for side in LARGER:
        options.setdefault(Size((size.shape[0], side, side), size.classes), f"--image-size {side}")
    for larger in sorted(options, key=lambda s: s.shape[1]):
        if larger.shape[1] <= size.shape[1]:
            continue
        try:
            fit = find_fit(asked, larger, thorough=False)
        except LogitsError:
            break
        if fit.architecture is not None:
            command = f"lmcbench check {_typed(fit.architecture)} {options[larger]}"
            return f"It can be built for {larger}: {command}. {ANY_SIZE}"
    return ANY_SIZE


def _typed(architecture: Architecture) -> str:
    """Return the architecture as an argument for a shell: a file with its folder, parentheses quoted."""
    return shlex.quote(architecture_label(architecture.name, architecture.kwargs, architecture.adapt))


# --- the printed table ---------------------------------------------------------------------------


def row_texts(results: Iterable[CheckResult]) -> Iterator[str]:
    """Yield the wrapped rows; checks that were not tried for the same reason share a row."""
    row: list[CheckResult] = []

    def text() -> str:
        first, *more = row
        names = f"{', '.join(result.check for result in row)}: " if more else ""
        start = f"  {MARKS.get(first.status, first.status):<11} {'' if more else first.check:<13} "
        return _wrapped(start, names + first.found)

    for result in results:
        if row and (result.status, result.found) != (row[0].status, row[0].found):
            yield text()
            row.clear()
        row.append(result)
        if result.status != "not tried":  # shown at once
            yield text()
            row.clear()
    if row:
        yield text()


def conclusion(readiness: Readiness) -> str:
    """Return advice on each failure, or the command to run next."""
    if failed := readiness.failed:
        head = f"{readiness.asked.label} is not ready for {readiness.target.size}. What to do:"
        return "\n".join(["", head, *(_wrapped(f"  {r.check}: ", r.todo or "") for r in failed)])
    built = readiness.built
    assert built is not None
    [optimizers] = [r.data["optimizers"] for r in readiness.results if r.check == "learns"]
    lines = ["", f"{built.label} is ready for {readiness.target.size}."]
    for suite in readiness.target.suites:
        lines.append(_next_command(built, suite, [name.lower() for name in optimizers]))
    return "\n".join(lines)


def _wrapped(start: str, text: str) -> str:
    return "\n".join(textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start)))


def _next_command(built: Architecture, suite: Suite, optimizers: Sequence[str]) -> str:
    command = f"Run it: lmcbench run {command_name(suite.name, suite.version, suite.digest)}"
    if any(listed.label == built.label for listed in suite.architectures):
        return f"{command} --arch {shlex.quote(built.label)}"
    recipes = [name for name, recipe in suite.recipes.items() if recipe.optimizer in optimizers]
    if not recipes:
        return f"Suite {suite.name} has no recipe with {' or '.join(optimizers)}; it may not learn there."
    choice = recipes[0] if len(recipes) == 1 else f"RECIPE (one of {', '.join(recipes)})"
    return f"{command} --arch {_typed(built)} --recipe {choice}"
