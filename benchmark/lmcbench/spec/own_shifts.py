"""Training shifts of a user's own: a function in a Python file, `file.py:function`."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lmcbench.errors import UserError, counted, describe, no_exit, printable
from lmcbench.spec.architectures import SOURCE_BYTES, fingerprint_of
from lmcbench.spec.domains import Domains
from lmcbench.spec.shift_rules import Indices, View, by_class
from lmcbench.untrusted import is_regular, read_bytes

_NAME = re.compile(r"(?P<file>.+\.py):(?P<function>[A-Za-z_]\w*)")


def is_own(name: str) -> bool:
    """Return whether the name of a shift is a function in a file: `file.py:rule`."""
    return _NAME.fullmatch(name) is not None


def portable_name(name: str) -> str:
    """Return the name without the folder of its file, as in records and digests."""
    found = _NAME.fullmatch(name)
    return name if found is None else f"{Path(found['file']).name}:{found['function']}"


def read_source(name: str) -> bytes:
    """Return the source of the shift `file.py:function`, which is not executed.

    Raises:
        UserError: if the file does not exist or cannot be read.
    """
    file = Path(name.rpartition(":")[0])
    if not is_regular(file):
        raise UserError(
            f"Shift {printable(name)!r}: file {printable(str(file))} does not exist in {Path.cwd()}."
        )
    return read_bytes(file, limit=SOURCE_BYTES)


def own_views(
    name: str,
    fingerprint: str,
    params: Mapping[str, Any],
    labels: Indices,
    k: int,
    seed: int,
    domains: Domains | None,
) -> list[View]:
    """Execute a user's rule and return the views of `k` siblings.

    The rule is called as `rule(labels, domains, siblings, generator, **params)`: labels `[n]` int64, names of
    the images' domains `[n]` or None, the number of siblings, and a `numpy.random.Generator` of the
    replicate. It returns one array of positions, 0 to n - 1, for each sibling.

    Raises:
        UserError: if the file was edited since `fingerprint` was taken, the rule raises an error, does not
            return such arrays, or returns others when it is called again.
    """
    path, function = Path(name.rpartition(":")[0]), name.rpartition(":")[2]
    source = read_source(name)
    if fingerprint_of(source) != fingerprint:
        raise UserError(f"{path} was edited since the run was started. Run again.")
    texts = None if domains is None else domains.texts

    def views() -> list[View]:
        module = types.ModuleType(f"lmcbench_shift_{fingerprint}")
        module.__file__ = str(path)
        try:
            with no_exit():
                exec(compile(source, str(path), "exec"), module.__dict__)
                rule = getattr(module, function, None)
                if not callable(rule):
                    known = ", ".join(n for n, v in vars(module).items() if isinstance(v, types.FunctionType))
                    raise UserError(f"{path} has no function {function!r}. It has {known or 'none'}.")
                given = list(rule(labels.copy(), texts, k, np.random.default_rng(seed), **params))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"Shift {portable_name(name)} failed: {describe(error, path)}") from None
        if len(given) != k:
            raise UserError(
                f"Shift {portable_name(name)} returned {counted(len(given), 'view')} for {k} siblings; "
                "return a list with one array of positions for each."
            )
        return [_view(portable_name(name), i, positions, labels) for i, positions in enumerate(given)]

    found = views()
    if any(not np.array_equal(a.indices, b.indices) for a, b in zip(found, views(), strict=True)):
        raise UserError(
            f"Shift {portable_name(name)} returned other positions when it was called again, so a run could "
            "not be resumed or repeated. Draw all random numbers from its argument 'generator'."
        )
    return found


def _view(name: str, i: int, positions: object, labels: Indices) -> View:
    """Return the view of sibling i, given what a user's rule returned for it."""
    array = np.asarray(positions)
    what = f"Shift {name}, sibling {i}"
    if array.ndim != 1 or (array.dtype.kind not in "iu" and len(array)):
        raise UserError(
            f"{what}: a view must be an array [m] of integer positions, found {array.dtype} "
            f"{list(array.shape)}. For a mask, return np.flatnonzero(mask)."
        )
    indices = array.astype(np.int64)
    bad = np.flatnonzero((indices < 0) | (indices >= len(labels)))
    if len(bad):
        raise UserError(
            f"{what}: position {indices[bad[0]]} is out of range, there are {len(labels):,} training images."
        )
    values, times = np.unique(indices, return_counts=True)
    if (times > 1).any():
        raise UserError(f"{what}: position {values[times > 1][0]} occurs twice; list each image once.")
    return View(by_class(labels, indices))
