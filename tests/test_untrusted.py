"""Files and text of other people: bounded before they are parsed, and shown without effect."""

import gzip
import json
import os
import string
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcbench.errors import UserError
from lmcbench.untrusted import (
    DEPTH,
    DOTS,
    TOML_BYTES,
    decompress,
    parse_json,
    parse_toml,
    printable,
    read_bytes,
    safetensors_header,
)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=20,
)


def outcome(parse, content):
    """The value that `parse` returns and no refusal, or None and the message of its refusal."""
    try:
        return parse(content, "f"), ""
    except UserError as error:
        return None, str(error)


# --- JSON ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(VALUES, st.booleans())
def test_what_json_writes_is_read_as_it_is(value, ascii_only):
    try:
        text = json.dumps(value, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return
    assert parse_json(text, "f") == json.loads(text)


@settings(deadline=None)
@given(
    st.text(alphabet='[]{}",:\\ 1aeE.-+"', max_size=60)
    | st.binary(max_size=60).map(lambda b: b.decode("latin-1"))
)
def test_any_text_is_a_value_or_one_user_error(text):
    value, refusal = outcome(parse_json, text)
    assert refusal.startswith("f is damaged") if refusal else value == json.loads(text)
    assert "\n" not in refusal


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": -Infinity}', "not JSON"),
        ('{"a": 1e999}', "beyond the range"),
        ("1" * 5000, "5,000 digits"),
        ('{"a": 1, "a": 1}', "'a' is there twice"),
        (r'["\ud800"]', "surrogates"),
        ('{"' + "k" * 1001 + '": 1}', "key of 1,001"),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), "nest more than"),
        ('{"a":' * 100_000, "nest more than"),
        ('{"a\x1b[31m": 1, "a\x1b[31m": 2}', "damaged"),
    ],
)
def test_json_that_is_refused(text, keyword):
    with pytest.raises(UserError, match=keyword) as refusal:
        parse_json(text, "f")
    assert "\x1b" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_depth_is_that_outside_of_strings():
    assert parse_json("[" * DEPTH + "]" * DEPTH, "f") != []
    brackets = r'["' + "[" * 500 + r"\"{[" + '"]'
    assert parse_json(brackets, "f") == ["[" * 500 + '"{[']


def test_a_binary_file_is_called_one():
    """Also where its bytes look like deep nesting."""
    with pytest.raises(UserError, match="f is not text in UTF-8"):
        parse_json(b"\xffPK" + b"[" * 5000, "f")


def test_the_number_of_keys_is_bounded_over_the_whole_document():
    parse_json(json.dumps([{str(i): 0} for i in range(10)]), "f", most_keys=10)
    with pytest.raises(UserError, match="more than 10 keys"):
        parse_json(json.dumps([{str(i): 0} for i in range(11)]), "f", most_keys=10)


# --- TOML ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "keyword"),
    [
        (b"a." * 31_000 + b"a=1", "dots"),
        (b"[" + b"a." * 31_000 + b"a]\n", "dots"),
        (b"x = {" + b"a . " * 31_000 + b"a=1}", "dots"),
        (b'"a".' * 1000 + b"a=1", "dots"),
        (b"a=" + b"[" * 5000, "nest more than"),
        (b"a=" + b"[{a=" * 5000, "nest more than"),
        (b"a=" + b"1" * 5000, "not TOML"),
        (b"a=\xff", "not text in UTF-8"),
        (b"\x89PNG" + b"[" * 5000, "not text in UTF-8"),
        (b"a=1\x00", "not TOML"),
        (b"#" * (TOML_BYTES + 1), "at most"),
        (b"a" * 200_000, "not TOML"),
    ],
)
def test_toml_that_is_refused(content, keyword):
    with pytest.raises(UserError, match=keyword) as refusal:
        parse_toml(content, "f")
    assert len(str(refusal.value)) < 400


def test_dots_are_allowed_up_to_the_limit():
    key = ".".join("abcdefghijklmnopqrstuvwxyz"[: DOTS + 1])
    assert parse_toml(f"{key}=1".encode(), "f") == tomllib.loads(f"{key}=1")


@settings(deadline=None)
@given(st.text(alphabet="a.=[]{}\"'#\n ,1_-+:TZ\\", max_size=80))
def test_any_toml_is_a_table_or_one_user_error(text):
    table, refusal = outcome(parse_toml, text.encode())
    assert refusal.startswith("f is not") if refusal else table == tomllib.loads(text)


# --- files ---------------------------------------------------------------------------------------


def test_only_regular_files_are_read(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("folder", "pipe", "device", "loop", "missing", "nul\x00"):
        with pytest.raises(UserError, match=r"regular|read"):
            read_bytes(tmp_path / name)


def test_files_are_read_up_to_the_limit(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(b"12345")
    assert read_bytes(file, limit=5) == b"12345"
    with pytest.raises(UserError, match="5 bytes; at most 4 bytes"):
        read_bytes(file, limit=4)
    with file.open("wb") as sparse:
        sparse.truncate(3 * 2**30)
    with pytest.raises(UserError, match=r"3,221\.2 MB"):
        read_bytes(file)


def test_links_out_of_the_folder_are_refused(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret").write_text("x")
    (inner / "own").write_text("y")
    (inner / "out").symlink_to("../secret")
    (inner / "in").symlink_to("own")
    assert read_bytes(inner / "in", within=inner) == b"y"
    assert read_bytes(inner / "out") == b"x"
    for path in (inner / "out", inner / ".." / "secret"):
        with pytest.raises(UserError, match="leads out of"):
            read_bytes(path, within=inner)


def test_gzip_is_expanded_up_to_the_limit():
    bomb = gzip.compress(b"0" * 10**7)
    assert len(decompress(bomb, "f", limit=10**7)) == 10**7
    damaged = bytearray(bomb)
    damaged[len(bomb) // 2] ^= 255
    for content, limit, keyword in [
        (bomb, 10**7 - 1, "expands to more"),
        (bomb[:-5], 10**7, "whole gzip"),
        (bytes(damaged), 10**7, "whole gzip"),
        (b"no", 10, "whole gzip"),
    ]:
        with pytest.raises(UserError, match=keyword):
            decompress(content, "f", limit=limit)
    assert decompress(b"", "f", limit=1) == b""


def test_safetensors_headers():
    header = json.dumps({"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    whole = len(header).to_bytes(8, "little") + header + b"\0\0"
    assert safetensors_header(whole, "f")["a"]["shape"] == [1]
    deep = b"[" * 99 + b"]" * 99
    for content, keyword in [
        (b"", "whole"),
        (b"\xff" * 8, "whole"),
        (whole[:20], "whole"),
        ((2).to_bytes(8, "little") + b"[]", "JSON object"),
        (len(deep).to_bytes(8, "little") + deep, "nest"),
    ]:
        with pytest.raises(UserError, match=keyword):
            safetensors_header(content, "f")


# --- text ----------------------------------------------------------------------------------------


@given(st.text())
def test_printable_text_is_one_line_without_control_characters(text):
    shown = printable(text, limit=50)
    assert len(shown) <= 50
    assert shown.isprintable() or not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    assert not {"\u202e", "\n"} & set(shown)
    shown.encode()


def test_plain_text_stays_as_it_is():
    text = string.ascii_letters + string.digits + string.punctuation + " äöü–…日本"
    assert printable(text) == text
    assert printable("x" * 300) == "x" * 131 + "..." + "x" * 66


def test_messages_of_user_errors_are_printable_and_each_line_is_cut():
    lines = str(UserError("a\x1b[31mb\n" + "x" * 5000)).splitlines()
    assert lines[0] == "a\\x1b[31mb"
    assert len(lines[1]) <= 1000
    assert lines[1].startswith("xxx")
