"""The part of a data set that a suite uses: stratified, without randomness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lmcbench.data.dataset import Dataset, ImageSet
from lmcbench.data.decode import Resize
from lmcbench.data.shifted_sets import open_all_shifted
from lmcbench.data.sources import open_dataset
from lmcbench.errors import UserError
from lmcbench.spec.seeds import permutation
from lmcbench.spec.shift_rules import Indices
from lmcbench.spec.suite import DataSpec, Suite


def open_suite_data(suite: Suite, data_dir: Path | None = None) -> Dataset:
    """Return all that a run of `suite` reads: the selected splits and the shifted test sets it names.

    `identity()` of the result is what records store about it. Opening is cheap once the images are in the
    cache: they are memory-mapped, and torch is not imported. Nothing is downloaded.

    Raises:
        UserError: if data are missing or unreadable, if the suite asks for more images than there are, or
            if a split differs from its pinned hash (exit code 4).
    """
    size = suite.data.image_size
    whole = open_dataset(suite.data.name, data_dir, None if size is None else Resize(size))
    return select(replace(whole, shifted=open_all_shifted(suite.evaluations, data_dir)), suite.data)


def select(dataset: Dataset, spec: DataSpec) -> Dataset:
    """Return the part of the data set that `spec` describes. Shifted test sets stay whole.

    Raises:
        UserError: if `spec` asks for more images than there are, or pins another hash (exit code 4).
    """
    train, test = dataset.train, dataset.test
    if spec.resplit_test is not None:
        train, test = _resplit(train, test, spec)
    if spec.holdout:
        count = round(spec.holdout * len(train))
        held = select_stratified(train.labels, count)
        kept = np.setdiff1d(np.arange(len(train)), held)
        train, test = _take(train, kept), _take(train, held)
    for split, images, size in (("train", train, spec.train_size), ("test", test, spec.test_size)):
        if size is not None and size > len(images):
            raise UserError(
                f"Data set {spec.name}, split {split}: {split}_size asks for {size:,} images, "
                f"there are {len(images):,}."
            )
    if spec.train_size is not None:
        train = _take(train, select_stratified(train.labels, spec.train_size))
    if spec.test_size is not None:
        test = _take(test, select_stratified(test.labels, spec.test_size))
    shifted = [(name, dataset.shifted[name], pin) for name, pin in spec.shifted_sha256.items()]
    splits = [("train", train, spec.train_sha256), ("test", test, spec.test_sha256), *shifted]
    for name, images, pinned in splits:
        if pinned is not None and images.sha256 != pinned:
            raise UserError(
                f"Data set {spec.name}, split {name}, has sha256 {images.sha256[:16]}; the suite pins "
                f"{pinned[:16]}. Results on other images are not comparable.",
                exit_code=4,
            )
    return replace(dataset, train=train, test=test)


def _resplit(train: ImageSet, test: ImageSet, spec: DataSpec) -> tuple[ImageSet, ImageSet]:
    """Join both splits and split them again, with `spec.resplit_test` test images."""
    assert spec.resplit_test is not None
    images = np.concatenate([train.images, test.images])
    labels = np.concatenate([train.labels, test.labels])
    if spec.resplit_test >= len(labels):
        raise UserError(
            f"Data set {spec.name}: resplit_test asks for {spec.resplit_test:,} test images, there are "
            f"{len(labels):,} images in all. Leave some to train on."
        )
    tested = select_stratified(labels, spec.resplit_test)
    everything = ImageSet(images, labels, stamps=(*train.stamps, *test.stamps))
    return _take(everything, np.setdiff1d(np.arange(len(labels)), tested)), _take(everything, tested)


def select_stratified(labels: np.ndarray, n: int) -> np.ndarray:
    """Return `n` sorted positions, classes in proportion (largest remainders), evenly spaced in each class.

    Raises:
        UserError: if there are fewer than `n`.
    """
    if n > len(labels):
        raise UserError(f"{n} images were asked for, there are {len(labels)}.")
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * (n / len(labels))
    quota = np.floor(exact).astype(int)
    quota[np.argsort(-(exact - quota), kind="stable")[: n - quota.sum()]] += 1
    chosen = []
    for label, count, take in zip(classes, counts, quota, strict=True):
        members = np.flatnonzero(labels == label)
        chosen.append(members[(np.arange(take) * count) // max(take, 1)])
    return np.sort(np.concatenate(chosen))


def split_held_out(labels: np.ndarray, share: float, seed: int) -> tuple[Indices, Indices]:
    """Return the positions to train on and those held out: a stratified random split, each sorted.

    Args:
        labels: `[n]`.
        share: of the images that are held out, rounded to whole images.
        seed: the split is a function of it and of `labels`.
    """
    order = permutation(seed, HELD_OUT_STREAM, len(labels))
    held = np.sort(order[select_stratified(labels[order], round(share * len(labels)))])
    return np.setdiff1d(np.arange(len(labels)), held), held


HELD_OUT_STREAM = 1 << 20
"""Counter of the random stream of `split_held_out`; shifts draw from the first ones of the same seed."""


def _take(images: ImageSet, index: np.ndarray) -> ImageSet:
    return ImageSet(images.images[index], images.labels[index])


def select_calibration(views: Sequence[Indices], source: Indices, labels: Indices, n: int) -> Indices:
    """Return up to `n` positions in the pool, stratified over the union of `views`, for recalibration.

    Image j is taken from the view of sibling j mod K, or from the first view that has the image if that
    one lacks it (docs/design.md, section 3.3).
    """
    shown = [dict(zip(source[view].tolist(), view.tolist(), strict=True)) for view in views]
    label_of = {s: int(labels[item]) for view in shown for s, item in view.items()}
    union = np.array(sorted(label_of), dtype=np.int64)
    classes = np.array([label_of[s] for s in union.tolist()])
    chosen = select_stratified(classes, min(n, len(union)))
    # sorted by class, so that siblings alternate within each class
    picked = union[chosen[np.argsort(classes[chosen], kind="stable")]]
    items = []
    for j, image in enumerate(picked.tolist()):
        order = [j % len(shown), *range(len(shown))]
        items.append(next(shown[i][image] for i in order if image in shown[i]))
    return np.array(items, dtype=np.int64)
