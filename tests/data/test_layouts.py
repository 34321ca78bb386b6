"""Every supported layout gives the same images and labels as folders train/ and test/."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import ipc
from timm.data import create_transform

from lmcbench.data.decode import Resize
from lmcbench.data.open_dataset import open_dataset
from lmcbench.errors import UserError

from .images import encode, pictures, write_parquet

CLASSES = ("ant", "bee")
N = 10
"""Images a class."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMCBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "insects"


def images_of(name):
    return pictures(N, (3, 8, 8), seed=CLASSES.index(name))


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_flat(root):
    for name in CLASSES:
        for i, pixels in enumerate(images_of(name)):
            save(pixels, root / name / f"{i}.png")


def is_test(i):
    return i % 5 == 4


def write_splits(root, train="train", test="test"):
    for name in CLASSES:
        for i, pixels in enumerate(images_of(name)):
            save(pixels, root / (test if is_test(i) else train) / name / f"{i}.png")


def write_csv(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def listed(test=None):
    return [(name, i) for name in CLASSES for i in range(N) if test is None or is_test(i) == test]


def write_pool(folder):
    for name, i in listed():
        save(images_of(name)[i], folder / f"{name}{i}.png")


def _kaggle_folders(root):
    write_splits(root, "train", "val")
    for i in range(3):
        save(images_of("ant")[i], root / "test" / f"{i}.png")


def _kaggle_lists(root):
    write_pool(root / "images")
    write_csv(root / "train.csv", ("id", "label"), [(f"{n}{i}", n) for n, i in listed()])
    write_csv(root / "test.csv", ("id",), [("ant0",)])


def _metadata(root):
    """As the `imagefolder` builder takes it."""
    for split, test in (("train", False), ("test", True)):
        for name, i in listed(test):
            save(images_of(name)[i], root / split / f"{name}{i}.png")
        write_csv(
            root / split / "metadata.csv",
            ("file_name", "label"),
            [(f"{n}{i}.png", n) for n, i in listed(test)],
        )


def _one_list(root):
    write_pool(root / "images")
    rows = [(f"images/{n}{i}.png", n, "valid" if is_test(i) else "train") for n, i in listed()]
    write_csv(root / "metadata.csv", ("path", "class", "split"), rows)


def _save_to_disk(root):
    """As `DatasetDict.save_to_disk` of `datasets` writes it, with labels of text."""
    for split, test in (("train", False), ("validation", True)):
        data = [{"bytes": encode(images_of(n)[i]), "path": None} for n, i in listed(test)]
        table = pa.table({"image": pa.array(data), "label": [n for n, _ in listed(test)]})
        (root / split).mkdir(parents=True)
        with ipc.new_stream(root / split / "data-00000-of-00001.arrow", table.schema) as stream:
            stream.write_table(table)
        (root / split / "state.json").write_text("{}")
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}))


def _saved_dataset(root):
    import datasets

    data = [{"image": Image.fromarray(images_of(n)[i]), "label": CLASSES.index(n)} for n, i in listed()]
    made = datasets.Dataset.from_list(data)
    made = made.cast_column("image", datasets.Image())
    made = made.cast_column("label", datasets.ClassLabel(names=list(CLASSES)))
    made.save_to_disk(str(root))


def _parquet_text(root):
    for split, test in (("train", False), ("test", True)):
        data = [encode(images_of(n)[i]) for n, i in listed(test)]
        write_parquet(root / f"{split}.parquet", data, [n for n, _ in listed(test)], image="image")


def write_shard(path, chosen, label=lambda name: ("json", json.dumps({"label": name}))):
    """A shard of WebDataset: KEY.png and KEY.json, or another file for the label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, i in chosen:
            suffix, text = label(name)
            for end, data in (("png", encode(images_of(name)[i])), (suffix, text.encode())):
                info = tarfile.TarInfo(f"{name}{i}.{end}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def _shards(root):
    train = listed(False)
    write_shard(root / "train-000000.tar", train[:9])
    write_shard(root / "train-000001.tar", train[9:])
    write_shard(root / "val-000000.tar", listed(True))


LAYOUTS = {
    "flat": (write_flat, "every fifth image of each class is the test set"),
    "train and val": (lambda root: write_splits(root, "train", "val"), None),
    "Training and Validation": (lambda root: write_splits(root, "Training", "Validation"), None),
    "train alone": (lambda root: write_flat(root / "train"), "every fifth image of each class"),
    "Kaggle, folders": (_kaggle_folders, "test has no folder per class: its images have no labels"),
    "Kaggle, lists": (_kaggle_lists, "test.csv has no labels and is not used"),
    "metadata.csv": (_metadata, None),
    "one list": (_one_list, None),
    "save_to_disk": (_save_to_disk, None),
    "save_to_disk by datasets": (_saved_dataset, "every fifth image of each class"),
    "parquet with text": (_parquet_text, None),
    "shards": (_shards, None),
    "one shard": (lambda root: write_shard(root / "a.tar", listed()), "every fifth image of each class"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images(root, layout):
    write, note = LAYOUTS[layout]
    write(root)
    dataset = open_dataset(str(root))
    assert dataset.classes == CLASSES
    assert bool(dataset.notes) == (note is not None)
    assert note is None or any(note in sentence for sentence in dataset.notes)
    for split, test in ((dataset.train, False), (dataset.test, True)):
        expected = {images_of(n)[i].tobytes(): CLASSES.index(n) for n, i in listed(test)}
        found = {
            p.transpose(1, 2, 0).tobytes(): int(y) for p, y in zip(split.images, split.labels, strict=True)
        }
        assert found == expected


def test_grey_and_coloured_images_mix(root):
    write_flat(root)
    grey = pictures(1, (1, 8, 8))[0]
    for name in ("ant/0.png", "bee/4.png"):
        save(grey, root / name)
    dataset = open_dataset(str(root))
    assert dataset.shape == (3, 8, 8)
    assert (dataset.train.images[0] == grey).all()
    shutil.rmtree(root)
    for name in CLASSES:  # only a test image is coloured
        for i in range(5):
            save(images_of(name)[i] if i == 4 else grey, root / name / f"{i}.png")
    assert open_dataset(str(root)).shape == (3, 8, 8)


@pytest.mark.parametrize(("crop", "how"), [(0.875, "bilinear"), (0.95, "bicubic"), (1.0, "bicubic")])
def test_images_of_any_size_are_prepared_as_timm_validates(root, crop, how):
    draw = np.random.default_rng(0)
    sizes = [(50, 40), (40, 63), (37, 37), (32, 32), (91, 33)]
    for name in CLASSES:
        for i in range(5):
            save(draw.integers(0, 256, (*sizes[i], 3), dtype=np.uint8), root / name / f"{i}.png")
    with pytest.raises(UserError, match=r"image-size N.*image_size = N"):
        open_dataset(str(root))
    dataset = open_dataset(str(root), resize=Resize(24, crop, how))
    assert dataset.shape == (3, 24, 24)
    validate = create_transform(
        (3, 24, 24), is_training=False, crop_pct=crop, interpolation=how, mean=(0, 0, 0), std=(1, 1, 1)
    )
    for i, shown in enumerate(dataset.train.images[:4]):
        expected = validate(Image.open(root / "ant" / f"{i}.png")).numpy() * 255
        assert np.abs(expected - shown).max() < 0.5


def test_sizes_are_part_of_the_cache(root):
    write_flat(root)
    assert open_dataset(str(root)).shape == (3, 8, 8)
    assert open_dataset(str(root), resize=Resize(4)).shape == (3, 4, 4)
    assert open_dataset(str(root)).shape == (3, 8, 8)
    with pytest.raises(UserError, match="image_size is for your own data sets"):
        open_dataset("digits", resize=Resize(4))


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([("ant0.png", "ant")], ("name", "label"), "has no column of files"),
        ([("../ant0.png", "ant")], ("file", "label"), "give paths below its folder"),
        ([("ant77.png", "ant")], ("file", "label"), "names 'ant77.png', which is not in its folder"),
        ([("ant0.png", "")], ("file", "label"), "row 1: the label is missing"),
    ],
)
def test_odd_lists_are_refused(root, rows, columns, message):
    write_pool(root)
    write_csv(root / "metadata.csv", columns, rows)
    with pytest.raises(UserError, match=message):
        open_dataset(str(root))


@pytest.mark.parametrize("split", [False, True])
def test_a_list_is_parsed_once(root, monkeypatch, split):
    write_pool(root)
    rows = [(f"{name}{i}.png", name, "test" if is_test(i) else "train") for name, i in listed()]
    columns = ("file", "label", "split") if split else ("file", "label", "other")
    write_csv(root / "metadata.csv", columns, rows)
    opened = []
    parse = csv.DictReader
    monkeypatch.setattr(csv, "DictReader", lambda file: opened.append(file) or parse(file))
    assert len(open_dataset(str(root)).train) > 0
    assert len(opened) == 1


def test_shards_have_numbers_too_and_odd_ones_are_refused(root, tmp_path):
    number = lambda name: ("cls", str(CLASSES.index(name)))  # noqa: E731
    write_shard(root / "train" / "0.tar", listed(False), number)
    write_shard(root / "test" / "0.tar", listed(True), number)
    dataset = open_dataset(str(root))
    assert dataset.classes == ("0", "1")
    assert [len(dataset.train), len(dataset.test)] == [len(listed(False)), len(listed(True))]
    assert dataset.test.labels.tolist() == [CLASSES.index(name) for name, _ in listed(True)]
    for label, message in (
        (lambda name: ("txt", name), "0.tar, image 0 .ant0.: there is no label"),
        (lambda name: ("cls", name), "not WebDataset archives"),
    ):
        write_shard(root / "train" / "0.tar", listed(), label)
        with pytest.raises(UserError, match=message):
            open_dataset(str(root))
    (root / "train" / "0.tar").write_bytes(b"x" * 2000)
    with pytest.raises(UserError, match="not WebDataset archives"):
        open_dataset(str(root))
    with pytest.raises(UserError, match="have no domains"):
        open_dataset(str(root), domain="place")
