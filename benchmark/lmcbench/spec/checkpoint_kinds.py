"""Recognise a checkpoint file by its first bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lmcbench.errors import UserError
from lmcbench.untrusted import HEADER_BYTES, placeholder

HEAD_BYTES = 512
"""First bytes of a file that tell what it is."""

LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""First bytes of a file of torch before 1.6: the pickle of a magic number."""

SIGNS = (
    (b"\x89HDF", "an HDF5 file, as Keras writes. Convert its weights to a torch state dict"),
    (b"GGUF", "a GGUF file of quantised weights. Give the checkpoint that it was made from"),
    (b"\x93NUMPY", "a NumPy array. Save a state dict: torch.save(STATE, OUT)"),
    (b"\x1f\x8b", "compressed by gzip. Unpack it: gunzip"),
    (b"\xfd7zXZ", "compressed by xz. Unpack it: unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd. Unpack it: unzstd"),
    (b"BZh", "compressed by bzip2. Unpack it: bunzip2"),
)
"""First bytes of files of other kinds, and what to do."""

Kind = Literal["safetensors", "parts", "zip", "legacy", "pickle"]
"""`parts` is the index of a checkpoint in several parts; the last three are files of `torch.save`."""


def checkpoint_kind(path: Path, head: bytes) -> Kind:
    """Return what kind of checkpoint a file is that begins with `head`, its first `HEAD_BYTES`.

    Raises:
        UserError: if it is none; the message names what the file is and what to do.
    """
    if not head:
        raise UserError(f"{path} is empty, perhaps because writing was interrupted. Save the weights again.")
    for sign, what in SIGNS:
        if head.startswith(sign):
            raise UserError(f"{path} is {what}.")
    if instead := placeholder(head):
        raise UserError(f"{path} {instead}.")
    if head[257:262] == b"ustar":
        raise UserError(f"{path} is a tar archive. Unpack it and give the file with the weights.")
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= HEADER_BYTES:
        return "safetensors"
    if head.lstrip()[:1] == b"{":
        return "parts"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[:1] == b"\x80":
        return "legacy" if head.startswith(LEGACY_MAGIC) else "pickle"
    raise UserError(
        f"{path} is not a checkpoint: neither safetensors nor a file of torch.save. "
        "Save the weights: torch.save(model.state_dict(), FILE)."
    )
