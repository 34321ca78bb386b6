"""Read files and show text that somebody else wrote: every size is bounded before anything is parsed.

Records, manifests, submissions, suites, run folders, calibration files and the metadata of parquet and
safetensors files come from other machines and other people. A small file can ask for much: deep nesting
exhausts the stack, dotted TOML keys take quadratic time, a device or a pipe never ends. The functions here
refuse such files with one `UserError` that names the file, in time linear in its size.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import stat
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lmcbench.errors import UserError, reading
from lmcbench.errors import printable as printable  # of foreign text, wherever it is shown

MB = 1_000_000

JSON_BYTES = 16 * MB
"""Largest JSON document: a record with all analyses of a suite with five siblings takes about 3 MB."""

TOML_BYTES = MB // 4
"""Largest TOML document: the longest published suite takes 8 kB."""

HEADER_BYTES = 16 * MB
"""Largest header of a safetensors file, and largest metadata of a parquet file."""

DEPTH = 40
"""Deepest nesting of lists and tables. A record with all analyses nests 9 levels."""

KEYS = 200_000
"""Most keys in one JSON document. A record with all analyses has about 10,000."""

KEY_LENGTH = 1_000
"""Longest key, in characters."""

DIGITS = 40
"""Longest number without a fraction, in digits: 64-bit integers take 20."""

DOTS = 16
"""Most dots in one dotted TOML key; tomllib takes quadratic time in them."""

# --- files ---------------------------------------------------------------------------------------


def read_bytes(path: Path, *, limit: int = JSON_BYTES, within: Path | None = None) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Args:
        path: the file. A symbolic link is followed, unless it leaves `within`.
        limit: in bytes.
        within: the folder that the file must lie in after links are resolved; None allows any place.

    Raises:
        UserError: for a missing or unreadable file, a folder, device, pipe or socket, a file that is too
            large, and a link that leads out of `within`.
    """
    if within is not None:
        check_within(path, within)
    with open_regular(path, limit=limit) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UserError(_too_large(str(path), len(content), limit))
    return content


@contextmanager
def open_regular(path: Path, *, limit: int) -> Iterator[io.BufferedReader]:
    """Open a regular file of at most `limit` bytes for reading; an `OSError` inside the block names it.

    Raises:
        UserError: as in `read_bytes`.
    """
    if "\0" in str(path):
        raise UserError(f"{path} cannot be read: no file has such a name.")
    with reading(path):
        # a pipe without a writer must not block, and a device must not be read
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            _check_status(path, os.fstat(descriptor), limit)
            yield file


def check_regular(path: Path, *, limit: int) -> None:
    """Raise `UserError` unless `path`, with links followed, is a regular file of at most `limit` bytes."""
    with reading(path):
        status = path.stat()
    _check_status(path, status, limit)


def _check_status(path: Path, status: os.stat_result, limit: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path} cannot be read: Is a directory.")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a regular file.")
    if status.st_size > limit:
        raise UserError(_too_large(str(path), status.st_size, limit))


def check_within(path: Path, folder: Path) -> None:
    """Raise `UserError` where `path`, with its links resolved, lies outside of `folder`."""
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a name no file has
        inside = False
    if not inside:
        raise UserError(f"{path} is a link that leads out of {folder}. Put the file itself there.")


def is_regular(path: Path) -> bool:
    """Whether `path` is a regular file, links followed; never blocks and never raises."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def placeholder(head: bytes) -> str:
    """Return what a file that begins with `head` is in place of its content; empty: nothing of the kind."""
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself. Fetch it: git lfs pull"
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page, perhaps of a failed download or a login. Download it again"
    return ""


def check_content(path: Path) -> None:
    """Raise `UserError` for an unreadable file, and for a pointer or web page in place of its content."""
    with open_regular(path, limit=sys.maxsize) as file:
        if found := placeholder(file.read(512)):
            raise UserError(f"{path} {found}.")


def decompress(content: bytes, origin: str, *, limit: int) -> bytes:
    """Return gzip `content` decompressed, at most `limit` bytes of it.

    Raises:
        UserError: where it is not gzip, is cut short or damaged, or expands to more than `limit` bytes.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            whole = file.read(limit + 1)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{origin} is not a whole gzip file: {error}.") from None
    except Exception as error:  # zlib.error, without importing zlib for its name alone
        raise UserError(f"{origin} is not a whole gzip file: {error}.") from None
    if len(whole) > limit:
        raise UserError(f"{origin} expands to more than {show_bytes(limit)}; that much is not read.")
    return whole


# --- JSON and TOML -------------------------------------------------------------------------------


def parse_json(content: bytes | str, origin: str, *, limit: int = JSON_BYTES, most_keys: int = KEYS) -> Any:
    """Return the value of one JSON document.

    Refused beyond the standard: NaN and infinities (also as 1e999), doubled keys, and more depth, keys or
    digits than the limits of this module.

    Args:
        content: UTF-8 bytes, or text.
        origin: the name of the file, for messages.
        limit: in bytes.
        most_keys: of all objects together.

    Raises:
        UserError: naming `origin` and what is wrong.
    """
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    if len(raw) > limit:
        raise UserError(_too_large(origin, len(raw), limit))
    text = _decode(raw, origin, "utf-8")
    if is_deeper(raw):
        raise UserError(f"{origin} is damaged: lists and objects nest more than {DEPTH} levels.")
    keys = _KeyCounter(most_keys)
    try:
        value = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_int=_parse_int,
            parse_float=_parse_float,
            object_pairs_hook=keys,
        )
        if _SURROGATE.search(raw):  # half of a pair is not a character and cannot be written
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin} is damaged: {printable(str(error))}.") from None


def parse_toml(content: bytes, origin: str) -> dict[str, Any]:
    """Return the table of a TOML document.

    Raises:
        UserError: where it is not UTF-8 or not TOML, is too large or too deep, has too many dots in a key, or
            a number of too many digits.
    """
    if len(content) > TOML_BYTES:
        raise UserError(_too_large(origin, len(content), TOML_BYTES))
    text = _decode(content, origin, "utf-8-sig")
    if is_deeper(content):
        raise UserError(f"{origin} is not read: lists and tables nest more than {DEPTH} levels.")
    if _LONG_KEY.search(content):
        raise UserError(f"{origin} is not read: a key has more than {DOTS} dots.")
    try:
        table = tomllib.loads(text)
        check_values(table)
    except (ValueError, RecursionError) as error:  # also a number with thousands of digits
        raise UserError(f"{origin} is not TOML: {printable(str(error)).rstrip('.')}.") from None
    return table


def _decode(content: bytes, origin: str, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{origin} is not text in UTF-8 (byte {error.start}).") from None


def check_values(value: Any, depth: int = DEPTH) -> None:
    """Raise `ValueError` for nesting beyond `depth` and for a number of too many digits."""
    if isinstance(value, dict | list | tuple | set):
        if depth == 0:
            raise ValueError(f"lists and tables nest more than {DEPTH} levels")
        for inner in value.values() if isinstance(value, dict) else value:
            check_values(inner, depth - 1)
    elif isinstance(value, int) and abs(value) >= 10**DIGITS:
        raise ValueError(f"a number of more than {DIGITS} digits")


def safetensors_header(content: bytes, origin: str) -> dict[str, Any]:
    """Return the header of a safetensors file: dtype, shape and offsets of each tensor, by name.

    Raises:
        UserError: where the file is shorter than its header, or the header is too large or no JSON object.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise UserError(f"{origin} is not a whole safetensors file.")
    header = parse_json(content[8 : 8 + length], f"{origin}: its header", limit=HEADER_BYTES)
    if not isinstance(header, dict):
        raise UserError(f"{origin} is not a safetensors file: its header is no JSON object.")
    return header


def check_safetensors(path: Path) -> None:
    """Check that a file may be given to a parser of safetensors: a regular file with a bounded header.

    Raises:
        UserError: naming the file and what is wrong.
    """
    with open_regular(path, limit=sys.maxsize) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise UserError(f"{path} is not a whole safetensors file.")
        if length > HEADER_BYTES:
            raise UserError(_too_large(f"{path}: its header", length, HEADER_BYTES))
        safetensors_header(start + file.read(length), str(path))


# --- bounds --------------------------------------------------------------------------------------

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_QUOTED = re.compile(rb'"[^"]*"')
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))
_STEP = np.zeros(256, dtype=np.int8)
"""What a byte adds to the level of nesting."""
_STEP[list(b"[{")], _STEP[list(b"]}")] = 1, -1
_LONG_KEY = re.compile(rb"(?<![A-Za-z0-9_\"'-])(?:[A-Za-z0-9_\"'-]++[ \t]*+\.[ \t]*+){%d}" % (DOTS + 1))


def is_deeper(content: bytes, depth: int = DEPTH) -> bool:
    """Return whether brackets outside of double-quoted strings nest more than `depth` levels."""
    text = _ESCAPED.sub(b"", content) if b"\\" in content else content
    structure = _QUOTED.sub(b"", text.translate(None, _NOT_STRUCTURE))
    brackets = np.frombuffer(structure, dtype=np.uint8)
    return bool(len(brackets)) and int(np.cumsum(_STEP[brackets], dtype=np.int32).max()) > depth


class _KeyCounter:
    """Build objects from their pairs; raise for doubled, long and too many keys, in linear time."""

    def __init__(self, limit: int) -> None:
        self.count, self.limit = 0, limit

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self.count += len(pairs)
        if self.count > self.limit:
            raise ValueError(f"more than {self.limit:,} keys")
        table = dict(pairs)
        if len(table) < len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    raise ValueError(f"the key {printable(name, 60)!r} is there twice")
                seen.add(name)
        for name in table:
            if len(name) > KEY_LENGTH:
                raise ValueError(f"a key of {len(name):,} characters")
        return table


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; a value that was not measured is null")


def _parse_int(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _parse_float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{printable(text, 40)} is beyond the range of floating point numbers")
    return value


def _too_large(origin: str, size: int, limit: int) -> str:
    return f"{origin} has {show_bytes(size)}; at most {show_bytes(limit)} are read."


def show_bytes(size: int) -> str:
    """Return a number of bytes as text, from 0.1 MB on in MB."""
    return f"{size / MB:,.1f} MB" if size >= MB / 10 else f"{size:,} bytes"
