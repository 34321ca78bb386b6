"""How a data set of the user's own is named: by its path."""

from __future__ import annotations


def is_path(name: str) -> bool:
    """Whether `name` is written as a path, `./birds` or `birds.parquet`; others are looked up."""
    return "/" in name or "\\" in name or name.endswith(".parquet") or name.startswith(".")
