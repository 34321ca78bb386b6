"""Loaders and data sets are used like the tensors they return."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import lmcbench
from lmcbench import UserError
from lmcbench.connect.loaders import LoaderImages, equal_parts


class Dictionaries(Dataset):
    """As the `datasets` package gives them."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return {"pixel_values": self.images[i], "label": int(self.labels[i])}


class Noisy(Dictionaries):
    def __getitem__(self, i):
        return self.images[i] + torch.randn(1), int(self.labels[i])


@pytest.mark.parametrize(
    "make",
    [
        TensorDataset,
        Dictionaries,
        lambda x, y: DataLoader(TensorDataset(x, y), batch_size=7),
        lambda x, y: (x.numpy(), y.numpy()),
        lambda x, y: list(zip(x.split(7), y.split(7), strict=True)),
    ],
)
def test_curves_are_those_of_the_tensors(nets, make):
    x, y = nets.images(40)
    model, (a, b) = nets.build("resnet"), (nets.build("resnet", i).state_dict() for i in (1, 2))
    given = make(x, y)
    if isinstance(given, list):
        given = DataLoader(TensorDataset(x, y), batch_size=100)
    found = lmcbench.trace_path(model, a, b, {"test": given}, 3, calibration=given)["test"]
    expected = lmcbench.trace_path(model, a, b, {"test": (x, y)}, 3, calibration=x)["test"]
    assert found.n == 40
    assert found.loss.tolist() == pytest.approx(expected.loss.tolist(), rel=1e-6)
    assert (
        lmcbench.layerwise(model, a, b, given, 3).keys() == lmcbench.layerwise(model, a, b, (x, y), 3).keys()
    )
    predicted = lmcbench.predict_barrier(model, a, b, given, 3)
    assert predicted.tolist() == pytest.approx(lmcbench.predict_barrier(model, a, b, (x, y), 3).tolist())


@pytest.mark.parametrize("size", [1, 3, 7, 12, 100])
def test_batches_of_any_size_are_the_images_in_order(size):
    x = torch.randn(23, 1, 2, 2)
    images = LoaderImages(DataLoader(TensorDataset(x), batch_size=7), "x")
    batches = list(images.split(size))
    assert torch.equal(torch.cat(batches), x)
    assert {len(b) for b in batches[:-1]} <= {size}
    for count in (1, 2, 5):
        parts = list(equal_parts(images, count))
        assert [len(p) for p in parts] == [len(p) for p in x.tensor_split(count)]
        assert torch.equal(torch.cat(parts), x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda x, y: DataLoader(TensorDataset(x, y), batch_size=5, shuffle=True),
            "two passes give different",
        ),
        (Noisy, "two passes give different images"),
        (lambda x, y: TensorDataset(x), "has no labels"),
        (lambda x, y: TensorDataset(x.byte(), y), "floating images .* found torch.uint8"),
        (lambda x, y: Dictionaries([object()] * 40, y), "cannot be read: TypeError.*ToTensor and Normalize"),
        (lambda x, y: TensorDataset(x / 0, y), "NaN or infinity"),
    ],
)
def test_unusable_loaders_are_refused(nets, make, message):
    x, y = nets.images(40)
    a, b = (nets.build("mlp", 1).state_dict(), nets.build("mlp", 2).state_dict())
    with pytest.raises(UserError, match=f"Split 'test'.*{message}"):
        lmcbench.trace_path(nets.build("mlp"), a, b, {"test": make(x, y)}, 3)


class Shrinking(IterableDataset):
    """Gives fewer images at each pass, down to none."""

    def __init__(self, images, labels, sizes):
        self.images, self.labels, self.sizes = images, labels, iter(sizes)

    def __iter__(self):
        size = next(self.sizes)
        return zip(self.images[:size], self.labels[:size].tolist(), strict=True)


@pytest.mark.parametrize(
    "sizes", [(600, 0), (600, 600, 256, 256, 256), (600, 600, 0, 0, 0), (600, 600, *[300] * 9)]
)
def test_a_pass_that_ends_early_is_refused(nets, sizes):
    x, y = nets.images(600)
    state = nets.train("mlp", 0)
    with pytest.raises(UserError, match="two passes give different images"):
        lmcbench.trace_path(nets.build("mlp"), state, state, {"test": Shrinking(x, y, sizes)}, 3)


def test_single_items_in_place_of_batches_are_refused(nets):
    x, y = nets.images(4)
    loader = DataLoader(TensorDataset(x, y), batch_size=None)
    with pytest.raises(UserError, match=r"labels of shape \[\]. Give the DataLoader a batch_size"):
        LoaderImages(loader, "Split 'test'")
