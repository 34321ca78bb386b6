"""Submissions: read as they were written, refused by file and field, one folder each."""

import json
import os
from hashlib import sha256

import pytest

from builders import make_meta, make_record, toy_cell, write_submission
from lmcbench.errors import UserError
from lmcbench.leaderboard.submission_file import check_slug, parse_meta, read_submission


def records(replicates=1, **numbers):
    return [make_record(toy_cell(replicate=r), **numbers) for r in range(replicates)]


def test_a_submission_is_read_as_it_was_written(tmp_path):
    folder = write_submission(tmp_path, "mine", records(2), notes='two\nlines, "quoted" \\ and é')
    found = read_submission(folder)
    assert (found.slug, found.folder) == ("mine", folder)
    assert [r.replicate for r in sorted(found.records, key=lambda r: r.replicate)] == [0, 1]
    assert found.meta.notes == 'two\nlines, "quoted" \\ and é'
    assert found.meta.authors == ("A. Author",)
    manifest = (folder / "manifest.json").read_bytes()
    assert found.manifest_sha256 == sha256(manifest).hexdigest()
    toml = (folder / "submission.toml").read_bytes()
    assert found.files["submission.toml"].sha256 == sha256(toml).hexdigest()
    assert found.files["submission.toml"].bytes == len(toml)


def change(folder, name, edit):
    (folder / name).write_bytes(edit((folder / name).read_bytes()))


def test_any_change_of_any_file_is_found(tmp_path):
    folder = write_submission(tmp_path, "mine", records())
    for name in ("submission.toml", next(folder.glob("records/*")).relative_to(folder)):
        before = (folder / name).read_bytes()
        change(folder, name, lambda b: b.replace(b"a", b"b", 1))
        with pytest.raises(UserError, match=f"{name}: was changed after the manifest was written"):
            read_submission(folder)
        (folder / name).write_bytes(before)
    read_submission(folder)


def test_all_faults_of_the_files_are_said_at_once(tmp_path):
    folder = write_submission(tmp_path, "mine", records(2))
    first, second = sorted(folder.glob("records/*"))
    first.unlink()
    second.unlink()
    second.symlink_to("/etc/hostname")
    (folder / "model.pt").write_bytes(b"\x80\x04")
    (folder / "secret").mkdir()
    os.mkfifo(folder / "source")
    with (folder / "records" / f"{'0' * 16}.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(UserError) as caught:
        read_submission(folder)
    message = str(caught.value)
    assert f"records/{second.name}: is a link; a submission holds its files themselves." in message
    assert f"manifest.json: files.records/{first.name}: this file is missing." in message
    assert "model.pt: may be a pickle, which executes code when it is loaded" in message
    assert "secret: is a folder that no submission has." in message
    assert "source: is no regular file." in message
    assert "0000000000000000.json: is of 1,073.7 MB; at most 2.0 MB are allowed." in message


def test_a_path_out_of_the_folder_is_refused_in_the_manifest(tmp_path):
    folder = write_submission(tmp_path, "mine", records())
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("../../README.md", "/etc/passwd", "records/../../x.json"):
        manifest["files"][name] = {"sha256": "0" * 64, "bytes": 1}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(UserError, match="no path of a file that a submission may hold"):
            read_submission(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": ""}, "submission.toml: title: must not be empty"),
        ({"title": "a\x1b[31mred"}, "title: must be one line of printable characters"),
        ({"authors": []}, "authors: .*at least 1 item"),
        ({"autors": ["x"]}, "autors: unknown key. Did you mean 'authors'"),
        ({"schema": "lmcbench/submission/2"}, "reads up to lmcbench/submission/1. Upgrade: pip"),
        ({"architecture": {"label": "x.py:f", "source": "file"}}, "sha256 is that of the source file"),
    ],
)
def test_a_faulty_field_is_named(change, message):
    table = make_meta(records()[0]).model_dump(by_alias=True, mode="json", exclude_none=True) | change
    lines = [f"{key} = {json.dumps(v)}" for key, v in table.items() if not isinstance(v, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += [f"[{key}]", *(f"{k} = {json.dumps(v)}" for k, v in value.items())]
    with pytest.raises(UserError, match=message):
        parse_meta("\n".join(lines).encode(), "submission.toml")


@pytest.mark.parametrize("slug", ["", "a b", "A", "-a", "a-", "a--b", "../a", "a/b", ".a", "a" * 61, "a.b"])
def test_a_slug_is_a_plain_name(slug):
    with pytest.raises(UserError, match="cannot name a submission"):
        check_slug(slug)


def test_plain_slugs_pass():
    for slug in ("a", "tiny-mlp-digits", "7"):
        check_slug(slug)
