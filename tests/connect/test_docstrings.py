"""The examples in the docstrings of the public functions are right."""

from __future__ import annotations

import doctest
import sys

import pytest

import lmcbench

NAMES = ["align", "geometry", "interpolate", "layerwise", "plane", "predict_barrier", "trace_path"]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_docstring(name) -> None:
    function = getattr(lmcbench, name)
    home = vars(sys.modules[function.__module__])
    [found] = doctest.DocTestFinder(recurse=False).find(function, name, globs=dict(home))
    assert found.examples
    assert doctest.DocTestRunner().run(found).failed == 0
