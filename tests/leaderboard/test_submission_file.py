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
    toml = (folder / "submission.toml").read_bytes()
    assert found.sha256 == sha256(toml).hexdigest()
    assert found.meta.sha256.records == sha256((folder / "records.jsonl.gz").read_bytes()).hexdigest()


def test_a_changed_records_file_or_source_is_found(tmp_path):
    network = {"label": "a.py:f", "source": "file", "sha256": sha256(b"x = 1").hexdigest()}
    folder = write_submission(tmp_path, "mine", records(), {"source/a.py": b"x = 1"}, architecture=network)
    read_submission(folder)
    for name, field in (("records.jsonl.gz", "sha256.records"), ("source/a.py", "architecture.sha256")):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before + b" ")
        with pytest.raises(UserError, match=f"submission.toml: {field}: found .* but {name} has"):
            read_submission(folder)
        (folder / name).write_bytes(before)


def test_all_faults_of_the_files_are_reported_at_once(tmp_path):
    folder = write_submission(tmp_path, "mine", records(2))
    (folder / "records.jsonl.gz").unlink()
    (folder / "model.pt").write_bytes(b"\x80\x04")
    (folder / "secret").mkdir()
    (folder / "manifest.json").symlink_to("/etc/hostname")
    os.mkfifo(folder / "source")
    with (folder / "predictions.safetensors").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(UserError) as caught:
        read_submission(folder)
    message = str(caught.value)
    assert "records.jsonl.gz: is missing." in message
    assert "manifest.json: is a link; a submission contains the files themselves." in message
    assert "model.pt: may be a pickle, which executes code when it is loaded" in message
    assert "secret: is a folder; a submission has only the folder source." in message
    assert "source: is not a regular file." in message
    assert "predictions.safetensors: has 1,073.7 MB; at most 25.0 MB are allowed." in message


def test_a_folder_of_many_files_is_refused(tmp_path):
    folder = write_submission(tmp_path, "mine", records(), {f"source/f{i}.py": b"" for i in range(30)})
    with pytest.raises(UserError, match="has 32 files; at most 20 are allowed"):
        read_submission(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": ""}, "submission.toml: title: must not be empty"),
        ({"title": "a\x1b[31mred"}, "title: must be one line of printable characters"),
        ({"authors": []}, "authors: .*at least 1 item"),
        ({"autors": ["x"]}, "autors: unknown key. Did you mean 'authors'"),
        ({"schema": "lmcbench/submission/3"}, "reads up to lmcbench/submission/2. Upgrade: pip"),
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
