"""Building: from the seed alone, at the data's size, from timm, a module or a file."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from functools import cache

import pytest
import torch

from forked import in_fork
from lmcbench.data.sources import SOURCES
from lmcbench.errors import UserError
from lmcbench.running.attempt import Interrupted
from lmcbench.spec.architectures import ADAPTATIONS, OWN_NETWORKS, OWN_REVISIONS, Architecture, fingerprint_of
from lmcbench.spec.suite_files import load_suite, published_suites
from lmcbench.train.adapt import ADAPT
from lmcbench.train.build import BuildError, build, find_factory
from lmcbench.train.networks import NETWORKS


def arch(name, **kwargs):
    return Architecture(name=name, recipe="r", kwargs=kwargs)


def test_the_tables_of_own_networks_agree():
    assert OWN_NETWORKS.keys() == OWN_REVISIONS.keys() == NETWORKS.keys()


def test_an_argument_that_an_own_network_does_not_take_is_refused():
    with pytest.raises(UserError, match=r"lmc_mlp\(widht=8\) cannot be built .*argument 'widht'"):
        build(arch("lmc_mlp", widht=8), (1, 8, 8), 10, 0)


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
def test_timm_networks_get_the_image_size_where_they_need_it(name):
    model = build(arch(name), (3, 32, 32), 10, 0)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


SOURCE = """
import torch
from torch import nn

def net(num_classes, in_chans, img_size, hidden=8):
    pixels = in_chans * img_size**2
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.Linear(hidden, num_classes))

def wrong(num_classes, in_chans):
    return nn.Flatten()

def half(num_classes, in_chans, img_size):
    return net(num_classes, in_chans, img_size).bfloat16()

class Ordered(nn.Module):
    # indices are held as a parameter, and are no weights

    def __init__(self, inner, classes):
        super().__init__()
        self.inner = inner
        self.order = nn.Parameter(torch.arange(classes).flip(0), requires_grad=False)

    def forward(self, x):
        return self.inner(x)[:, self.order]

def ordered(num_classes, in_chans, img_size):
    return Ordered(net(num_classes, in_chans, img_size), num_classes)

def broken(**kwargs):
    raise RuntimeError("no such layer")
"""


def test_a_users_file_is_read_anew_after_an_edit(tmp_path, monkeypatch):
    """Edit within a second, at equal length: compiled copies are compared by time and length alone."""
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    file = tmp_path / "mine.py"
    for hidden in (8, 4):
        file.write_text(SOURCE.replace("hidden=8", f"hidden={hidden}"))
        os.utime(file, (1_700_000_000, 1_700_000_000))
        assert build(arch(f"{file}:net"), (1, 8, 8), 10, 0)[1].out_features == hidden
    assert list(tmp_path.iterdir()) == [file]


def importing(folder):
    """Let this process import modules of `folder`, and compile them as outside of tests."""
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = False


def test_a_users_module_is_read_anew_after_an_edit(tmp_path):
    """Each import in its own process, with the compiled copy of the first beside it; also in a package."""
    package = tmp_path / "nets_of_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    file = package / "mine.py"

    def compiled():
        importing(tmp_path)
        importlib.import_module("nets_of_test.mine")  # as a script of the user's does, which compiles it

    def built():
        importing(tmp_path)
        model = build(arch("nets_of_test.mine:net"), (1, 8, 8), 10, 0)
        return model[1].out_features, sys.modules["nets_of_test.mine"].__name__

    for hidden in (8, 4):
        file.write_text(SOURCE.replace("hidden=8", f"hidden={hidden}"))
        os.utime(file, (1_700_000_000, 1_700_000_000))
        if hidden == 8:
            in_fork(compiled)
            assert list(package.glob("__pycache__/mine*.pyc"))
        assert in_fork(built) == (hidden, "nets_of_test.mine")


def test_a_worker_imports_a_module_once_that_its_package_imports_too(tmp_path):
    """A worker is given the fingerprint, so that nothing has imported the package before."""
    package = tmp_path / "package_of_test"
    package.mkdir()
    (package / "__init__.py").write_text("from .mine import net")
    file = package / "mine.py"
    file.write_text(SOURCE)
    asked = arch("package_of_test.mine:net")
    object.__setattr__(asked, "fingerprint", fingerprint_of(file.read_bytes()))

    def same():
        importing(tmp_path)
        factory = find_factory(pickle.loads(pickle.dumps(asked)))
        return factory is importlib.import_module("package_of_test").net

    assert in_fork(same)
    file.write_text(SOURCE + "# edited since\n")
    with pytest.raises(UserError, match=r"mine\.py was edited since the run was started"):
        in_fork(same)


def test_a_module_that_was_edited_since_its_import_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "edited_module_of_test.py"
    file.write_text(SOURCE)
    before = arch("edited_module_of_test:net")
    assert build(before, (1, 8, 8), 10, 0)[1].out_features == 8
    file.write_text(SOURCE.replace("hidden=8", "hidden=4"))
    now = arch("edited_module_of_test:net")
    with pytest.raises(UserError, match=rf"was edited since it was imported .*{now.fingerprint}\). Restart"):
        build(now, (1, 8, 8), 10, 0)
    # what was asked for then is there as it was
    assert build(before, (1, 8, 8), 10, 0)[1].out_features == 8


def test_a_file_edited_during_a_run_is_refused(tmp_path):
    """A run of hours opens it again in each worker."""
    file = tmp_path / "mine.py"
    file.write_text(SOURCE + "# seen by no test before\n")
    asked = arch(f"{file}:net")
    was = asked.fingerprint
    passed_on = pickle.loads(pickle.dumps(asked))
    file.write_text(SOURCE.replace("hidden=8", "hidden=5"))
    with pytest.raises(
        UserError, match=rf"mine.py was edited since the run was started \(fingerprint {was}, now"
    ):
        build(passed_on, (1, 8, 8), 10, 0)


def test_a_users_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(SOURCE)
    model = build(arch(f"{file}:net", hidden=4), (1, 8, 8), 10, 0)
    assert model[1].out_features == 4
    assert build(arch(f"{file}:ordered"), (1, 8, 8), 10, 0).order.dtype == torch.int64
    with pytest.raises(UserError, match=r"must return logits \[n, 10\], found \(2, 64\)"):
        build(arch(f"{file}:wrong"), (1, 8, 8), 10, 0)
    with pytest.raises(UserError, match=r"its weight '1.weight' is torch.bfloat16. Return it in"):
        build(arch(f"{file}:half"), (1, 8, 8), 10, 0)
    with pytest.raises(UserError, match=r"cannot be built for images 1 x 8 x 8 .*no such layer"):
        build(arch(f"{file}:broken"), (1, 8, 8), 10, 0)
    with pytest.raises(UserError, match=r"Unknown function in .*'nett'.*'net'"):
        build(arch(f"{file}:nett"), (1, 8, 8), 10, 0)
    (tmp_path / "bad.py").write_text("import nothing_like_this")
    with pytest.raises(UserError, match="cannot be imported: ModuleNotFoundError"):
        build(arch(f"{tmp_path / 'bad.py'}:net"), (1, 8, 8), 10, 0)


ANYBODYS = """
from collections import namedtuple
import torch
from torch import nn

Output = namedtuple("Output", ["logits", "aux_logits"])

class Net(nn.Module):
    def __init__(self, input_channels, n_classes=1000, *, image_size=224, out="tensor"):
        super().__init__()
        self.fc = nn.Linear(input_channels * image_size**2, n_classes)
        self.out = out

    def forward(self, x):
        y = self.fc(x.flatten(1))
        if self.out == "aux" and not self.training:
            return y
        return {"tensor": y, "tuple": (y, x), "dict": {"features": x, "logits": y}, "list": [[y]],
                "object": Output(y, x), "aux": Output(y, x)}[self.out]

class Auxiliary(Net):
    def __init__(self, input_channels, image_size, n_classes):
        super().__init__(input_channels, n_classes, image_size=image_size, out="aux")
        self.AuxLogits = nn.Identity()

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def passes_on(**kwargs):
    return inner(**kwargs)

def inner(num_classes, width=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, num_classes))

def wide(num_classes, channels=64):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, channels), nn.Linear(channels, num_classes))

def configured(config):
    return inner(config.classes)

def flat(num_classes):
    return nn.Flatten()
"""


@pytest.fixture
def anybodys(tmp_path):
    (tmp_path / "anybodys.py").write_text(ANYBODYS)
    return lambda name, **kwargs: build(
        arch(f"{tmp_path / 'anybodys.py'}:{name}", **kwargs), (1, 8, 8), 10, 0
    )


@pytest.mark.parametrize("out", ["tensor", "tuple", "dict", "list", "object"])
def test_a_class_gets_the_arguments_it_accepts_and_returns_logits(anybodys, out):
    model = anybodys("Net", out=out)
    assert isinstance(model(torch.zeros(3, 1, 8, 8)), torch.Tensor)
    assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    assert list(model.state_dict()) == ["fc.weight", "fc.bias"]


def test_logits_are_found_in_training_too(anybodys):
    model = anybodys("Auxiliary")
    assert model.train()(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_only_arguments_that_a_factory_accepts_are_passed(anybodys):
    assert anybodys("fixed")[1].in_features == 64
    assert anybodys("passes_on", width=4)[1].out_features == 4
    assert anybodys("wide")[1].out_features == 64  # `channels` is a width here
    with pytest.raises(BuildError, match="unexpected keyword argument 'widht'"):
        anybodys("passes_on", widht=4)


@pytest.mark.parametrize(
    ("name", "message"),
    [("configured", "argument: 'config'"), ("flat", r"logits \[n, 10\], found \(2, 64\)")],
)
def test_a_network_that_cannot_be_called_gets_a_wrapper(anybodys, name, message):
    with pytest.raises(UserError, match=message) as refused:
        anybodys(name)
    assert [line.strip() for line in str(refused.value).splitlines()[-3:]] == [
        f"from anybodys import {name}",
        "def net(num_classes, in_chans, img_size):",
        f"return {name}(...)",
    ]


def test_networks_of_torchvision_are_built():
    model = build(arch("torchvision.models.mobilenet_v3_small"), (3, 32, 32), 10, 0)
    assert model.classifier[-1].out_features == 10
    with pytest.raises(UserError, match=r"from torchvision\.models import ResNet") as refused:
        build(arch("torchvision.models:ResNet"), (3, 32, 32), 10, 0)
    assert "missing 2 required positional arguments" in str(refused.value)


def test_a_dotted_function_name_is_refused_with_the_right_form():
    with pytest.raises(UserError, match=r"is named torch\.nn:Linear"):
        build(arch("torch.nn.Linear"), (1, 8, 8), 10, 0)


def test_unknown_names_get_a_suggestion():
    with pytest.raises(UserError, match=r"Unknown architecture 'resnet_18'.*resnet18"):
        build(arch("resnet_18"), (3, 32, 32), 10, 0)


@pytest.mark.parametrize(
    ("norm", "parameters"),
    [
        # 13 convolutions of 3 x 3, one linear layer; two weights a channel of BatchNorm, or one bias
        (True, 14_710_464 + 5_130 + 2 * 4_224),
        (False, 14_710_464 + 5_130 + 4_224),
    ],
)
def test_vgg16_has_the_published_size(norm, parameters):
    model = build(arch("lmc_vgg16", norm=norm), (3, 32, 32), 10, 0)
    assert sum(p.numel() for p in model.parameters()) == parameters
    widths = [m.out_channels for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert widths == [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]


def test_vgg16_without_norm_keeps_the_variance_of_its_features():
    """Variance of the features stays of order one, through 13 layers of ReLU (arXiv 1502.01852)."""
    model = build(arch("lmc_vgg16", norm=False, width=16), (3, 32, 32), 10, 0)
    x = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert 0.1 < float(model.features(x).detach().pow(2).mean()) < 30


def test_lenet_has_the_published_size():
    """61,706 parameters on 28 x 28 grey images (LeCun et al. 1998, table of layers)."""
    model = build(arch("lmc_lenet"), (1, 28, 28), 10, 0)
    assert sum(p.numel() for p in model.parameters()) == 61_706
    norms = build(arch("lmc_lenet", norm=True), (1, 28, 28), 10, 0)
    assert sum(p.numel() for p in norms.parameters()) == 61_706 + 2 * (6 + 16 + 120 + 84)


# --- adapted to small images ---------------------------------------------------------------------


def adapted(name, adapt, **kwargs):
    return build(Architecture(name=name, recipe="r", kwargs=kwargs, adapt=adapt), (3, 32, 32), 10, 0)


def test_every_declared_adaptation_exists():
    assert ADAPT.keys() == ADAPTATIONS.keys()


def test_resnet18_with_a_small_stem_is_the_usual_one_of_cifar():
    """11,173,962 parameters, and features of 32, 16, 8 and 4 pixels."""
    model = adapted("resnet18", "small-stem")
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    sizes = [
        f.shape[-1] for f in model.forward_intermediates(torch.zeros(1, 3, 32, 32), intermediates_only=True)
    ]
    assert sizes[-4:] == [32, 16, 8, 4]


@pytest.mark.parametrize(
    ("name", "downsampled"),
    [("regnetx_002", 16), ("convnext_atto", 8), ("nf_resnet26", 8), ("nf_regnet_b0", 16), ("resnet18", 8)],
)
def test_a_small_stem_keeps_the_resolution_and_follows_the_seed(name, downsampled):
    model = adapted(name, "small-stem")
    with torch.no_grad():
        features = model.forward_features(torch.zeros(1, 3, 32, 32))
    assert features.shape[-1] == 32 // downsampled
    again = adapted(name, "small-stem").state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())


def test_standardised_weights_keep_their_scale_when_the_kernel_shrinks():
    """Variance out = variance in for white images, whatever the kernel: the scale is one over root fan in."""
    model = adapted("nf_resnet26", "small-stem")
    published = build(arch("nf_resnet26"), (3, 32, 32), 10, 0)
    fan = 3 * 7 * 7, 3 * 3 * 3
    assert model.stem.conv.scale == pytest.approx(published.stem.conv.scale * (fan[0] / fan[1]) ** 0.5)


def test_patches_of_four_pixels():
    """As many tokens as keyword arguments give a ViT: 8 x 8."""
    model = adapted("mixer_s32_224", "patch4")
    assert model.stem.proj.kernel_size == model.stem.proj.stride == (4, 4)
    assert model.blocks[0].mlp_tokens.fc1.in_features == 64
    assert build(arch("vit_tiny_patch16_224", patch_size=4), (3, 32, 32), 10, 0).patch_embed.num_patches == 64


def test_networks_that_cannot_be_adapted_are_refused():
    with pytest.raises(UserError, match="small-stem needs a network that begins with a convolution"):
        adapted("lmc_mlp", "small-stem")
    with pytest.raises(UserError, match="patch4 needs a network that projects patches"):
        adapted("resnet18", "patch4")


@cache
def published_networks():
    """Every architecture of a published suite at the size of its images."""
    found = {}
    for name in published_suites():
        suite = load_suite(name)
        shape = SOURCES[suite.data.name].shape
        found |= {(a.label, shape): a for a in suite.architectures}
    return found


@pytest.mark.parametrize(("label", "shape"), published_networks())
def test_every_network_of_a_published_suite_can_be_built_and_learns_from_every_weight(label, shape):
    model = build(published_networks()[label, shape], shape, 10, 0).train()
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    torch.nn.functional.cross_entropy(model(images), torch.arange(2)).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert missing == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_an_error_can_be_pickled():
    unfit = BuildError("cannot be built: too small", "too small")
    again = pickle.loads(pickle.dumps(unfit))
    assert (str(again), again.reason, again.exit_code) == ("cannot be built: too small", "too small", 2)


def test_a_factory_that_returns_no_network_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("def net(num_classes, in_chans):\n    pass\n")
    with pytest.raises(BuildError, match=r"classes: it returned NoneType, no torch\.nn\.Module"):
        build(arch(f"{tmp_path / 'mine.py'}:net"), (1, 8, 8), 10, 0)


EXITS = """\
import sys
from torch import nn

def called(num_classes, in_chans):
    sys.exit(3)

class Net(nn.Module):
    def forward(self, x):
        sys.exit("no licence")

def interrupted(num_classes, in_chans):
    from lmcbench.running.attempt import Interrupted
    raise Interrupted(15)
"""


@pytest.mark.parametrize(("name", "line"), [("called", 5), ("Net", 9)])
def test_a_factory_that_ends_the_process_is_refused(tmp_path, name, line):
    (tmp_path / "mine.py").write_text(EXITS)
    with pytest.raises(BuildError, match=rf"the code ends its process .* \(mine\.py, line {line}\)"):
        build(arch(f"{tmp_path / 'mine.py'}:{name}"), (1, 8, 8), 10, 0)


def test_a_signal_while_a_network_is_built_ends_the_process(tmp_path):
    (tmp_path / "mine.py").write_text(EXITS)
    with pytest.raises(Interrupted):
        build(arch(f"{tmp_path / 'mine.py'}:interrupted"), (1, 8, 8), 10, 0)
