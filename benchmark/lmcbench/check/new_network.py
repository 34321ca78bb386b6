"""Write the file that `lmcbench new-arch` starts a network with (no torch)."""

from __future__ import annotations

import keyword
import os
import re
import sys
import unicodedata
from importlib.machinery import PathFinder
from pathlib import Path

from lmcbench.errors import UserError
from lmcbench.results.atomic_files import write_atomic

TEMPLATE = '''"""A small residual network as a starting point for your own."""

import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm and a skip connection."""

    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)  # lmcbench recalibrates its statistics after interpolation
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x):
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


def NAME(num_classes, in_chans, width=16, blocks=2):
    """Return a network that maps images [n, in_chans, h, w] to logits [n, num_classes].

    lmcbench calls this function. Add a parameter img_size if the network depends on the image size.
    Create all weights here, with torch; do not set a seed. Siblings copy only what is in the state dict.
    Keep the whole network in this file: its content identifies the network in all results.
    """
    return nn.Sequential(
        nn.Conv2d(in_chans, width, 3, padding=1),
        *[Block(width) for _ in range(blocks)],
        nn.MaxPool2d(2),
        *[Block(width) for _ in range(blocks)],
        nn.AdaptiveAvgPool2d(1),  # accepts any image size
        nn.Flatten(),
        nn.Linear(width, num_classes),  # logits, because the loss includes the softmax
    )
'''

RECIPE = "mlp"
"""The recipe of suite digits that the template learns well with."""


def write_network(name: str, folder: Path) -> Path:
    """Write `NAME.py` into `folder`, a small network that is ready to run.

    Raises:
        UserError: if `name` cannot name a function or is a module's, the file exists, or the folder cannot
            be written to.
    """
    if name in sys.stdlib_module_names or _is_installed(name):
        raise UserError(f"{name}.py would hide the module {name!r}. Choose another name: my_{name}.")
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UserError(
            f"{name!r} cannot name a function. Use letters, digits and underscores, no digit first: my_net."
        )
    path = folder / f"{name}.py"
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} already exists and was not changed. Choose another name.")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{path} cannot be written: the folder is read-only.")
    write_atomic(path, TEMPLATE.replace("NAME", name))
    return path


def _is_installed(name: str) -> bool:
    """Return whether a module of that name exists outside the working folder."""
    if name == __name__.partition(".")[0]:
        return True  # an editable install is on no path
    elsewhere = [place for place in sys.path if Path(place).resolve() != Path.cwd()]
    return name.isidentifier() and PathFinder.find_spec(name, elsewhere) is not None


def next_commands(name: str) -> list[str]:
    """Return the commands that check, run and submit the network."""
    ascii_name = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_name).strip("-") or "my-net"
    return [
        f"lmcbench check {name}.py:{name}",
        f"lmcbench run digits --arch {name}.py:{name} --recipe {RECIPE}",
        f"lmcbench submit runs/digits --name {slug}",
    ]
