"""List suites, shifts, data sets and architectures, as data and as text (no torch)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from lmcbench.errors import UserError, counted
from lmcbench.output import make_table, one_line
from lmcbench.spec.architectures import OWN_NETWORKS
from lmcbench.spec.cells import expand, families
from lmcbench.spec.domains import sort_names
from lmcbench.spec.evaluation_shifts import CIFAR_C, CORRUPTIONS, is_shifted, parse_shifted
from lmcbench.spec.forks import Fork
from lmcbench.spec.shifts import ALIASES, SHIFTS
from lmcbench.spec.suite import Suite
from lmcbench.spec.suite_files import load_suite, published_suites
from lmcbench.spec.suite_tables import ShiftSpec

if TYPE_CHECKING:
    from lmcbench.data.contents import Contents
    from lmcbench.data.dataset import Listed
    from lmcbench.data.listing import Listing


def list_suites() -> list[dict[str, Any]]:
    """Return a summary of every published suite."""
    return [
        {
            **suite.identity(),
            "description": suite.description,
            "data": suite.data.name,
            "cells": len(expand(suite)),
            "cost": suite.cost,
        }
        for suite in map(load_suite, published_suites())
    ]


_SENTENCE_END = r"(?<=[.?!])(?<!al\.) "
"""The space after a sentence, but not after `et al.`"""
_COST_END = r" \(|[;:]"
"""Where the machine and the conditions of a cost begin."""


def suites_text(listed: list[dict[str, Any]]) -> str:
    """Return them as a table, with the first words on cost and the first sentence of the description."""
    rows = [
        [
            *(s["name"], s["version"], s["data"], s["cells"]),
            *(_until(_COST_END, s["cost"]), _until(_SENTENCE_END, s["description"])),
        ]
        for s in listed
    ]
    table = make_table(
        rows,
        headers=["suite", "version", "data", "cells", "cost", "description"],
        maxcolwidths=[None, None, None, None, 24, 50],
    )
    return f"{table}\n\n'lmcbench suites NAME' shows one; 'lmcbench run NAME' runs it."


def _until(end: str, text: str) -> str:
    return re.split(end, text, maxsplit=1)[0]


def describe_suite(suite: Suite) -> dict[str, Any]:
    """Return name, version, digest, and every cell with its key."""
    return {**suite.identity(), "cells": [cell.summary() for cell in expand(suite)]}


def needed_data(suite: Suite) -> list[str]:
    """Return the data set of a suite, and the shifted test sets among its evaluation shifts."""
    shifted = (parse_shifted(name).family for name in filter(is_shifted, suite.evaluations))
    return list(dict.fromkeys([suite.data.name, *shifted]))


def suite_text(suite: Suite, where: Mapping[str, str]) -> str:
    """Return a description of one suite; `where` says where each of its `needed_data` is.

    Raises:
        UserError: if the file or module of a network is missing.
    """
    for architecture in suite.architectures:
        _ = architecture.fingerprint  # raises if the file or module is missing
    cells = expand(suite)
    own, *shifted = needed_data(suite)
    facts = {
        "data": f"{_data_text(suite)}; {where[own]}",
        **{f"shifted test set {name}": where[name] for name in shifted},
        "shifts": ", ".join(map(_shift_text, suite.shifts)),
        "forks": ", ".join(Fork.parse(fork).name for fork in suite.forks),
        **_comparators(suite),
        "siblings": f"{suite.siblings} per cell",
        "replicates": suite.replicates,
        "cells": f"{len(cells)} in {len(families(cells))} families (a family shares a trunk)",
        "protocol": f"{suite.protocol.alphas} alphas, {suite.protocol.calibration} calibration images, "
        f"train curves on {suite.protocol.train_eval or 'all'} items",
        "evaluation shifts": ", ".join(suite.evaluations) or "none",
        "floor": f"mean member accuracy {suite.floor:g}",
        "cost": suite.cost or "not measured",
        "digest": suite.digest,
        **({"citation": suite.citation} if suite.citation else {}),
    }
    networks = make_table(
        [[a.label, a.recipe, _recipe_text(suite, a.recipe)] for a in suite.architectures],
        headers=["architecture", "recipe", "settings that differ from the defaults"],
    )
    head = f"{suite.name} version {suite.version}: {one_line(suite.description)}"
    return f"{head}\n\n{make_table(list(facts.items()), style='plain')}\n\n{networks}"


def _shift_text(spec: ShiftSpec) -> str:
    """Return a shift, and its forks if they are not the suite's."""
    forks = spec.fork_list
    own = "" if forks is None else f" (forks {', '.join(fork.name for fork in forks)})"
    return f"{spec.shift.label}{own}"


def _comparators(suite: Suite) -> dict[str, str]:
    """Return the shifts of the equal-cost comparators, if they are not all shifts."""
    if suite.comparator_shifts is None:
        return {}
    priced = " and ".join(fork.name for fork in suite.fork_list if fork.is_cost_matched)
    return {"": f"({priced} under {', '.join(suite.comparator_shifts)} only)"}


def _data_text(suite: Suite) -> str:
    """Return the data set and how much of it is used."""
    spec = suite.data
    parts = [
        text
        for text, used in (
            (f"{spec.train_size} training images", spec.train_size is not None),
            (f"{spec.resplit_test} of all images for testing", spec.resplit_test is not None),
            (f"{spec.test_size} test images", spec.test_size is not None),
            (f"{100 * spec.holdout:g} % held out as test set", spec.holdout > 0),
        )
        if used
    ]
    return f"{spec.name} ({', '.join(parts)})" if parts else spec.name


def _recipe_text(suite: Suite, name: str) -> str:
    """Return the settings of a recipe that differ from the defaults."""
    settings = suite.recipes[name].model_dump(mode="json", exclude_defaults=True)
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def list_shifts() -> list[dict[str, Any]]:
    """Return the table of training shifts."""
    return [
        {"name": name, "params": kind.defaults, "summary": kind.summary, "source": kind.source}
        for name, kind in SHIFTS.items()
    ]


def shifts_text(listed: list[dict[str, Any]], transforms: list[dict[str, Any]]) -> str:
    """Return the training shifts with their controls, and the evaluation shifts, as tables."""
    rows = [
        [
            s["name"],
            ", ".join(f"{k}={v}" if v != "" else k for k, v in s["params"].items()),
            s["summary"],
            s["source"],
        ]
        for s in listed
    ]
    table = make_table(rows, headers=["shift", "parameters", "training data of each sibling", "source"])
    aliases = ", ".join(f"{name} = {target}" for name, target in ALIASES.items())
    shown = make_table(
        [[t["name"], t["summary"], t["source"]] for t in transforms],
        headers=["evaluation shift", "effect on a test image", "source"],
    )
    return (
        f"{table}\n\nEvery shift s has the control same(s), in which all siblings share one view of s "
        f"({aliases}).\nNoise mode: own (default) or shared.\n"
        f"A shift of your own is a function in a file: file.py:function.\n\n{shown}\n\n"
        f"Sets with a CORRUPTION have those above and {', '.join(CIFAR_C[len(CORRUPTIONS) :])}. "
        "They are separate test sets with\ntheir own labels, used whole; 'lmcbench data' says "
        "where they were found or how to get them. A suite lists evaluation shifts:\n"
        'evaluations = ["gaussian_noise-3", "cifar10-c:fog-3", "cifar10.1:v6"]'
    )


OWN_DATA = """\
Your own data are named by their path, in 'measure --data' and as 'name' under [data] of a suite:
./birds          a folder of images, train/CLASS/*.png and test/CLASS/*.png (or val; also other formats),
                 or of parquet files, train-*.parquet and test-*.parquet (or val-*), with an image and a label
./birds.parquet  one file, of which every fifth image of a class is used for testing
'lmcbench data ./birds' counts its images, by domain and class where it has domains"""


def datasets_text(listed: Sequence[Listing]) -> str:
    """Return every data set as a table, and below it how to get the missing ones."""
    rows = [
        [
            d.name,
            " + ".join(f"{size:,}" for size in d.sizes if size),
            _shape_text(d.shape),
            d.classes,
            "" if d.bytes is None else f"{d.bytes / 1e6:.0f} MB",
            d.licence,
            d.found if d.found is not None else "missing",
        ]
        for d in listed
    ]
    table = make_table(
        rows,
        headers=["data set", "train + test images", "shape", "classes", "on disk", "licence", "found in"],
    )
    missing = [[d.name, d.hint] for d in listed if d.found is None]
    todo = "\n\nHow to get the missing data sets:\n" + make_table(missing, style="plain")
    return f"{table}{todo if missing else ''}\n\n{OWN_DATA}"


SHOWN_CLASSES = 10
"""Most classes with a column of their own in the table of domains."""

SHOWN_DOMAINS = 30
"""Most domains with a row of their own in it."""


def contents_table(found: Contents) -> dict[str, Any]:
    """Return what a data set contains: images by split, domain and class."""
    splits = {}
    for split, listed in (("train", found.train), ("test", found.test)):
        counts = np.bincount(listed.labels, minlength=len(listed.classes)).tolist()
        splits[split] = {
            "n": len(listed.labels),
            "classes": dict(zip(listed.classes, counts, strict=True)),
            "domains": {
                domain: dict(zip(listed.classes, of_domain, strict=True))
                for domain, of_domain in listed.counts().items()
            },
        }
    return {"name": found.name, "domain": found.domain, "columns": list(found.columns), "splits": splits}


def contents_text(found: Contents) -> str:
    """Return what a data set contains as text, with a table of domains and classes."""
    train, test = found.train, found.test
    parts = [
        f"{found.name}: {len(train.labels):,} training and {len(test.labels):,} test images, "
        f"{counted(len(train.classes), 'class', 'classes')}",
        *found.notes,
    ]
    if found.domain is None:
        columns = ", ".join(found.columns)
        hint = f" Columns that may be domains: {columns} (--domain COLUMN)." if columns else ""
        splits = contents_table(found)["splits"]
        of_train, of_test = splits["train"]["classes"], splits["test"]["classes"]
        rows = [[name, n, of_test.get(name, 0)] for name, n in of_train.items()]
        shown = make_table(rows[:SHOWN_DOMAINS], headers=["class", "training images", "test images"])
        return "\n\n".join([*parts, f"No domains.{hint}", shown])
    parts.append(f'Domains: domain = "{found.domain}" under [data] of a suite')
    parts.append(domain_table({"train": train, "test": test}))
    return "\n\n".join([*parts, *missing_classes(train)])


def domain_table(splits: Mapping[str, Listed]) -> str:
    """Return the images of each domain and class as a table; several splits are joined by a plus.

    Many classes are shown by the smallest and the largest, many domains by the first ones.
    """
    classes = next(iter(splits.values())).classes
    counts = [listed.counts() for listed in splits.values()]
    none = [0] * len(classes)
    rows: list[list[Any]] = []
    names = sort_names(name for of_split in counts for name in of_split)
    for name in names[:SHOWN_DOMAINS]:
        of_domain = [of_split.get(name, none) for of_split in counts]
        row: list[Any] = [name, *(sum(numbers) for numbers in of_domain)]
        if len(classes) <= SHOWN_CLASSES:
            row += [" + ".join(map(str, of_class)) for of_class in zip(*of_domain, strict=True)]
        else:
            total = [sum(of_class) for of_class in zip(*of_domain, strict=True)]
            low, high = total.index(min(total)), total.index(max(total))
            row += [f"{min(total)} ({classes[low]})", f"{max(total)} ({classes[high]})"]
        rows.append(row)
    of_classes = list(classes) if len(classes) <= SHOWN_CLASSES else ["smallest class", "largest class"]
    table = make_table(rows, headers=["domain", *splits, *of_classes])
    rest = len(names) - SHOWN_DOMAINS
    return f"{table}\nand {rest:,} more domains" if rest > 0 else table


def missing_classes(listed: Listed) -> list[str]:
    """Return a sentence that names the first domain with a missing class, or an empty list."""
    for domain, counts in listed.counts().items():
        lost = [name for name, n in zip(listed.classes, counts, strict=True) if n == 0]
        if lost:
            return [
                f"{domain} has no image of {', '.join(lost[:5])}: the shift 'domains' refuses it unless it "
                "is in a group with another domain (groups) or held out (hold_out)."
            ]
    return []


def _shape_text(shape: tuple[int, int, int]) -> str:
    """Return channels x height x width; 0 stands for any."""
    channels = shape[0] or "1 or 3"
    return f"{channels} x {shape[1]} x {shape[2]}" if shape[1] else f"{channels} x any size"


def list_architectures(pattern: str | None) -> list[dict[str, Any]]:
    """Return the built-in networks or, with a pattern, the networks here and in timm that match it.

    Raises:
        UserError: if nothing matches, or timm is needed and not installed.
    """
    own = [
        {"name": name, "source": "lmcbench", "summary": text}
        for name, text in OWN_NETWORKS.items()
        if pattern is None or fnmatchcase(name, pattern)
    ]
    if pattern is None:
        return own
    if find_spec("timm") is None or find_spec("torch") is None:
        if own:
            return own
        raise UserError("Searching timm's registry needs torch and timm: pip install torch timm.")
    import timm

    theirs = timm.list_models(pattern)
    if not own and not theirs:
        raise UserError(f"No architecture matches {pattern!r}. Patterns are globs: 'resnet*', '*vit_tiny*'.")
    return own + [{"name": name, "source": "timm", "summary": ""} for name in theirs]


def architectures_text(listed: list[dict[str, Any]], pattern: str | None) -> str:
    """Return them as a table, and how to name other networks."""
    columns = {"name": "name", "source": "source"}
    if any(a["summary"] for a in listed):
        columns["summary"] = "description"
    table = make_table([[a[key] for key in columns] for a in listed], headers=list(columns.values()))
    if pattern is not None:
        return table
    return (
        f"{table}\n\nEvery network of timm can be used too (search: lmcbench archs 'resnet*'), and your own\n"
        "factory as module:function or file.py:function: run --arch NAME --recipe RECIPE."
    )
