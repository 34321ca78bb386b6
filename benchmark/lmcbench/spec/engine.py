"""The engines that train fleets, by name; `train/engines.py` has them."""

from __future__ import annotations

from typing import Literal, get_args

EngineName = Literal["reference", "stacked"]
"""One network after another, or all of a fleet in one pass (design 3.11)."""

ENGINES: tuple[EngineName, ...] = get_args(EngineName)
