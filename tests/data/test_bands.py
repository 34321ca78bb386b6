"""Images of many bands: arrays in parquet files as `datasets` writes them, 16 bits companded to 8."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmcbench.data import cache
from lmcbench.data.decode import COMPANDED
from lmcbench.data.open_dataset import open_dataset
from lmcbench.errors import UserError

from .images import write_bands


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("LMCBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("LMCBENCH_DATA", raising=False)
    data = tmp_path / "data"
    data.mkdir()
    return data


def bands(n, shape=(6, 5, 13), seed=0, top=2**16):
    return np.random.default_rng(seed).integers(0, top, (n, *shape), dtype=np.uint16)


def write_splits(folder, **sizes):
    made = {}
    for seed, (split, n) in enumerate(sizes.items()):
        made[split] = bands(n, seed=seed)
        write_bands(folder / f"{split}-00000-of-00001.parquet", made[split], [i % 10 for i in range(n)])
    return made


# --- 16 bits to 8 --------------------------------------------------------------------------------


def test_companding_uses_all_of_8_bits_in_order():
    steps = np.diff(COMPANDED.astype(int))
    assert (COMPANDED[0], COMPANDED[-1]) == (0, 255)
    assert steps.min() == 0
    assert len(set(COMPANDED.tolist())) > 240


@pytest.mark.parametrize(("value", "deviation"), [(12, 4.8), (730, 400), (2600, 1230)])
def test_a_companding_step_is_small_beside_the_standard_deviation_of_a_band(value, deviation):
    """Mean and deviation of the darkest, a dim and the brightest band of EuroSAT."""
    same = np.flatnonzero(COMPANDED[value] == COMPANDED)
    assert len(same) < deviation / 3


# --- what comes out ------------------------------------------------------------------------------


def test_bands_are_read_in_order_and_companded(place):
    made = write_splits(place / "eurosat-msi", train=20, validation=10, test=10)
    opened = open_dataset("eurosat-msi", place)
    for split, found in (("train", opened.train), ("test", opened.test)):
        assert (found.images == COMPANDED[made[split]].transpose(0, 3, 1, 2)).all()
    assert opened.shape == (13, 6, 5)
    assert opened.train.labels.tolist() == [i % 10 for i in range(20)]
    assert opened.classes == tuple("abcdefghij")


def test_files_written_by_datasets_are_read(place):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Array3D((6, 5, 13), "uint16"),
            "label": datasets.ClassLabel(names=list("abcdefghij")),
        }
    )
    values = bands(30)
    for split, part in (("train", slice(0, 20)), ("test", slice(20, 30))):
        rows = {"image": list(values[part]), "label": [i % 10 for i in range(30)[part]]}
        path = place / "eurosat-msi" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows, features).to_parquet(path)
    opened = open_dataset("eurosat-msi", place)
    assert (opened.train.images == COMPANDED[values[:20]].transpose(0, 3, 1, 2)).all()
    assert opened.test.labels.tolist() == list(range(10))


def test_a_users_own_bands_of_8_bits_are_taken_as_they_are(place):
    values = bands(40, shape=(4, 4, 5), top=256).astype(np.uint8)
    write_bands(place / "fields" / "train.parquet", values, [i % 10 for i in range(40)])
    write_bands(place / "fields" / "test.parquet", values[:10], list(range(10)))
    opened = open_dataset("fields", place)
    assert (opened.train.images == values.transpose(0, 3, 1, 2)).all()
    assert len(opened.test) == 10


# --- what is refused -----------------------------------------------------------------------------


def refusal(place, tmp_path, match):
    with pytest.raises(UserError, match=match):
        open_dataset("eurosat-msi", place)
    folder = cache.cache_dir() / "pixels"
    assert not folder.is_dir() or not list(folder.iterdir())


def test_another_number_of_bands_is_refused(place, tmp_path):
    write_splits(place / "eurosat-msi", test=10)
    write_bands(
        place / "eurosat-msi" / "train-0.parquet", bands(10, shape=(6, 5, 3)), [i % 10 for i in range(10)]
    )
    refusal(place, tmp_path, r"train-0.parquet, row 0: the image is 6 x 5 x 3 .* expected 6 x 5 x 13")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[[[1, 2]]], [[[1]]]], "row 1: the lists in column 'image' are not of one size"),
        ([[[[1, 2]]], None], "row 1: the lists in column 'image' are not of one size"),
        ([[[[1, 2]]], []], "row 1: the lists in column 'image' are not of one size"),
        ([[[[1, 2]]], [[[1, None]]]], "row 1: a value is missing in column 'image'"),
        ([[[1, 2]], [[3, 4]]], "found 2 dimensions of uint16"),
    ],
)
def test_a_value_that_is_not_an_array_is_named_by_row(place, tmp_path, rows, message):
    write_splits(place / "eurosat-msi", test=10)
    deep = pa.list_(pa.list_(pa.uint16()))
    kind = deep if "2 dimensions" in message else pa.list_(deep)
    table = pa.table({"image": pa.array(rows, kind), "label": [0, 1]})
    info = {"features": {"label": {"names": list("abcdefghij"), "_type": "ClassLabel"}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": info})})
    pq.write_table(table, place / "eurosat-msi" / "train-0.parquet")
    refusal(place, tmp_path, message)


def test_numbers_outside_the_range_of_pixels_are_refused(place, tmp_path):
    write_splits(place / "eurosat-msi", test=10)
    write_bands(place / "eurosat-msi" / "train-0.parquet", bands(10).astype(np.float32), list(range(10)))
    refusal(place, tmp_path, "of uint8 or uint16, found 3 dimensions of float")
