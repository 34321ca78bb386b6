"""The error a user can mend: what is wrong, what is allowed, what to do next."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path


class UserError(ValueError):
    """Bad input, said in one message; the command line prints it and exits with `exit_code`."""

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a device, or the CPU's allocator, had no room (so that less may succeed)."""
    said = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and ("out of memory" in said or "not enough memory" in said))
    )


def describe(error: BaseException, source: Path | None = None) -> str:
    """An exception in one line with the place it was raised at, without any folder of this machine.

    Args:
        error: what was raised.
        source: a user's file; the last line of it that was running is the place, if there is one.
    """
    if isinstance(error, SyntaxError) and error.filename is not None:
        said, places = error.msg, [(Path(error.filename).name, error.lineno)]
    else:
        said = next(iter(str(error).strip().splitlines()), "")
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if source is not None and Path(f.filename) == source]
        places = [(Path(f.filename).name, f.lineno) for f in own or frames]
    place = f" ({places[-1][0]}, line {places[-1][1]})" if places else ""
    return f"{type(error).__name__}{f': {said}' if said else ''}{place}"


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """The refusal of a name that is not in a table, with the nearest names or the whole table."""
    names = sorted(set(allowed))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        hint = f"Did you mean {' or '.join(repr(n) for n in near)}?"
    elif len(names) <= 20:
        hint = f"Known: {', '.join(names)}."
    else:
        hint = f"{len(names)} are known."
    return UserError(f"Unknown {kind} {name!r}. {hint}")
