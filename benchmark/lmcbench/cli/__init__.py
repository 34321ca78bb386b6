"""The command line: importing a module of commands adds them to the application."""

from __future__ import annotations

from lmcbench.cli import catalogue, gate, landscape, leaderboard, networks, results, run, status, tune
from lmcbench.cli.app import app, main

__all__ = [
    "app",
    "catalogue",
    "gate",
    "landscape",
    "leaderboard",
    "main",
    "networks",
    "results",
    "run",
    "status",
    "tune",
]
