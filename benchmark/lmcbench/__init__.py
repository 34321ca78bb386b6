"""lmcbench: linear mode connectivity of image classifiers under data shift.

The names below load on first use, so that importing the package stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmcbench import plots
    from lmcbench.connect.alignment import align
    from lmcbench.connect.blending import interpolate
    from lmcbench.connect.curvature import predict_barrier
    from lmcbench.connect.geometry import Geometry, geometry
    from lmcbench.connect.interpolation import trace_path
    from lmcbench.connect.layers import layerwise
    from lmcbench.connect.plane import Plane, plane
    from lmcbench.connect.soups import recalibrate, soup
    from lmcbench.ensemble.predictions import compare_predictions
    from lmcbench.errors import UserError
    from lmcbench.results.curves import Barrier, Curve, barrier
    from lmcbench.results.frame import load_records
    from lmcbench.running.from_python import run
    from lmcbench.spec.recipe import noise_scale
    from lmcbench.spec.suite import Suite
    from lmcbench.spec.suite_files import load_suite

_HOMES = {
    "Barrier": "results.curves",
    "Curve": "results.curves",
    "Geometry": "connect.geometry",
    "Plane": "connect.plane",
    "Suite": "spec.suite",
    "UserError": "errors",
    "align": "connect.alignment",
    "barrier": "results.curves",
    "compare_predictions": "ensemble.predictions",
    "geometry": "connect.geometry",
    "interpolate": "connect.blending",
    "layerwise": "connect.layers",
    "load_records": "results.frame",
    "load_suite": "spec.suite_files",
    "noise_scale": "spec.recipe",
    "plane": "connect.plane",
    "predict_barrier": "connect.curvature",
    "recalibrate": "connect.soups",
    "run": "running.from_python",
    "soup": "connect.soups",
    "trace_path": "connect.interpolation",
}

__all__ = [
    "Barrier",
    "Curve",
    "Geometry",
    "Plane",
    "Suite",
    "UserError",
    "align",
    "barrier",
    "compare_predictions",
    "geometry",
    "interpolate",
    "layerwise",
    "load_records",
    "load_suite",
    "noise_scale",
    "plane",
    "plots",
    "predict_barrier",
    "recalibrate",
    "run",
    "soup",
    "trace_path",
]


def __getattr__(name: str) -> Any:
    if name == "plots":
        return import_module("lmcbench.plots")
    if name not in _HOMES:
        raise AttributeError(f"module 'lmcbench' has no attribute {name!r}")
    value = getattr(import_module(f"lmcbench.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
