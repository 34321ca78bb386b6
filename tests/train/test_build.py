"""Building: from the seed alone, at the data's size, from timm, a module or a file."""

from __future__ import annotations

import pytest
import torch

from lmcbench.errors import UserError
from lmcbench.spec.architectures import OWN_NETWORKS, OWN_REVISIONS, Architecture
from lmcbench.train.build import build


def arch(name, **kwargs):
    return Architecture(name=name, recipe="r", kwargs=kwargs)


def test_own_networks_are_timms_too():
    import timm

    import lmcbench.train.networks  # noqa: F401

    assert OWN_NETWORKS.keys() == OWN_REVISIONS.keys()
    for name in OWN_NETWORKS:
        assert timm.is_model(name)
    model = timm.create_model("lmc_resnet", in_chans=1, num_classes=7, width=4)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 7)


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    a, b, c = (build(arch("lmc_cnn"), (3, 16, 16), 5, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)


def test_resnet20_has_the_published_size():
    """272,474 parameters with projection shortcuts (oracle 17)."""
    model = build(arch("lmc_resnet", width=16, blocks=3), (3, 32, 32), 10, 0)
    assert sum(p.numel() for p in model.parameters()) == 272_474


@pytest.mark.parametrize("name", ["resnet10t", "test_vit"])
def test_timm_networks_are_told_the_image_size_where_they_need_it(name):
    model = build(arch(name), (3, 32, 32), 10, 0)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


SOURCE = """
from torch import nn

def net(num_classes, in_chans, img_size, hidden=8):
    pixels = in_chans * img_size**2
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.Linear(hidden, num_classes))

def wrong(num_classes, in_chans):
    return nn.Flatten()

def broken(**kwargs):
    raise RuntimeError("no such layer")
"""


def test_a_users_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(SOURCE)
    model = build(arch(f"{file}:net", hidden=4), (1, 8, 8), 10, 0)
    assert model[1].out_features == 4
    with pytest.raises(UserError, match=r"must return logits \[n, 10\], found \(2, 64\)"):
        build(arch(f"{file}:wrong"), (1, 8, 8), 10, 0)
    with pytest.raises(UserError, match=r"cannot be built for images 1 x 8 x 8 .*no such layer"):
        build(arch(f"{file}:broken"), (1, 8, 8), 10, 0)
    with pytest.raises(UserError, match=r"Unknown function in .*'nett'.*'net'"):
        build(arch(f"{file}:nett"), (1, 8, 8), 10, 0)
    (tmp_path / "bad.py").write_text("import nothing_like_this")
    with pytest.raises(UserError, match="cannot be imported: ModuleNotFoundError"):
        build(arch(f"{tmp_path / 'bad.py'}:net"), (1, 8, 8), 10, 0)


def test_unknown_names_get_a_suggestion():
    with pytest.raises(UserError, match=r"Unknown architecture 'resnet_18'.*resnet18"):
        build(arch("resnet_18"), (3, 32, 32), 10, 0)
