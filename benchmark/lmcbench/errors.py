"""The error for bad input, and helpers to write messages."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

SHOWN = 200
"""Characters of one foreign value that a message or a table shows."""

LINE_LENGTH = 1_000
"""Longest line of a message; what it quotes may be longer."""


class UserError(ValueError):
    """Bad input. The message says what was found, what is allowed and what to do next.

    The command line prints the message without a traceback and exits with `exit_code`. Control characters
    other than line breaks become visible escapes, and long lines are cut.

    Examples:
        >>> UserError("No folder runs/digits. Start it with 'lmcbench run digits'.").exit_code
        2
    """

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__("\n".join(printable(line, LINE_LENGTH) for line in message.split("\n")))
        self.exit_code = exit_code


def printable(text: str, limit: int = SHOWN) -> str:
    r"""Return foreign text as one line that a terminal prints as it reads.

    Control characters, escape sequences, line breaks and characters that change the direction of text
    become visible escapes; text of more than `limit` characters is cut in the middle.

    >>> printable("a\x1b[31mb\n")
    'a\\x1b[31mb\\n'
    """
    # a long text is cut before its characters are replaced, which only lengthens it
    ends = text if len(text) <= 2 * limit else text[:limit] + text[-limit:]
    shown = _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), ends)
    if len(shown) <= limit:
        return shown
    head = (limit - 3) * 2 // 3
    return f"{shown[:head]}...{shown[len(shown) - (limit - 3 - head) :]}"


_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turn an `OSError` inside the block into a `UserError` that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


@contextmanager
def no_exit() -> Iterator[None]:
    """Turn `sys.exit` in a user's code inside the block into an error; an exit by a signal passes."""
    try:
        yield
    except SystemExit as leaving:
        if type(leaving) is not SystemExit:
            raise
        error = RuntimeError(f"the code ends its process (exit code {leaving.code})")
        raise error.with_traceback(leaving.__traceback__) from leaving


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` reports that device memory or main memory was exhausted."""
    # the last two are of cuBLAS and cuDNN, which allocate on their own (CUDNN_STATUS_ALLOC_FAILED and
    # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED, for example)
    signs = ("out of memory", "not enough memory", "alloc_failed", "allocation_failed")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and _has_sign(error, signs))
    )


def may_be_out_of_memory(error: BaseException) -> bool:
    """Return whether memory may have caused `error`, whose message does not say so; half the work may pass.

    cuDNN reports that no convolution fits its workspace, and cuBLAS that it cannot create its handle.
    """
    signs = ("unable to find an engine", "unable to find a valid cudnn algorithm", "cublas_status_not_init")
    return isinstance(error, RuntimeError) and _has_sign(error, signs)


def _has_sign(error: BaseException, signs: Iterable[str]) -> bool:
    message = str(error).lower()
    return any(sign in message for sign in signs)


def describe(error: BaseException, source: Path | None = None) -> str:
    """Describe an exception in one line: type, message, file name and line number.

    The location is the innermost frame outside torch. An assertion without a message is shown by its source
    line.

    Args:
        error: the exception.
        source: a user's file; the location is its innermost frame, if it has one.
    """
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename).name}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    in_source = [f for f in frames if source is not None and Path(f.filename) == source]
    outside = [f for f in frames if "torch" not in Path(f.filename).parts]
    place = next(iter(reversed(in_source or outside or frames)), None)
    message = next(iter(str(error).strip().splitlines()), "") or (place.line if place is not None else "")
    where = f" ({Path(place.filename).name}, line {place.lineno})" if place is not None else ""
    return f"{type(error).__name__}{f': {message}' if message else ''}{where}"


def counted(n: int, noun: str, nouns: str | None = None) -> str:
    """Return a number with its noun.

    Examples:
        >>> counted(1, "cell"), counted(2, "family", "families")
        ('1 cell', '2 families')
    """
    return f"{n} {noun if n == 1 else nouns or f'{noun}s'}"


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """Return the error for a name that is not in a table; it suggests close names or lists the table."""
    names = sorted(set(allowed))
    folded = {known.lower(): known for known in names}
    # difflib takes quadratic time
    near = [folded[low] for low in difflib.get_close_matches(name[:SHOWN].lower(), folded, n=3, cutoff=0.5)]
    if near:
        hint = f"Did you mean {' or '.join(repr(n) for n in near)}?"
    elif not names:
        hint = "There is none."
    elif len(names) <= 20:
        hint = f"Known: {', '.join(names)}."
    else:
        hint = f"{len(names)} names are known."
    return UserError(f"Unknown {kind} {printable(name)!r}. {hint}")
