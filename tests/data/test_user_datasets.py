"""A user's own data: image folders, folders of parquet files, single files."""

import hashlib
import json
import os
import re
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lmcbench.data.cache import file_hashes
from lmcbench.data.open_dataset import open_dataset
from lmcbench.errors import UserError
from submitted import cli

from .images import encode, pictures, write_parquet


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("LMCBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LMCBENCH_DATA", raising=False)
    data = tmp_path / "data"
    data.mkdir()
    return data


def write_folder(folder, splits=("train", "test"), classes=("cat", "dog"), n=3, shape=(3, 16, 20)):
    for s, split in enumerate(splits):
        for c, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for i, pixels in enumerate(pictures(n, shape, seed=10 * s + c)):
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


def test_an_image_folder_gives_classes_in_name_order(place):
    write_folder(place / "pets")
    opened = open_dataset(str(place / "pets"))
    assert opened.name == "pets"
    assert opened.source == "folder"
    assert opened.classes == ("cat", "dog")
    assert opened.shape == (3, 16, 20)
    assert opened.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    expected = np.concatenate([pictures(3, (3, 16, 20), seed=s) for s in (0, 1)]).transpose(0, 3, 1, 2)
    assert (opened.train.images == expected).all()
    assert str(place) not in str(opened.identity())


@pytest.mark.parametrize("held_out", ["test", "val", "valid", "validation"])
def test_a_bare_name_is_a_folder_of_the_data_folder(place, held_out):
    write_folder(place / "pets", ("train", held_out), shape=(1, 8, 8))
    assert open_dataset("pets", place).shape == (1, 8, 8)


def test_grey_and_palette_images_follow_the_first(place):
    write_folder(place / "pets")
    Image.fromarray(pictures(1, (1, 16, 20))[0]).save(place / "pets" / "train" / "dog" / "grey.png")
    opened = open_dataset("pets", place)
    assert (opened.train.images[-1, 0] == opened.train.images[-1, 2]).all()


def test_files_replaced_by_others_of_their_size_and_time_are_other_content(place):
    """As after unpacking an archive over them: bitmaps of equal size and modification time."""
    write_folder(place / "pets", shape=(1, 16, 20))
    for file in (place / "pets").rglob("*.png"):
        Image.open(file).save(file.with_suffix(".bmp"))
        file.unlink()
    long_ago = time.time_ns() - 10**12
    first = place / "pets" / "train" / "cat" / "0.bmp"
    second = first.with_name("1.bmp")
    for file in (first, second):
        os.utime(file, ns=(long_ago, long_ago))
    assert first.stat().st_size == second.stat().st_size
    time.sleep(2.1)  # until they have settled, so that they are not read again for being new
    before = open_dataset("pets", place).train
    assert file_hashes([first]) == file_hashes([first])
    first.write_bytes(second.read_bytes())
    os.utime(first, ns=(long_ago, long_ago))
    after = open_dataset("pets", place).train
    assert (after.images[0] == before.images[1]).all()
    assert after.sha256 != before.sha256


def test_hashes_are_cached_once_a_file_is_old_enough(place, monkeypatch):
    file = place / "some.bin"
    file.write_bytes(b"x")
    read = []
    digest = hashlib.file_digest
    monkeypatch.setattr("hashlib.file_digest", lambda *a: read.append(a) or digest(*a))
    later = time.time_ns() + 3 * 10**9
    for now, times in ((time.time_ns(), 1), (later, 2), (later, 2)):
        monkeypatch.setattr("time.time_ns", lambda now=now: now)
        assert file_hashes([file]) == [hashlib.sha256(b"x").hexdigest()]
        assert len(read) == times


def test_a_modification_time_in_the_future_is_cached_and_changes_are_still_found(place, monkeypatch):
    """Archives and other machines' clocks cause such times."""
    file = place / "some.bin"
    file.write_bytes(b"x")
    ahead = time.time_ns() + 10**15
    os.utime(file, ns=(ahead, ahead))
    later = time.time_ns() + 3 * 10**9
    monkeypatch.setattr("time.time_ns", lambda: later)
    assert file_hashes([file]) == [hashlib.sha256(b"x").hexdigest()]
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", lambda *a: pytest.fail("read again"))
        assert file_hashes([file]) == [hashlib.sha256(b"x").hexdigest()]
    for content in (b"y", b"z"):
        time.sleep(0.05)  # for the clock of the file system to tick
        file.write_bytes(content)
        os.utime(file, ns=(ahead, ahead))  # the time of change still tells
        assert file_hashes([file]) == [hashlib.sha256(content).hexdigest()]


def test_classes_are_those_of_the_label_column(place):
    """As CIFAR-100's coarse and fine labels: two columns of classes, the other one first."""
    columns = {
        "image": pa.array([encode(p) for p in pictures(20, (1, 8, 8))], pa.binary()),
        "kind": pa.array([0, 1] * 10, pa.int64()),
        "label": pa.array(list(range(4)) * 5, pa.int64()),
    }
    features = {
        "kind": {"_type": "ClassLabel", "names": list("abcdefgh")},
        "label": {"_type": "ClassLabel", "names": list("wxyz")},
    }
    table = pa.table(columns).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pq.write_table(table, place / "pets.parquet")
    opened = open_dataset("pets", place)
    assert opened.classes == tuple("wxyz")
    assert set(opened.train.labels.tolist()) == {0, 1, 2, 3}


def test_moving_an_image_to_another_class_is_other_content(place):
    write_folder(place / "pets")
    first = open_dataset("pets", place).train
    (place / "pets" / "train" / "dog" / "0.png").rename(place / "pets" / "train" / "cat" / "3.png")
    second = open_dataset("pets", place).train
    assert second.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert first.sha256 != second.sha256


def test_own_parquet_files_are_read_by_their_features(place):
    for split, n in (("train", 12), ("validation", 6)):
        write_parquet(
            place / "birds" / f"{split}-0.parquet",
            [encode(p) for p in pictures(n, (3, 8, 8))],
            [i % 3 for i in range(n)],
            image="photo",
            label="species",
            names=["crow", "gull", "wren"],
        )
    opened = open_dataset("birds", place)
    assert opened.classes == ("crow", "gull", "wren")
    assert (len(opened.train), len(opened.test)) == (12, 6)


def test_one_parquet_file_gives_every_fifth_of_each_class_to_the_test_split(place):
    labels = [0] * 11 + [1] * 10
    pixels = pictures(21, (1, 8, 8))
    path = write_parquet(place / "birds.parquet", [encode(p) for p in pixels], labels, "image", row_group=8)
    for opened in (open_dataset("birds", place), open_dataset(str(path))):
        assert (opened.test.images[:, 0] == pixels[[4, 9, 15, 20]]).all()
        assert opened.test.labels.tolist() == [0, 0, 1, 1]
        assert len(opened.train) == 17
        assert opened.classes == ("0", "1")


def test_hidden_files_are_ignored(place):
    write_folder(place / "pets")
    first = open_dataset("pets", place).train.sha256
    cats = place / "pets" / "train" / "cat"
    for copy in (".thumbnails/0.png", ".ipynb_checkpoints/deep/1.png", "._0.png"):
        (cats / copy).parent.mkdir(parents=True, exist_ok=True)
        (cats / copy).write_bytes((cats / "0.png").read_bytes())
    (cats / "Thumbs.db").write_text("no image")
    assert open_dataset("pets", place).train.sha256 == first


def write_shards(folder, names=("cat", "dog"), others=("cat", "dog"), labels=(0, 1) * 5):
    """Two parts of a training split and a test split, each of ten images."""
    data = [encode(p) for p in pictures(10, (1, 8, 8))]
    for part, said in (("train-00000-of-00002", names), ("train-00001-of-00002", others), ("test", names)):
        write_parquet(folder / f"{part}.parquet", data, list(labels), "image", names=said)


def test_labels_mean_the_same_in_every_file(place):
    write_shards(place / "pets", others=("dog", "cat"))
    with pytest.raises(UserError, match=r"train-00001-of-00002.* has other class names \(dog, cat\) than"):
        open_dataset("pets", place)
    write_shards(place / "birds", ("wren", "wren"), ("wren", "wren"))
    with pytest.raises(UserError, match=r"train-00000-of-00002.parquet: two classes have the name 'wren'"):
        open_dataset("birds", place)


@pytest.mark.parametrize(("names", "others"), [(("cat", "dog"), None), (None, ("cat", "dog"))])
def test_a_part_without_class_names_agrees_with_any(place, names, others):
    write_shards(place / "pets", names, others)
    write_shards(place / "named")
    (place / "named" / "test.parquet").replace(place / "pets" / "test.parquet")
    assert open_dataset("pets", place).classes == ("cat", "dog")


@pytest.mark.parametrize("numbers", [("00001", "00002"), ("1", "02"), ("0", "01")])
def test_parts_of_a_split_may_count_from_1_and_their_numbers_differ_in_width(place, numbers):
    write_shards(place / "pets")
    for i, number in enumerate(numbers):
        file = place / "pets" / f"train-0000{i}-of-00002.parquet"
        file.rename(place / "pets" / f"train-{number}-of-2.parquet")
    assert len(open_dataset("pets", place).train) == 20
    (place / "pets" / f"train-{numbers[0]}-of-2.parquet").unlink()
    with pytest.raises(UserError, match=rf"has train-{numbers[1]}-of-2.parquet, but not train-0*[01]-of-2"):
        open_dataset("pets", place)


@pytest.mark.parametrize(("part", "other"), [("00000", "00001"), ("00001", "00000")])
def test_a_missing_part_of_a_split_is_named(place, part, other):
    write_shards(place / "pets")
    (place / "pets" / f"train-{part}-of-00002.parquet").unlink()
    with pytest.raises(
        UserError, match=rf"has train-{other}-of-00002.parquet, but not train-{part}-of-00002"
    ):
        open_dataset("pets", place)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((1, 2) * 5, "labels must count from 0 without gaps, found no 0 below 2"),
        ((0, 200) * 5, "found no 1 below 200"),
        ((-1, -1) * 5, "row 0: label -1 is out of range \\(labels count from 0"),
        ((0, 2**62) * 5, "found no 1 below 4611686018427387904"),
    ],
)
def test_unnamed_classes_with_gaps_in_their_labels_are_refused(place, labels, message):
    write_shards(place / "pets", None, None, labels)
    with pytest.raises(UserError, match=message):
        open_dataset("pets", place)
    write_shards(place / "named", tuple("abc"), tuple("abc"), (1, 2) * 5)
    assert open_dataset("named", place).classes == tuple("abc")


def test_labels_past_64_bits_are_named_as_they_are(place):
    data = [encode(p) for p in pictures(2, (1, 8, 8))]
    table = pa.table({"image": data, "label": pa.array([0, 2**63], pa.uint64())})
    pq.write_table(table, place / "pets.parquet")
    with pytest.raises(UserError, match="row 1: label 9223372036854775808 is out of range"):
        open_dataset(str(place / "pets.parquet"))


def test_a_file_too_small_for_a_test_split_says_so(place):
    path = write_parquet(place / "b.parquet", [encode(p) for p in pictures(6)], [0, 1] * 3, "image")
    with pytest.raises(UserError, match=r"b, test: no images found in .*b.parquet"):
        open_dataset(str(path))


def test_a_folder_too_small_for_a_test_split_says_so(place):
    for name in ("cat/0.png", "cat/1.png", "dog/0.png"):
        (place / "few" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "few" / name).write_bytes(encode(pictures(1)[0]))
    with pytest.raises(UserError, match=r"few, test: no images found\. .* a class needs five"):
        open_dataset("few", place)


def test_paths_in_place_of_images_are_refused(place):
    write_parquet(place / "pets" / "test.parquet", [encode(p) for p in pictures(2)], [0, 1], "image")
    pq.write_table(pa.table({"image": ["a.png", "b.png"], "label": [0, 1]}), place / "pets" / "train.parquet")
    with pytest.raises(UserError, match=r"row 0: there is no image data in column 'image'.* not their paths"):
        open_dataset("pets", place)


def write_odd_size(folder):
    write_folder(folder)
    Image.fromarray(pictures(1, (3, 16, 16))[0]).save(folder / "train" / "cat" / "1.png")


def write_broken(folder):
    write_folder(folder)
    (folder / "train" / "cat" / "1.png").write_bytes(b"\x89PNG broken")


def write_empty_class(folder):
    write_folder(folder)
    (folder / "test" / "emu").mkdir()


def write_device(folder):
    write_folder(folder)
    (folder / "train" / "cat" / "1.png").unlink()
    (folder / "train" / "cat" / "1.png").symlink_to("/dev/zero")


def write_pipe(folder):
    write_folder(folder)
    os.mkfifo(folder / "test" / "dog" / "9.png")


def write_huge(folder):
    write_folder(folder)
    with (folder / "train" / "cat" / "1.png").open("wb") as file:
        file.truncate(3 * 2**30)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    "name", ["pets/train/cat/1.png", "pets.parquet", "pets.tar", "pets.csv", "pets.zip", "pets/train.csv"]
)
@pytest.mark.parametrize(
    ("content", "message"),
    [(POINTER, "is a Git LFS pointer.* git lfs pull"), (b"<!DOCTYPE html>\n<html>", "is a web page")],
)
def test_what_stands_in_place_of_a_file_is_named(place, name, content, message):
    if name == "pets/train/cat/1.png":
        write_folder(place / "pets")
    (place / name).parent.mkdir(exist_ok=True)
    (place / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name.rpartition('/')[2]}.* {message}"):
        open_dataset(str(place / name.partition("/")[0]))


@pytest.mark.parametrize("name", ["pets.zip", "pets.tar.gz", "pets.NPZ"])
def test_an_archive_is_no_data_set(place, name):
    (place / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=rf"{name} is not a data set: a single file must be parquet"):
        open_dataset(str(place / name))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_device, r"train/cat/1.png is not a regular file"),
        (write_pipe, r"test/dog/9.png is not a regular file"),
        (write_huge, r"train/cat/1.png has 3,221.2 MB; at most 128.0 MB are read"),
        (write_odd_size, r"train/cat/1.png: the image is 16 x 16 pixels, expected 20 x 16"),
        (write_broken, r"train/cat/1.png: the image does not decode"),
        (write_empty_class, r"test/emu is a class without images"),
        (lambda f: f.mkdir(), "is not a data set: it needs train/CLASS"),
        (
            lambda f: (write_folder(f, ("train",)), write_folder(f, ("test",), ("cat", "dog", "emu"))),
            "the splits have different classes: test alone has emu",
        ),
        (
            lambda f: (write_folder(f, ("train",)), write_folder(f, ("test",), ("cat", "emu"))),
            "the splits have different classes: train alone has dog; test alone has emu",
        ),
        (
            lambda f: (write_folder(f, ("train",)), write_folder(f, ("test",), shape=(3, 8, 8))),
            r"images are \[3, 16, 20\] in train, but \[3, 8, 8\] in test",
        ),
    ],
)
def test_odd_folders_are_refused(place, write, message):
    write(place / "pets")
    with pytest.raises(UserError, match=message):
        open_dataset(str(place / "pets"))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "pets.parquet: its metadata is damaged: .* nest more than 40 levels"),
        ("{", "pets.parquet: its metadata is damaged: Expecting"),
        (json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": [[1], "b"]}}}}), "text"),
        (json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": {"a": "b"}}}}}), "text"),
        (json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": 3}}}}), "list of text"),
    ],
)
def test_metadata_of_a_parquet_file_is_bounded_and_checked(place, metadata, message):
    table = pa.table({"image": list(map(encode, pictures(10))), "label": [0, 1] * 5})
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), place / "pets.parquet")
    with pytest.raises(UserError, match=message):
        open_dataset("pets", place)


def test_a_missing_path_is_refused(place):
    with pytest.raises(UserError, match=r"No data at .*nowhere"):
        open_dataset(str(place / "nowhere"))


def test_a_relative_path_in_a_suite_starts_at_the_working_folder(place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(UserError, match=f"No data at nowhere in {re.escape(str(place))}\\. Give"):
        open_dataset("./nowhere")


def test_a_folder_of_the_working_folder_is_written_as_a_path(place, monkeypatch):
    write_folder(place / "own")
    monkeypatch.chdir(place)
    with pytest.raises(UserError, match=r"Unknown data set 'own'.*write ./own"):
        open_dataset("own")
    assert open_dataset("./own").name == "own"


def test_a_users_data_cannot_have_a_published_name(place):
    write_folder(place / "fashion_mnist")
    for name, folder in (("fashion_mnist", place), (str(place / "fashion_mnist"), None)):
        with pytest.raises(UserError, match="has the name of a published data set"):
            open_dataset(name, folder)


def test_a_run_is_not_extended_with_other_images(place, tmp_path):
    write_folder(place / "pets", n=8, shape=(1, 8, 8))
    suite = """
name = "own"
version = 1
description = "for tests"
shifts = ["none"]
forks = [0]
replicates = 1
data = { name = "pets" }
protocol = { alphas = 3, calibration = 4 }
recipes = { short = { lr = 0.1, batch_size = 4, epochs = 1 } }
architectures = [{ name = "lmc_linear", recipe = "short" }]
"""
    (tmp_path / "own.toml").write_text(suite)
    command = ["run", tmp_path / "own.toml", "--data-dir", place, "--out", tmp_path / "r", "--jobs", 1]
    assert cli(*command)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*.*")}
    Image.fromarray(pictures(1, (1, 8, 8), seed=99)[0]).save(place / "pets" / "train" / "cat" / "0.png")
    assert cli(*command)[0] == 0  # finished: the images are not opened
    code, _, err = cli(*command, "--replicates", 2)
    assert code == 2
    assert "r was run on other data: split train of pets has sha256" in err
    assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("*.*")} == before
