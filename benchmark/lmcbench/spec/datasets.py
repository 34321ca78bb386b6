"""Data sets that everybody has the same bytes of: hashes of splits and test labels, numbers of images."""

from __future__ import annotations

from typing import NamedTuple

from lmcbench.spec.suite import DataSpec


class Pins(NamedTuple):
    """Sha256 of the splits as records have them, of the test labels (int16, little-endian); their images."""

    train: str | None = None
    test: str | None = None
    labels: str | None = None
    train_n: int | None = None
    test_n: int | None = None


SIZES = {
    "digits": (1442, 355),
    "mnist": (60_000, 10_000),
    "fashion-mnist": (60_000, 10_000),
    "cifar10": (50_000, 10_000),
    "cifar10-jpeg": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "svhn": (73_257, 26_032),
    "eurosat": (16_200, 5_400),
    "eurosat-msi": (16_200, 5_400),
    "tiny-imagenet": (100_000, 10_000),
}
"""Images of the training and the test split of every data set that has a name."""

# every fifth image of each class is tested on; a test holds these against scikit-learn's
DIGITS = Pins(
    train="3711e337279e9bedeb4485efe2b6f666e8866ac495babcf63159dd4a91ad1274",
    test="71131c7ddbcda73c7b0641bf0d49d2fd2ccbd0d8eb2b0f506f11b44f7864f6a7",
    labels="38f2840eb55b6bc836c4880e8c2fb2ed5d7c121f54573454a9cabc2ee8a6bb5b",
    train_n=SIZES["digits"][0],
    test_n=SIZES["digits"][1],
)

KNOWN = {"digits": DIGITS}


def pins_of(data: DataSpec, published: bool = False) -> Pins:
    """What is known about the data a suite uses; hashes of whole sets say nothing about parts of them.

    Results on a `published` suite are of all images of its data set; in a suite of one's own a small copy
    may go by the set's name.
    """
    parts = data.holdout or data.train_size is not None or data.test_size is not None
    known = Pins() if parts else KNOWN.get(data.name, Pins())
    if published and data.name in SIZES and not data.holdout:
        train_n, test_n = SIZES[data.name]
        known = known._replace(train_n=data.train_size or train_n, test_n=data.test_size or test_n)
    return known._replace(train=data.train_sha256 or known.train, test=data.test_sha256 or known.test)


def is_path(name: str) -> bool:
    """Whether `name` is written as a path, `./birds` or `birds.parquet`; others are looked up."""
    return "/" in name or "\\" in name or name.endswith(".parquet") or name.startswith(".")
