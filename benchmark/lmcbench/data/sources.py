"""The table of data sets that suites can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lmcbench.data.dataset import Dataset, ImageSet, mark_every_fifth
from lmcbench.data.find_files import HubRepo
from lmcbench.data.parquet import default_names
from lmcbench.errors import UserError
from lmcbench.spec.datasets import SIZES


def load_digits() -> Dataset:
    """Load scikit-learn's 1,797 digits of 8 x 8; every fifth of each class is the test split.

    Grey levels 0..16 are scaled to 0..255, so that everything defined for 8-bit images applies. The file is
    read without importing scikit-learn, which takes half a second.

    Raises:
        UserError: if scikit-learn or its file is not there.
    """
    spec = find_spec("sklearn")
    folder = Path((spec.origin if spec is not None else None) or "sklearn").parent
    path = folder / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise UserError(f"No file {path}, which is part of scikit-learn: pip install scikit-learn")
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    pixels, labels = table[:, :-1], table[:, -1].astype(np.int64)
    images = np.round(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    test = mark_every_fifth(labels)
    return Dataset(
        "digits",
        ImageSet(images[~test], labels[~test]),
        ImageSet(images[test], labels[test]),
        default_names(10),
        source="scikit-learn",
    )


@dataclass(frozen=True)
class Source:
    """An entry of `SOURCES`: a data set that suites can name.

    Attributes:
        summary: one line that describes it.
        licence: as its authors state it.
        classes: number of classes.
        shape: channels (0: 1 or 3), height and width (0: any).
        sizes: images of the training and the test split; 0: not counted.
        load: function that loads it from an installed package; None: it is read from parquet files.
        hub: its repository on the Hugging Face hub; None: it is not there.
        image: name of the image column.
        label: name of the label column.
        splits: names of the training and the test split; equal if it has one: every fifth image of each class
            (of each domain) is the test set.
        domains: columns that may be named as domains, the usual one first.
        resizable: whether images may be resized, because they have many sizes or need another one.
        lossless: whether it is published without loss (such as PNG), so that JPEG images are rejected.
        sha256: split -> hash of its parquet file, if the data set is defined by these files.
        folders: other names that its folder in the user's data folder may have.
    """

    summary: str
    licence: str
    classes: int
    shape: tuple[int, int, int]
    sizes: tuple[int, int]
    load: Callable[[], Dataset] | None = None
    hub: HubRepo | None = None
    image: str = "image"
    label: str = "label"
    splits: tuple[str, str] = ("train", "test")
    domains: tuple[str, ...] = ()
    resizable: bool = False
    lossless: bool = True
    sha256: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()


# Revisions are the commits of the hub's main branches that public code pins (looked up 2026-11-21).
SOURCES: dict[str, Source] = {
    "digits": Source(
        "1,797 grey digits, shipped with scikit-learn",
        "CC BY 4.0",
        10,
        (1, 8, 8),
        SIZES["digits"],
        load=load_digits,
    ),
    "mnist": Source(
        "handwritten digits (LeCun et al. 1998)",
        "MIT (as on the hub)",
        10,
        (1, 28, 28),
        SIZES["mnist"],
        hub=HubRepo("ylecun/mnist", "77f3279092a1c1579b2250db8eafed0ad422088c", "mnist"),
    ),
    "fashion-mnist": Source(
        "articles of clothing (Xiao et al. 2017)",
        "MIT",
        10,
        (1, 28, 28),
        SIZES["fashion-mnist"],
        hub=HubRepo(
            "zalando-datasets/fashion_mnist", "531be5e2ccc9dba0c201ad3ae567a4f3d16ecdd2", "fashion_mnist"
        ),
    ),
    "cifar10": Source(
        "small colour photographs (Krizhevsky 2009), original pixels",
        "not stated; cite the report",
        10,
        (3, 32, 32),
        SIZES["cifar10"],
        hub=HubRepo("uoft-cs/cifar10", "0b2714987fa478483af9968de7c934580d0bb9a2", "plain_text"),
        image="img",
    ),
    "cifar10-jpeg": Source(
        "CIFAR-10 (JPEG re-encoding), other pixels than cifar10",
        "not stated; cite the report",
        10,
        (3, 32, 32),
        SIZES["cifar10-jpeg"],
        image="img",
        lossless=False,
        sha256={
            "train": "f656c69b53d6256ae6c509efab8e79429f9e73f978ec86e857691a4a62a6f61a",
            "test": "b11e5f7db5210de84bdc22144e74932584d12b4fec74a8af03b01e105b7b440b",
        },
        folders=("cifar10",),
    ),
    "cifar100": Source(
        "small colour photographs of 100 classes (Krizhevsky 2009)",
        "not stated; cite the report",
        100,
        (3, 32, 32),
        SIZES["cifar100"],
        hub=HubRepo("uoft-cs/cifar100", "aadb3af77e9048adbea6b47c21a81e47dd092ae5", "cifar100"),
        image="img",
        label="fine_label",
    ),
    "svhn": Source(
        "house numbers, cropped digits (Netzer et al. 2011)",
        "non-commercial use only",
        10,
        (3, 32, 32),
        SIZES["svhn"],
        hub=HubRepo("ufldl-stanford/svhn", "f9e1717d73324ebbc1ece84267ccd80d0aca0690", "cropped_digits"),
    ),
    "eurosat": Source(
        "Sentinel-2 land use, red, green and blue (Helber et al. 2019); 5,400 validation images unused",
        "MIT",
        10,
        (3, 64, 64),
        SIZES["eurosat"],
        hub=HubRepo("timm/eurosat-rgb", "b4e28552cd5f3932b6abc37eb20d3e84901ad728"),
        lossless=False,
    ),
    "eurosat-msi": Source(
        "Sentinel-2 land use, 13 bands, 16 bits companded to 8 (Helber et al. 2019); 5,400 validation "
        "images unused",
        "MIT",
        10,
        (13, 64, 64),
        SIZES["eurosat-msi"],
        hub=HubRepo("blanchon/EuroSAT_MSI", "fceda27a3c49aec8c9a9ecc674097a21d6b9b793"),
    ),
    "tiny-imagenet": Source(
        "200 ImageNet classes (Le & Yang 2015); the validation split is the test split",
        "ImageNet's terms of access",
        200,
        (3, 64, 64),
        SIZES["tiny-imagenet"],
        hub=HubRepo("zh-plus/tiny-imagenet", "5a77092c28e51558c5586e9c5eb71a7e17a5e43f"),
        splits=("train", "valid"),
        lossless=False,
    ),
    # Columns, licences and revisions of sets with domains are those of the hub's cards and file lists, and of
    # public code that pins them (looked up 2026-11-29). The files themselves were not opened here.
    "pacs": Source(
        "photographs, art paintings, cartoons and sketches of 7 classes (Li et al. 2017)",
        "unknown (as on the hub)",
        7,
        (3, 227, 227),
        (8003, 1988),
        hub=HubRepo("flwrlabs/pacs", "394113073258ead631f617d2e13bb377c0715c4b"),
        splits=("train", "train"),
        domains=("domain",),
        resizable=True,
        lossless=False,
    ),
    "office-home": Source(
        "art, clip art, product pictures and photographs of 65 objects (Venkateswara et al. 2017)",
        "fair use notice (as on the hub)",
        65,
        (3, 0, 0),
        (15_588, 0),
        hub=HubRepo("flwrlabs/office-home", "d430d44779e929b335be368ab3456484e5de36bb"),
        splits=("train", "train"),
        domains=("domain",),
        resizable=True,
        lossless=False,
    ),
    "camelyon17": Source(
        "patches of lymph nodes from 5 hospitals, tumour or not (Bandi et al. 2018; WILDS, Koh et al. 2021), "
        "a community's copy; the hospital of its test split is unused",
        "other (as on the hub)",
        2,
        (3, 96, 96),
        (302_436, 68_464),
        hub=HubRepo("wltjr1007/Camelyon17-WILDS", "d784d5344ba6c967f83f9f3d9b2f1e2a4d6eb78f"),
        splits=("train", "validation"),
        domains=("center", "patient", "slide"),
        resizable=True,
        lossless=False,
    ),
    "femnist": Source(
        "some 814,000 handwritten digits and letters by 3,600 writers (Caldas et al. 2018, LEAF)",
        "BSD 2-Clause",
        62,
        (0, 28, 28),
        (0, 0),
        hub=HubRepo("flwrlabs/femnist", "df739a2b09df2b5cc1ec93107659b9a9a8566487"),
        label="character",
        splits=("train", "train"),
        domains=("writer_id", "hsf_id"),
    ),
}
