"""Use a tuning file: the recipe `tuned` in a run, and the file's copy in the run folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lmcbench.errors import UserError
from lmcbench.results.atomic_files import write_atomic
from lmcbench.results.run_folder import RunFolder
from lmcbench.results.tuning import Tuning, read_tuning, tuning_key
from lmcbench.spec.cells import Cell
from lmcbench.spec.suite import Suite
from lmcbench.spec.sweep import TUNED


@dataclass(frozen=True)
class TunedRecipe:
    """A tuning file that belongs to a suite.

    Attributes:
        path: the file, for messages.
        suite: the suite with the chosen setting as its recipe `tuned`.
    """

    path: Path
    tuning: Tuning
    suite: Suite

    @classmethod
    def read(cls, path: Path, suite: Suite, recipe: str | None) -> TunedRecipe:
        """Read a tuning file for `suite`; `recipe` is the one that was asked for, if any.

        Raises:
            UserError: if the file cannot be read, has no choice, is of another suite or digest, or another
                recipe is asked for.
        """
        if recipe not in (None, TUNED):
            raise UserError(f"--tuning {path} gives recipe {TUNED!r}, not {recipe!r}. Give one of both.")
        tuning = read_tuning(path)
        tuning.check(suite, str(path))
        return cls(path, tuning, suite.with_tuned(tuning.recipe))

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        return TUNED

    @property
    def architecture(self) -> str:
        """The network as text for --arch."""
        return self.tuning.architecture.label

    def check_cells(self, cells: Iterable[Cell]) -> None:
        """Raise `UserError` if a cell is of another network than the one that was tuned."""
        for architecture in {cell.architecture.label: cell.architecture for cell in cells}.values():
            self.tuning.check_architecture(architecture.identity(), architecture.label, str(self.path))

    def store(self, folder: RunFolder) -> None:
        """Copy the file to the run folder, from which `submit` takes it."""
        write_atomic(folder.tuning(tuning_key(self.tuning.architecture.identity())), self.tuning.to_json())
