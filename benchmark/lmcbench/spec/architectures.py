"""Architectures by name, without building a network: parsing, labels and fingerprints."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lmcbench.errors import UserError, printable, unknown
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.session_networks import PREFIX, latest_fingerprint
from lmcbench.untrusted import MB, check_values, is_deeper, is_regular, read_bytes

Source = Literal["lmcbench", "timm", "module", "file", "python"]

ARGUMENTS_LENGTH = 4_000
"""Longest text of a network's keyword arguments, in characters."""

SOURCE_BYTES = 4 * MB
"""Largest file with a network's factory."""

OWN_PREFIX = "lmc_"
"""Prefix of the package's own networks; no timm name has it."""

OWN_NETWORKS = {
    "lmc_linear": "softmax regression on pixels: convex, the baseline without loss barrier",
    "lmc_mlp": "ReLU network without normalisation; width=128, depth=3",
    "lmc_cnn": "three 3 x 3 convolutions, no normalisation; width=8",
    "lmc_resnet": "CIFAR ResNet with BatchNorm in three stages; width=8, blocks=1 (16 and 3: ResNet-20)",
    "lmc_lenet": "LeNet-5 with ReLU and max pooling; norm=false, true: BatchNorm",
    "lmc_vgg16": "VGG-16 for 32 x 32 images; norm=true (BatchNorm), width=64",
}
"""The package's own small networks."""

BASELINE = "lmc_linear"
"""The baseline in every table: softmax regression is convex, so it has almost no barrier at any accuracy."""

OWN_REVISIONS = {
    "lmc_linear": 1,
    "lmc_mlp": 1,
    "lmc_cnn": 1,
    "lmc_resnet": 1,
    "lmc_lenet": 1,
    "lmc_vgg16": 1,
}
"""Increase a network's revision when its computation changes; this changes its keys."""

ADAPTATIONS = {
    "small-stem": "first convolution 3 x 3 with stride 1 and no pooling after it, for 32 x 32 images",
    "patch4": "patches of 4 x 4 pixels, for networks without a keyword argument for it (MLP-Mixer)",
}
"""Adaptations of networks for large images to small ones, implemented in `train/adapt.py`.

Use a keyword argument instead where the network has one (`patch_size`, `window_size`). A changed adaptation
needs a new name, because keys contain only the name.
"""


class Architecture(BaseModel):
    """A network and the recipe it is trained with.

    `name` is one of the package's own networks, a timm registry name, `module:function` or
    `file.py:function`, function or class. A factory is given the number of classes, channels and image size
    under the names that its signature has (`num_classes`, `in_chans` and `img_size`, or others in use).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    recipe: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    adapt: str | None = Field(default=None, description="adaptation to small images; null: none")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        """Reject malformed names; whether timm has the network is checked when it is built."""
        name = usual_name(name)
        if ":" in name:
            return name
        if name.endswith(".py"):
            raise UserError(
                f"Architecture {printable(name)!r} has no function name. Write {printable(name)}:FUNCTION."
            )
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(
                f"Architecture {printable(name)!r} is not a valid name. "
                "Allowed are letters, digits, '_', '-' and '.'. "
                "Write arguments as NAME(K=V,...) on the command line and as kwargs = {...} in a suite file."
            )
        if name.startswith(OWN_PREFIX) and name not in OWN_NETWORKS:
            raise unknown("architecture", name, OWN_NETWORKS)
        return name

    @field_validator("kwargs")
    @classmethod
    def _check_kwargs(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            check_values(kwargs)
            length = len(canonical_json(kwargs))
        except (TypeError, ValueError):
            raise ValueError(
                "must be finite numbers, strings, booleans, or lists and tables of them"
            ) from None
        if length > ARGUMENTS_LENGTH:
            raise ValueError(f"have {length:,} characters; at most {ARGUMENTS_LENGTH:,} are allowed")
        return kwargs

    @field_validator("adapt")
    @classmethod
    def _check_adaptation(cls, adapt: str | None) -> str | None:
        if adapt is not None and adapt not in ADAPTATIONS:
            raise unknown("adaptation", adapt, ADAPTATIONS)
        return adapt

    @property
    def source(self) -> Source:
        """Origin of the network's definition; `python` is the running session."""
        if self.name.startswith(PREFIX):
            return "python"
        if ":" in self.name:
            return "file" if self.path is not None else "module"
        return "lmcbench" if self.name in OWN_REVISIONS else "timm"

    @property
    def path(self) -> Path | None:
        """The file of a `file.py:function` name, or None."""
        file, _, _ = self.name.rpartition(":")
        return Path(file) if file.endswith(".py") else None

    @property
    def label(self) -> str:
        """The printed name, with adaptation and keyword arguments; a file without its folder."""
        return architecture_label(self._portable_name, self.kwargs, self.adapt)

    @property
    def _portable_name(self) -> str:
        return self.name if self.path is None else f"{self.path.name}:{self.name.rpartition(':')[2]}"

    @cached_property
    def fingerprint(self) -> str:
        """Hash that identifies the definition in keys, 16 hex digits, computed without importing it.

        Own and timm networks: name and revision. A user's factory: the bytes of its source file, read once,
        so that a run has the same fingerprint from its plan to its last record; or, given to `lmcbench.run`
        as an object, its source and initial weights.

        Raises:
            UserError: if that file is not found, or the session does not have the object.
        """
        if self.source == "python":
            return latest_fingerprint(self.name)
        if self.source in ("lmcbench", "timm"):
            text = f"{self.source}:{self.name}:{OWN_REVISIONS.get(self.name, 1)}".encode()
        else:
            text = read_bytes(source_file(self.name), limit=SOURCE_BYTES)
        return fingerprint_of(text)

    def identity(self) -> dict[str, Any]:
        """Return the architecture as in keys: a file by name and content, without its folder."""
        adapted = {} if self.adapt is None else {"adapt": self.adapt}
        return {
            "name": self._portable_name,
            "kwargs": self.kwargs,
            "fingerprint": self.fingerprint,
            **adapted,
        }


def usual_name(text: str) -> str:
    """Return a network's name from the spellings that cards and scripts use; other text as it is.

    Raises:
        UserError: for a repository of the Hugging Face hub whose network timm does not name.

    Examples:
        >>> usual_name("hf-hub:timm/resnet18.a1_in1k"), usual_name("torchvision.models.resnet18")
        ('resnet18.a1_in1k', 'torchvision.models:resnet18')
    """
    hub = _HUB.match(text)
    if hub is not None:
        owner, _, network = text[hub.end() :].partition("/")
        if owner != "timm" or not network:
            raise UserError(
                f"Architecture {printable(text)!r}: the network of a repository on the hub is not known. "
                "Name the network of timm, as 'lmcbench archs' lists it, or your function FILE.py:FUNCTION."
            )
        return network
    for pattern, replacement in _SPELLINGS:
        if found := pattern.fullmatch(text):
            return found.expand(replacement)
    return text


_HUB = re.compile(r"(hf[-_]hub:|https?://huggingface\.co/|(?=timm/))")
_SPELLINGS = (
    (re.compile(r"timm(?:\.models)?[.:](\w[\w.-]*)"), r"\1"),
    (re.compile(r"(?:torchvision(?:\.models)?[.:/]|pytorch/vision:)(\w+)"), r"torchvision.models:\1"),
)


def fingerprint_of(source: bytes) -> str:
    """Return the first 16 hex digits of the sha256 of a definition."""
    return hashlib.sha256(source).hexdigest()[:16]


def parse_architecture(text: str, recipe: str, kwargs: Mapping[str, Any] | None = None) -> Architecture:
    """Parse `NAME+ADAPTATION(K=V,...)`, as in commands and labels.

    Args:
        text: the name; adaptation and arguments are optional.
        recipe: name of the recipe.
        kwargs: keyword arguments that replace those in `text`.

    Raises:
        UserError: for an invalid name, an unknown adaptation or malformed arguments.
    """
    settings = dict(kwargs or {})
    if len(text) > ARGUMENTS_LENGTH:
        raise UserError(
            f"Architecture {printable(text, 60)!r} has {len(text):,} characters; "
            f"at most {ARGUMENTS_LENGTH:,} are allowed."
        )
    call = re.fullmatch(r"([^()]+)\((.*)\)", text)
    if call is not None:
        text = call[1]
        settings = {**parse_settings(_split(call[2])), **settings}
    name, plus, adapt = text.rpartition("+")
    # a path may contain a plus; the text after it then contains a function
    if not plus or (adapt not in ADAPTATIONS and (":" in adapt or "/" in adapt)):
        return make_architecture(text, recipe, settings, None)
    if adapt not in ADAPTATIONS:
        raise unknown("adaptation", adapt, ADAPTATIONS)
    return make_architecture(name, recipe, settings, adapt)


def make_architecture(name: str, recipe: str, kwargs: Mapping[str, Any], adapt: str | None) -> Architecture:
    """Return an architecture from the parts that a command or a record has.

    Raises:
        UserError: in one line, for an invalid name, an unknown adaptation or invalid arguments.
    """
    try:
        return Architecture(name=name, recipe=recipe, kwargs=dict(kwargs), adapt=adapt)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        refusal = fault.get("ctx", {}).get("error")
        if isinstance(refusal, UserError):
            raise refusal from None
        message = fault["msg"].removeprefix("Value error, ")
        raise UserError(f"Architecture {printable(name)!r}: {fault['loc'][0]}: {message}.") from None


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Parse `k=v` texts to keyword arguments; values are JSON or Python literals, else strings.

    Raises:
        UserError: for a text without a name or `=`, or a repeated name.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name.isidentifier() or name in settings:
            raise UserError(
                f"Architecture argument {printable(text)!r} is malformed or repeated: "
                "write NAME=VALUE, each name once."
            )
        settings[name] = _value(value)
    return settings


def _value(text: str) -> Any:
    brackets = text.replace("(", "[").replace(")", "]").encode("utf-8", "replace")
    if len(text) > ARGUMENTS_LENGTH or is_deeper(brackets):
        raise UserError(f"Architecture argument {printable(text, 60)!r} is too long or too deep.")
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # the last: of the parser
            continue
    return text


def _split(text: str) -> list[str]:
    """Split `a=1,b=[2,3]` at commas outside brackets."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [part for part in parts if part.strip()]


def architecture_label(name: str, kwargs: Mapping[str, Any], adapt: str | None) -> str:
    """Return the printed name: `resnet18+small-stem`, `lmc_mlp(depth=3,width=16)`."""
    settings = ",".join(f"{k}={v}" for k, v in sorted(kwargs.items()))
    return name + ("" if adapt is None else f"+{adapt}") + (f"({settings})" if settings else "")


def short_labels(labels: Iterable[str]) -> dict[str, str]:
    """Return for each label the same without its settings, where that still tells it from the others.

    Examples:
        >>> short_labels(["resnet18+small-stem(layers=[1, 1])", "lmc_mlp(depth=2)", "lmc_mlp(depth=3)"])
        ... # doctest: +NORMALIZE_WHITESPACE
        {'resnet18+small-stem(layers=[1, 1])': 'resnet18+small-stem', 'lmc_mlp(depth=2)': 'lmc_mlp(depth=2)',
         'lmc_mlp(depth=3)': 'lmc_mlp(depth=3)'}
    """
    heads = {label: label.partition("(")[0] if label.endswith(")") else label for label in labels}
    count = Counter(heads.values())
    return {label: head if head and count[head] == 1 else label for label, head in heads.items()}


def imports_beside(file: Path) -> list[str]:
    """Return files in the folder of a network's file that it imports, found without executing it.

    Fingerprint and submission contain only the network's own file. A file that cannot be parsed yields no
    names.
    """
    try:
        tree = ast.parse(read_bytes(file, limit=SOURCE_BYTES))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
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
    """Return whether importing `name` finds a file other than `beside`, such as an installed package."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() != beside.resolve()


def source_file(name: str) -> Path:
    """Return the file that contains the factory `module:function` or `file.py:function`.

    Raises:
        UserError: if it is not found.
    """
    where, _, function = name.rpartition(":")
    if not re.fullmatch(r"[A-Za-z_]\w*", function):
        raise UserError(
            f"Architecture {printable(name)!r} has no function name. "
            "Write module:function or file.py:function."
        )
    if where.endswith(".py"):
        if not is_regular(Path(where)):
            raise UserError(f"Architecture {printable(name)!r}: file {printable(where)} does not exist.")
        return Path(where)
    try:
        spec = importlib.util.find_spec(where)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not is_regular(Path(spec.origin)):
        raise UserError(f"Architecture {printable(name)!r}: module {where!r} is not on the import path.")
    return Path(spec.origin)
