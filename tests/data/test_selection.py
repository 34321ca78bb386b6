"""Which images: the digits' split, stratified parts, the pool and the calibration list."""

from __future__ import annotations

import hashlib
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmcbench.data import pool as pool_module
from lmcbench.data.batches import DeviceImages
from lmcbench.data.dataset import Dataset, ImageSet
from lmcbench.data.open_dataset import open_dataset
from lmcbench.data.pool import build_pool
from lmcbench.data.selection import open_suite_data, select, select_calibration, select_stratified
from lmcbench.data.transforms import apply_transform, channel_fill
from lmcbench.errors import UserError
from lmcbench.spec.shift_rules import View
from lmcbench.spec.suite_files import load_suite
from lmcbench.spec.suite_tables import DataSpec


def test_digits_are_complete_and_their_split_is_fixed():
    from sklearn.datasets import load_digits

    data = open_dataset("digits")
    assert (len(data.train), len(data.test)) == (1442, 355)
    assert data.shape == (1, 8, 8)
    assert data.train.images.dtype == np.uint8
    ours = np.concatenate([data.train.images, data.test.images]).reshape(-1, 64)
    theirs = load_digits().data
    assert sorted(map(bytes, np.round(ours / 255 * 16).astype(np.uint8))) == sorted(
        map(bytes, theirs.astype(np.uint8))
    )
    # golden: what every digits record carries
    assert data.train.sha256.startswith("3711e337279e9bed")
    assert data.test.sha256.startswith("71131c7ddbcda73c")


@given(counts=st.lists(st.integers(1, 20), min_size=1, max_size=6), data=st.data())
def test_stratified_parts_keep_proportions(counts, data):
    labels = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(0).shuffle(labels)
    n = data.draw(st.integers(0, len(labels)))
    chosen = select_stratified(labels, n)
    assert len(chosen) == len(np.unique(chosen)) == n
    taken = np.bincount(labels[chosen], minlength=len(counts))
    assert (np.abs(taken - np.array(counts) * n / len(labels)) < 1).all()


def test_holdout_replaces_the_test_set():
    data = open_dataset("digits")
    tuning = select(data, DataSpec(name="digits", holdout=0.2))
    assert (len(tuning.train), len(tuning.test)) == (1154, 288)
    pixels = {bytes(i) for i in tuning.train.images} | {bytes(i) for i in tuning.test.images}
    assert pixels == {bytes(i) for i in data.train.images}
    assert select(data, DataSpec(name="digits")).train is data.train
    same = DataSpec(name="digits", train_sha256=data.train.sha256)
    assert select(data, same).train is data.train
    with pytest.raises(UserError, match=r"split test, has sha256 .* the suite pins") as refused:
        select(data, DataSpec(name="digits", test_sha256="0" * 64))
    assert refused.value.exit_code == 4
    with pytest.raises(UserError, match=r"split train: train_size asks for 5,000 images"):
        select(data, DataSpec(name="digits", train_size=5000))


def test_both_splits_are_joined_and_split_anew():
    data = open_dataset("digits")
    again = select(data, DataSpec(name="digits", resplit_test=599))
    assert (len(again.train), len(again.test)) == (1198, 599)
    counts = np.bincount(again.test.labels) - np.bincount(np.r_[data.train.labels, data.test.labels]) / 3
    assert np.abs(counts).max() <= 1
    pixels = [bytes(i) for part in (again.train, again.test) for i in part.images]
    assert sorted(pixels) == sorted(bytes(i) for part in (data.train, data.test) for i in part.images)
    with pytest.raises(UserError, match="1,797 images in all"):
        select(data, DataSpec(name="digits", resplit_test=1797))


def test_a_suite_opens_its_part_of_the_data():
    suite = load_suite("digits")
    part = suite.model_copy(update={"data": DataSpec(name="digits", train_size=50, test_size=20)})
    opened = open_suite_data(part)
    assert [entry["n"] for entry in opened.identity()] == [50, 20]
    assert opened.shifted == {}
    with pytest.raises(UserError, match="cifar10-c was not found"):
        open_suite_data(suite.model_copy(update={"evaluations": ["fog-3", "cifar10-c:fog-3"]}))


def test_labels_out_of_range_are_named():
    images = ImageSet(np.zeros((3, 1, 2, 2), np.uint8), np.array([0, 1, 5]))
    with pytest.raises(UserError, match="split train, row 2: label 5 is out of range, there are 2 classes"):
        Dataset("mine", images, images, ("a", "b"))


def test_data_of_one_class_are_refused():
    images = ImageSet(np.zeros((3, 1, 2, 2), np.uint8), np.zeros(3, np.int64))
    with pytest.raises(UserError, match="Data set mine has one class"):
        Dataset("mine", images, images, ("a",))


def test_a_channel_of_one_value_is_refused_before_anything_is_divided_by_its_deviation():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    pixels[:, 1] = 7
    images = ImageSet(pixels, np.array([0, 1]))
    mine = Dataset("mine", images, images, ("a", "b"))
    with pytest.raises(UserError, match="channel 1 has the value 7 in every pixel of all training images"):
        mine.statistics  # noqa: B018


def train_set(n=12):
    return ImageSet(np.arange(n * 4, dtype=np.uint8).reshape(n, 1, 2, 2), np.arange(n) % 3)


def no_fill(name):
    return None


def test_pool_stores_changed_views_once_and_others_not_at_all():
    train = train_set()
    plain = View(np.array([0, 3, 5]))
    dark = View(np.array([1, 2]), transform="dark")
    relabelled = View(np.array([4]), labels=np.array([2]))
    pool, placed = build_pool(train, [[plain, dark], [dark, relabelled]], lambda name, x, _: x // 2, no_fill)
    assert len(pool.labels) == 12 + 2 + 1
    np.testing.assert_array_equal(placed[0][0], [0, 3, 5])
    np.testing.assert_array_equal(placed[0][1], [12, 13])
    np.testing.assert_array_equal(placed[1][0], [12, 13])
    np.testing.assert_array_equal(pool.image, [*range(14), 4])  # other labels take no pixels
    np.testing.assert_array_equal(pool.images[[12, 13]], train.images[[1, 2]] // 2)
    assert len(pool.images) == 14
    np.testing.assert_array_equal(pool.labels[placed[1][1]], [2])
    np.testing.assert_array_equal(pool.source[12:], [1, 2, 4])
    bare, _ = build_pool(train, [[plain, plain]], lambda *_: pytest.fail("nothing to transform"), no_fill)
    assert bare.images is train.images


@pytest.mark.parametrize("kept", ["0", "1", "0+2", "0+1+2"])
def test_items_of_some_channels_take_no_pixels_and_show_what_the_transform_makes(kept):
    rng = np.random.default_rng(0)
    train = ImageSet(rng.integers(0, 256, (6, 3, 8, 8), dtype=np.uint8), np.arange(6) % 2)
    mean, name = np.array([0.1, 0.5, 0.999]), f"channels-{kept}"
    everything = np.arange(6)
    clean, some, relabelled = (
        View(everything),
        View(np.array([1, 4]), transform=name),
        View(np.array([2]), transform=name, labels=np.array([0])),
    )
    pool, [[_, seen, other]] = build_pool(
        train,
        [[clean, some, relabelled]],
        lambda *_: pytest.fail("nothing to store"),
        partial(channel_fill, channels=3, mean=mean),
    )
    assert pool.images is train.images
    shown = DeviceImages(
        *(pool.images, pool.labels, (mean, mean + 1), torch.device("cpu"), pool.image, pool.fills, pool.fill)
    )
    np.testing.assert_array_equal(shown.shown(torch.arange(6)), train.images)
    for view, items in ((some, seen), (relabelled, other)):
        expected = apply_transform(name, train.images[view.indices], view.indices, 0, mean)
        np.testing.assert_array_equal(shown.shown(torch.as_tensor(items)), expected)
        fleet = torch.as_tensor(np.stack([items, items]))
        np.testing.assert_array_equal(shown.shown(fleet), np.stack([expected, expected]))
    assert shown.shown(torch.arange(6)).dtype == torch.uint8
    assert pool.labels[other].tolist() == [0]
    assert pool.source[seen].tolist() == [1, 4]


def test_the_digest_of_what_is_shown_is_that_of_the_transformed_bytes(monkeypatch):
    monkeypatch.setattr(pool_module, "BATCH", 4)
    rng = np.random.default_rng(0)
    train = ImageSet(rng.integers(0, 256, (9, 3, 8, 8), dtype=np.uint8), np.arange(9) % 3)
    mean, indices = np.array([0.1, 0.5, 0.9]), np.array([8, 0, 3, 5, 7, 2])
    found = {}
    for seed in (0, 1):
        for name in ("channels-0+2", "gaussian_noise-3", "rotate-15"):
            pool, [[items]] = build_pool(
                train,
                [[View(indices, transform=name)]],
                partial(apply_transform, seed=seed, mean=mean),
                partial(channel_fill, channels=3, mean=mean),
            )
            before = pool.images.copy()
            found[name, seed] = pool_module.digest_shown(pool, items)
            shown = apply_transform(name, train.images[indices], indices, seed, mean)
            assert found[name, seed] == hashlib.sha256(shown.tobytes()).hexdigest()
            np.testing.assert_array_equal(pool.images, before)
    # other draws are other bytes, of which the name of a transform says nothing
    assert [n for n in ("channels-0+2", "gaussian_noise-3", "rotate-15") if found[n, 0] != found[n, 1]] == [
        "gaussian_noise-3"
    ]


def test_views_are_transformed_in_batches_of_their_own_images(monkeypatch):
    monkeypatch.setattr(pool_module, "BATCH", 4)
    train, seen = train_set(), []
    index = np.array([11, 0, 3, 5, 7, 9, 2])

    def transform(name, images, indices):
        seen.append(len(images))
        return images + indices[:, None, None, None].astype(np.uint8)

    pool, [[items]] = build_pool(train, [[View(index, transform="add")]], transform, no_fill)
    assert seen == [4, 3]
    expected = train.images[index] + index[:, None, None, None].astype(np.uint8)
    np.testing.assert_array_equal(pool.images[pool.image[items]], expected)


def test_calibration_is_stratified_and_shows_image_j_as_sibling_j_mod_k_sees_it():
    train = train_set(12)
    everything = np.arange(12)
    clean, dark = View(everything), View(everything, transform="dark")
    pool, [views] = build_pool(train, [[clean, dark]], lambda name, x, _: x // 2, no_fill)
    items = select_calibration(views, pool.source, pool.labels, 6)
    np.testing.assert_array_equal(np.bincount(pool.labels[items]), [2, 2, 2])
    assert [bool(i >= 12) for i in items] == [False, True] * 3
    halves = [everything[::2], everything[1::2]]
    covered = select_calibration(halves, np.arange(12), train.labels, 100)
    np.testing.assert_array_equal(np.sort(covered), everything)
