"""Is an architecture ready: every check of the table on it, at the sizes that suites ask for."""

from __future__ import annotations

import contextlib
import shlex
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from lmcbench.check.checks import CHECKS, NotReadyError
from lmcbench.check.trial import AS_IT_IS, Fit, Size, Trial, fit
from lmcbench.data.sources import SOURCES, open_dataset
from lmcbench.errors import UserError, describe
from lmcbench.spec.architectures import Architecture, architecture_label, imports_beside
from lmcbench.spec.suite import Suite
from lmcbench.spec.suite_files import load_suite, published_suites
from lmcbench.train.build import LogitsError, find_factory

Status = Literal["passed", "failed", "not needed", "not tried"]

LARGER = (64, 224)
"""Pixels a side that are tried besides the suites' sizes where a network does not fit."""

ALL_SIZES = (
    "Let it be called as f(num_classes=, in_chans=), and take any image size: strides and poolings that "
    "leave a pixel, or an argument of the name img_size."
)


@dataclass(frozen=True)
class Target:
    """One size to be ready for.

    Attributes:
        size: images and classes.
        suites: those that ask for it; none where the user gave the size.
    """

    size: Size
    suites: tuple[Suite, ...] = ()

    def __str__(self) -> str:
        named = ", ".join(suite.name for suite in self.suites)
        return f"{self.size}{f' (suite {named})' if named else ''}"


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    Attributes:
        check: its name; `builds`, or one of the table.
        asks: what is asked of the network.
        status: how it came out.
        found: what was found, or why it was not tried.
        todo: what to do, where it failed.
        data: the numbers.
    """

    check: str
    asks: str
    status: Status
    found: str
    todo: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass
class Verdict:
    """What was found at one size.

    Attributes:
        asked: the architecture as the user named it.
        target: the size.
        built: the architecture as it was built, adaptation included; None where it was not.
        findings: the rows so far.
    """

    asked: Architecture
    target: Target
    built: Architecture | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether nothing failed."""
        return all(finding.status != "failed" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The verdict as `--json` prints it."""
        return {
            "shape": list(self.target.size.shape),
            "classes": self.target.size.classes,
            "suites": [suite.name for suite in self.target.suites],
            "architecture": None if self.built is None else self.built.label,
            "adapt": None if self.built is None else self.built.adapt,
            "ready": self.ready,
            "checks": [asdict(finding) for finding in self.findings],
        }


def targets(
    names: Sequence[str],
    image_size: int | None = None,
    channels: int | None = None,
    classes: int | None = None,
    data_dir: Path | None = None,
) -> list[Target]:
    """The sizes to check: those of the suites, each once; a number that is given goes before the suite's.

    Raises:
        UserError: for an unknown suite, or one of an own data set that is not there.
    """
    by_size: dict[Size, list[Suite]] = {}
    given = (image_size, channels, classes) != (None, None, None)
    for name in names:
        suite = load_suite(name)
        size = suite_size(suite, data_dir)
        c, h, w = size.shape
        side = (h, w) if image_size is None else (image_size, image_size)
        size = Size((channels or c, *side), classes or size.classes)
        by_size.setdefault(size, []).append(suite)
    return [Target(size, () if given else tuple(suites)) for size, suites in by_size.items()]


def suite_size(suite: Suite, data_dir: Path | None = None) -> Size:
    """What a suite's networks are built for; its data are opened only where they are a user's own."""
    source = SOURCES.get(suite.data.name)
    if source is not None:
        return Size(source.shape, source.classes)
    dataset = open_dataset(suite.data.name, data_dir)
    return Size(dataset.shape, len(dataset.classes))


def check(verdict: Verdict, thorough: bool = True) -> Iterator[Finding]:
    """Every check on one network at one size, each row as it is found; `verdict` is filled in on the way.

    What a network prints or warns of goes to standard error; torch runs on one thread, as a run on a CPU.

    Args:
        verdict: the network and the size.
        thorough: say which other adaptations and sizes would do.

    Raises:
        UserError: where the network cannot be found or imported.
    """
    torch.set_num_threads(1)
    rows = _rows(verdict, thorough)
    while True:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            finding = next(rows, None)
        if finding is None:
            return
        verdict.findings.append(finding)
        yield finding


def _rows(verdict: Verdict, thorough: bool) -> Iterator[Finding]:
    asked, size = verdict.asked, verdict.target.size
    find_factory(asked)
    done: dict[str, Status] = {}
    asks = "it is built for images of this size"
    try:
        found = fit(asked, size, thorough)
    except LogitsError as error:
        yield Finding("builds", asks, "passed", str(size))
        first = CHECKS["logits"]
        yield Finding("logits", first.asks, "failed", _reason(str(error)), first.todo)
        yield from _untried(list(CHECKS)[1:], "logits")
        return
    if found.architecture is None:
        reasons = "; ".join(f"{how}: {why}" for how, why in found.refused.items())
        yield Finding("builds", asks, "failed", reasons, _elsewhere(asked, verdict.target, thorough))
        yield from _untried(CHECKS, "builds")
        return
    verdict.built = found.architecture
    yield Finding("builds", asks, "passed", _fit_text(found, size), data={"others": list(found.others)})
    trial = Trial(found.architecture, size)
    for name, entry in CHECKS.items():
        missing = [need for need in entry.needs if done[need] in ("failed", "not tried")]
        if missing:
            done[name] = "not tried"
            yield from _untried([name], missing[0])
            continue
        try:
            seen = entry.look(trial)
        except (NotReadyError, UserError) as error:
            done[name] = "failed"
            yield Finding(name, entry.asks, "failed", _reason(str(error)), entry.todo)
        except Exception as error:  # whatever the network's own code raises is what was found
            done[name] = "failed"
            yield Finding(name, entry.asks, "failed", describe(error, asked.path), entry.todo)
        else:
            done[name] = "passed" if seen.needed else "not needed"
            yield Finding(name, entry.asks, done[name], seen.text, data=seen.data)


def _untried(names: Iterable[str], cause: str) -> Iterator[Finding]:
    for name in names:
        yield Finding(name, CHECKS[name].asks, "not tried", f"{cause} comes first")


def _fit_text(found: Fit, size: Size) -> str:
    assert found.architecture is not None
    adapt = found.architecture.adapt
    how = AS_IT_IS if adapt is None else f"with +{adapt}"
    if found.refused.get(AS_IT_IS) is not None:
        how += f" ({AS_IT_IS}: {found.refused[AS_IT_IS]})"
    others = f"; +{' and +'.join(found.others)} would do too" if found.others else ""
    beside = [] if found.architecture.path is None else imports_beside(found.architecture.path)
    alone = f"; cannot be submitted while it imports {', '.join(beside)} beside it" if beside else ""
    return f"{size}, {how}{others}{alone}"


def _elsewhere(asked: Architecture, target: Target, thorough: bool) -> str:
    """What else to try: without the adaptation asked for, or at a larger size where it fits."""
    if asked.adapt is not None:
        plain = asked.model_copy(update={"adapt": None})
        return f"Leave +{asked.adapt} out, and whatever fits is taken: lmcbench check {_typed(plain)}."
    if not thorough:
        return ALL_SIZES
    size = target.size
    larger: dict[Size, str] = {}
    for name in published_suites():
        source = SOURCES.get(load_suite(name).data.name)
        if source is not None:
            larger.setdefault(Size(source.shape, source.classes), f"--suite {name}")
    for side in LARGER:
        larger.setdefault(Size((size.shape[0], side, side), size.classes), f"--image-size {side}")
    for other in sorted(larger, key=lambda s: s.shape[1]):
        if other.shape[1] <= size.shape[1]:
            continue
        try:
            found = fit(asked, other, thorough=False)
        except LogitsError:
            break
        if found.architecture is not None:
            command = f"lmcbench check {_typed(found.architecture)} {larger[other]}"
            return f"It can be built for {other}: {command}. {ALL_SIZES}"
    return ALL_SIZES


def _typed(architecture: Architecture) -> str:
    """The architecture as a shell takes it: a file with its folder, parentheses quoted."""
    return shlex.quote(architecture_label(architecture.name, architecture.kwargs, architecture.adapt))


def _reason(message: str) -> str:
    return message.rstrip(".")
