"""What the HTML pages share: style sheet, theme switch, values inside scripts."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def page_style() -> str:
    """Return the style sheet: colours of both themes, typography, tables and figures."""
    return _template("page.css")


@cache
def theme_script() -> str:
    """Return the script of the button `#theme`, which switches between system, light and dark."""
    return _template("theme.js")


def embed(value: Any) -> str:
    """Return `value` as JSON for a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _template(name: str) -> str:
    return files("lmcbench").joinpath("templates", name).read_text(encoding="utf-8")
