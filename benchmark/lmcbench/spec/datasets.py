"""Sizes and hashes of data sets whose bytes are the same for everyone."""

from __future__ import annotations

from typing import NamedTuple

from lmcbench.spec.suite_tables import DataSpec


class Pins(NamedTuple):
    """Expected sha256 of each split and of the test labels (int16, little-endian), and numbers of images."""

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
"""Images in the training and test split of every named data set."""

DIGITS = Pins(
    train="3711e337279e9bedeb4485efe2b6f666e8866ac495babcf63159dd4a91ad1274",
    test="71131c7ddbcda73c7b0641bf0d49d2fd2ccbd0d8eb2b0f506f11b44f7864f6a7",
    labels="38f2840eb55b6bc836c4880e8c2fb2ed5d7c121f54573454a9cabc2ee8a6bb5b",
    train_n=SIZES["digits"][0],
    test_n=SIZES["digits"][1],
)

RESPLIT_DIGITS = Pins(
    train="48524314910190e938c70bf0c7d621fac3805a6c2951e5b85e663c7a5abfaafa",
    test="f6c9af5ead738b35c986d4ebb9b75d7d14fa8e23d666af5b61f3c1abc4522765",
    labels="7e91e3b82856d094ed8d97b4ff770d08a9aacbebcc5b9b511cee7cfbdd3568e1",
    train_n=1198,
    test_n=599,
)
"""Digits with a third of all images for testing, as the suite `digits` has them."""

KNOWN = {("digits", None): DIGITS, ("digits", 599): RESPLIT_DIGITS}
"""By data set and `resplit_test`."""


def pins_of(data: DataSpec, published: bool = False) -> Pins:
    """Return the expected hashes and sizes of the data of a suite.

    Args:
        data: the suite's data set. Known hashes are not used where the suite takes part of the images.
        published: whether the suite is published. Only then must the size be that of the named data set: in a
            user's suite a small copy may have the same name.
    """
    is_partial = data.holdout or data.train_size is not None or data.test_size is not None
    known = Pins() if is_partial else KNOWN.get((data.name, data.resplit_test), Pins())
    if published and data.name in SIZES and not data.holdout:
        train_n, test_n = SIZES[data.name]
        if data.resplit_test is not None:
            train_n, test_n = train_n + test_n - data.resplit_test, data.resplit_test
        known = known._replace(train_n=data.train_size or train_n, test_n=data.test_size or test_n)
    return known._replace(train=data.train_sha256 or known.train, test=data.test_sha256 or known.test)


def is_path(name: str) -> bool:
    """Return whether `name` is a path, such as `./birds` or `birds.parquet`, and not a registered name."""
    return "/" in name or "\\" in name or name.endswith(".parquet") or name.startswith(".")
