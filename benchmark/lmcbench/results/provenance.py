"""Provenance of numbers: package versions, source revision and peak memory."""

from __future__ import annotations

import platform
import re
import resource
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("lmcbench", "torch", "torchvision", "timm", "numpy", "scikit-learn", "safetensors")


@cache
def versions() -> dict[str, str | None]:
    """Return the versions of Python and of packages that affect numbers; None if one is not installed."""
    installed: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = None
    return installed


@cache
def source_revision() -> dict[str, Any] | None:
    """Return commit and state (`dirty`) of the checkout that contains lmcbench; None outside one."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "--no-optional-locks", "-C", str(here), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}


def command_line() -> str:
    """Return the command of this process as it can be typed; of a program that imports lmcbench, its name."""
    program, *arguments = sys.argv or [""]
    name = Path(program).name
    if name == "lmcbench" or Path(program).parts[-2:] == ("lmcbench", "__main__.py"):
        return shlex.join(["lmcbench", *arguments])
    return f"Python program {name}" if name else "Python"


def without_folders(command: str) -> str:
    """Return a command with the folders of absolute paths left out, for reports: they are shared.

    Examples:
        >>> without_folders("lmcbench run digits --out /home/me/runs/digits")
        'lmcbench run digits --out digits'
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    return shlex.join(re.sub(r"(?:^|(?<==))[/~].*/(?=[^/]+/?$)", "", word) for word in words)


def peak_resident_bytes() -> int:
    """Return the largest resident set size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB on Linux
    return peak if sys.platform == "darwin" else peak * 1024
