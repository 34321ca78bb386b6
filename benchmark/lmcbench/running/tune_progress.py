"""Show a tuning: a progress bar or, in a log, a line from time to time; finished settings; the table."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from lmcbench.errors import counted
from lmcbench.output import make_table, one_line, print_text
from lmcbench.results.tuning import Setting, Training, Tuning, describe_choice
from lmcbench.running.progress import ProgressLines, progress_bar
from lmcbench.running.tune import TuningRun
from lmcbench.running.tune_training import Trained, TuningEvent
from lmcbench.spec.sweep import HELD_OUT, TUNING_REPLICATES, setting_text
from lmcbench.untrusted import printable


class TuneView:
    """Prints a tuning: results on standard output, progress on standard error."""

    def __init__(self, run: TuningRun) -> None:
        self.run = run
        self.left = {i: 0 for i, _ in run.whole.members}
        for i, _ in run.remaining:
            self.left[i] += 1
        self.bar = progress_bar()
        total, done = len(run.whole.members), len(run.whole.members) - len(run.remaining)
        self.task = self.bar.add_task("trainings", total=total, completed=done)
        self.lines = ProgressLines(done, unit="training") if self.bar.disable else None

    def introduce(self) -> None:
        """Print what is asked for and how much of it is finished."""
        run = self.run
        total, left = len(run.whole.members), len(run.remaining)
        print_text(
            f"{run.suite.name} version {run.suite.version}: {counted(len(run.settings), 'setting')} for "
            f"{printable(run.whole.architecture.label)}, each on replicates {TUNING_REPLICATES[0]} to "
            f"{TUNING_REPLICATES[-1]}, {1 - HELD_OUT:.0%} of the training set, in {run.whole.folder}"
        )
        print_text(f"{total - left} of {counted(total, 'training')} finished, {left} to do")

    def show(self, event: TuningEvent) -> None:
        """Print the line of a setting whose last replicate is finished; advance the progress."""
        if isinstance(event, Trained):
            i = event.setting
            self.left[i] -= 1
            if not self.left[i]:
                found = self.run.failed | self.run.trainings
                trainings = [found[i, r] for r in TUNING_REPLICATES if (i, r) in found]
                print_text(one_line(f"{setting_text(self.run.settings[i])}: {_outcome(trainings)}"))
                if self.lines is not None:
                    self.lines.note_output()
            return
        self.bar.advance(self.task, event.trainings)
        done = self.bar.tasks[self.task].completed
        if self.lines is not None:
            line = self.lines.line(done, len(self.run.whole.members))
            if line is not None:
                print_text(line, err=True)

    def interrupted(self) -> str:
        """Return the message for a tuning that was interrupted."""
        total = len(self.run.whole.members)
        return (
            f"Interrupted. {total - len(self.run.remaining)} of {total} trainings are finished and kept in "
            f"{self.run.whole.folder}; run the same command again to resume."
        )

    def conclude(self, tuning: Tuning, suite: str, arch: str) -> None:
        """Print the table of the settings and the choice; `suite` and `arch` are as on the command line."""
        rows = [
            [
                "*" if i == tuning.choice else "",
                setting.recipe.optimizer,
                f"{setting.recipe.lr:g}",
                f"{setting.recipe.weight_decay:g}",
                *_scores(setting),
            ]
            for i, setting in enumerate(tuning.settings)
        ]
        headers = ["", "optimizer", "lr", "weight decay", "accuracy, %", "s.e.", "status"]
        print_text("\n" + make_table(rows, headers, disable_numparse=True))
        if tuning.choice is None:
            print_text(
                "\nNo setting trained in every replicate, so none is chosen. Results are in "
                f"{self.run.file}.",
                err=True,
            )
            return
        print_text(f"\nChoice: {describe_choice(tuning)}. Results are in {self.run.file}. Use it:")
        command = [
            "lmcbench",
            "run",
            suite,
            "--arch",
            arch,
            "--recipe",
            "tuned",
            "--tuning",
            str(self.run.file),
        ]
        print_text(f"  {shlex.join(command)}")


def _outcome(trainings: Sequence[Training]) -> str:
    bad = [one for one in trainings if one.status != "ok"]
    if bad:
        return f"excluded, replicate {bad[0].replicate}: {bad[0].reason}"
    accuracies = [100 * one.accuracy for one in trainings if one.accuracy is not None]
    return f"accuracy {', '.join(f'{a:.2f}' for a in accuracies)} %"


def _scores(setting: Setting) -> list[str]:
    """Return mean accuracy and standard error in percent, and the status, as texts."""
    accuracies = setting.accuracies
    if accuracies is None:
        return [
            "–",
            "–",
            ", ".join(dict.fromkeys(one.status for one in setting.trainings if one.status != "ok")),
        ]
    n = len(accuracies)
    mean = math.fsum(accuracies) / n
    deviation = math.sqrt(math.fsum((a - mean) ** 2 for a in accuracies) / (n - 1))
    return [f"{100 * mean:.2f}", f"{100 * deviation / math.sqrt(n):.2f}", "ok"]
