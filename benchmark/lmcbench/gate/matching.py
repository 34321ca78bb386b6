"""Match the cells of two runs, and check that the runs are comparable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmcbench.errors import UserError
from lmcbench.results.cell_values import architecture_label, shift_label
from lmcbench.results.record import Record
from lmcbench.spec.canonical import canonical_json

FIELDS = ("architecture", "recipe", "suite", "seeds")
"""Fields in which compared runs may differ on purpose."""

_COORDINATES: dict[str, Callable[[Record], Any]] = {
    "architecture": lambda r: r.architecture.model_dump(include={"name", "kwargs", "adapt", "fingerprint"}),
    "recipe": lambda r: r.recipe["name"],
    "shift": lambda r: r.shift.model_dump(),
    "fork": lambda r: r.fork.name,
    "seeds": lambda r: r.replicate,
}
_OBSERVED = ("status", "siblings", "pairs", "ensemble", "soup")


@dataclass(frozen=True)
class Matched:
    """Cells of base and head side by side.

    Attributes:
        pairs: matched cells (base, head); empty across seeds, where replicates do not correspond.
        base: every matched cell of the base.
        head: every matched cell of the head.
        missing_in_base: labels of cells that only the head has.
        missing_in_head: labels of cells that only the base has.
    """

    pairs: list[tuple[Record, Record]]
    base: list[Record]
    head: list[Record]
    missing_in_base: list[str]
    missing_in_head: list[str]


def cell_label(record: Record) -> str:
    """Return the label of a cell: network, shift, fork and replicate."""
    return f"{group_label(record)} | replicate {record.replicate}"


def group_label(record: Record) -> str:
    """Return the label of a cell without its replicate."""
    network = f"{architecture_label(record)} ({record.recipe['name']})"
    return f"{network} | {shift_label(record)} | fork {record.fork.name}"


def suite_text(record: Record) -> str:
    """Return the suite of a record in words."""
    return f"{record.suite.name} version {record.suite.version} (digest {record.suite.digest[:12]})"


def check_one_suite(records: Sequence[Record], name: str) -> None:
    """Check that the records of one side are a single run of one suite.

    Raises:
        UserError: for several suites, or a cell that occurs twice.
    """
    suites = sorted({suite_text(record) for record in records})
    if len(suites) > 1:
        raise UserError(f"{name} holds records of more than one suite: {', '.join(suites)}.")
    seen: set[str] = set()
    for record in records:
        if record.key in seen:
            raise UserError(f"{name} holds the cell {cell_label(record)} twice (key {record.key}).")
        seen.add(record.key)


def match(
    base: Sequence[Record], head: Sequence[Record], across: Sequence[str], names: Sequence[str]
) -> Matched:
    """Match cells by key or, with `across`, by all coordinates except the fields in `across`.

    Raises:
        UserError: if several cells of one side match the same cell of the other.
    """
    if not across:
        return _join({r.key: r for r in base}, {r.key: r for r in head})
    kept = [name for name in _COORDINATES if name not in across]

    def where(record: Record) -> str:
        return canonical_json([_COORDINATES[name](record) for name in kept])

    if "seeds" in across:
        mixed = {"architecture", "recipe"} & set(across)
        if mixed:
            raise UserError(
                f"Across seeds and {' and '.join(sorted(mixed))} at once nothing is left to match."
            )
        sides = [_groups(records, where) for records in (base, head)]
        common = sides[0].keys() & sides[1].keys()
        chosen = [[r for g, records in side.items() if g in common for r in records] for side in sides]
        lost = [[group_label(r[0]) for g, r in side.items() if g not in common] for side in sides]
        return Matched([], chosen[0], chosen[1], missing_in_base=lost[1], missing_in_head=lost[0])
    for records, name in zip((base, head), names, strict=True):
        for group in _groups(records, where).values():
            if len(group) > 1:
                raise UserError(
                    f"Across {' and '.join(across)}, {name} has {len(group)} cells where one is needed: "
                    f"{', '.join(cell_label(r) for r in group[:3])}. Compare runs that hold one "
                    f"{' and '.join(across)} each."
                )
    return _join({where(r): r for r in base}, {where(r): r for r in head})


def find_obstacles(matched: Matched, across: Sequence[str]) -> list[str]:
    """Return the reasons why matched cells cannot be compared: different data or protocols."""
    found: dict[str, None] = {}
    if "suite" in across:
        return []
    pairs = matched.pairs or [(matched.base[0], r) for r in matched.head]
    for old, new in pairs:
        described = [("data", _data(old), _data(new))]
        # a cell that was not measured has the requested protocol only
        if old.status == new.status == "ok":
            described.append(("protocol", _protocol(old), _protocol(new)))
        for kind, a, b in described:
            if canonical_json(a) != canonical_json(b):
                found[f"the {kind} differ: {_shown(a)} in BASE, {_shown(b)} in HEAD"] = None
    return list(found)


def same_observations(old: Record, new: Record) -> bool:
    """Return whether everything that both records measured is equal to the last bit."""
    return _equal(*({k: v for k, v in r.model_dump().items() if k in _OBSERVED} for r in (old, new)))


def _equal(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return True  # not measured (docs/design.md, section 6)
    if isinstance(a, dict) and isinstance(b, dict):
        # a measure that only one of the runs has is not a difference
        return all(_equal(a[key], b[key]) for key in a.keys() & b.keys())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


def _join(base: Mapping[str, Record], head: Mapping[str, Record]) -> Matched:
    both = [key for key in base if key in head]
    return Matched(
        [(base[key], head[key]) for key in both],
        [base[key] for key in both],
        [head[key] for key in both],
        missing_in_base=[cell_label(r) for key, r in head.items() if key not in base],
        missing_in_head=[cell_label(r) for key, r in base.items() if key not in head],
    )


def _groups(records: Iterable[Record], where: Callable[[Record], str]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(where(record), []).append(record)
    return groups


def _data(record: Record) -> Any:
    """Return the content hash of each split, or its revision if it was not hashed."""
    return {
        str(entry.get("split")): {
            "n": entry.get("n"),
            "content": entry.get("sha256", entry.get("revision")),
        }
        for entry in record.data
    }


def _protocol(record: Record) -> Any:
    """Return the requested protocol, without the digest of the calibration images."""
    calibration = record.protocol.get("calibration")
    if isinstance(calibration, dict):
        calibration = {key: calibration.get(key) for key in ("n", "batches")}
    return {"alphas": record.protocol.get("alphas"), "calibration": calibration}


def _shown(value: Any) -> str:
    text = canonical_json(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."
