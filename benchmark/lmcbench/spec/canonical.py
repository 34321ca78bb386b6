"""Canonical JSON, the one text that every digest and key is taken of."""

from __future__ import annotations

import hashlib
import json


def canonical_json(value: object) -> str:
    """`value` as JSON with sorted keys and no spaces.

    Raises:
        ValueError: for NaN and infinities, which JSON cannot hold.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_bytes(content: bytes) -> str:
    """Sha256 of `content`, 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def digest(value: object) -> str:
    """Sha256 of the canonical JSON of `value`, 64 hex digits."""
    return digest_bytes(canonical_json(value).encode())
