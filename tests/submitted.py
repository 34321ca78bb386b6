"""A real, small, complete submission, and functions that forge one: every sha256 is right afterwards."""

from __future__ import annotations

import atexit
import gzip
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save
from typer.testing import CliRunner

from lmcbench.cli import app
from lmcbench.errors import UserError
from lmcbench.results.record import Record
from lmcbench.results.record_files import encode_records, split_records
from lmcbench.results.record_parser import parse_record
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.plan import plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.cells import Cell, Selection, expand
from lmcbench.spec.suite_files import load_suite
from lmcbench.submission.predictions_file import split_cells
from lmcbench.submission.submit import Declaration, submit

SAID = Declaration("A linear softmax", ["A. Author"], "CC-BY-4.0", "none", "none", "")


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


def train(cells: list[Cell], root: Path) -> Path:
    """Run cells into the folder `root`, in this process."""
    folder = RunFolder(root)
    for _ in run_plan(plan_run(cells, folder), folder, data_dir=None, device="cpu", jobs=1):
        pass
    return folder.root


def make_board(root: Path) -> Path:
    """An empty leaderboard."""
    (root / "leaderboard" / "submissions").mkdir(parents=True)
    return root / "leaderboard"


@cache
def part_of_run() -> Path:
    """A run of digits, `lmc_linear` under label-skew on replicates 0 and 1: 10 cells. Removed at the end."""
    root = Path(tempfile.mkdtemp(prefix="lmcbench-tests-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    chosen = Selection(["lmc_linear"], ["label-skew"], (), range(2))
    return train(expand(load_suite("digits"), chosen), root / "run")


@cache
def _submission() -> Path:
    run = part_of_run()
    return submit(run, "linear", SAID, make_board(run.with_name("board"))).folder


def linear_submission(root: Path) -> Path:
    """A copy, under `root`, of the submission of `part_of_run`."""
    folder = make_board(root) / "submissions" / "linear"
    shutil.copytree(_submission(), folder)
    return folder


def run_records(run: Path) -> list[Path]:
    """The record files of a run."""
    return sorted(run.glob("records/*.json"))


def read_tables(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of a submission as parsed JSON, by key."""
    lines = split_records((folder / "records.jsonl.gz").read_bytes())
    return {table["key"]: table for table in map(json.loads, lines)}


def write_tables(folder: Path, tables: Iterable[dict[str, Any]]) -> None:
    """Replace the records of a submission."""
    (folder / "records.jsonl.gz").write_bytes(encode_records(tables))


def keys(folder: Path) -> list[str]:
    """The keys of its records, those of replicate 0 and shift label-skew first."""

    def place(table: dict[str, Any]) -> tuple[int, bool, str]:
        return table["replicate"], table["shift"]["name"] != "label-skew", table["key"]

    return [table["key"] for table in sorted(read_tables(folder).values(), key=place)]


def a_pair(folder: Path) -> str:
    """The key of the first record with a pair."""
    tables = read_tables(folder)
    return next(key for key in keys(folder) if tables[key]["pairs"])


def get_record(folder: Path, key: str) -> Record:
    """One record of a submission."""
    return parse_record(json.dumps(read_tables(folder)[key]), key)


def edit_record(folder: Path, key: str, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change one record of a submission."""
    tables = read_tables(folder)
    edit(tables[key])
    write_tables(folder, tables.values())


def edit_records(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change all records of a submission."""
    tables = read_tables(folder)
    for table in tables.values():
        edit(table)
    write_tables(folder, tables.values())


def edit_line(folder: Path, key: str, edit: Callable[[str], str]) -> None:
    """Change the text of one record of a submission, and correct the sha256 of the records file."""
    tables = read_tables(folder)
    lines = [canonical_json(table) for table in tables.values()]
    changed = [edit(line) if k == key else line for k, line in zip(tables, lines, strict=True)]
    assert changed != lines
    path = folder / "records.jsonl.gz"
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in changed).encode()))
    correct_meta(folder)


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file."""
    table = json.loads(path.read_bytes())
    edit(table)
    path.write_text(json.dumps(table, indent=1))


def read_logits(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """The predictions of a submission, by key and name."""
    cells, _ = split_cells(load((folder / "predictions.safetensors").read_bytes()))
    return {key: {name: value.copy() for name, value in cell.items()} for key, cell in cells.items()}


def write_logits(folder: Path, cells: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Replace the predictions of a submission."""
    tensors = {f"{key}/{name}": value for key, cell in cells.items() for name, value in cell.items()}
    (folder / "predictions.safetensors").write_bytes(save(tensors))


def edit_logits(folder: Path, key: str, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change the predictions of one cell."""
    cells = read_logits(folder)
    edit(cells[key])
    write_logits(folder, cells)


def drop_logits(folder: Path, *dropped: str) -> None:
    """Remove the predictions of some cells."""
    write_logits(folder, {k: cell for k, cell in read_logits(folder).items() if k not in dropped})


def correct_hashes(folder: Path) -> None:
    """Make all sha256 right, as a forger does last: those in the records and in `submission.toml`."""
    tables = read_tables(folder)
    with suppress(FileNotFoundError, SafetensorError):
        for key, cell in read_logits(folder).items():
            if evidence := tables.get(key, {}).get("evidence"):
                evidence["predictions"]["sha256"] = sha256(save(cell)).hexdigest()
        write_tables(folder, tables.values())
    correct_meta(folder)


def correct_meta(folder: Path) -> None:
    """Make the sha256 in `submission.toml` right."""
    path = folder / "submission.toml"
    text = path.read_text(encoding="utf-8")
    for field, name in (("records", "records.jsonl.gz"), ("predictions", "predictions.safetensors")):
        if (folder / name).is_file():
            digest = sha256((folder / name).read_bytes()).hexdigest()
            text = re.sub(rf'^{field} = "\w+"$', f'{field} = "{digest}"', text, flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")


def edit_meta(folder: Path, old: str, new: str) -> None:
    """Change `submission.toml`."""
    path = folder / "submission.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
