"""A real, small, complete submission, and a forger's tools: every hash right, whatever was changed."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save
from typer.testing import CliRunner

from lmcbench.cli import app
from lmcbench.errors import UserError
from lmcbench.leaderboard.manifest import make_manifest
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.run import plan_run, run_plan
from lmcbench.spec.cells import Selection, expand
from lmcbench.spec.suite_files import load_suite
from lmcbench.submission.submit import Statement, submit

SAID = Statement("A linear softmax", ["A. Author"], "CC-BY-4.0", "none", "none", "")


NETWORK = """
from torch import nn


def tiny(num_classes, in_chans, img_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * img_size**2, num_classes))
"""


def cli(*arguments: object) -> tuple[int, str, str]:
    """A command's exit code, standard output and standard error."""
    answer = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(answer.exception, UserError):
        return answer.exception.exit_code, answer.stdout, f"Error: {answer.exception}"
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    return answer.exit_code, answer.stdout, answer.stderr


@cache
def linear_run() -> Path:
    """The run folder of `lmcbench run digits --arch lmc_linear`, trained once for all tests."""
    root = Path(tempfile.mkdtemp(prefix="lmcbench-tests-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    folder = RunFolder(root / "run")
    plan = plan_run(expand(load_suite("digits"), Selection(["lmc_linear"])), folder)
    for _ in run_plan(plan, folder, data_dir=None, device="cpu", jobs=1):
        pass
    return folder.root


def make_board(root: Path) -> Path:
    """An empty leaderboard."""
    (root / "leaderboard" / "submissions").mkdir(parents=True)
    return root / "leaderboard"


@cache
def part_of_run() -> Path:
    """The same run where only label-skew on replicates 0 and 1 is finished: 8 cells."""
    part = RunFolder(linear_run().parent / "part")
    part.claim(load_suite("digits").identity(), [])
    whole = RunFolder(linear_run())
    for cell in expand(load_suite("digits"), Selection(["lmc_linear"], ["label-skew"], (), range(2))):
        for get in (RunFolder.record, RunFolder.predictions):
            get(part, cell.key).parent.mkdir(exist_ok=True)
            shutil.copy(get(whole, cell.key), get(part, cell.key))
    return part.root


@cache
def _submission(whole: bool) -> Path:
    run = linear_run() if whole else part_of_run()
    return submit(run, "linear", SAID, make_board(run.with_name(f"{run.name}-board"))).folder


def linear_submission(root: Path, *, whole: bool = False) -> Path:
    """A copy, under `root`, of the submission of that run; by default of a part of it, which is faster."""
    folder = make_board(root) / "submissions" / "linear"
    shutil.copytree(_submission(whole), folder)
    return folder


def records(folder: Path) -> list[Path]:
    """Its records, those of replicate 0 and shift label-skew first."""

    def place(path: Path) -> tuple[int, bool, str]:
        table = json.loads(path.read_bytes())
        return table["replicate"], table["shift"]["name"] != "label-skew", path.name

    return sorted(folder.glob("records/*.json"), key=place)


def a_pair(folder: Path) -> Path:
    """The record of a pair that disagrees somewhere."""
    return next(p for p in records(folder) if json.loads(p.read_bytes())["pairs"])


def edit_json(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file."""
    table = json.loads(path.read_bytes())
    edit(table)
    path.write_text(json.dumps(table, indent=1))


def edit_logits(path: Path, edit: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Change a file of predictions."""
    tensors = {name: value.copy() for name, value in load(path.read_bytes()).items()}
    edit(tensors)
    path.write_bytes(save(tensors))


def correct_hashes(folder: Path) -> None:
    """What a forger does last: evidence in records and the manifest agree with the files again."""
    for record in folder.glob("records/*.json"):
        predictions = folder / "predictions" / f"{record.stem}.safetensors"
        if predictions.is_file() and not record.is_symlink():
            table = json.loads(record.read_bytes())
            if isinstance(table, dict) and table.get("evidence"):
                table["evidence"]["predictions"]["sha256"] = sha256(predictions.read_bytes()).hexdigest()
                record.write_text(json.dumps(table, indent=1))
    contents = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(make_manifest(contents))


def edit_meta(folder: Path, old: str, new: str) -> None:
    """Change `submission.toml`."""
    path = folder / "submission.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
