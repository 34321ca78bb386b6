"""The command line: verbs parse, call and print; importing a module of them adds them to the application."""

from __future__ import annotations

# isort: off
# in the order in which --help lists them
from lmcbench.cli import catalogue
from lmcbench.cli import running
from lmcbench.cli import results
from lmcbench.cli import submissions
from lmcbench.cli import board
from lmcbench.cli import gate
from lmcbench.cli import pictures

# isort: on
from lmcbench.cli.base import app, main

__all__ = ["app", "board", "catalogue", "gate", "main", "pictures", "results", "running", "submissions"]
