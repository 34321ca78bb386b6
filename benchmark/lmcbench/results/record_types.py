"""Types and bounds of the fields of a record, and the faults of one that is not valid."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema

from lmcbench.errors import printable
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.forks import Fork

LARGEST = 1e60
"""Bound of losses, distances and the like: their squares and sums stay finite. A float32 is below 1e39."""

SLACK = 1e-9
"""Rounding by which a fraction may leave [0, 1] and a loss may be negative."""

SPLITS = 1_000
"""Most splits of one table."""

KEYS = 100
"""Most numbers of one network or ensemble on one split; each is a column of the table of records."""

CLASSES = 100_000
"""Most classes of one data set."""

DOMAINS = 20_000
"""Most domains of one data set."""

SETTINGS_LENGTH = 4_000
"""Longest settings of a recipe, a shift or an architecture as JSON, in characters."""

Real = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]

Positive = Annotated[float, Field(ge=-SLACK, le=LARGEST)]

Fraction = Annotated[float, Field(ge=-SLACK, le=1 + SLACK)]

SignedFraction = Annotated[float, Field(ge=-1 - SLACK, le=1 + SLACK)]

Count = Annotated[int, Field(ge=0, le=2**63)]

Images = Annotated[int, Field(ge=1, le=2**53)]

Name = Annotated[str, Field(max_length=300)]

Text = Annotated[str, Field(max_length=10_000)]

KEY_PATTERN = r"^[0-9a-f]{16}$"

Key = Annotated[str, Field(pattern=KEY_PATTERN)]


def _stop_at_first_faults(schema: Any) -> None:
    for inner in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(inner, dict | list):
            _stop_at_first_faults(inner)
    if isinstance(schema, dict) and schema.get("type") == "list":
        schema["fail_fast"] = True


class Fields(BaseModel):
    """A part of a record. Unknown keys, added by later versions, are kept."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Stop at the first fault of each list: a million wrong numbers would take gigabytes."""
        schema = handler(source)
        _stop_at_first_faults(schema)
        return schema


def checked(model: type[BaseModel]) -> AfterValidator:
    """Return a validator that compares a table with `model` and returns the table itself."""

    def check(table: dict[str, Any]) -> dict[str, Any]:
        model.model_validate(table, strict=True)
        return table

    return AfterValidator(check)


def _check_fork(name: str) -> str:
    fork = Fork.parse(name)
    if fork.checkpoint is not None and (fork.mark is None or fork.name != name):
        raise ValueError("must be from:FILE@ and 8 hex digits, without a folder")
    return name


T = TypeVar("T")

Splits = Annotated[dict[Name, T], Field(max_length=SPLITS)]
"""Values by split."""

ForkName = Annotated[Name, AfterValidator(_check_fork)]


def _check_settings(table: dict[str, Any]) -> dict[str, Any]:
    if (length := len(canonical_json(table))) > SETTINGS_LENGTH:
        raise ValueError(f"has {length:,} characters; at most {SETTINGS_LENGTH:,} are allowed")
    return table


def list_faults(error: ValidationError, limit: int) -> list[tuple[str, str]]:
    """Return field and message of the first `limit` faults of a pydantic error, as printable text."""
    return [
        (
            ".".join(printable(str(part), 60) for part in fault["loc"]),
            printable(fault["msg"].removeprefix("Value error, ").rstrip("."), 300),
        )
        for fault in error.errors(include_url=False, include_input=False)[:limit]
    ]


def describe_fault(error: ValidationError) -> str:
    """Return the first fault of a pydantic error as field and message, in one line."""
    return ": ".join(filter(None, list_faults(error, 1)[0]))


Settings = Annotated[dict[str, Any], AfterValidator(_check_settings)]


def check_alphas(alphas: Sequence[float]) -> Sequence[float]:
    """Raise `ValueError` if a grid does not increase strictly from 0 to 1."""
    if len(alphas) < 2 or alphas[0] != 0 or alphas[-1] != 1 or any(a >= b for a, b in pairwise(alphas)):
        raise ValueError("must increase strictly from 0 to 1")
    return alphas


Alphas = Annotated[list[float], Field(max_length=10_001), AfterValidator(check_alphas)]


def check_lengths(n: int, **lists: Sequence[object]) -> None:
    """Raise `ValueError` for a list that does not have `n` values."""
    for name, values in lists.items():
        if len(values) != n:
            raise ValueError(f"{name}: found {len(values)} values, must be {n}")
