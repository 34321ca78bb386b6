"""Texts of options in, values out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lmcbench.errors import UserError


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """`k=v` texts as keyword arguments; values are JSON where they can be, else strings.

    Raises:
        UserError: for a text without a name and `=`, or a name that stands twice.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or name in settings:
            raise UserError(f"Architecture argument {text!r}: write NAME=VALUE, each name once.")
        try:
            settings[name] = json.loads({"True": "true", "False": "false"}.get(value, value))
        except ValueError:
            settings[name] = value
    return settings


def parse_channels(text: str | None, option: str) -> tuple[float, ...] | None:
    """`0.5` or `0.49,0.48,0.45` as one number per channel.

    Raises:
        UserError: for anything else.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{option} {text!r}: write one number per channel, as in 0.49,0.48,0.45.") from None
