"""The page's value in, one file of HTML out that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lmcbench.board.pages import words


def render_html(payload: Mapping[str, Any]) -> str:
    """The page: style and script inlined, the numbers as JSON that holds no `<`, and no other text."""
    template = _environment().get_template("leaderboard.html.j2")
    folder = files("lmcbench.board.pages").joinpath("templates")
    text = template.render(
        words=words,
        style=folder.joinpath("leaderboard.css").read_text(encoding="utf-8"),
        script=folder.joinpath("leaderboard.js").read_text(encoding="utf-8"),
        data=embed(payload),
    )
    return text.rstrip("\n") + "\n"


def embed(value: Any) -> str:
    """`value` as JSON that can stand inside a script element: nothing in it ends that or opens a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("lmcbench.board.pages", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
