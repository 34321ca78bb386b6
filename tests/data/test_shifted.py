"""CIFAR-10-C and CIFAR-10.1 in the arrays their authors publish."""

import numpy as np
import pytest

from lmcbench.data.shifted import open_shifted
from lmcbench.errors import UserError


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
        ("cifar10-c:fog", "a corruption and a severity from 1 to 5, as in cifar10-c:fog-3"),
        ("cifar10-c:frog-3", r"There is no frog.npy in .*CIFAR-10-C. It holds fog, labels"),
        ("cifar10.1:v5", "has the versions v4, v6"),
        ("cifar10.1:v4", r"There is no cifar10.1_v4_data.npy"),
        (
            "cifar100-c:fog-1",
            r"cifar100-c is not here. Looked in .*CIFAR-100-C.*unpack it as DIR/CIFAR-100-C",
        ),
        ("cifar10-d:fog-1", r"Unknown shifted test set 'cifar10-d'. Did you mean 'cifar10-c'"),
    ],
)
def test_what_is_not_there_is_refused(data, name, message):
    with pytest.raises(UserError, match=message):
        open_shifted(name, data)


def test_arrays_of_another_shape_are_refused(data):
    np.save(data / "CIFAR-10-C" / "snow.npy", np.zeros((50, 3, 32, 32), np.uint8))
    np.save(data / "CIFAR-10-C" / "rain.npy", np.zeros((40, 32, 32, 3), np.float32))
    (data / "CIFAR-10-C" / "cut.npy").write_bytes((data / "CIFAR-10-C" / "fog.npy").read_bytes()[:999])
    with pytest.raises(UserError, match=r"snow-1 must be uint8 images .* found uint8 \[10, 3, 32, 32\]"):
        open_shifted("cifar10-c:snow-1", data)
    with pytest.raises(UserError, match="found float32"):
        open_shifted("cifar10-c:rain-1", data)
    with pytest.raises(UserError, match=r"cut.npy is not a readable .npy file"):
        open_shifted("cifar10-c:cut-1", data)
    np.save(data / "CIFAR-10-C" / "labels.npy", np.full(50, 11))
    with pytest.raises(UserError, match=r"fog-2, row 0: label 11 is out of range"):
        open_shifted("cifar10-c:fog-2", data)
