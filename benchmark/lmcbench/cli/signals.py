"""Signals that end a command in order, as Ctrl-C does: what is finished is kept, nothing is left running."""

from __future__ import annotations

import math
import os
import signal
import time
from typing import Any

NAMES = ("SIGTERM", "SIGHUP")
"""Told to end; hung up, where the terminal or the connection is closed (Windows has none)."""

ENDING_S = 10.0
"""Seconds in which further ones are taken for the same; later ones are heard, should the first be lost."""


def answer_signals() -> None:
    """Answer them as Ctrl-C is answered; one that is ignored, as nohup does, stays ignored."""
    answer = _Answer()
    for signum in (signal.Signals[name] for name in NAMES if name in signal.Signals.__members__):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, answer)


class _Answer:
    """Interrupts once: whoever closes a session sends several signals, and ending takes its time."""

    def __init__(self) -> None:
        self.deaf_until = -math.inf

    def __call__(self, signum: int, frame: Any) -> None:
        now = time.monotonic()
        if now < self.deaf_until:
            return
        self.deaf_until = now + ENDING_S
        _leave_closed_terminal()
        raise KeyboardInterrupt


def _leave_closed_terminal() -> None:
    """What is said on the way out goes nowhere where the terminal is gone, and ends in no error."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream)
            os.close(nowhere)
