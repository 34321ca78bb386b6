"""The error a user can mend: what is wrong, what is allowed, what to do next."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(ValueError):
    """Bad input, said in one message; the command line prints it and exits with `exit_code`."""

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """While a file is read: an error of the system becomes one that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a device, or the CPU's allocator, had no room (so that less may succeed)."""
    said = str(error).lower()
    # the last is cuBLAS's and cuDNN's, which allocate by themselves
    signs = ("out of memory", "not enough memory", "status_alloc_failed")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(sign in said for sign in signs))
    )


def describe(error: BaseException, source: Path | None = None) -> str:
    """An exception in one line with the place it was raised at, without any folder of this machine.

    The place is the last line that was running outside of torch. An assertion that says nothing is
    told by its own text.

    Args:
        error: what was raised.
        source: a user's file; the place is there, if any line of it was running.
    """
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename).name}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if source is not None and Path(f.filename) == source]
    outside = [f for f in frames if "torch" not in Path(f.filename).parts]
    place = next(iter(reversed(theirs or outside or frames)), None)
    said = next(iter(str(error).strip().splitlines()), "") or (place.line if place is not None else "")
    where = f" ({Path(place.filename).name}, line {place.lineno})" if place is not None else ""
    return f"{type(error).__name__}{f': {said}' if said else ''}{where}"


def counted(n: int, noun: str, nouns: str | None = None) -> str:
    """A number with its noun: 1 cell, 2 cells, 2 families."""
    return f"{n} {noun if n == 1 else nouns or f'{noun}s'}"


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """The refusal of a name that is not in a table, with the nearest names or the whole table."""
    names = sorted(set(allowed))
    folded = {known.lower(): known for known in names}
    near = [folded[low] for low in difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)]
    if near:
        hint = f"Did you mean {' or '.join(repr(n) for n in near)}?"
    elif len(names) <= 20:
        hint = f"Known: {', '.join(names)}."
    else:
        hint = f"{len(names)} are known."
    return UserError(f"Unknown {kind} {name!r}. {hint}")
