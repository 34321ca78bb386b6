"""The tuning file of a submission with recipe `tuned`, which defines the recipe of its cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmcbench.errors import UserError
from lmcbench.leaderboard.files import META, Fault
from lmcbench.leaderboard.submission_file import Meta
from lmcbench.results.tuning import TUNING, Tuning, parse_tuning
from lmcbench.spec.suite import Suite
from lmcbench.spec.sweep import TUNED

CLAIMED_SWEEP = "the accuracies in tuning.json, from which the recipe was chosen (the choice was checked)"
"""A claim that could only be checked by training the sweep again."""


def tuned_suite(suite: Suite, meta: Meta, content: bytes | None) -> tuple[Suite, Tuning | None, list[Fault]]:
    """Return the suite with the submission's tuned recipe, the tuning, and faults.

    Args:
        suite: the suite.
        meta: the content of `submission.toml`.
        content: of `tuning.json`; None if the submission has none.
    """
    if meta.recipe != TUNED:
        if content is None:
            return suite, None, []
        return suite, None, [_fault("", f"belongs to recipe {TUNED!r}; this submission has {meta.recipe!r}")]
    if content is None:
        return suite, None, [_fault("", f"is missing; it defines recipe {TUNED!r}")]
    try:
        tuning = parse_tuning(content, TUNING)
        tuning.check(suite, TUNING)
        return suite.with_tuned(tuning.recipe), tuning, []
    except UserError as error:
        lines = (line.removeprefix(TUNING).removeprefix(":").strip() for line in str(error).splitlines())
        return suite, None, [_fault("", line) for line in lines]


def tuning_faults(
    tuning: Tuning | None, identity: Mapping[str, Any], label: str, train_sha256: str | None
) -> list[Fault]:
    """Return a fault where the tuning is of another network or training set than the records.

    Args:
        tuning: the tuning; None if there is none.
        identity: of the network, as in keys of cells.
        label: of the network.
        train_sha256: of the training set, as in the records.
    """
    if tuning is None:
        return []
    faults = []
    try:
        tuning.check_architecture(identity, label, TUNING)
    except UserError as error:
        faults.append(_fault("architecture", str(error).removeprefix(TUNING).strip()))
    if train_sha256 is not None and tuning.data.sha256 != train_sha256:
        found = f"found {tuning.data.sha256[:16]}, the records have {train_sha256[:16]}"
        faults.append(_fault("data.sha256", found))
    return faults


def hash_fault(meta: Meta) -> list[Fault]:
    """Return a fault where `submission.toml` has a hash of a tuning file without need, or lacks it."""
    if (meta.sha256.tuning is not None) == (meta.recipe == TUNED):
        return []
    message = f"is given with recipe {TUNED!r}, and with no other; the recipe is {meta.recipe!r}."
    return [Fault(META, "sha256.tuning", message)]


def _fault(field: str, message: str) -> Fault:
    return Fault(TUNING, field, message if message.endswith(".") else f"{message}.")
