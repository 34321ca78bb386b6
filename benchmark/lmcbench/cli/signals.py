"""Signals that end a command in order, as Ctrl-C does: what is finished is kept, nothing is left running."""

from __future__ import annotations

import os
import signal
from typing import Any

NAMES = ("SIGTERM", "SIGHUP")
"""Told to end; hung up, where the terminal or the connection is closed (Windows has none)."""


class Stopped(BaseException):
    """A signal ended the command. No `KeyboardInterrupt`, which the parser would answer by itself."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


def answer_signals() -> None:
    """Raise `Stopped` where one of them comes; one that is ignored, as nohup does, stays ignored."""
    for signum in _known():
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _stop)


def _known() -> list[signal.Signals]:
    return [signal.Signals[name] for name in NAMES if name in signal.Signals.__members__]


def _stop(signum: int, frame: Any) -> None:
    # whoever closes a session sends several: the first is being answered
    for other in _known():
        signal.signal(other, signal.SIG_IGN)
    _leave_closed_terminal()
    raise Stopped(signum)


def _leave_closed_terminal() -> None:
    """What is said on the way out goes nowhere where the terminal is gone, and ends in no error."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream)
            os.close(nowhere)
