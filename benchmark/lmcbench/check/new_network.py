"""A name in, the file of a small commented network out (torch-free)."""

from __future__ import annotations

import keyword
import os
import re
import sys
import unicodedata
from importlib.machinery import PathFinder
from pathlib import Path

from lmcbench.errors import UserError
from lmcbench.results.run_folder import write_atomic

TEMPLATE = '''"""A small residual network, to be changed into yours."""

import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm, and a shortcut past them."""

    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)  # its statistics are taken anew wherever weights are blended
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x):
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


def NAME(num_classes, in_chans, width=16, blocks=2):
    """Images [n, in_chans, h, w] -> logits [n, num_classes].

    Keep all of the network in this file, whose bytes are its identity: no imports of files beside it.
    lmcbench calls this function; ask for img_size too if your network must know it. Make every weight
    here, with torch: the seed is set for you, and what is not in the state dict is not forked.
    """
    return nn.Sequential(
        nn.Conv2d(in_chans, width, 3, padding=1),
        *[Block(width) for _ in range(blocks)],
        nn.MaxPool2d(2),
        *[Block(width) for _ in range(blocks)],
        nn.AdaptiveAvgPool2d(1),  # any image size will do
        nn.Flatten(),
        nn.Linear(width, num_classes),  # logits: the softmax belongs to the loss
    )
'''

RECIPE = "cnn"
"""Of suite digits: the one that the network above learns well with."""


def write_network(name: str, folder: Path) -> Path:
    """Write `NAME.py` into `folder`: a network of about thirty lines that `lmcbench` takes as it is.

    Raises:
        UserError: for a name that cannot be a function's, a file that is there already, or a folder that
            cannot be written to.
    """
    if name in sys.stdlib_module_names or _is_installed(name):
        raise UserError(
            f"{name}.py would hide the module {name!r} from others. Choose another name: my_{name}."
        )
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UserError(
            f"{name!r} cannot name a function. Use letters, digits and underscores, no digit first: my_net."
        )
    path = folder / f"{name}.py"
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} is there already, and stays as it is. Choose another name.")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{path} cannot be written: the folder is read-only.")
    try:
        write_atomic(path, TEMPLATE.replace("NAME", name))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None
    return path


def _is_installed(name: str) -> bool:
    """Whether there is a module of that name elsewhere than in the folder that is worked in."""
    if name == __name__.partition(".")[0]:
        return True  # an editable install is on no path
    elsewhere = [place for place in sys.path if Path(place).resolve() != Path.cwd()]
    return name.isidentifier() and PathFinder.find_spec(name, elsewhere) is not None


def next_commands(name: str) -> list[str]:
    """What to do with the file, in order."""
    return [
        f"lmcbench check {name}.py:{name}",
        f"lmcbench run digits --arch {name}.py:{name} --recipe {RECIPE}",
        f"lmcbench submit runs/digits --name {_slug(name)}",
    ]


def _slug(name: str) -> str:
    """A function's name as that of a submission: letters without accents, digits and single hyphens."""
    letters = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", letters).strip("-") or "my-net"
