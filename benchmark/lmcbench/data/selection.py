"""The part of a data set that a suite uses: stratified, without randomness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lmcbench.data.dataset import Dataset, ImageSet
from lmcbench.data.decode import Resize
from lmcbench.data.open_dataset import open_dataset
from lmcbench.data.shifted_sets import open_all_shifted
from lmcbench.errors import UserError
from lmcbench.spec.domains import Domains, check_known, refusal, strata
from lmcbench.spec.evaluation_shifts import DOMAIN, is_domain
from lmcbench.spec.seeds import permutation
from lmcbench.spec.shift_rules import Indices
from lmcbench.spec.suite import Suite
from lmcbench.spec.suite_tables import DataSpec


def open_suite_data(suite: Suite, data_dir: Path | None = None) -> Dataset:
    """Return all that a run of `suite` reads: the selected splits and the shifted test sets it names.

    `identity()` of the result is what records store about it. Opening is cheap once the images are in the
    cache: they are memory-mapped, and torch is not imported. Nothing is downloaded.

    Raises:
        UserError: if data are missing or unreadable, if the suite asks for more images than there are, or
            if a split differs from its pinned hash (exit code 4).
    """
    spec = suite.data
    size = None if spec.image_size is None else Resize(spec.image_size)
    whole = open_dataset(spec.name, data_dir, size, spec.domain)
    shifted = open_all_shifted(suite.evaluations, data_dir)
    return select(replace(whole, shifted=shifted), spec, suite.evaluations)


def select(dataset: Dataset, spec: DataSpec, evaluations: Sequence[str] = ()) -> Dataset:
    """Return the part of the data set that `spec` describes, with the tests by domain of `evaluations`.

    Domains that are held out are in neither split; the others are tested on their part of the test split.
    Shifted test sets stay whole.

    Raises:
        UserError: if `spec` asks for more images than there are, names unknown domains, or pins another hash
            (exit code 4).
    """
    train, test = dataset.train, dataset.test
    for name in spec.hold_out:
        check_known("hold_out", name, domain_counts(dataset), "images")
    if spec.hold_out:
        train, test = (_without(images, split, spec) for images, split in ((train, "train"), (test, "test")))
    if spec.resplit_test is not None:
        train, test = _resplit(train, test, spec)
    if spec.holdout:
        count = round(spec.holdout * len(train))
        held = select_stratified(_strata(train), count)
        kept = np.setdiff1d(np.arange(len(train)), held)
        train, test = train.take(kept), train.take(held)
    for split, images, size in (("train", train, spec.train_size), ("test", test, spec.test_size)):
        if size is not None and size > len(images):
            raise UserError(
                f"Data set {spec.name}, split {split}: {split}_size asks for {size:,} images, "
                f"there are {len(images):,}."
            )
    if spec.train_size is not None:
        train = train.take(select_stratified(_strata(train), spec.train_size))
    if spec.test_size is not None:
        test = test.take(select_stratified(_strata(test), spec.test_size))
    shifted = {
        **dataset.shifted,
        **{name: _of_domain(name, dataset, test, spec) for name in filter(is_domain, evaluations)},
    }
    pinned_sets = [(name, shifted[name], pin) for name, pin in spec.shifted_sha256.items()]
    splits = [("train", train, spec.train_sha256), ("test", test, spec.test_sha256), *pinned_sets]
    for name, images, pinned in splits:
        if pinned is not None and images.sha256 != pinned:
            raise UserError(
                f"Data set {spec.name}, split {name}, has sha256 {images.sha256[:16]}; the suite pins "
                f"{pinned[:16]}. Results on other images are not comparable.",
                exit_code=4,
            )
    return replace(dataset, train=train, test=test, shifted=shifted)


def _strata(images: ImageSet) -> Indices:
    """Return a number for each class, or each class of each domain."""
    return strata(images.labels, images.domains)


def _without(images: ImageSet, split: str, spec: DataSpec) -> ImageSet:
    """Return the images of domains that are not held out."""
    assert images.domains is not None
    kept = ~images.domains.isin(spec.hold_out)
    if not kept.any():
        raise refusal(
            f"Data set {spec.name}, split {split}: hold_out leaves no image.",
            images.domains.counts,
            "Hold out fewer domains. Domains of the test split alone are in no view without it.",
            f"{split} images",
        )
    return images.take(kept) if not kept.all() else images


def _of_domain(name: str, whole: Dataset, test: ImageSet, spec: DataSpec) -> ImageSet:
    """Return the images that the evaluation shift `domain:NAME` tests on.

    Raises:
        UserError: if the data set has no such domain, or it has no test images.
    """
    domain, counts = name.removeprefix(DOMAIN), domain_counts(whole)
    check_known(f"Evaluation shift {name!r}", domain, counts, "images")
    sources = (whole.train, whole.test) if domain in spec.hold_out else (test,)
    parts = [(images, images.domains.isin([domain])) for images in sources if images.domains is not None]
    found = [images.take(of_domain) for images, of_domain in parts if of_domain.any()]
    if not found:
        raise refusal(
            f"Evaluation shift {name!r}: the domain has no test images.",
            {} if test.domains is None else test.domains.counts,
            "Add some, or hold the domain out (hold_out) to test on all its images.",
            "test images",
        )
    return found[0] if len(found) == 1 else ImageSet.join(*found)


def domain_counts(whole: Dataset) -> dict[str, int]:
    """Return the images of each domain in both splits, in order; empty for a data set without domains."""
    domains = [split.domains for split in (whole.train, whole.test) if split.domains is not None]
    return Domains.join(*domains).counts if domains else {}


def _resplit(train: ImageSet, test: ImageSet, spec: DataSpec) -> tuple[ImageSet, ImageSet]:
    """Join both splits and split them again, with `spec.resplit_test` test images."""
    assert spec.resplit_test is not None
    everything = ImageSet.join(train, test)
    if spec.resplit_test >= len(everything):
        raise UserError(
            f"Data set {spec.name}: resplit_test asks for {spec.resplit_test:,} test images, there are "
            f"{len(everything):,} images in all. Leave some to train on."
        )
    tested = select_stratified(_strata(everything), spec.resplit_test)
    return everything.take(np.setdiff1d(np.arange(len(everything)), tested)), everything.take(tested)


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
