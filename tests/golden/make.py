"""The seeds, digests and keys of published suites as golden files: `python tests/golden/make.py`.

Regenerate them while a suite is not published; from then on a difference means that results made before
it can no longer be compared, and the code is at fault.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lmcbench.spec.cells import expand
from lmcbench.spec.seeds import Seeds, permutation
from lmcbench.spec.suite_files import load_suite, published_suites

HERE = Path(__file__).resolve().parent


def seeds() -> dict[str, Any]:
    """What never changes, whatever the suites are."""
    return {
        "seeds": {
            f"{suite}/{version}/{replicate}": Seeds.of(suite, version, replicate, 2)._asdict()
            for suite, version, replicate in (("digits", 1, 0), ("digits", 1, 1000), ("other", 2, 0))
        },
        "permutations": {
            f"{seed}/{counter}": permutation(seed, counter, 12).tolist()
            for seed, counter in ((0, 0), (0, 1), (2**63 - 1, 5))
        },
    }


def digits(name: str) -> dict[str, Any]:
    """Identity of a version of the suite digits: digest, number of cells and every seventh key."""
    suite = load_suite(name)
    cells = expand(suite)
    return {
        "digest": suite.digest,
        "cells": len(cells),
        "keys": {
            f"{c.architecture.label} | {c.shift.label} | {c.fork.name} | {c.replicate}": c.key
            for c in cells[::7]
        },
    }


def suites() -> dict[str, Any]:
    """Digest, number of cells, first and last key of every published suite."""
    found = {}
    for name in published_suites():
        suite = load_suite(name)
        cells = expand(suite)
        found[f"{name}-v{suite.version}"] = {
            "digest": suite.digest,
            "cells": len(cells),
            "first": cells[0].key,
            "last": cells[-1].key,
        }
    return found


FILES: dict[str, Callable[[], dict[str, Any]]] = {
    "seeds.json": seeds,
    **{f"{name}.json": partial(digits, name) for name in ("digits-v1", "digits-v2")},
    "suites.json": suites,
}


def text(content: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(content, indent=1) + "\n"


if __name__ == "__main__":
    for name, content in FILES.items():
        (HERE / name).write_text(text(content()))
        print(f"Wrote {HERE / name}")
