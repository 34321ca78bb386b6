"""A device's name in, the device out, and what it computes by."""

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


def compute_exactly(device: torch.device) -> None:
    """On CUDA, for the whole process: fp32 means fp32 (design 3.2), and reruns give the same bits (3.11).

    Left to itself cuDNN rounds to TF32 in convolutions, and takes algorithms whose sums have no fixed order.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True


def device_name(device: torch.device) -> str:
    """What records call it: the GPU's own name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
