"""The table of data sets that suites can name, and functions that find, download and open them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lmcbench.data.cache import file_hashes, open_split
from lmcbench.data.dataset import Dataset, ImageSet, mark_every_fifth
from lmcbench.data.decode import Resize
from lmcbench.data.find_files import HubRepo, SplitFiles, data_folder, download, find_parquet
from lmcbench.data.listed import Listed
from lmcbench.data.parquet import ParquetSplit, default_names
from lmcbench.data.shifted_sets import how_to_get
from lmcbench.data.user_datasets import (
    find_layout,
    find_user_dataset,
    open_user_dataset,
    user_dataset_name,
)
from lmcbench.errors import UserError, unknown
from lmcbench.spec.datasets import SIZES
from lmcbench.spec.evaluation_shifts import SHIFTED


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


def open_dataset(
    name: str, data_dir: Path | None = None, resize: Resize | None = None, domain: str | None = None
) -> Dataset:
    """Open the data set `name`; nothing is downloaded.

    A data set of the table is looked for in the data folder (`data_dir`, else LMCBENCH_DATA), then in the
    hub's cache. Any other name means a user's data set: a path, or a folder or parquet file in the data
    folder. `resize` makes images of any size square; it is for the user's data sets and those of the table
    whose images have many sizes. `domain` is the column of domains, or "folder" for folders DOMAIN/CLASS.

    Raises:
        UserError: for an unknown name, or data that are missing or unreadable.
    """
    folder = data_folder(data_dir)
    if name not in SOURCES:
        return open_user_dataset(_find_own(name, folder), resize, domain)
    source = SOURCES[name]
    if resize is not None and not source.resizable:
        raise UserError(f"Images of {name} have their published size; image_size is for your own data sets.")
    if domain is not None and not source.domains:
        having = ", ".join(n for n, s in SOURCES.items() if s.domains)
        raise UserError(f"Data set {name} has no domains. These have: {having}; and your own data may.")
    if source.load is not None:
        return source.load()
    return _open_found(name, _find_or_explain(name, folder), resize, domain)


def list_splits(
    name: str, data_dir: Path | None = None, domain: str | None = None
) -> tuple[Listed, Listed, list[str]]:
    """Return labels and domains of the training and the test split, and the columns that may be domains.

    No image is read. Arguments as `open_dataset`.

    Raises:
        UserError: as `open_dataset`; for a set of the table that has no files.
    """
    folder = data_folder(data_dir)
    if name not in SOURCES:
        layout = find_layout(_find_own(name, folder), domain)
        train, test, classes = layout.train, layout.test, None
    elif not SOURCES[name].domains:
        raise UserError(f"Data set {name} has no domains.")
    else:
        train, test = _readers(SOURCES[name], _find_or_explain(name, folder), domain)
        classes = SOURCES[name].classes
    first = train.listed(classes)
    return first, test.listed(len(first.classes)), train.columns()


def _find_or_explain(name: str, folder: Path | None) -> SplitFiles:
    """Return the files of a data set of the table; raises `UserError` if there are none."""
    found, refused = find_source(name, folder)
    if found is None:
        places = ", ".join(map(str, _places(name, folder)))
        looked = f"Looked for parquet files in {places}." if places else ""
        parts = [f"Data set {name} was not found.", looked, *refused, how_to_get_source(name)]
        raise UserError(" ".join(filter(None, parts)))
    return found


def fetch_dataset(name: str) -> Dataset:
    """Download `name` at its pinned revision, decode it into the cache and open it.

    Raises:
        UserError: for an unknown name, a set that is not on the hub, or if the hub cannot be reached.
    """
    if name in SHIFTED:
        raise UserError(f"{name} is not on the hub. {how_to_get(name)}")
    if name not in SOURCES:
        raise unknown("data set", name, SOURCES)
    source = SOURCES[name]
    if source.load is not None:
        return source.load()
    if source.hub is None:
        raise UserError(f"Data set {name} cannot be fetched. {how_to_get_source(name)}")
    try:
        found = find_parquet(source.hub.snapshot, source.splits, source.hub.config)
    except UserError:  # an interrupted download: complete it
        found = None
    files = found or download(source.hub, source.splits)
    if source.resizable:  # decoded when a suite says which size
        train, test = (reader.listed(source.classes) for reader in _readers(source, files, None))
        return replace(without_images(name, train, test), source=f"hub:{source.hub.repo}")
    return _open_found(name, files)


def without_images(name: str, train: Listed, test: Listed) -> Dataset:
    """Return a data set with the labels and domains of two splits. Its images are single black pixels.

    Raises:
        UserError: if the splits have different classes.
    """
    if train.classes != test.classes:
        raise UserError(f"Data set {name}: the splits have different classes.")
    splits = [
        ImageSet(np.zeros((len(split.labels), 1, 1, 1), np.uint8), split.labels, domains=split.domains)
        for split in (train, test)
    ]
    return Dataset(name, splits[0], splits[1], train.classes)


def find_source(name: str, folder: Path | None) -> tuple[SplitFiles | None, list[str]]:
    """Find the files of a data set of the table.

    Returns:
        The files (None: not found), and for each place with unsuitable files the reason, as a sentence.
    """
    source = SOURCES[name]
    refused: list[str] = []
    for place in _places(name, folder):
        try:
            found = find_parquet(place, source.splits, None if source.hub is None else source.hub.config)
        except UserError as error:
            if source.hub is None or place != source.hub.snapshot:
                raise
            refused.append(str(error))  # an interrupted download, which `fetch_dataset` completes
            continue
        if found is None:
            continue
        hashes = [*file_hashes(found.train), *file_hashes(found.test)]
        others = [n for n, s in SOURCES.items() if n != name and set(s.sha256.values()) & set(hashes)]
        if others:
            refused.append(f"{place} holds {others[0]}: {SOURCES[others[0]].summary}.")
        elif source.sha256 and list(source.sha256.values()) != hashes:
            refused.append(f"{place} holds other files (by sha256).")
        else:
            return found, refused
    return None, refused


def how_to_get_source(name: str) -> str:
    """Return the sentence that says how to obtain a missing data set of the table."""
    source = SOURCES[name]
    train, test = source.splits
    files = " and ".join(f"{split}-*.parquet" for split in dict.fromkeys((train, test)))
    put = f"put {files} into DIR/{name.replace('-', '_')}"
    if source.hub is not None:
        way = f"Run 'lmcbench data fetch {name}' where the Hugging Face hub can be reached, or {put}"
    else:
        way = f"It is not on the hub: {put}, with the sha256 that the table of sources has,"
    return f"{way} and pass DIR as --data-dir or LMCBENCH_DATA."


def _places(name: str, folder: Path | None) -> list[Path]:
    """Return the folders that may contain the data set: the user's, then the hub's cache."""
    hub = SOURCES[name].hub
    places = [] if folder is None else [folder / n for n in _folder_names(name)]
    return places if hub is None else [*places, hub.snapshot]


def _folder_names(name: str) -> list[str]:
    """Return the names that its folder may have: in the table, on the hub, and in the hub's cache."""
    source = SOURCES[name]
    names = [name, name.replace("-", "_"), *source.folders]
    if source.hub is not None:
        names += [source.hub.repo, source.hub.repo.partition("/")[2], source.hub.cache_name]
    return list(dict.fromkeys(names))


def _readers(source: Source, found: SplitFiles, domain: str | None) -> tuple[ParquetSplit, ParquetSplit]:
    """Return the readers of the training and the test split."""
    if source.splits[0] == source.splits[1]:
        every = ParquetSplit(found.train, source.image, source.label, domain=domain)
        return replace(every, part="train"), replace(every, part="test")
    train, test = (
        ParquetSplit(files, source.image, source.label, domain=domain) for files in (found.train, found.test)
    )
    return train, test


def _open_found(
    name: str, found: SplitFiles, resize: Resize | None = None, domain: str | None = None
) -> Dataset:
    source = SOURCES[name]
    channels = source.shape[0] or None
    train, test = (
        open_split(reader, f"{name}, {split}", channels, source.classes, source.lossless, resize)
        for reader, split in zip(_readers(source, found, domain), ("train", "test"), strict=True)
    )
    if train.classes != test.classes and default_names(source.classes) not in (train.classes, test.classes):
        raise UserError(f"{found.folder}: the classes of {name} have other names in train than in test.")
    hub = source.hub if source.hub is not None and found.folder == source.hub.snapshot else None
    return Dataset(
        name,
        train.images,
        test.images,
        train.classes,
        source="parquet" if hub is None else f"hub:{hub.repo}",
        revision=None if hub is None else hub.revision,
    )


def _find_own(name: str, folder: Path | None) -> Path:
    """Return the path of a user's data set.

    A folder with the name of a published data set is rejected, because its results would be mistaken for
    results on the published one.
    """
    path = find_user_dataset(name, folder)
    if path is None:
        refusal = unknown("data set", name, SOURCES)
        if name and Path(name).exists():
            raise UserError(
                f"Unknown data set {name!r}. For the folder or file of this name, write ./{name}."
            )
        raise UserError(f"{refusal} Your own data set is named by its path, such as ./{Path(name).name}.")
    for published in SOURCES:
        if user_dataset_name(path) in _folder_names(published):
            raise UserError(
                f"{path} has the name of a published data set. For that one, use the name {published!r} and "
                "pass the folder above it as --data-dir; for your own, rename the folder."
            )
    return path
