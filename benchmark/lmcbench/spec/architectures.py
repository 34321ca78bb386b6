"""Architectures by name: what a suite or a user calls a network, before anything is built."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lmcbench.errors import UserError, unknown
from lmcbench.spec.canonical import canonical_json

Source = Literal["lmcbench", "timm", "module", "file"]

OWN_PREFIX = "lmc_"
"""What the names of all our own networks begin with, and none of timm's."""

OWN_NETWORKS = {
    "lmc_linear": "softmax regression on pixels: convex, the baseline without a loss barrier",
    "lmc_mlp": "ReLU network without normalisation; width=128, depth=3",
    "lmc_cnn": "three 3 x 3 convolutions, no normalisation; width=8",
    "lmc_resnet": "CIFAR ResNet with BatchNorm in three stages; width=8, blocks=1 (16 and 3: ResNet-20)",
    "lmc_lenet": "LeNet-5 with ReLU and max pooling; norm=false, true: BatchNorm",
    "lmc_vgg16": "VGG-16 for 32 x 32 images; norm=true (BatchNorm), width=64",
}
"""Our own small networks."""

BASELINE = "lmc_linear"
"""The permanent baseline: softmax regression is convex, and has hardly a barrier, whatever it is worth."""

OWN_REVISIONS = {
    "lmc_linear": 1,
    "lmc_mlp": 1,
    "lmc_cnn": 1,
    "lmc_resnet": 1,
    "lmc_lenet": 1,
    "lmc_vgg16": 1,
}
"""A change of what one of them computes raises its revision, and with it every key."""

ADAPTATIONS = {
    "small-stem": "the first convolution 3 x 3 with stride 1, and no pooling after it: for 32 x 32 images",
    "patch4": "patches of 4 x 4 pixels, where no keyword argument says so (MLP-Mixer)",
}
"""How a network made for large images is changed for small ones; done in `train/adapt.py`.

What a keyword argument can say (`patch_size`, `window_size`) needs none. A change of what one of them does
gets a name of its own, as keys hold the name alone.
"""


class Architecture(BaseModel):
    """A network and the recipe it is trained with.

    `name` is one of our own, a name of timm's registry, `module:function` or `file.py:function`; the
    factory is called as `f(num_classes=, in_chans=, **kwargs)`, with `img_size=` where it takes one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    recipe: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    adapt: str | None = Field(default=None, description="an adaptation to small images; null: as published")

    @field_validator("name")
    @classmethod
    def _possible(cls, name: str) -> str:
        """Refuse what can be no network's name; whether timm has a network is known only with timm."""
        if ":" in name:
            return name
        if name.endswith(".py"):
            raise UserError(f"Architecture {name!r} names no function. Write {name}:FUNCTION.")
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(
                f"Architecture {name!r} is no name: it holds more than letters, digits, '_', '-' and '.'. "
                "Arguments are written NAME(K=V,...) in a command, kwargs = {...} in a suite file."
            )
        if name.startswith(OWN_PREFIX) and name not in OWN_NETWORKS:
            raise unknown("architecture", name, OWN_NETWORKS)
        return name

    @field_validator("kwargs")
    @classmethod
    def _plain(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            canonical_json(kwargs)
        except (TypeError, ValueError):
            raise ValueError(
                "must be finite numbers, strings, booleans, or lists and tables of them"
            ) from None
        return kwargs

    @field_validator("adapt")
    @classmethod
    def _known(cls, adapt: str | None) -> str | None:
        if adapt is not None and adapt not in ADAPTATIONS:
            raise unknown("adaptation", adapt, ADAPTATIONS)
        return adapt

    @property
    def source(self) -> Source:
        """Where the network's definition comes from."""
        if ":" in self.name:
            return "file" if self.path is not None else "module"
        return "lmcbench" if self.name in OWN_REVISIONS else "timm"

    @property
    def path(self) -> Path | None:
        """The file of a `file.py:function` name, else None."""
        file, _, _ = self.name.rpartition(":")
        return Path(file) if file.endswith(".py") else None

    @property
    def label(self) -> str:
        """The name in print: adaptation and keyword arguments appended, a file without its folder."""
        name = self.name if self.path is None else f"{self.path.name}:{self.name.rpartition(':')[2]}"
        return architecture_label(name, self.kwargs, self.adapt)

    @cached_property
    def fingerprint(self) -> str:
        """What stands for the definition in keys, 16 hex digits, found without importing it.

        Our own and timm's networks: name and revision. A user's factory: the bytes of its source file when
        it is asked for first, so that a run has one network from its plan to its last record.

        Raises:
            UserError: where that file is not found.
        """
        if self.source in ("lmcbench", "timm"):
            text = f"{self.source}:{self.name}:{OWN_REVISIONS.get(self.name, 1)}".encode()
        else:
            text = source_file(self.name).read_bytes()
        return fingerprint_of(text)

    def identity(self) -> dict[str, Any]:
        """The architecture as keys hold it; a file's folder does not matter, its content does."""
        name = self.name if self.path is None else f"{self.path.name}:{self.name.rpartition(':')[2]}"
        adapted = {} if self.adapt is None else {"adapt": self.adapt}
        return {"name": name, "kwargs": self.kwargs, "fingerprint": self.fingerprint, **adapted}


def fingerprint_of(source: bytes) -> str:
    """What stands for the bytes of a definition in keys, 16 hex digits."""
    return hashlib.sha256(source).hexdigest()[:16]


def parse_architecture(text: str, recipe: str, kwargs: Mapping[str, Any] | None = None) -> Architecture:
    """An architecture as the command line names it and labels print it: `NAME+ADAPTATION(K=V,...)`.

    Raises:
        UserError: for what can be no network's name, an adaptation that is not in the table, or arguments
            that are none.
    """
    settings = dict(kwargs or {})
    called = re.fullmatch(r"([^()]+)\((.*)\)", text)
    if called is not None:
        text = called[1]
        settings = {**parse_settings(_split(called[2])), **settings}
    name, plus, adapt = text.rpartition("+")
    # a path may hold a plus: what follows it there names a function
    if not plus or (adapt not in ADAPTATIONS and (":" in adapt or "/" in adapt)):
        return make_architecture(text, recipe, settings, None)
    if adapt not in ADAPTATIONS:
        raise unknown("adaptation", adapt, ADAPTATIONS)
    return make_architecture(name, recipe, settings, adapt)


def make_architecture(name: str, recipe: str, kwargs: Mapping[str, Any], adapt: str | None) -> Architecture:
    """An architecture from its parts, as a command or a record names them.

    Raises:
        UserError: in one line, for what can be no network's name, an unknown adaptation or odd arguments.
    """
    try:
        return Architecture(name=name, recipe=recipe, kwargs=dict(kwargs), adapt=adapt)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        refusal = fault.get("ctx", {}).get("error")
        if isinstance(refusal, UserError):
            raise refusal from None
        said = fault["msg"].removeprefix("Value error, ")
        raise UserError(f"Architecture {name!r}: {fault['loc'][0]}: {said}.") from None


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """`k=v` texts as keyword arguments; values are JSON or Python where they can be, else strings.

    Raises:
        UserError: for a text without a name and `=`, or a name that stands twice.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name.isidentifier() or name in settings:
            raise UserError(f"Architecture argument {text!r}: write NAME=VALUE, each name once.")
        settings[name] = _value(value)
    return settings


def _value(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text


def _split(text: str) -> list[str]:
    """`a=1,b=[2,3]` at the commas outside brackets."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [part for part in parts if part.strip()]


def architecture_label(name: str, kwargs: Mapping[str, Any], adapt: str | None) -> str:
    """An architecture in print: `resnet18+small-stem`, `lmc_mlp(depth=3,width=16)`."""
    settings = ",".join(f"{k}={v}" for k, v in sorted(kwargs.items()))
    return name + ("" if adapt is None else f"+{adapt}") + (f"({settings})" if settings else "")


def imports_beside(file: Path) -> list[str]:
    """Files beside a network's own that it imports, found without executing it: `helper.py`.

    Fingerprint and submission hold the network's file alone; one that cannot be parsed imports nothing.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            imported.add(node.module.partition(".")[0])
    found = []
    for name in sorted(imported):
        for path in (file.parent / f"{name}.py", file.parent / name / "__init__.py"):
            if path.is_file() and not _found_elsewhere(name, path):
                found.append(str(path.relative_to(file.parent)))
    return found


def _found_elsewhere(name: str, beside: Path) -> bool:
    """Whether importing `name` finds another file than `beside`: an installed one, the standard library's."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() != beside.resolve()


def source_file(name: str) -> Path:
    """The file that holds the factory `module:function` or `file.py:function`.

    Raises:
        UserError: where it is not found.
    """
    where, _, function = name.rpartition(":")
    if not re.fullmatch(r"[A-Za-z_]\w*", function):
        raise UserError(
            f"Architecture {name!r} names no function. Write module:function or file.py:function."
        )
    if where.endswith(".py"):
        if not Path(where).is_file():
            raise UserError(f"Architecture {name!r}: no file {where}.")
        return Path(where)
    try:
        spec = importlib.util.find_spec(where)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise UserError(f"Architecture {name!r}: no module {where!r} on the import path.")
    return Path(spec.origin)
