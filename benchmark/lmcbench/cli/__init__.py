"""The command line: verbs parse, call and print; importing a module of them adds them to the application."""

from __future__ import annotations

# isort: off
# in the order in which --help lists them
from lmcbench.cli import catalogue
from lmcbench.cli import run
from lmcbench.cli import results
from lmcbench.cli import networks
from lmcbench.cli import leaderboard
from lmcbench.cli import gate
from lmcbench.cli import landscape

# isort: on
from lmcbench.cli.app import app, main

__all__ = ["app", "catalogue", "gate", "landscape", "leaderboard", "main", "networks", "results", "run"]
