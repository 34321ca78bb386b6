"""What the HTML pages share: style sheet, theme switch, values inside scripts."""

from __future__ import annotations

import base64
import hashlib
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


@cache
def sort_script() -> str:
    """Return the script that makes tables of class `sorts` sort by a click on a header."""
    return _template("sort.js")


def content_policy(script: str) -> str:
    """Return a content security policy: the one script of this text, inline styles and pictures, no more."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def embed(value: Any) -> str:
    """Return `value` as JSON for a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _template(name: str) -> str:
    return files("lmcbench").joinpath("templates", name).read_text(encoding="utf-8")
