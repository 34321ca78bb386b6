"""Find a network's weights in the content of a checkpoint, whatever its training script put around them.

Training scripts nest state dicts (`{"model": ..., "ema": {"state_dict": ...}}`), wrap networks, which gives
every name a prefix (`module.`, `_orig_mod.`, Lightning's attribute), and store other tensors beside the
weights. The weights are the tensors that fit the network's names exactly. Nothing here needs torch: values
are compared by name and shape.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmcbench.errors import UserError, counted

STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "params", "weights")
"""Keys of the plain weights in checkpoints of training scripts, in order of preference."""

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Attributes of wrappers: data parallel training, torch.compile, sharding, activation checkpointing."""

AVERAGED = re.compile(r"(?i)(^|[^a-z])(ema|swa|averag[a-z]*|avg|shadow|teacher|polyak)([^a-z]|$)")
"""Entries with this in their name hold averaged weights."""

BOOKKEEPING = re.compile(r"(?i)^(n_averaged|[a-z_]*(loss|criterion|metric|accuracy|_acc\b|auroc)[a-z_]*\b)")
"""Names of tensors beside the weights: the counter of `AveragedModel`, weights of a loss, metrics."""

COUNTER = "num_batches_tracked"
"""BatchNorm's counter, which checkpoints before torch 0.4.1 lack."""

CONVERTED = {
    "torch.float16": False,
    "torch.bfloat16": False,
    "torch.float32": True,
    "torch.float64": True,
}
"""Types of weights that are converted, by name -> whether they are also converted to, as a network's."""

SHADOW = "shadow_params"
"""Key of a list of averaged parameters."""

DEPTH = 6
"""Deepest nesting that is searched."""

SHOWN = 3
"""Names that a message shows."""


@dataclass(frozen=True)
class Target:
    """The tensors of a network.

    Attributes:
        own: its state dict, in its order.
        tied: name -> all names of the same tensor, for tensors with several names.
        unsaved: names of buffers that the state dict leaves out, which older versions may have saved.
        parameters: names of the parameters in the order of `model.parameters()`, tied ones once.
        trainable: likewise, of those that require gradients.
    """

    own: Mapping[str, Any]
    tied: Mapping[str, tuple[str, ...]]
    unsaved: frozenset[str]
    parameters: tuple[str, ...] = ()
    trainable: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Any) -> Target:
        """Return the tensors of `model`, an `nn.Module`."""
        kept = model.state_dict(keep_vars=True)
        names: dict[int, list[str]] = {}
        for name, value in kept.items():
            names.setdefault(id(value), []).append(name)
        groups = [tuple(group) for group in names.values() if len(group) > 1]
        unsaved = {n for n, _ in model.named_buffers(remove_duplicate=False)} - kept.keys()
        return cls(
            {name: value.detach() for name, value in kept.items()},
            {name: group for group in groups for name in group},
            frozenset(unsaved),
            tuple(name for name, _ in model.named_parameters()),
            tuple(name for name, value in model.named_parameters() if value.requires_grad),
        )

    def may_lack(self, name: str) -> bool:
        """Whether a checkpoint may lack `name`: a counter, or a constant of integers."""
        value = self.own[name]
        return name.rpartition(".")[2] == COUNTER or not (value.is_floating_point() or value.is_complex())

    def may_have(self, name: str) -> bool:
        """Whether a checkpoint may have `name`, which the state dict does not have."""
        return name in self.unsaved or name.rpartition(".")[2] == COUNTER or bool(BOOKKEEPING.match(name))


@dataclass(frozen=True)
class Entry:
    """Tensors in a checkpoint that fit a network.

    Attributes:
        label: where they are: keys, then the prefix of the names, joined by dots; empty: at the top.
        values: the network's name -> tensor, in the network's order; those that a checkpoint may lack may be
            missing.
        ignored: names in the same mapping that are not the network's.
    """

    label: str
    values: dict[str, Any]
    ignored: tuple[str, ...]

    @property
    def is_averaged(self) -> bool:
        """Whether the label names averaged weights."""
        return AVERAGED.search(self.label) is not None

    @property
    def rank(self) -> int:
        """Order of preference among plain weights."""
        last = self.label.rpartition(".")[2]
        if last in STATE_DICT_KEYS:
            return STATE_DICT_KEYS.index(last)
        return len(STATE_DICT_KEYS) + (self.label != "")

    @property
    def shown(self) -> str:
        """The label, for messages."""
        return repr(self.label) if self.label else "the top level"


@dataclass(frozen=True)
class Chosen:
    """The entry of a checkpoint to read.

    Attributes:
        entry: its name in the file.
        values: the network's name -> tensor, in the network's order and complete.
        notes: sentences on what else the checkpoint has.
    """

    entry: str
    values: dict[str, Any]
    notes: tuple[str, ...]


def is_converted(found: Any, own: Any) -> bool:
    """Return whether weights of torch's type `found` are converted to the type `own` of a network.

    Half precision is widened, which is exact; double precision is rounded, as `load_state_dict` does it.
    """
    return str(found) in CONVERTED and CONVERTED.get(str(own), False)


def unwrap_state_dict(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return the state dict in `content`: under one of `STATE_DICT_KEYS`, or `content` itself.

    For state dicts of an unknown network; see `choose_weights` for those of a known one.
    """
    return next((content[key] for key in STATE_DICT_KEYS if isinstance(content.get(key), Mapping)), content)


def choose_weights(
    content: Mapping[Any, Any],
    target: Target,
    what: str,
    is_tensor: Callable[[Any], bool],
    weights: str | None = None,
) -> Chosen:
    """Return the tensors in `content` that are the network's weights.

    Args:
        content: mappings, nested in any way, with tensors in them; other values are ignored.
        target: the network's tensors.
        what: the file or argument, for messages.
        is_tensor: whether a value is a tensor; it needs `.shape`.
        weights: the entry to read: its name, its last part, or `ema` for averaged weights; None: plain
            weights, and averaged ones if there are no others.

    Raises:
        UserError: if nothing fits the network, in names or shapes, or the choice is not unique.
    """
    mappings, lists = [], []
    for label, mapping in find_mappings(content):
        tensors, averages = find_tensors(mapping, is_tensor)
        mappings += [(label, tensors)] if tensors else []
        lists += [(_joined(label, SHADOW), averages)] if averages else []
    if not mappings and not lists:
        raise UserError(f"{what} holds no weights: there is no tensor in it.")
    found = [entry for label, tensors in mappings for entry in _fits(label, tensors, target)]
    plain = next((entry for entry in found if not entry.is_averaged), None)
    listed = [_from_list(label, values, target, plain) for label, values in lists]
    found += [entry for entry in listed if isinstance(entry, Entry)]
    fitting = [entry for entry in found if not _other_shapes(entry.values, target)]
    if not fitting and not found and not mappings:
        raise UserError(f"{what} does not fit the network: {'; '.join(map(str, listed))}.")
    if not fitting:
        raise _misfit(what, found, mappings, target)
    entry = _choose(fitting, weights, what)
    notes = [f"{what}: {reason}; it is ignored." for reason in listed if isinstance(reason, str)]
    others = [other for other in fitting if other is not entry]
    averaged = [other.label for other in others if other.is_averaged]
    if averaged and not entry.is_averaged:
        name = "ema" if len(averaged) == 1 else averaged[0]
        notes.append(
            f"{what}: the plain weights are read ({entry.shown}); it also holds averaged (EMA) weights under "
            f"{_listed(averaged)}: --weights {name}."
        )
    elif others:
        labels = [other.label or "the top level" for other in others]
        notes.append(f"{what}: {entry.shown} is read; it also holds weights under {_listed(labels)}.")
    elif entry.is_averaged and weights is None:
        notes.append(f"{what}: it holds averaged (EMA) weights alone, under {entry.shown}; these are read.")
    inside = {f"{other.label}." for other in others}
    ignored = [n for n in entry.ignored if not BOOKKEEPING.match(n) and not _is_under(n, inside)]
    if ignored:
        notes.append(
            f"{what}: {counted(len(ignored), 'tensor')} beside the network's were ignored: "
            f"{_listed(ignored)}."
        )
    return Chosen(entry.label, entry.values, tuple(notes))


_OPTIMIZER = re.compile(r"(?i)^(optim\w*|(lr_)?sched\w*|((grad|amp)_)?scaler|loops|amp)$")
"""Entries of training scripts that hold no weights; `amplitude` or `scaler_net` may be parts of a network."""


def find_mappings(content: Mapping[Any, Any]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield every mapping in `content` with its keys, joined by dots.

    Breadth first, in the order of the file; each mapping once. The states of optimizers are not searched.
    """
    level: list[tuple[str, Mapping[Any, Any]]] = [("", content)]
    seen = {id(content)}
    for _ in range(DEPTH):
        yield from level
        below = []
        for label, mapping in level:
            for key, value in mapping.items():
                if isinstance(key, str) and isinstance(value, Mapping) and id(value) not in seen:
                    seen.add(id(value))
                    if not _OPTIMIZER.match(key):
                        below.append((_joined(label, key), value))
        level = below


def _joined(*keys: str) -> str:
    return ".".join(filter(None, keys))


def find_tensors(
    mapping: Mapping[Any, Any], is_tensor: Callable[[Any], bool]
) -> tuple[dict[str, Any], list[Any]]:
    """Return the tensors of a mapping by name, and its list of averaged parameters, without names.

    `ExponentialMovingAverage` of torch_ema and `EMAModel` of diffusers store `shadow_params`: the parameters
    in the order of the network.
    """
    tensors = {name: v for name, v in mapping.items() if isinstance(name, str) and is_tensor(v)}
    listed: Any = mapping.get(SHADOW)
    is_list = isinstance(listed, list | tuple) and all(map(is_tensor, listed))
    return tensors, list(listed) if is_list else []


def _from_list(label: str, values: Sequence[Any], target: Target, plain: Entry | None) -> Entry | str:
    """Return the entry of a list of parameters, or why it is none, as a sentence without its end.

    Tensors that are not listed, such as normalisation statistics, are those of the plain weights beside it.
    """
    names = next((n for n in (target.parameters, target.trainable) if len(n) == len(values)), None)
    if names is None:
        parameters = counted(len(target.parameters), "parameter")
        return f"{label!r} has {counted(len(values), 'tensor')}, but the network has {parameters}"
    given = {
        each: v for name, v in zip(names, values, strict=True) for each in target.tied.get(name, (name,))
    }
    others = (
        plain.values
        if plain is not None
        else {n: _default(n, target) for n in target.own if target.may_lack(n)}
    )
    missing = [name for name in target.own if name not in given and name not in others]
    if missing:
        return (
            f"{label!r} lists parameters alone, and {_listed(missing)} of the network "
            f"{_are(missing)} not in the file"
        )
    return Entry(label, {n: given.get(n, others.get(n)) for n in target.own if n in given or n in others}, ())


def _fits(label: str, tensors: Mapping[str, Any], target: Target) -> list[Entry]:
    """Return the groups of tensors, one for each prefix, whose names fit the network exactly."""
    named = _without_wrappers(tensors, target.own)
    original = dict(zip(named, tensors, strict=True))
    # of a tied tensor, one name is enough
    required = sorted({target.tied.get(n, (n,)) for n in target.own if not target.may_lack(n)})
    complete = [
        prefix
        for prefix in _prefixes(named, target.own)
        if all(any(f"{prefix}{name}" in named for name in group) for group in required)
    ]
    entries = []
    for prefix in complete:
        others = [other for other in complete if other.startswith(prefix) and other != prefix]
        inside = {n.removeprefix(prefix): v for n, v in named.items() if n.startswith(prefix)}
        extra = [n for n in inside if n not in target.own]
        if not all(target.may_have(n) or _is_under(f"{prefix}{n}", others) for n in extra):
            continue
        values = {}
        for name in target.own:
            kept = next((n for n in (name, *target.tied.get(name, ())) if n in inside), None)
            if kept is not None:
                values[name] = inside[kept]
            elif name not in target.tied or target.may_lack(name):
                values[name] = _default(name, target)
        ignored = [original[n] for n in named if not n.startswith(prefix)]
        ignored += [original[f"{prefix}{n}"] for n in extra if not target.may_have(n)]
        entries.append(Entry(_joined(label, prefix.rstrip(".")), values, tuple(ignored)))
    return entries


def _default(name: str, target: Target) -> Any:
    """Return the value of a tensor that the checkpoint lacks: a constant as it is, a counter of 0."""
    value = target.own[name]
    return value * 0 if name.rpartition(".")[2] == COUNTER else value


def _without_wrappers(tensors: Mapping[str, Any], own: Iterable[str]) -> dict[str, Any]:
    """Return the tensors with the attributes of wrappers removed from their names, at any place."""
    parts_of_own = {part for name in own for part in name.split(".")}
    foreign = [part for part in WRAPPERS if part not in parts_of_own]
    renamed = {
        ".".join(part for part in name.split(".") if part not in foreign): value
        for name, value in tensors.items()
    }
    return renamed if len(renamed) == len(tensors) else dict(tensors)


def _prefixes(names: Iterable[str], own: Mapping[str, Any]) -> list[str]:
    """Return the prefixes before which names of the network occur, those of the most names first."""
    votes: Counter[str] = Counter()
    for name in names:
        if name in own:
            votes[""] += 1
        for i, character in enumerate(name):
            if character == "." and name[i + 1 :] in own:
                votes[name[: i + 1]] += 1
    return [prefix for prefix, _ in votes.most_common()]


def _choose(entries: Sequence[Entry], weights: str | None, what: str) -> Entry:
    """Return the entry that `weights` names; see `choose_weights`."""
    listed = _listed([entry.label or "the top level" for entry in entries], len(entries))
    if weights is not None:
        found = [entry for entry in entries if entry.label == weights]
        if not found:
            found = [entry for entry in entries if weights in entry.label.split(".")]
        if not found and weights == "ema":
            found = [entry for entry in entries if entry.is_averaged]
        if not found:
            raise UserError(f"{what} has no weights {weights!r} (--weights). It has {listed}.")
    else:
        found = [entry for entry in entries if not entry.is_averaged] or list(entries)
        best = min(entry.rank for entry in found)
        found = [entry for entry in found if entry.rank == best]
    if len(found) > 1:
        same = _listed([entry.label for entry in found], len(found))
        raise UserError(
            f"{what} has several weights that fit the network: {same}. Choose one: --weights NAME."
        )
    return found[0]


def _misfit(
    what: str, found: Sequence[Entry], mappings: Sequence[tuple[str, dict[str, Any]]], target: Target
) -> UserError:
    """Return the error for a checkpoint without tensors that fit, with counts and the first names."""
    if found:
        other = _other_shapes(found[0].values, target)
        name = other[0]
        sizes = f"{list(found[0].values[name].shape)}, the network's is {list(target.own[name].shape)}"
        # only the classifier, as after training on other classes
        classes = " Is the checkpoint of another number of classes?" if len(other) <= 2 else ""
        return UserError(
            f"{what} does not fit the network: {counted(len(other), 'tensor')} of {len(target.own)} "
            f"{'has another shape' if len(other) == 1 else 'have other shapes'}: {name!r} is {sizes}"
            f"{f'; then {_listed(other[1:])}' if other[1:] else ''}.{classes}"
        )
    best: tuple[int, str, dict[str, Any]] | None = None
    for _, tensors in mappings:
        named = _without_wrappers(tensors, target.own)
        for prefix in [*_prefixes(named, target.own)[:1], ""]:
            matched = sum(f"{prefix}{name}" in named for name in target.own)
            if best is None or matched > best[0] or (matched == best[0] == 0 and len(named) > len(best[2])):
                best = matched, prefix, named
    assert best is not None
    _, prefix, named = best
    missing = [n for n in target.own if f"{prefix}{n}" not in named and not target.may_lack(n)]
    missing = [n for n in missing if not any(f"{prefix}{t}" in named for t in target.tied.get(n, ()))]
    left = [n for n in named if n.removeprefix(prefix) not in target.own and not target.may_have(n)]
    parts = []
    if missing:
        parts.append(
            f"{len(missing)} of its {len(target.own)} tensors {_are(missing)} missing ({_listed(missing)})"
        )
    if left:
        parts.append(
            f"{len(left)} of the {len(named)} given {_are(left)} not the network's ({_listed(left)})"
        )
    faults = ", and ".join(parts)
    return UserError(f"{what} does not fit the network: {faults}. Is it a checkpoint of this network?")


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _other_shapes(values: Mapping[str, Any], target: Target) -> list[str]:
    return [n for n, value in values.items() if tuple(value.shape) != tuple(target.own[n].shape)]


def _is_under(name: str, prefixes: Iterable[str]) -> bool:
    return any(name.startswith(prefix) for prefix in prefixes)


def _listed(names: Sequence[str], shown: int = SHOWN) -> str:
    """Return the first names, quoted, with dots if there are more."""
    return ", ".join(repr(n) for n in names[:shown]) + (", ..." if len(names) > shown else "")
