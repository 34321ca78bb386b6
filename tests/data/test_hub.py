"""The hub's path, offline: a cache and a mirror in its layout, and a hub out of reach."""

import subprocess
import sys

import pytest

from lmcbench.data.find_files import HubRepo, SplitFiles, download
from lmcbench.data.open_dataset import fetch_dataset, open_dataset
from lmcbench.data.sources import SOURCES
from lmcbench.errors import UserError

from .images import encode, pictures, write_cifar10, write_parquet

CARD = """---
configs:
- config_name: plain_text
  data_files:
  - split: train
    path: plain_text/train-*
  - split: test
    path: plain_text/test-*
---
"""


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("LMCBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("LMCBENCH_DATA", raising=False)
    return tmp_path / "hub"


def test_every_revision_is_a_whole_commit():
    for source in SOURCES.values():
        if source.hub is not None:
            assert len(source.hub.revision) == 40
            assert int(source.hub.revision, 16) > 0


@pytest.mark.parametrize("open_it", [open_dataset, fetch_dataset])
def test_the_pinned_revision_is_read_from_the_hubs_cache(hub, open_it):
    pinned = SOURCES["cifar10"].hub
    snapshots = hub / "datasets--uoft-cs--cifar10" / "snapshots"
    made = write_cifar10(snapshots / pinned.revision / "plain_text")
    write_cifar10(snapshots / ("0" * 40) / "plain_text", n=10)
    opened = open_it("cifar10")
    assert (opened.train.images == made["train"][0]).all()
    entry = opened.identity()[0]
    assert entry["source"] == "hub:uoft-cs/cifar10"
    assert entry["revision"] == pinned.revision


def test_another_revision_is_not_the_pinned_one(hub):
    write_cifar10(hub / "datasets--uoft-cs--cifar10" / "snapshots" / ("0" * 40) / "plain_text")
    with pytest.raises(UserError, match="Data set cifar10 was not found"):
        open_dataset("cifar10")


def test_an_interrupted_download_is_not_a_data_set_and_fetching_resumes_it(hub, tmp_path, monkeypatch):
    """A part of a split, or one split of two, lies in the hub's cache."""
    place = hub / SOURCES["cifar10"].hub.cache_name / "plain_text"
    made = write_cifar10(tmp_path / "downloaded")
    folder = tmp_path / "downloaded"
    train, test = ((folder / f"{split}-00000-of-00001.parquet",) for split in ("train", "test"))
    found = SplitFiles(SOURCES["cifar10"].hub.snapshot, train, test)
    monkeypatch.setattr("lmcbench.data.open_dataset.download", lambda hub, splits: found)
    write_cifar10(place)
    (place / "test-00000-of-00001.parquet").unlink()
    for missing in ("has no files of split 'test'", "but not train-00001-of-00002.parquet"):
        with pytest.raises(UserError, match=f"Data set cifar10 was not found.*{missing}.*data fetch cifar10"):
            open_dataset("cifar10")
        assert (fetch_dataset("cifar10").train.images == made["train"][0]).all()
        write_cifar10(place)
        (place / "train-00000-of-00001.parquet").rename(place / "train-00000-of-00002.parquet")


def test_both_splits_name_the_classes_alike(hub, tmp_path):
    write_cifar10(tmp_path / "data" / "cifar10")
    write_cifar10(tmp_path / "other", names=tuple("bacdefghij"))
    (tmp_path / "other" / "test-00000-of-00001.parquet").replace(
        tmp_path / "data" / "cifar10" / "test-00000-of-00001.parquet"
    )
    with pytest.raises(UserError, match="the classes of cifar10 have other names in train than in test"):
        open_dataset("cifar10", tmp_path / "data")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_class_names_agrees_with_any(hub, tmp_path, split):
    write_cifar10(tmp_path / "data" / "cifar10")
    write_cifar10(tmp_path / "other", names=())
    name = f"{split}-00000-of-00001.parquet"
    (tmp_path / "other" / name).replace(tmp_path / "data" / "cifar10" / name)
    assert len(open_dataset("cifar10", tmp_path / "data").classes) == 10


def test_the_users_folder_comes_before_the_hubs_cache(hub, tmp_path):
    write_cifar10(hub / SOURCES["cifar10"].hub.cache_name, n=20)
    write_cifar10(tmp_path / "data" / "cifar10", n=30)
    assert len(open_dataset("cifar10", tmp_path / "data").train) == 30
    (tmp_path / "empty").mkdir()
    assert len(open_dataset("cifar10", tmp_path / "empty").train) == 20


def test_the_same_files_have_the_same_hash_wherever_they_come_from(hub, tmp_path):
    write_cifar10(hub / SOURCES["cifar10"].hub.cache_name)
    write_cifar10(tmp_path / "data" / "cifar10")
    assert open_dataset("cifar10").train.sha256 == open_dataset("cifar10", tmp_path / "data").train.sha256


def test_the_fine_labels_of_cifar100_and_the_validation_split_of_tiny_imagenet_are_read(hub):
    for split in ("train", "test"):
        path = hub / SOURCES["cifar100"].hub.cache_name / "cifar100" / f"{split}-0.parquet"
        write_parquet(path, [encode(p) for p in pictures(3)], [0, 50, 99], label="fine_label")
    assert open_dataset("cifar100").test.labels.tolist() == [0, 50, 99]
    for split in ("train", "valid"):
        path = hub / SOURCES["tiny-imagenet"].hub.cache_name / "data" / f"{split}-0.parquet"
        data = [encode(p, "JPEG") for p in pictures(3, (3, 64, 64))]
        write_parquet(path, data, [0, 100, 199], image="image")
    assert open_dataset("tiny-imagenet").test.labels.tolist() == [0, 100, 199]


def test_grey_images_of_a_colour_set_are_made_colour(hub):
    for split in ("train", "valid"):
        path = hub / SOURCES["tiny-imagenet"].hub.cache_name / f"{split}-0.parquet"
        write_parquet(path, [encode(p) for p in pictures(3, (1, 64, 64))], [0, 1, 2], image="image")
    assert open_dataset("tiny-imagenet").shape == (3, 64, 64)


def test_a_mirror_in_the_hubs_layout_is_fetched_through_datasets(tmp_path, monkeypatch):
    """In a process of its own: `datasets` reads HF_HUB_OFFLINE once, when it is imported."""
    mirror = tmp_path / "mirror" / "uoft-cs" / "cifar10"
    write_cifar10(mirror / "plain_text")
    (mirror / "README.md").write_text(CARD)
    code = (
        "import sys; from lmcbench.data.find_files import HubRepo, SplitFiles, download; "
        "files = download(HubRepo(sys.argv[1], '0' * 40, 'plain_text'), ('train', 'test')); "
        "print([p.name for p in (*files.train, *files.test)])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(mirror)], capture_output=True, text=True, check=True
    )
    assert run.stdout == "['train-00000-of-00001.parquet', 'test-00000-of-00001.parquet']\n"


def test_a_missing_split_of_a_mirror_is_named(tmp_path):
    mirror = tmp_path / "mirror"
    write_cifar10(mirror / "plain_text")
    (mirror / "README.md").write_text(CARD)
    with pytest.raises(UserError, match=r"has no split 'valid'\. It has train, test"):
        download(HubRepo(str(mirror), "0" * 40, "plain_text"), ("train", "valid"))


def test_a_data_set_that_is_not_on_the_hub_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cifar10-jpeg cannot be fetched\. It is not on the hub"):
        fetch_dataset("cifar10-jpeg")
    with pytest.raises(UserError, match="Unknown data set 'cifar11'"):
        fetch_dataset("cifar11")
    assert fetch_dataset("digits").name == "digits"


def test_a_fetch_opens_what_was_fetched(tmp_path, monkeypatch):
    made = write_cifar10(tmp_path / "downloaded")
    folder = tmp_path / "downloaded"
    train, test = ((folder / f"{split}-00000-of-00001.parquet",) for split in ("train", "test"))
    found = SplitFiles(SOURCES["cifar10"].hub.snapshot, train, test)
    monkeypatch.setattr("lmcbench.data.open_dataset.download", lambda hub, splits: found)
    opened = fetch_dataset("cifar10")
    assert (opened.test.images == made["test"][0]).all()
    assert opened.revision == SOURCES["cifar10"].hub.revision
