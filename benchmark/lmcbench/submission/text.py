"""The texts of `submit` and `verify`: what was written and found, how to send it, how to reproduce it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from lmcbench.errors import counted
from lmcbench.leaderboard.files import PREDICTIONS
from lmcbench.leaderboard.submission_file import read_submission
from lmcbench.leaderboard.trust import chosen_replicates
from lmcbench.spec.architectures import architecture_label
from lmcbench.spec.suite_files import command_name
from lmcbench.submission.submit import Submitted
from lmcbench.submission.verify import Verification

SHOWN_FAULTS = 200
"""Most faults of a submission that are printed."""


def summary(made: Submitted) -> str:
    """Return what was written and what was declared in it."""
    meta = made.meta
    lines = []
    if made.founded:
        lines.append(f"There was no leaderboard here: started one, {made.folder.parent.parent}.")
    lines += [
        f"Wrote {made.folder}: {counted(meta.cells, 'cell')}, {made.bytes / 1e6:.1f} MB; "
        "'lmcbench verify' accepts it."
    ]
    if made.missing:
        lines.append(f"{_missing(made.missing)}, so it is shown but not ranked: " + _some(made.missing))
    if made.left_out:
        lines.append(
            f"Left out: {counted(len(made.left_out), 'record')} that are not cells of the submission: "
            + _some(made.left_out)
        )
    lines += made.verification.notes
    if made.reduced is not None:
        lines.append(f"To stay under 25 MB, {made.reduced} were left out; what follows from them is claimed.")
    lines += [
        "",
        f"Declared: authors {', '.join(meta.authors)}; licence {meta.licence}; "
        f"pretraining {meta.pretraining}; extra data {meta.extra_data}.",
        "To change that, remove the folder and submit again with --author, --licence, --pretraining or "
        "--extra-data.",
    ]
    return "\n".join(lines)


def next_steps(found: Submitted) -> str:
    """Return the commands that send it as a pull request."""
    slug, folder = found.folder.name, found.folder.as_posix()
    send = "Send it as a pull request:"
    if found.founded:
        send = (
            "Show it on a page of your own, rescored from its predictions:\n\n"
            f"  lmcbench verify {shlex.quote(folder)} --record\n  lmcbench leaderboard\n\n"
            "To show published entries beside it, add --beside CLONE/leaderboard. To send it,\n"
            "copy the folder to the same place in a clone of lmcbench's repository, and make a\n"
            "pull request there:"
        )
    return "\n".join(
        [
            f"{send}\n",
            f"  git switch -c submit-{slug}",
            f"  git add {shlex.quote(folder)}",
            f'  git commit -m "Submit {slug}"',
            f"  git push -u origin submit-{slug}",
        ]
        + [
            f"\nGit ignores {PREDICTIONS}: attach it to the pull request (as .zip or .gz), or link it. "
            "Without it the numbers are only claimed."
        ]
        * (found.meta.sha256.predictions is not None)
    )


def explain(found: Verification) -> str:
    """Return the result of a verification."""
    lines = []
    if found.faults:
        lines.append(f"{found.slug}: refused, {counted(len(found.faults), 'fault')}:")
        lines += [f"  {fault}" for fault in found.faults[:SHOWN_FAULTS]]
        if len(found.faults) > SHOWN_FAULTS:
            lines.append(f"  and {len(found.faults) - SHOWN_FAULTS:,} more; --json lists all.")
        return "\n".join(lines) + "\n"
    lines.append(f"{found.slug}: sound, {counted(found.cells, 'cell')}.")
    if found.level == "claimed":
        lines.append(
            "Level: claimed. The predictions are not here: give them with --predictions FILE, or train cells "
            "again with --rerun."
        )
    else:
        lines.append("Level: rescored.")
    if found.missing:
        lines.append(f"Not ranked: {_missing(found.missing)}: {_some(found.missing)}")
    for title, items in (("Rescored", found.rescored), ("Claimed", found.claimed), ("Note", found.notes)):
        lines += [f"{title}: {item}" for item in items]
    return "\n".join(lines) + "\n"


def reproduction(folder: Path, found: Verification, nonce: str, count: int) -> list[str]:
    """Return the commands by which another author repeats a submission on replicates chosen by `nonce`."""
    submission = read_submission(folder)
    meta, network = submission.meta, submission.records[0].architecture
    chosen = chosen_replicates(found.submission_sha256, nonce, count)
    name = network.name
    if meta.architecture.source == "file":
        name = f"{(folder / 'source').as_posix()}/{network.name}"
    called = architecture_label(name, network.kwargs, network.adapt)
    out = f"runs/{found.slug}-again"
    suite = command_name(meta.suite.name, meta.suite.version, meta.suite.digest)
    run = (
        f"lmcbench run {suite} --arch {shlex.quote(called)} --recipe {shlex.quote(meta.recipe)} "
        f"--replicates {chosen.start}:{chosen.stop} --out {out}"
    )
    submit = (
        f"lmcbench submit {out} --name {found.slug}-again --author 'YOUR NAME' --reproduces {found.slug} "
        f"--nonce {shlex.quote(nonce)}"
    )
    if meta.architecture.source == "file":
        submit += f" --source {shlex.quote(name.rpartition(':')[0])}"
    return [run, f"{submit} --suite {suite}" if suite.endswith(".toml") else submit]


def _missing(cells: Sequence[str]) -> str:
    counted_cells = counted(len(cells), "cell of the suite is", "cells of the suite are")
    return f"{counted_cells} missing"


def _some(items: Sequence[str]) -> str:
    """Return the first three items."""
    return "; ".join(items[:3]) + ("; ..." if len(items) > 3 else "")
