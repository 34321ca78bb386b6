"""Read a submission: one architecture's records of a suite, and `submission.toml`, which describes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lmcbench.errors import UserError
from lmcbench.leaderboard.files import META, META_BYTES, Fault, parse_records, read_files
from lmcbench.results.record import Record
from lmcbench.results.record_files import RECORDS
from lmcbench.results.record_parser import NewerSchemaError, check_schema
from lmcbench.results.tuning import TUNING
from lmcbench.spec.architectures import Source
from lmcbench.spec.canonical import digest_bytes
from lmcbench.spec.suite_files import explain
from lmcbench.untrusted import parse_toml, read_bytes

SUBMISSION_SCHEMA = "lmcbench/submission/2"
SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
SLUG_LENGTH = 60
SHA256 = r"^[0-9a-f]{64}$"


def _one_line(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    if not text.isprintable():
        raise ValueError("must be one line of printable characters")
    return text


def _printable(text: str) -> str:
    if not text.replace("\n", " ").isprintable():
        raise ValueError("must be printable characters and line ends")
    return text


Line = Annotated[str, AfterValidator(_one_line), Field(max_length=300)]
Text = Annotated[str, AfterValidator(_printable), Field(max_length=5000)]


class Table(BaseModel):
    """A table of `submission.toml`; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SuiteMeta(Table):
    """The suite that was run, by name and content."""

    name: Line
    version: int = Field(ge=1)
    digest: str = Field(pattern=SHA256)


class ArchitectureMeta(Table):
    """The network that was run.

    Attributes:
        label: as tables show it.
        source: where it is defined.
        sha256: of the source file of a user's factory; None for networks of lmcbench and timm.
    """

    label: Line
    source: Source
    sha256: str | None = Field(default=None, pattern=SHA256)

    @model_validator(mode="after")
    def _hashed(self) -> ArchitectureMeta:
        if (self.sha256 is not None) != (self.source in ("file", "module")):
            raise ValueError("sha256 is that of the source file, given for sources module and file only")
        return self


class Reproduction(Table):
    """The submission that this one reproduces, on replicates that no author could choose."""

    slug: Line
    submission_sha256: str = Field(pattern=SHA256)
    nonce: Line


class Hashes(Table):
    """The sha256 of the submission's large files.

    Attributes:
        records: of `records.jsonl.gz`.
        predictions: of `predictions.safetensors`, which is not in the repository; None if no cell has any.
        tuning: of `tuning.json`; None unless the recipe is `tuned`.
    """

    records: str = Field(pattern=SHA256)
    predictions: str | None = Field(default=None, pattern=SHA256)
    tuning: str | None = Field(default=None, pattern=SHA256)


class Meta(Table):
    """`submission.toml`: everything about a submission that is not a measurement."""

    schema_: str = Field(alias="schema")
    title: Line
    authors: tuple[Line, ...] = Field(min_length=1, strict=False)
    licence: Line = Field(description="of records and predictions, as an SPDX name")
    recipe: Line = Field(description="of the suite, by name")
    pretraining: Line = Field(description="what the network was pretrained on; 'none'")
    extra_data: Line = Field(description="training data beyond the suite's; 'none'")
    notes: Text = ""
    cells: int = Field(ge=1, description="records")
    complete: bool = Field(description="whether no cell of the suite is missing; others are not ranked")
    suite: SuiteMeta
    architecture: ArchitectureMeta
    sha256: Hashes
    reproduces: Reproduction | None = None

    def to_toml(self) -> str:
        """Return the file's text, in the order of the fields."""
        table = self.model_dump(by_alias=True, mode="json", exclude_none=True)
        tops = {key: value for key, value in table.items() if not isinstance(value, dict)}
        lines = _assignments(tops)
        for key, value in table.items():
            if isinstance(value, dict):
                lines += ["", f"[{key}]", *_assignments(value)]
        return "\n".join(lines) + "\n"


def _assignments(table: dict[str, Any]) -> list[str]:
    # strings, lists and integers have the same form in JSON and TOML
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()]


@dataclass(frozen=True)
class Submission:
    """A submission as it was read.

    Attributes:
        slug: its folder's name.
        records: one per cell, by key.
        sha256: of `submission.toml`, which names the sha256 of all other files.
        sources: the contents of `source/FILE.py`, by path.
        tuning: the content of `tuning.json`, which defines recipe `tuned`.
    """

    slug: str
    folder: Path
    meta: Meta
    records: Sequence[Record]
    sha256: str
    sources: Mapping[str, bytes]
    tuning: bytes | None = None


def check_slug(slug: str) -> None:
    """Check that a name can be a submission's folder, branch and address.

    Raises:
        UserError: for anything but words of a-z and 0-9 with hyphens between them.
    """
    if SLUG.fullmatch(slug) is None or len(slug) > SLUG_LENGTH:
        raise UserError(
            f"{slug!r} cannot name a submission. Use up to {SLUG_LENGTH} of a-z, 0-9 and single hyphens "
            "between them: tiny-mlp-digits."
        )


def parse_meta(content: bytes, origin: str) -> Meta:
    """Return `submission.toml` from its bytes; `origin` names the file in errors.

    Raises:
        UserError: naming the file and, for each fault, the key.
    """
    table = parse_toml(content, origin)
    check_schema(table, origin, SUBMISSION_SCHEMA)
    try:
        return Meta.model_validate(table)
    except ValidationError as error:
        raise UserError(explain(error, origin, Meta)) from None


def read_submission(folder: Path) -> Submission:
    """Return the submission in `folder`; its numbers are checked by 'lmcbench verify'.

    Raises:
        UserError: if it is not a folder, a file is missing, too large, changed or not allowed, or cannot be
            parsed; the message names file and field.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Give a submission: leaderboard/submissions/SLUG.")
    contents, faults = read_files(folder)
    if faults:
        raise UserError(refusal(folder, faults))
    meta = parse_meta(contents[META], str(folder / META))
    if faults := hash_faults(meta, contents):
        raise UserError(refusal(folder, faults))
    records, errors = parse_records(contents[RECORDS], str(folder / RECORDS))
    if errors:
        newer = (error for _, error in errors if isinstance(error, NewerSchemaError))
        raise next(newer, errors[0][1])
    return Submission(
        slug=folder.resolve().name,
        folder=folder,
        meta=meta,
        records=records,
        sha256=digest_bytes(contents[META]),
        sources=source_files(contents),
        tuning=contents.get(TUNING),
    )


def source_files(contents: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files `source/FILE.py` of a submission."""
    return {name: content for name, content in contents.items() if name.startswith("source/")}


def hash_faults(meta: Meta, contents: Mapping[str, bytes]) -> list[Fault]:
    """Return a fault for each file whose sha256 is not the one in `submission.toml`."""
    expected = [("sha256.records", meta.sha256.records, RECORDS)]
    if meta.sha256.tuning is not None:
        expected.append(("sha256.tuning", meta.sha256.tuning, TUNING))
    if meta.architecture.source == "file":
        sha256 = meta.architecture.sha256 or ""
        expected += [("architecture.sha256", sha256, name) for name in source_files(contents)]
    return [
        Fault(META, field, f"found {sha256[:16]}, but {name} has {digest_bytes(contents[name])[:16]}.")
        for field, sha256, name in expected
        if name in contents and digest_bytes(contents[name]) != sha256
    ]


def refusal(folder: Path, faults: list[Fault]) -> str:
    """Return all faults of a submission as one message."""
    return "\n".join([f"{folder} is no sound submission:", *(f"  {fault}" for fault in faults)])


def read_meta(folder: Path) -> tuple[Meta, str]:
    """Return `submission.toml` of a folder and its sha256; a file that is too large is not read.

    Raises:
        UserError: as `parse_meta`, or if the file cannot be read.
    """
    path = folder / META
    content = read_bytes(path, limit=META_BYTES, within=folder)
    return parse_meta(content, str(path)), digest_bytes(content)


def find_duplicate(records_sha256: str, submissions: Path, slug: str) -> str | None:
    """Return the other submission in `submissions` that has the same records file; None if there is none.

    A run that was extended has other records, hence is a submission of its own. Submissions that cannot be
    read are skipped.
    """
    for path in sorted(submissions.glob(f"[!.]*/{META}")):
        with suppress(UserError):
            if path.parent.name != slug and read_meta(path.parent)[0].sha256.records == records_sha256:
                return path.parent.name
    return None


def refuse_duplicates(submissions: Iterable[Submission]) -> None:
    """Raise if two submissions have the same records.

    Raises:
        UserError: naming both.
    """
    seen: dict[str, Submission] = {}
    for one in submissions:
        if (other := seen.setdefault(one.meta.sha256.records, one)) is not one:
            raise UserError(
                f"{other.folder} and {one.folder} have the same records. Remove one of them, or tables "
                "would show them twice."
            )
