"""Batches and augmentation depend on image, seed and pass, not on the step or the fleet."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from lmcbench.data import batches
from lmcbench.data.augment import augment, keyed_words, mix
from lmcbench.data.batches import DeviceImages, Feed, make_stream
from lmcbench.data.open_dataset import open_dataset
from lmcbench.spec.shifts import Shift

DIGITS = open_dataset("digits")


def splitmix(x):
    """SplitMix64's output function with Python's integers."""
    limit = 2**64
    x = (x + 0x9E3779B97F4A7C15) % limit
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % limit
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % limit
    return x ^ (x >> 31)


def test_mix_is_splitmix64():
    values = [0, 1, 2**62, 2**63 - 1, 123456789]
    ours = mix(torch.tensor(values, dtype=torch.int64)).tolist()
    assert [v % 2**64 for v in ours] == [splitmix(v) for v in values]
    assert splitmix(0) == 0xE220A8397B1DCDAF  # the generator's published first output for seed 0


def pool(device_pixels=None):
    images = DIGITS.train.images if device_pixels is None else device_pixels
    return DeviceImages(images, DIGITS.train.labels[: len(images)], DIGITS.statistics, torch.device("cpu"))


def test_normalised_training_set_has_mean_0_and_variance_1():
    shown, labels = pool().split()
    images = shown.whole()
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.var(correction=0).item() == pytest.approx(1, abs=1e-4)
    np.testing.assert_array_equal(labels.numpy(), DIGITS.train.labels)


def everything():
    return np.arange(len(DIGITS.train))


def hashes(feed, member, steps):
    """One hash per step that ignores the order within the batch."""
    out = []
    for images, labels in feed([member], 0, steps):
        rows = sorted(
            hashlib.sha256(i.numpy().tobytes() + bytes([y])).hexdigest()
            for i, y in zip(images[0], labels[0], strict=True)
        )
        out.append(rows)
    return out


def test_a_member_gets_the_same_batches_alone_and_beside_others():
    items = everything()
    streams = [make_stream(items, items, "own", seed, seed + 1, 16) for seed in (1, 2, 3)]
    feed = Feed(pool(), streams, ("flip", "shift1"))
    together = list(feed([0, 1, 2], 60, 70))
    alone = list(feed([1], 60, 70))
    later = list(feed([1], 65, 70))
    for (a, ya), (b, yb) in zip(together, alone, strict=True):
        assert torch.equal(a[1], b[0])
        assert torch.equal(ya[1], yb[0])
    for (a, _), (b, _) in zip(alone[5:], later, strict=True):
        assert torch.equal(a, b)


def test_each_image_is_augmented_by_its_own_seed_pass_and_key(monkeypatch):
    """Compare with single images, across the end of a pass and of blocks of steps."""
    monkeypatch.setattr(batches, "BLOCK", 4)
    items = everything()
    streams = [make_stream(items, items, "own", seed, 10 + seed, 16) for seed in (1, 2)]
    names = ("flip", "shift1")
    whole = pool()
    first = streams[0].steps_per_pass - 3
    passes = set()
    fed = Feed(whole, streams, names)([0, 1], first, first + 10)
    for step, (images, _) in zip(range(first, first + 10), fed, strict=True):
        for member, source in enumerate(streams):
            passed, rows = source.rows(step)
            passes.add(passed)
            shown = [
                augment(whole.pixels[[i]], keyed_words(10 + member + 1, passed, torch.tensor([i])), names)
                for i in source.items[rows].tolist()
            ]
            assert torch.equal(images[member], whole.normalised(torch.cat(shown)))
    assert passes == {0, 1}


def test_noise_mode_and_view_decide_the_batches_of_siblings():
    """Batch hashes: same data in the same order when shared, in another when own, disjoint for halves."""
    labels = DIGITS.train.labels
    items = everything()

    def siblings(name, noise, seeds):
        views = Shift.parse(name, noise=noise).views(labels, 2, 11, 0)
        return Feed(
            pool(),
            [make_stream(v.indices, items, noise, s, s, 32) for v, s in zip(views, seeds, strict=True)],
            (),
        )

    shared = siblings("none", "shared", (5, 5))
    assert hashes(shared, 0, 30) == hashes(shared, 1, 30)
    own = siblings("none", "own", (5, 6))
    assert hashes(own, 0, 5) != hashes(own, 1, 5)
    halves = siblings("disjoint-halves", "own", (5, 6))
    a, b = ({h for step in hashes(halves, i, 22) for h in step} for i in (0, 1))
    # a few digits are drawn twice in the data set itself
    assert len(a & b) <= 2
    same = siblings("same-half", "shared", (5, 5))
    assert hashes(same, 0, 22) == hashes(same, 1, 22)


@pytest.mark.parametrize("crop", ["crop4", "crop4-reflect"])
def test_augmentation_does_not_depend_on_the_batch(crop):
    images = torch.arange(6 * 3 * 9 * 9, dtype=torch.int64).remainder(251).to(torch.uint8).view(6, 3, 9, 9)
    words = keyed_words(seed=0, passed=2, keys=torch.arange(6))
    whole = augment(images, words, ("flip", crop))
    for i in range(6):
        assert torch.equal(augment(images[i : i + 1], words[i : i + 1], ("flip", crop))[0], whole[i])
    assert whole.dtype == torch.uint8
    other_pass = augment(images, keyed_words(0, 3, torch.arange(6)), ("flip", crop))
    assert not torch.equal(whole, other_pass)


@pytest.mark.parametrize(
    ("name", "reach", "mode"),
    [("shift1", 1, "constant"), ("crop4", 4, "constant"), ("crop4-reflect", 4, "reflect")],
)
def test_displacement_is_a_crop_of_the_padded_image(name, reach, mode):
    image = torch.arange(1, 57, dtype=torch.uint8).view(1, 1, 7, 8)
    steps = range(2 * reach + 1)
    n = 444 * len(steps) ** 2
    moved = augment(image.expand(n, 1, 7, 8), keyed_words(1, 0, torch.arange(n)), (name,))
    padded = np.pad(image[0, 0].numpy(), reach, mode)
    candidates = {padded[y : y + 7, x : x + 8].tobytes(): 0 for y in steps for x in steps}
    assert len(candidates) == len(steps) ** 2
    for shown in moved[:, 0].numpy():
        candidates[shown.tobytes()] += 1  # a KeyError is a displacement that cannot be
    # all displacements are equally likely: 444 expected, standard deviation at most 21
    assert min(candidates.values()) > 444 - 100
    assert max(candidates.values()) < 444 + 100


def test_half_of_the_images_are_mirrored():
    image = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    flipped = augment(image.expand(2000, 1, 4, 4), keyed_words(1, 0, torch.arange(2000)), ("flip",))
    mirrored = (flipped == image.flip(-1)).all((1, 2, 3))
    assert (mirrored | (flipped == image).all((1, 2, 3))).all()
    assert 900 < int(mirrored.sum()) < 1100


def test_batches_of_a_split_are_the_split_and_the_arrays_are_not_copied():
    data = DeviceImages(DIGITS.train.images, DIGITS.train.labels, DIGITS.statistics, torch.device("cpu"))
    assert data.pixels.numpy().base is not None
    assert np.shares_memory(data.pixels.numpy(), DIGITS.train.images)
    items = torch.arange(0, 1442, 5)
    for split, chosen in ((data.split()[0], slice(None)), (data.split(items)[0], items)):
        pixels = torch.as_tensor(DIGITS.train.images)[chosen]
        batches = list(split.split(100))
        assert [len(b) for b in batches] == [100] * (len(pixels) // 100) + [len(pixels) % 100]
        assert len(split) == len(pixels)
        assert torch.equal(torch.cat(batches), split.whole())
        assert torch.equal(split.whole(), data.normalised(pixels))


def test_read_only_images_give_no_warning(recwarn):
    images = DIGITS.train.images.copy()
    images.flags.writeable = False
    assert np.shares_memory(pool(images).pixels.numpy(), images)
    assert not recwarn.list
