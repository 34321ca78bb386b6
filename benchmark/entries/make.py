"""Tune, run, submit and verify entries of the leaderboard: python benchmark/entries/make.py [NAME ...].

Entries are listed in digits.toml. Each step is a command of lmcbench and is printed; every step can be
stopped and run again. A tuning that is committed in tuning/ and a submission that exists are not made again.

python benchmark/entries/make.py timm-vit timm-pit     two entries, every step
python benchmark/entries/make.py --steps tune          choose the recipes only
python benchmark/entries/make.py --nonce WORD          train five cells of every submission again
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from lmcbench.spec.architectures import Architecture, parse_architecture
from lmcbench.spec.suite_files import load_suite

HERE = Path(__file__).resolve().parent
STEPS = ("tune", "run", "submit", "verify")


@dataclass(frozen=True)
class Entry:
    """One entry: a network, and the name and title of its submission."""

    name: str
    title: str
    arch: str


@dataclass(frozen=True)
class Entries:
    """The entries of a suite.

    Attributes:
        own: labels of the suite's networks, which are trained with its recipes.
    """

    suite: str
    replicates: int
    author: str
    entries: tuple[Entry, ...]
    own: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> Entries:
        """Read the list."""
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return cls(
            suite=table["suite"],
            replicates=table["replicates"],
            author=table["author"],
            entries=tuple(Entry(**entry) for entry in table["entries"]),
            own=frozenset(a.label for a in load_suite(table["suite"]).architectures),
        )


def architecture(entry: Entry) -> Architecture:
    """Return an entry's network."""
    return parse_architecture(entry.arch, "tuned")


def main() -> None:
    """Parse the options and make the entries one after another."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries; default: all")
    parser.add_argument("--list", type=Path, default=HERE / "digits.toml", help="file with the entries")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--runs", type=Path, default=Path("runs/entries"), help="folder of the run folders")
    parser.add_argument("--leaderboard", type=Path, default=HERE.parents[1] / "leaderboard")
    parser.add_argument("--replicates", type=int, help="default: that of the list")
    parser.add_argument("--nonce", help="only train five cells of each submission again, and record it")
    options = parser.parse_args()
    listed = Entries.read(options.list)
    unknown = set(options.names) - {entry.name for entry in listed.entries}
    if unknown:
        parser.error(f"no entry {', '.join(sorted(unknown))} in {options.list}")
    for entry in listed.entries:
        if options.names and entry.name not in options.names:
            continue
        submission = options.leaderboard / "submissions" / entry.name
        if options.nonce is not None:
            lmcbench("verify", submission, "--rerun", "5", "--nonce", options.nonce, "--record")
            continue
        tuning = None if architecture(entry).label in listed.own else HERE / "tuning" / f"{entry.name}.json"
        run, count = options.runs / entry.name, str(options.replicates or listed.replicates)
        if "tune" in options.steps and tuning is not None and not tuning.exists():
            out = options.runs / f"{entry.name}-tuning"
            lmcbench("tune", listed.suite, "--arch", entry.arch, "--out", out)
            tuning.parent.mkdir(exist_ok=True)
            shutil.copy(out / "tuning.json", tuning)
        if "run" in options.steps:
            recipe = () if tuning is None else ("--recipe", "tuned", "--tuning", tuning)
            network = ("--arch", entry.arch, *recipe)
            lmcbench("run", listed.suite, *network, "--replicates", count, "--out", run)
        if "submit" in options.steps and not submission.exists():
            said = ("--title", entry.title, "--author", listed.author, "--leaderboard", options.leaderboard)
            lmcbench("submit", run, "--name", entry.name, *said)
        if "verify" in options.steps:
            lmcbench("verify", submission, "--record")


def lmcbench(*arguments: object) -> None:
    """Print and run a command of lmcbench; exits if it fails."""
    words = [str(argument) for argument in arguments]
    print(f"$ lmcbench {shlex.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "lmcbench", *words], check=False).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
