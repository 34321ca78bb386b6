"""What the HTML pages share: templates, style sheet, theme switch, values inside scripts."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def templates(package: str) -> Environment:
    """Return the environment of the jinja templates of a package, in which text is escaped."""
    return Environment(
        loader=PackageLoader(package, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def page_style() -> str:
    """Return the style sheet: colours of both themes, typography, tables and figures."""
    return template_text("page.css")


@cache
def theme_script() -> str:
    """Return the script of the button `#theme`, which switches between system, light and dark."""
    return template_text("theme.js")


@cache
def sort_script() -> str:
    """Return the script that makes tables of class `sorts` sort by a click on a header."""
    return template_text("sort.js")


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


def template_text(name: str, package: str = "lmcbench") -> str:
    """Return a style sheet or script beside the templates of a package."""
    return files(package).joinpath("templates", name).read_text(encoding="utf-8")
