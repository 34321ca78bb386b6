"""Canonical JSON: the text from which digests and keys are computed."""

from __future__ import annotations

import hashlib
import json


def canonical_json(value: object) -> str:
    """Return `value` as JSON with sorted keys and no spaces.

    Raises:
        ValueError: if it contains NaN or infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_bytes(content: bytes) -> str:
    """Return the sha256 of `content`, 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def digest(value: object) -> str:
    """Return the sha256 of the canonical JSON of `value`, 64 hex digits."""
    return digest_bytes(canonical_json(value).encode())
