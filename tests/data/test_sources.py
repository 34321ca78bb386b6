"""Published data sets from a folder of parquet files: layouts, cache and errors."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmcbench.data import cache, decode, parquet
from lmcbench.data.listing import list_datasets
from lmcbench.data.open_dataset import open_dataset
from lmcbench.data.sources import SOURCES
from lmcbench.errors import UserError
from real_data import EXCERPT, REAL

from .images import encode, pictures, write_cifar10, write_parquet


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("LMCBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("LMCBENCH_DATA", raising=False)
    data = tmp_path / "data"
    data.mkdir()
    return data


def cached_splits(tmp_path):
    folder = tmp_path / "cache" / "pixels"
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


# --- what comes out ------------------------------------------------------------------------------


def test_pixels_labels_and_classes_are_read_as_written(place):
    made = write_cifar10(place / "cifar10")
    opened = open_dataset("cifar10", place)
    for split, images in (("train", opened.train), ("test", opened.test)):
        assert (images.images == made[split][0]).all()
        assert images.labels.tolist() == made[split][1]
        assert isinstance(images.images, np.memmap)
        assert not images.images.flags.writeable
    assert opened.classes == tuple("abcdefghij")
    assert opened.shape == (3, 32, 32)


@pytest.mark.parametrize(
    "layout",
    [
        "cifar10",
        "uoft-cs/cifar10",
        "uoft-cs/cifar10/plain_text",
        f"datasets--uoft-cs--cifar10/snapshots/{SOURCES['cifar10'].hub.revision}/plain_text",
    ],
)
def test_a_data_folder_may_have_the_layout_of_ours_of_a_clone_or_of_the_hubs_cache(place, layout):
    write_cifar10(place / layout)
    assert len(open_dataset("cifar10", place).train) == 40


def test_the_data_folder_may_come_from_the_environment(place, monkeypatch):
    write_cifar10(place / "cifar10")
    monkeypatch.setenv("LMCBENCH_DATA", str(place))
    assert len(open_dataset("cifar10").train) == 40
    monkeypatch.setenv("LMCBENCH_DATA", str(place / "nowhere"))
    with pytest.raises(UserError, match=r"nowhere does not exist\. It is given by"):
        open_dataset("cifar10")


def test_shards_and_row_groups_keep_their_order(place):
    pixels = pictures(2500, (1, 8, 8))
    data, labels = [encode(p) for p in pixels], [i % 10 for i in range(2500)]
    for shard, part in enumerate((slice(0, 1300), slice(1300, 2500))):
        path = place / "mnist" / "mnist" / f"train-0000{shard}-of-00002.parquet"
        write_parquet(path, data[part], labels[part], image="image", row_group=700)
    write_parquet(
        place / "mnist" / "mnist" / "test-00000-of-00001.parquet", data[:10], labels[:10], image="image"
    )
    opened = open_dataset("mnist", place)
    assert (opened.train.images[:, 0] == pixels).all()
    assert opened.train.labels.tolist() == labels
    assert opened.classes == tuple("0123456789")


def test_the_configuration_is_chosen_by_name(place):
    for config, n in (("full_numbers", 20), ("cropped_digits", 30)):
        for split in ("train", "test"):
            data = [encode(p) for p in pictures(n)]
            write_parquet(place / "svhn" / config / f"{split}-0.parquet", data, [0] * n, image="image")
    assert len(open_dataset("svhn", place).train) == 30


def test_the_cached_summary_is_that_of_the_arrays(place):
    write_cifar10(place / "cifar10")
    opened = open_dataset("cifar10", place)
    bare = type(opened.train)(np.array(opened.train.images), opened.train.labels)
    assert bare.sha256 == opened.train.sha256
    assert (bare.summary.histogram == opened.train.summary.histogram).all()
    mean, std = opened.statistics
    assert mean == pytest.approx((opened.train.images / 255).mean(axis=(0, 2, 3)))
    assert std == pytest.approx((opened.train.images / 255).std(axis=(0, 2, 3)))


def test_records_name_source_hash_split_and_size(place):
    write_cifar10(place / "cifar10")
    train, test = open_dataset("cifar10", place).identity()
    assert {k: v for k, v in train.items() if k != "sha256"} == {
        "name": "cifar10",
        "source": "parquet",
        "split": "train",
        "n": 40,
    }
    assert len(train["sha256"]) == 64
    assert train["sha256"] != test["sha256"]
    assert str(place) not in json.dumps([train, test])


# --- the cache -----------------------------------------------------------------------------------


def test_a_second_opening_decodes_nothing_and_reads_no_parquet(place, monkeypatch):
    write_cifar10(place / "cifar10")
    monkeypatch.setattr(cache, "SETTLED_NS", -1)  # as if they had been there for a while
    first = open_dataset("cifar10", place)
    monkeypatch.setattr(decode, "open_image", None)
    monkeypatch.setattr(parquet, "_Table", None)
    monkeypatch.setattr(cache.hashlib, "file_digest", None)
    again = open_dataset("cifar10", place)
    assert again.train.sha256 == first.train.sha256
    assert again.classes == first.classes


def test_the_same_files_elsewhere_are_the_same_content(place, tmp_path):
    write_cifar10(place / "cifar10")
    open_dataset("cifar10", place)
    held = cached_splits(tmp_path)
    (tmp_path / "moved").mkdir()
    (place / "cifar10").rename(tmp_path / "moved" / "cifar10")
    open_dataset("cifar10", tmp_path / "moved")
    assert cached_splits(tmp_path) == held
    assert len(held) == 2


def test_changed_files_are_other_content(place):
    write_cifar10(place / "cifar10")
    first = open_dataset("cifar10", place)
    write_cifar10(place / "cifar10", n=50)
    second = open_dataset("cifar10", place)
    assert (len(first.train), len(second.train)) == (40, 50)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "split.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "empty"])
def test_a_damaged_cache_is_made_again(place, tmp_path, name, damage):
    made = write_cifar10(place / "cifar10")
    open_dataset("cifar10", place)
    for split in (tmp_path / "cache" / "pixels").iterdir():
        file = split / name
        content = file.read_bytes()
        file.unlink()
        if damage != "gone":
            file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    assert (open_dataset("cifar10", place).train.images == made["train"][0]).all()


def test_a_newer_cache_is_not_read(place, tmp_path):
    write_cifar10(place / "cifar10")
    open_dataset("cifar10", place)
    for split in (tmp_path / "cache" / "pixels").iterdir():
        text = json.loads((split / "split.json").read_text())
        (split / "split.json").write_text(json.dumps({**text, "schema": "lmcbench/pixels/2"}))
        assert cache.read_split(split.name) is None


def test_a_cache_that_cannot_be_written_says_so(place, tmp_path, monkeypatch):
    write_cifar10(place / "cifar10")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LMCBENCH_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match=r"cannot be written .* Set LMCBENCH_CACHE"):
        open_dataset("cifar10", place)


def test_a_stopped_run_leaves_nothing_behind(place, tmp_path, monkeypatch):
    write_cifar10(place / "cifar10")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(decode, "_decode_file", stop)
    with pytest.raises(KeyboardInterrupt):
        open_dataset("cifar10", place)
    assert cached_splits(tmp_path) == []


def test_partial_files_of_a_killed_process_are_ignored_and_later_removed(place, tmp_path):
    pixels = tmp_path / "cache" / "pixels"
    for name, age in ((".0123-old", 2 * 24 * 3600), (".0123-new", 60)):
        (pixels / name).mkdir(parents=True)
        for path in (pixels / name / "images.npy", pixels / name):
            if path.suffix:
                path.write_bytes(b"half an image")
            os.utime(path, (time.time() - age, time.time() - age))
    write_cifar10(place / "cifar10")
    open_dataset("cifar10", place)
    held = cached_splits(tmp_path)
    assert [name for name in held if name.startswith(".")] == [".0123-new"]
    # a cache may be many people's: what is in it is as readable as a new folder of the user's
    (tmp_path / "usual").mkdir()
    modes = {(pixels / name).stat().st_mode for name in held if not name.startswith(".")}
    assert modes == {(tmp_path / "usual").stat().st_mode}


def test_processes_that_decode_at_once_agree(place, tmp_path):
    write_cifar10(place / "cifar10", n=200)
    code = "import sys; from pathlib import Path; from lmcbench.data.open_dataset import open_dataset; "
    code += "print(open_dataset('cifar10', Path(sys.argv[1])).train.sha256)"
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(place)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    found = {run.communicate()[0] for run in runs}
    assert found == {open_dataset("cifar10", place).train.sha256 + "\n"}
    assert len(cached_splits(tmp_path)) == 2


# --- what is refused -----------------------------------------------------------------------------


def refusal(place, tmp_path, match, name="cifar10"):
    with pytest.raises(UserError, match=match):
        open_dataset(name, place)
    assert not [s for s in cached_splits(tmp_path) if s.startswith(".")]


def test_missing_data_are_reported_with_the_places_searched_and_the_remedy(place, tmp_path):
    with pytest.raises(UserError) as caught:
        open_dataset("cifar10", place)
    message = str(caught.value)
    for part in (
        str(place / "cifar10"),
        str(tmp_path / "hub"),
        "lmcbench data fetch cifar10",
        "LMCBENCH_DATA",
    ):
        assert part in message
    assert caught.value.exit_code == 2


def test_an_unknown_name_gets_the_nearest(place):
    with pytest.raises(UserError, match=r"Unknown data set 'cifar-10'\. Did you mean 'cifar10'"):
        open_dataset("cifar-10", place)
    with pytest.raises(
        UserError, match=r"Unknown data set 'birds'.* Your own .* by its path, such as ./birds"
    ):
        open_dataset("birds", place)


def test_a_missing_split_is_named(place, tmp_path):
    write_cifar10(place / "cifar10")
    (place / "cifar10" / "test-00000-of-00001.parquet").unlink()
    refusal(place, tmp_path, r"has no files of split 'test' \(test-\*.parquet\). It has train-00000")


def test_a_missing_column_is_named_with_those_there_are(place, tmp_path):
    path = place / "cifar10" / "train-0.parquet"
    write_cifar10(place / "cifar10")
    write_parquet(path, [encode(p) for p in pictures(3)], [0, 1, 2], image="image")
    refusal(place, tmp_path, r"train-0.parquet has no image column 'img'. Its columns: image, label")


@pytest.mark.parametrize("content", [b"", b"PAR1 not really", None])
def test_a_corrupted_parquet_file_is_named(place, tmp_path, content):
    write_cifar10(place / "cifar10")
    path = place / "cifar10" / "train-00000-of-00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    refusal(place, tmp_path, r"train-00000-of-00001.parquet is not a readable parquet file")


def test_damage_inside_a_parquet_file_is_found_while_reading(place, tmp_path):
    write_cifar10(place / "cifar10")
    path = place / "cifar10" / "train-00000-of-00001.parquet"
    content = bytearray(path.read_bytes())
    content[4:400] = os.urandom(396)
    path.write_bytes(content)
    refusal(place, tmp_path, r"train-00000-of-00001.parquet( has an unreadable column|, row)")
    assert len(cached_splits(tmp_path)) == 0


def test_an_image_that_does_not_decode_is_named_by_row(place, tmp_path):
    data = [encode(p) for p in pictures(12)]
    data[7] = data[7][:60]
    write_cifar10(place / "cifar10")
    write_parquet(place / "cifar10" / "train-00000-of-00001.parquet", data, [0] * 12)
    refusal(place, tmp_path, r"train-00000-of-00001.parquet, row 7: the image does not decode")
    assert len(cached_splits(tmp_path)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda data, labels: data.__setitem__(3, b"no image"),
            r"row 3: the image does not decode \(unknown format\)",
        ),
        (lambda data, labels: data.__setitem__(3, None), "row 3: there is no image data in column 'img'"),
        (
            lambda data, labels: data.__setitem__(3, encode(pictures(1, (3, 30, 32))[0])),
            "row 3: the image is 32 x 30 pixels, expected 32 x 32",
        ),
        (
            lambda data, labels: data.__setitem__(3, encode(np.zeros((32, 32), np.uint16))),
            "row 3: images must have 8 bits a channel",
        ),
        (
            lambda data, labels: data.__setitem__(3, encode(pictures(1)[0], "JPEG")),
            "row 3: this is a JPEG image, but the data set is published as PNG",
        ),
        (
            lambda data, labels: labels.__setitem__(3, 10),
            r"row 3: label 10 is out of range \(0 to 9\)",
        ),
        (lambda data, labels: labels.__setitem__(3, -1), "row 3: label -1 is out of range"),
        (lambda data, labels: labels.__setitem__(3, None), "row 3: the label is missing"),
        (
            lambda data, labels: labels.__setitem__(slice(None), ["cat"] * 6),
            "column 'label' must hold integers from 0, found text",
        ),
    ],
)
def test_bad_rows_are_named(place, tmp_path, change, message):
    write_cifar10(place / "cifar10")
    data, labels = [encode(p) for p in pictures(6)], [0] * 6
    change(data, labels)
    write_parquet(place / "cifar10" / "train-00000-of-00001.parquet", data, labels)
    refusal(place, tmp_path, message)
    assert cached_splits(tmp_path) == []


def test_an_empty_split_is_refused(place, tmp_path):
    write_cifar10(place / "cifar10")
    write_parquet(place / "cifar10" / "train-00000-of-00001.parquet", [], [])
    refusal(place, tmp_path, r"cifar10, train: no images found in \S*parquet\.$")


def test_plain_bytes_are_images_too(place):
    pixels = pictures(5)
    for split in ("train", "test"):
        path = place / "cifar10" / f"{split}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"img": [encode(p) for p in pixels], "label": [0, 1, 2, 3, 4]}), path)
    assert (open_dataset("cifar10", place).train.images == pixels.transpose(0, 3, 1, 2)).all()


# --- the JPEG copy of CIFAR-10 -------------------------------------------------------------------


def test_a_re_encoding_does_not_open_as_cifar10(place, tmp_path):
    write_cifar10(place / "cifar10", kind="JPEG")
    refusal(place, tmp_path, "row 0: this is a JPEG image, but the data set is published as PNG")


def test_the_jpeg_copy_is_recognised_by_its_hashes(place, tmp_path, monkeypatch):
    write_cifar10(place / "cifar10", kind="JPEG")
    refusal(place, tmp_path, r"cifar10-jpeg was not found.*holds other files \(by sha256\)", "cifar10-jpeg")
    files = [place / "cifar10" / f"{split}-00000-of-00001.parquet" for split in ("train", "test")]
    hashes = dict(zip(("train", "test"), cache.file_hashes(files), strict=True))
    monkeypatch.setitem(SOURCES, "cifar10-jpeg", replace(SOURCES["cifar10-jpeg"], sha256=hashes))
    assert open_dataset("cifar10-jpeg", place).name == "cifar10-jpeg"
    refusal(place, tmp_path, r"cifar10 holds cifar10-jpeg: CIFAR-10 \(JPEG re-encoding\)")
    with pytest.raises(UserError, match="has the name of a published data set"):
        open_dataset(str(place / "cifar10"))


@pytest.mark.slow_tier
def test_the_real_jpeg_copy_opens_under_its_own_name_only(whole_photographs):
    photographs = whole_photographs
    assert photographs.shape == (3, 32, 32)
    assert [entry["n"] for entry in photographs.identity()] == [50_000, 10_000]
    mean, std = photographs.statistics
    assert mean == pytest.approx([0.4913, 0.4821, 0.4465], abs=5e-5)
    assert std == pytest.approx([0.2452, 0.2428, 0.2606], abs=5e-5)
    assert np.bincount(photographs.train.labels).tolist() == [5000] * 10


def test_the_first_real_images_open(fashion, photographs):
    for opened, shape in ((fashion, (1, 28, 28)), (photographs, (3, 32, 32))):
        assert opened.shape == shape
        assert [entry["n"] for entry in opened.identity()] == list(EXCERPT.values())
        assert set(opened.test.labels) == set(range(10))
    # as over all images, within what a thousand are off
    assert fashion.statistics[0] == pytest.approx([0.286], abs=0.01)
    assert photographs.statistics[0] == pytest.approx([0.491, 0.482, 0.447], abs=0.02)


@pytest.mark.slow_tier
def test_real_fashion_mnist_has_its_published_statistics(whole_fashion):
    fashion = whole_fashion
    mean, std = fashion.statistics
    assert (mean[0], std[0]) == (pytest.approx(0.2860, abs=5e-5), pytest.approx(0.3530, abs=5e-5))
    assert fashion.classes[9] == "Ankle boot"
    assert np.bincount(fashion.test.labels).tolist() == [1000] * 10


@pytest.mark.slow_tier
@pytest.mark.usefixtures("whole_photographs")
def test_real_data_open_again_in_less_than_half_a_second(session_cache, monkeypatch):
    monkeypatch.setenv("LMCBENCH_CACHE", str(session_cache))
    start = time.perf_counter()
    opened = open_dataset("cifar10-jpeg", REAL)
    opened.identity()
    assert time.perf_counter() - start < 0.5


# --- the list ------------------------------------------------------------------------------------


def test_the_list_says_which_data_sets_are_present_and_how_to_get_the_others(place):
    write_cifar10(place / "cifar10")
    listed = {row.name: row for row in list_datasets(place)}
    assert list(listed) == list(SOURCES)
    assert listed["digits"].found == "scikit-learn"
    assert listed["cifar10"].found == str(place / "cifar10")
    assert listed["cifar10"].bytes > 1000
    assert listed["svhn"].found is None
    assert "lmcbench data fetch svhn" in listed["svhn"].hint
    assert "holds other files" in listed["cifar10-jpeg"].hint


def test_the_list_needs_neither_torch_nor_pyarrow():
    code = "import sys; from lmcbench.data.listing import list_datasets; list_datasets(); "
    code += "print([m for m in ('torch', 'pyarrow', 'datasets', 'sklearn') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
