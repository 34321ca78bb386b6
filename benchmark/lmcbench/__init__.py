"""lmcbench: linear mode connectivity of image classifiers under data shift.

The names below load on first use, so that importing the package stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmcbench.connect.path import trace_path
    from lmcbench.connect.state import interpolate
    from lmcbench.ensemble.predictions import compare_predictions
    from lmcbench.errors import UserError
    from lmcbench.results.frame import load_records
    from lmcbench.results.measures import Barrier, Curve, barrier
    from lmcbench.spec.recipe import noise_scale

_HOMES = {
    "Barrier": "results.measures",
    "Curve": "results.measures",
    "UserError": "errors",
    "barrier": "results.measures",
    "compare_predictions": "ensemble.predictions",
    "interpolate": "connect.state",
    "load_records": "results.frame",
    "noise_scale": "spec.recipe",
    "trace_path": "connect.path",
}

__all__ = [
    "Barrier",
    "Curve",
    "UserError",
    "barrier",
    "compare_predictions",
    "interpolate",
    "load_records",
    "noise_scale",
    "trace_path",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lmcbench' has no attribute {name!r}")
    value = getattr(import_module(f"lmcbench.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
