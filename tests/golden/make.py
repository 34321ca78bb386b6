"""Write the seeds, digests and keys of published suites to golden files: `python tests/golden/make.py`.

Regenerate them only for suites that are not released. For a released suite a difference is a bug: its earlier
results could no longer be compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmcbench.spec.cells import expand
from lmcbench.spec.seeds import Seeds, permutation
from lmcbench.spec.suite_files import load_suite, published_suites

HERE = Path(__file__).resolve().parent


def seeds() -> dict[str, Any]:
    """Return seeds and permutations, which never change."""
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


def digits() -> dict[str, Any]:
    """Return digest, number of cells and every seventh key of the suite digits."""
    suite = load_suite("digits")
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
    """Return digest, number of cells, first and last key of every published suite."""
    identities = {}
    for name in published_suites():
        suite = load_suite(name)
        cells = expand(suite)
        identities[f"{name}-v{suite.version}"] = {
            "digest": suite.digest,
            "cells": len(cells),
            "first": cells[0].key,
            "last": cells[-1].key,
        }
    return identities


FILES: dict[str, Callable[[], dict[str, Any]]] = {
    "seeds.json": seeds,
    "digits-v3.json": digits,
    "suites.json": suites,
}


def text(content: dict[str, Any]) -> str:
    """Return the text of a golden file."""
    return json.dumps(content, indent=1) + "\n"


if __name__ == "__main__":
    for name, content in FILES.items():
        (HERE / name).write_text(text(content()))
        print(f"Wrote {HERE / name}")
