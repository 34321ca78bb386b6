"""A function called in a process of its own that need not import torch again."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any


def in_fork(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return `function(*arguments)` of a forked process, or raise what it raises.

    Modules that the function imports and paths that it adds stay in that process.
    """
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            found = (True, function(*arguments))
        except BaseException as error:
            found = (False, error)
        try:
            with os.fdopen(write, "wb") as file:
                pickle.dump(found, file)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        content = file.read()
    os.waitpid(pid, 0)
    assert content, "the process ended without a result"
    returned, found = pickle.loads(content)
    if not returned:
        raise found
    return found
