"""CIFAR-10-C and CIFAR-10.1 in the arrays their authors publish."""

import numpy as np
import pytest

from lmcbench.data.dataset import Dataset, ImageSet
from lmcbench.data.listing import describe_location, list_shifted
from lmcbench.data.open_dataset import fetch_dataset
from lmcbench.data.selection import select
from lmcbench.data.shifted_sets import open_all_shifted, open_shifted
from lmcbench.errors import UserError
from lmcbench.spec.evaluation_shifts import SHIFTED
from lmcbench.spec.suite_tables import DataSpec


@pytest.fixture
def data(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(50) % 10
    (tmp_path / "CIFAR-10-C").mkdir()
    np.save(tmp_path / "CIFAR-10-C" / "fog.npy", images)
    np.save(tmp_path / "CIFAR-10-C" / "labels.npy", labels.astype(np.uint8))
    (tmp_path / "cifar10.1").mkdir()
    np.save(tmp_path / "cifar10.1" / "cifar10.1_v6_data.npy", images[:20])
    np.save(tmp_path / "cifar10.1" / "cifar10.1_v6_labels.npy", labels[:20].astype(np.int32))
    return tmp_path


def test_severity_s_is_the_s_th_fifth(data):
    every = np.load(data / "CIFAR-10-C" / "fog.npy")
    opened = open_shifted("cifar10-c:fog-3", data)
    assert (opened.images == every[20:30].transpose(0, 3, 1, 2)).all()
    assert opened.labels.tolist() == list(range(10))
    assert opened.labels.dtype == np.int64
    assert len(opened.sha256) == 64


def test_cifar10_1_is_opened_by_version(data):
    assert len(open_shifted("cifar10.1:v6", data)) == 20


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar10-c:frost-3", r"There is no frost.npy in .*CIFAR-10-C. It has fog, labels"),
        ("cifar10.1:v4", r"There is no cifar10.1_v4_data.npy"),
        (
            "cifar100-c:fog-1",
            r"cifar100-c was not found. Looked in .*CIFAR-100-C.*put its .npy files into DIR/CIFAR-100-C",
        ),
    ],
)
def test_a_missing_set_is_refused(data, name, message):
    with pytest.raises(UserError, match=message):
        open_shifted(name, data)


def test_arrays_of_another_shape_are_refused(data):
    np.save(data / "CIFAR-10-C" / "snow.npy", np.zeros((50, 3, 32, 32), np.uint8))
    np.save(data / "CIFAR-10-C" / "spatter.npy", np.zeros((50, 32, 32, 3), np.float32))
    (data / "CIFAR-10-C" / "frost.npy").write_bytes((data / "CIFAR-10-C" / "fog.npy").read_bytes()[:999])
    with pytest.raises(UserError, match=r"snow-1 must be uint8 images .* found uint8 \[10, 3, 32, 32\]"):
        open_shifted("cifar10-c:snow-1", data)
    with pytest.raises(UserError, match="found float32"):
        open_shifted("cifar10-c:spatter-1", data)
    with pytest.raises(UserError, match=r"frost.npy is not a readable .npy file"):
        open_shifted("cifar10-c:frost-1", data)
    np.save(data / "CIFAR-10-C" / "labels.npy", np.full(50, 11))
    with pytest.raises(UserError, match=r"fog-2, row 0: label 11 is out of range"):
        open_shifted("cifar10-c:fog-2", data)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            np.zeros((52, 32, 32, 3), np.uint8),
            np.zeros(50, int),
            r"as many images as labels.*\[52, 32, 32, 3\]",
        ),
        # one severity alone: a fifth of it would pass for a severity
        (np.zeros((10, 32, 32, 3), np.uint8), np.zeros(50, int), r"found \[10, 32, 32, 3\] and \[50\]"),
        (np.zeros((52, 32, 32, 3), np.uint8), np.zeros(52, int), "5 severities of one length"),
        (np.uint8(3), np.zeros(50, int), r"found \[\] and \[50\]"),
        (None, np.full(50, 0.7), r"an integer label for each of its 10 images, found float64 \[10\]"),
        (None, np.zeros((50, 1), int), r"an integer label .* found int64 \[10, 1\]"),
        (None, np.array(["cat"] * 50), "an integer label .* found <U3"),
        (None, np.zeros(50, bool), "an integer label .* found bool"),
        (None, b"", r"labels.npy is not a readable .npy file \(No data left in file\)"),
    ],
)
def test_arrays_of_another_length_or_kind_are_refused(data, images, labels, message):
    if images is not None:
        np.save(data / "CIFAR-10-C" / "fog.npy", images)
    if isinstance(labels, bytes):
        (data / "CIFAR-10-C" / "labels.npy").write_bytes(labels)
    else:
        np.save(data / "CIFAR-10-C" / "labels.npy", labels)
    with pytest.raises(UserError, match=message):
        open_shifted("cifar10-c:fog-3", data)


def test_an_npz_archive_is_refused(data):
    np.savez(data / "all.npz", np.zeros(3))
    (data / "all.npz").rename(data / "CIFAR-10-C" / "fog.npy")
    with pytest.raises(UserError, match=r"fog.npy is an archive of arrays"):
        open_shifted("cifar10-c:fog-3", data)


# --- as part of a data set -----------------------------------------------------------------------


def images(n, shape=(3, 32, 32), classes=10):
    return ImageSet(np.zeros((n, *shape), np.uint8), np.arange(n) % classes)


def cifar10(shifted):
    return Dataset("cifar10", images(30), images(20), tuple("abcdefghij"), shifted=shifted)


def test_a_suite_opens_its_evaluation_sets(data):
    found = open_all_shifted(["fog-3", "cifar10-c:fog-3", "cifar10.1:v6"], data)
    assert {name: len(part) for name, part in found.items()} == {"cifar10-c:fog-3": 10, "cifar10.1:v6": 20}


def test_a_record_identifies_the_images(data):
    opened = open_shifted("cifar10.1:v6", data)
    *own, last = cifar10({"cifar10.1:v6": opened}).identity()
    assert [entry["split"] for entry in own] == ["train", "test"]
    assert last == {
        "name": "cifar10.1",
        "source": "arrays",
        "sha256": opened.sha256,
        "split": "test:cifar10.1:v6",
        "n": 20,
    }


def test_sets_of_other_classes_or_sizes_are_refused():
    with pytest.raises(UserError, match=r"split cifar10.1:v6, row 10: label 10 is out of range"):
        cifar10({"cifar10.1:v6": images(20, classes=11)})
    with pytest.raises(UserError, match=r"split cifar10.1:v6: images are 3 x 28 x 28, .* set 3 x 32 x 32"):
        cifar10({"cifar10.1:v6": images(20, shape=(3, 28, 28))})


def test_a_part_of_the_data_leaves_them_whole_and_a_pin_refuses_other_bytes():
    whole = cifar10({"cifar10.1:v6": images(25)})
    part = select(whole, DataSpec(name="cifar10", train_size=10, test_size=10))
    assert (len(part.test), len(part.shifted["cifar10.1:v6"])) == (10, 25)
    pinned = {"cifar10.1:v6": whole.shifted["cifar10.1:v6"].sha256}
    select(whole, DataSpec(name="cifar10", shifted_sha256=pinned))
    with pytest.raises(UserError, match=r"split cifar10.1:v6, has sha256 .* the suite pins 0000") as refused:
        select(whole, DataSpec(name="cifar10", shifted_sha256={"cifar10.1:v6": "0" * 64}))
    assert refused.value.exit_code == 4


def test_the_list_says_which_sets_are_present_and_how_to_get_the_others(data):
    listed = {row.name: row for row in list_shifted(data)}
    assert list(listed) == list(SHIFTED)
    assert listed["cifar10-c"].found == str(data / "CIFAR-10-C")
    assert listed["cifar10-c"].bytes > 50 * 32 * 32 * 3
    assert listed["cifar100-c"].found is None
    assert "put its .npy files into DIR/CIFAR-100-C" in listed["cifar100-c"].hint
    assert all((row.found is None) == (row.hint is not None) for row in listed.values())
    assert describe_location("cifar10.1", data) == f"found in {data / 'cifar10.1'}"
    assert describe_location("cifar10.1").startswith("not found. Get it from its authors (Recht")


def test_shifted_sets_are_not_downloaded():
    with pytest.raises(UserError, match=r"cifar10.1 is not on the hub. Get it from its authors"):
        fetch_dataset("cifar10.1")
