from functools import partial

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from lmcbench.connect.features import penultimate
from lmcbench.connect.network import Network
from lmcbench.errors import UserError


@pytest.mark.parametrize(
    "name", ["resnet10t", "vit_tiny_patch16_224", "convnext_atto", "vgg", "mixer_s16_224"]
)
def test_features_are_the_pre_logits_of_timm(name, nets):
    size = 14 if name == "vgg" else 32
    kwargs = {"img_size": size} if name.startswith(("vit", "mixer")) else {}
    build = nets.small_vgg if name == "vgg" else partial(timm.create_model, name)
    model = build(num_classes=7, **kwargs).eval()
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    network = Network(model, batch_size=2)
    found = penultimate(network, network.prepare(model.state_dict()), images)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
    assert found.shape == (1, 3, expected.flatten(1).shape[1])
    torch.testing.assert_close(found[0], expected.flatten(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "softmax"])
def test_the_last_layer_maps_features_to_logits(name, nets):
    """W f + b with each state's own weights, for any order of states and batches."""
    states = [nets.train(name, seed) for seed in (0, 1)]
    images, _ = nets.images(25)
    model = nets.build(name)
    network = Network(model, batch_size=10)
    stacked = network.prepare(states)
    found = penultimate(network, stacked, images)
    weight, bias = list(states[0])[-2:]
    for features, state, logits in zip(found, states, network.logits(stacked, images), strict=True):
        torch.testing.assert_close(features @ state[weight].T + state[bias], logits, rtol=1e-12, atol=1e-12)
    # nothing is left behind
    assert not any(m._forward_pre_hooks for m in network.model.modules())
    assert all(torch.equal(v, nets.build(name).state_dict()[k]) for k, v in model.state_dict().items())


class Bare(nn.Module):
    """Has weights of its own and no layer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64, 4, dtype=torch.float64))

    def forward(self, x):
        return x.flatten(1) @ self.weight


def test_a_root_with_weights_of_its_own_has_its_images_as_features(nets):
    images, _ = nets.images(5)
    network = Network(Bare())
    found = penultimate(network, network.prepare(Bare().state_dict()), images)
    assert torch.equal(found[0], images.flatten(1))


class Pooled(nn.Module):
    """Calls its last layer on the flattened batch: rows are not images."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 4).double()

    def forward(self, x):
        return x.flatten(1)[:, :4] + self.layer(x.flatten(1).mean(0, keepdim=True))


def test_a_network_without_a_row_an_image_is_refused(nets):
    network = Network(Pooled())
    with pytest.raises(UserError, match="one row per image"):
        penultimate(network, network.prepare(Pooled().state_dict()), nets.images(5)[0])


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(64, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(input=self.first(x.flatten(1)).relu())


class Normed(Named):
    def __init__(self):
        super().__init__()
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(8, 4, bias=False))

    def forward(self, x):
        return self.head(self.first(x.flatten(1)).relu())


@pytest.mark.parametrize("build", [Named, Normed])
def test_a_head_called_by_name_or_with_computed_weights_is_the_last_layer(build):
    model, x = build(), torch.randn(5, 1, 8, 8)
    network = Network(model)
    found = penultimate(network, network.prepare(model.state_dict()), x)
    torch.testing.assert_close(found[0], model.first(x.flatten(1)).relu().detach())


def test_a_convolution_whose_logits_are_averaged_is_the_last_layer():
    body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU())
    model = nn.Sequential(body, nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network, x = Network(model), torch.randn(5, 1, 8, 8)
    found = penultimate(network, network.prepare(model.state_dict()), x)
    torch.testing.assert_close(found[0], body(x).flatten(1).detach())


class Cosine(Named):
    """Its classifier is no layer: the last layer that is called gives features, not logits."""

    def forward(self, x):
        return F.linear(F.normalize(self.first(x.flatten(1))), self.head.weight)


def test_a_classifier_that_is_not_a_layer_is_refused():
    model = Cosine()
    network = Network(model)
    with pytest.raises(UserError, match="does not return the logits"):
        penultimate(network, network.prepare(model.state_dict()), torch.randn(5, 1, 8, 8))
