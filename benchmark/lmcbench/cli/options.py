"""Texts of options in, values out."""

from __future__ import annotations

from lmcbench.errors import UserError


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
