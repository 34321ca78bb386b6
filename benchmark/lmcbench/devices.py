"""A device's name in, the device out."""

from __future__ import annotations

import torch

from lmcbench.errors import UserError


def choose_device(name: str) -> torch.device:
    """`cpu`, `cuda`, or what is there for `auto`.

    Raises:
        UserError: for CUDA where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("No CUDA device was found. Use --device cpu, or --device auto to take what is there.")
    return torch.device(name)
