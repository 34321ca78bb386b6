"""Domains in every layout: the same images, labels, domains, splits and hash; held-out domains; refusals."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import ipc

from lmcbench.data.open_dataset import fetch_dataset, list_splits, open_dataset
from lmcbench.data.selection import open_suite_data, select
from lmcbench.data.sources import SOURCES
from lmcbench.errors import UserError
from lmcbench.spec.suite import Suite
from lmcbench.spec.suite_files import load_suite
from lmcbench.spec.suite_tables import DataSpec

from .images import encode, pictures

SIZES = {"art": {"ant": 6, "bee": 11}, "photo": {"ant": 5, "bee": 5}, "sketch": {"ant": 10, "bee": 6}}
"""Images by domain and class."""

TRAIN = {"art": 14, "photo": 8, "sketch": 13}
TEST = {"art": 3, "photo": 2, "sketch": 3}
"""Images of both splits where every fifth of each class of each domain is tested on."""

COLUMNS = ("file_name", "hospital", "label")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMCBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "insects"


def listed():
    """Domain, class and number of each image."""
    return [(d, c, i) for d, classes in SIZES.items() for c, n in classes.items() for i in range(n)]


PIXELS = {place: pictures(1, (3, 4, 4), seed=k)[0] for k, place in enumerate(listed())}


def is_test(place):
    return place[2] % 5 == 4


def save(place, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS[place]).save(path)


def write_list(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def table_of(places, label=lambda name: name, domain=lambda name: name):
    """A table as the hub stores it: bytes of images, with numbers or text as labels and domains."""
    data = [{"bytes": encode(PIXELS[place]), "path": None} for place in places]
    return pa.table(
        {
            "image": pa.array(data, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
            "hospital": [domain(d) for d, _, _ in places],
            "label": [label(c) for _, c, _ in places],
        }
    )


def _folders(root):
    for d, c, i in listed():
        save((d, c, i), root / d / c / f"{i:02}.png")


def _split_folders(root):
    for d, c, i in listed():
        save((d, c, i), root / ("val" if is_test((d, c, i)) else "train") / d / c / f"{i:02}.png")


def _one_list(root):
    for d, c, i in listed():
        save((d, c, i), root / "images" / f"{d}-{c}-{i:02}.png")
    write_list(root / "metadata.csv", COLUMNS, [(f"{d}-{c}-{i:02}.png", d, c) for d, c, i in listed()])


def _lists_of_splits(root):
    for split, test in (("train", False), ("test", True)):
        places = [place for place in listed() if is_test(place) == test]
        for d, c, i in places:
            save((d, c, i), root / split / f"{d}-{c}-{i:02}.png")
        write_list(root / split / "metadata.csv", COLUMNS, [(f"{d}-{c}-{i:02}", d, c) for d, c, i in places])


def _classes_and_a_list(root):
    """Folders of classes, and a list of the hospitals alone."""
    for d, c, i in listed():
        save((d, c, i), root / c / f"{d}-{i:02}.png")
    write_list(root / "metadata.csv", COLUMNS[:2], [(f"{c}/{d}-{i:02}.png", d) for d, c, i in listed()])


def _parquet_file(root):
    """Numbers with the names of classes and domains in the metadata, as `datasets` writes ClassLabel."""
    names = {"label": ["ant", "bee"], "hospital": list(SIZES)}
    features = {column: {"names": n, "_type": "ClassLabel"} for column, n in names.items()}
    features["image"] = {"_type": "Image"}
    table = table_of(listed(), names["label"].index, names["hospital"].index)
    root.mkdir()
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    # a second ClassLabel leaves the label to be found by its name
    pq.write_table(table.replace_schema_metadata(metadata), root.with_suffix(".parquet"))


def _arrow(root):
    (root / "train").mkdir(parents=True)
    table = table_of(listed())
    with ipc.new_stream(root / "train" / "data-00000-of-00001.arrow", table.schema) as stream:
        stream.write_table(table)
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))


LAYOUTS = {
    "folders": (_folders, "folder"),
    "folders in splits": (_split_folders, "folder"),
    "a list": (_one_list, "hospital"),
    "lists of splits": (_lists_of_splits, "hospital"),
    "classes and a list": (_classes_and_a_list, "hospital"),
    "parquet": (_parquet_file, "hospital"),
    "arrow": (_arrow, "hospital"),
}


def shown(split):
    """The images of a split in a fixed order, by domain and class."""
    rows = zip(split.domains.texts, split.labels.tolist(), split.images, strict=True)
    return sorted((d, label, pixels.tobytes()) for d, label, pixels in rows)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_same_images_domains_and_splits(layout, root):
    write, domain = LAYOUTS[layout]
    write(root)
    path = str(root.with_suffix(".parquet") if layout == "parquet" else root)
    for _ in range(2):  # the second time from the cache
        found = open_dataset(path, domain=domain)
        assert found.classes == ("ant", "bee")
        assert found.train.domains.counts == TRAIN
        assert found.test.domains.counts == TEST
        for split, test in ((found.train, False), (found.test, True)):
            expected = [
                (d, ("ant", "bee").index(c), PIXELS[d, c, i].transpose(2, 0, 1).tobytes())
                for d, c, i in listed()
                if is_test((d, c, i)) == test
            ]
            assert shown(split) == sorted(expected)
    train, test, _ = list_splits(path, domain=domain)
    assert train.labels.tolist() == found.train.labels.tolist()
    assert train.domains.texts.tolist() == found.train.domains.texts.tolist()
    assert test.counts() == {"art": [1, 2], "photo": [1, 1], "sketch": [2, 1]}


def test_domains_are_part_of_the_hash_and_the_record_and_absent_otherwise(root):
    _one_list(root)
    plain, by_hospital = open_dataset(str(root)), open_dataset(str(root), domain="hospital")
    assert [entry.get("domains") for entry in by_hospital.identity()] == [TRAIN, TEST]
    assert all("domains" not in entry for entry in plain.identity())
    assert plain.train.sha256 == plain.train.summary.sha256
    rows = [(f"{d}-{c}-{i:02}.png", {"art": "zoo"}.get(d, d), c) for d, c, i in listed()]
    write_list(root / "metadata.csv", COLUMNS, rows)
    renamed = open_dataset(str(root), domain="hospital")
    assert renamed.train.domains.counts == {"photo": 8, "sketch": 13, "zoo": 14}
    assert renamed.train.summary.sha256 == by_hospital.train.summary.sha256
    assert renamed.train.sha256 != by_hospital.train.sha256


def suite(root, evaluations=(), **data):
    return Suite.model_validate(
        {
            "name": "mine",
            "version": 1,
            "description": "",
            "data": {"name": str(root), "domain": "folder", **data},
            "recipes": {"sgd": {"lr": 0.1, "batch_size": 4, "epochs": 1}},
            "architectures": [{"name": "lmc_linear", "recipe": "sgd"}],
            "shifts": ["none"],
            "forks": [0],
            "evaluations": list(evaluations),
        }
    )


def test_held_out_domains_are_in_no_split_and_tested_on_whole(root):
    _folders(root)
    names = [f"domain:{name}" for name in SIZES]
    found = open_suite_data(suite(root, names, hold_out=["sketch"]))
    assert found.train.domains.counts == {"art": 14, "photo": 8}
    assert found.test.domains.counts == {"art": 3, "photo": 2}
    counts = {entry["split"]: (entry["n"], entry["domains"]) for entry in found.identity()[2:]}
    assert counts == {
        "test:domain:art": (3, {"art": 3}),
        "test:domain:photo": (2, {"photo": 2}),
        "test:domain:sketch": (16, {"sketch": 16}),
    }
    whole = open_dataset(str(root), domain="folder")
    of_sketch = [row for split in (whole.train, whole.test) for row in shown(split) if row[0] == "sketch"]
    assert shown(found.shifted["domain:sketch"]) == sorted(of_sketch)
    assert shown(found.shifted["domain:art"]) == [row for row in shown(whole.test) if row[0] == "art"]
    held = {row[2] for row in of_sketch}
    assert not held & {row[2] for split in (found.train, found.test) for row in shown(split)}


def test_parts_are_stratified_over_domain_and_class(root):
    _folders(root)
    whole = open_dataset(str(root), domain="folder")
    spec = DataSpec(name=str(root), domain="folder", train_size=18, resplit_test=20)
    part = select(whole, spec)
    assert part.test.domains.counts == {"art": 8, "photo": 4, "sketch": 8}
    rest = {"art": 9, "photo": 6, "sketch": 8}
    assert sum(part.train.domains.counts.values()) == 18
    for name, n in part.train.domains.counts.items():
        assert abs(n - 18 / 23 * rest[name]) <= 1


def test_domains_of_the_test_split_alone_are_tested_on(root):
    """As in Camelyon17 of WILDS: the test split is of a hospital that is not trained on."""
    for d, c, i in listed():
        save((d, c, i), root / ("test" if d == "sketch" else "train") / d / c / f"{i:02}.png")
    found = open_suite_data(suite(root, ["domain:sketch"]))
    assert list(found.train.domains.counts) == ["art", "photo"]
    assert found.identity()[2]["n"] == 16
    with pytest.raises(UserError, match=r"'domain:art': the domain has no test images.*sketch 16"):
        open_suite_data(suite(root, ["domain:art"]))
    with pytest.raises(UserError, match=r"split test: hold_out leaves no image.*sketch 16"):
        open_suite_data(suite(root, hold_out=["sketch"]))


@pytest.mark.parametrize(
    ("evaluations", "held", "says"),
    [
        (["domain:sketches"], [], r"'domain:sketches'.*Did you mean 'sketch'\?.*art 17, photo 10, sketch 16"),
        ([], ["skech"], r"hold_out.*Did you mean 'sketch'\?.*art 17, photo 10, sketch 16"),
        ([], ["art", "photo", "sketch"], r"hold_out leaves no image.*art 14, photo 8, sketch 13"),
    ],
)
def test_unknown_domains_are_refused_with_the_counts(root, evaluations, held, says):
    _folders(root)
    with pytest.raises(UserError, match=says):
        open_suite_data(suite(root, evaluations, hold_out=held))


def test_a_missing_column_or_value_is_refused(root):
    _one_list(root)
    with pytest.raises(UserError, match=r"column of domains 'hospitals'. Did you mean 'hospital'\?"):
        open_dataset(str(root), domain="hospitals")
    rows = [(f"{d}-{c}-{i:02}.png", "" if i == 3 else d, c) for d, c, i in listed()]
    write_list(root / "metadata.csv", COLUMNS, rows)
    with pytest.raises(UserError, match=r"row 4: the domain is missing \(column 'hospital'\)"):
        open_dataset(str(root), domain="hospital")
    file = root.with_suffix(".parquet")
    table = table_of(listed(), domain=lambda name: None if name == "art" else name)
    pq.write_table(table, file)
    with pytest.raises(UserError, match=r"row 0: the domain is missing \(column 'hospital'\)"):
        open_dataset(str(file), domain="hospital")
    with pytest.raises(UserError, match=r"'zzz'.*Known: hospital"):
        open_dataset(str(file), domain="zzz")
    pq.write_table(table_of(listed(), domain=lambda _: 0.5), file)
    with pytest.raises(UserError, match="must hold text or whole numbers, found double"):
        open_dataset(str(file), domain="hospital")


def test_folders_of_another_depth_are_explained(root):
    _folders(root)
    [note] = [text for text in open_dataset(str(root)).notes if "domain" in text]
    assert 'domain = "folder"' in note
    assert "art, photo, sketch were taken for classes" in note
    flat = root / "art"
    with pytest.raises(UserError, match=r"needs train/DOMAIN/CLASS/\*\.png"):
        open_dataset(str(flat), domain="folder")
    with pytest.raises(UserError, match=r'set domain = "folder", or add a metadata.csv'):
        open_dataset(str(flat), domain="hospital")
    with pytest.raises(UserError, match="Data set cifar10 has no domains"):
        open_dataset("cifar10", domain="domain")


def test_numbers_are_domains_in_their_order(root):
    file = root.with_suffix(".parquet")
    number = {"art": 10, "photo": 9, "sketch": 2}
    pq.write_table(table_of(listed(), domain=number.get), file)
    found = open_dataset(str(file), domain="hospital")
    assert found.train.domains.counts == {"2": 13, "9": 8, "10": 14}
    assert np.array_equal(np.bincount(found.train.domains.codes), [13, 8, 14])


PACS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


def write_hub(path, columns, names, kind="PNG", size=(6, 5)):
    """A parquet file as on the hub: `columns` of values, and the names of the ClassLabel columns."""
    n = len(next(iter(columns.values())))
    pixels = pictures(n, (3, *size), seed=n)
    data = [{"bytes": encode(p, kind), "path": f"{i}.png"} for i, p in enumerate(pixels)]
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    features = {name: {"dtype": "string", "_type": "Value"} for name in columns}
    features |= {name: {"names": list(of), "_type": "ClassLabel"} for name, of in names.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, **features}}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": pa.array(data, struct), **columns}).replace_schema_metadata(metadata)
    pq.write_table(table, path)


def test_pacs_in_the_layout_of_the_hub(tmp_path, monkeypatch):
    hub = SOURCES["pacs"].hub
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("LMCBENCH_DATA", raising=False)
    places = [
        (d, c) for d in ("art_painting", "cartoon", "photo", "sketch") for c in range(7) for _ in range(6)
    ]
    columns = {"domain": [d for d, _ in places], "label": pa.array([c for _, c in places], pa.int64())}
    file = tmp_path / "hub" / hub.cache_name / "data" / "train-00000-of-00001.parquet"
    write_hub(file, columns, {"label": PACS}, "JPEG")
    suite = load_suite("domains-pacs")
    small = suite.model_copy(update={"data": suite.data.model_copy(update={"image_size": 8})})
    found = open_suite_data(small)
    assert found.classes == PACS
    assert found.shape == (3, 8, 8)
    assert found.train.domains.counts == {"art_painting": 35, "cartoon": 35, "photo": 35}
    assert found.shifted["domain:sketch"].domains.counts == {"sketch": 42}
    entry = found.identity()[0]
    assert (entry["source"], entry["revision"]) == ("hub:flwrlabs/pacs", hub.revision)
    assert len(fetch_dataset("pacs").train) == 140
    for shift in suite.shifts:
        views = shift.shift.views(found.train.labels, suite.siblings, 1, 0, found.train.domains)
        assert len(views) == 3


def test_writers_and_hospitals_in_the_layout_of_the_hub(tmp_path):
    """FEMNIST has its label in `character`; Camelyon17 has two ClassLabel columns and many files."""
    n = 62 * 12
    columns = {
        "writer_id": [f"f{i // 372:04}_14" for i in range(n)],
        "hsf_id": pa.array([i // 372 for i in range(n)], pa.int64()),
        "character": pa.array([i % 62 for i in range(n)], pa.int64()),
    }
    characters = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    write_hub(
        tmp_path / "femnist" / "data" / "train-00000-of-00001.parquet", columns, {"character": characters}
    )
    found = open_dataset("femnist", tmp_path, domain="hsf_id")
    assert found.classes == characters
    assert found.train.domains.counts == {"0": 310, "1": 310}
    by_writer = open_dataset("femnist", tmp_path, domain="writer_id")
    assert by_writer.test.domains.counts == {"f0000_14": 62, "f0001_14": 62}
    with pytest.raises(UserError, match=r"'writer'. Did you mean 'writer_id'\?"):
        open_dataset("femnist", tmp_path, domain="writer")
    hospitals = ("train-center1", "validation-center", "test-center", "train-center2", "train-center3")
    for split, parts, centers in (("train", 2, (0, 3, 4)), ("validation", 1, (0, 1, 3, 4))):
        for part in range(parts):
            rows = [(center, label) for center in centers for label in (0, 1) for _ in range(4)]
            columns = {
                "label": pa.array([label for _, label in rows], pa.int64()),
                "center": pa.array([center for center, _ in rows], pa.int64()),
                "patient": pa.array([part for _ in rows], pa.uint8()),
            }
            write_hub(
                tmp_path / "camelyon17" / "data" / f"{split}-{part:05}-of-{parts:05}.parquet",
                columns,
                {"label": ("non-tumor", "tumor"), "center": hospitals},
            )
    found = open_dataset("camelyon17", tmp_path, domain="center")
    assert found.classes == ("non-tumor", "tumor")
    assert found.train.domains.counts == {name: 16 for name in sorted(hospitals) if name.startswith("train")}
    assert found.test.domains.counts["validation-center"] == 8
