"""The error a user can mend: what is wrong, what is allowed, what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
