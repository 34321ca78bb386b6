"""The readiness check: each fault fails its own check, and no other."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
import torch

from lmcbench.check.check import Readiness, Target, conclusion, find_targets, row_texts, run_checks
from lmcbench.check.checks import CHECKS
from lmcbench.check.trial import FALL, IMAGES, Size, find_fit, made_up_images
from lmcbench.errors import UserError
from lmcbench.spec.architectures import Architecture, parse_architecture
from lmcbench.spec.suite_files import published_suites

torch.set_num_threads(1)

DIGITS = Size((1, 8, 8), 10)

HEAD = """
import random
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def __init__(self, inputs, classes, norm=True):
        super().__init__()
        self.first = nn.Linear(inputs, 16)
        self.norm = nn.BatchNorm1d(16) if norm else nn.Identity()
        self.last = nn.Linear(16, classes)

    def features(self, x):
        return F.relu(self.norm(self.first(x.flatten(1))))

    def forward(self, x):
        return self.last(self.features(x))

def sound(num_classes, in_chans, img_size, norm=True):
    return Net(in_chans * img_size**2, num_classes, norm)
"""


def of(body, name="net"):
    """A file with a network whose class `Mine` derives from a sound one."""
    return (
        f"{HEAD}\n\nclass Mine(Net):\n{body}\n\n"
        f"def {name}(num_classes, in_chans, img_size):\n"
        "    return Mine(in_chans * img_size**2, num_classes)\n"
    )


FAULTS = {
    "logits: a batch of one": (
        "logits",
        "    def forward(self, x):\n        return super().forward(x).squeeze(0)",
        r"1 image must give logits \[1, 10\], found \(10,\)",
    ),
    "logits: features": (
        "logits",
        "    def forward(self, x):\n        return self.features(x)",
        r"must return logits \[n, 10\], found \(2, 16\)",
    ),
    "logits: a dictionary without them": (  # tuples whose first item they are, are accepted: test_build
        "logits",
        "    def forward(self, x):\n        return {'features': self.features(x)}",
        r"must return logits \[n, 10\], found dict",
    ),
    "logits: integers": (
        "logits",
        "    def forward(self, x):\n        return super().forward(x).long()",
        r"logits must be floating, found torch\.int64",
    ),
    "logits: probabilities": (
        "logits",
        "    def forward(self, x):\n        return super().forward(x).softmax(-1)",
        "the outputs are probabilities",
    ),
    "seeds: NumPy": (
        "seeds",
        "    def __init__(self, *sizes):\n        super().__init__(*sizes)\n"
        "        self.last.bias.data += float(np.random.rand())",
        "two networks built from one seed differ in last.bias",
    ),
    "seeds: its own": (
        "seeds",
        "    def __init__(self, *sizes):\n        torch.manual_seed(0)\n        super().__init__(*sizes)",
        "networks built from different seeds are equal",
    ),
    "repeatable: dropout in eval mode": (
        "repeatable",
        "    def features(self, x):\n        return F.dropout(super().features(x))",
        "in eval mode the same images give other logits the second time",
    ),
    "repeatable: a buffer that follows": (
        "repeatable",
        "    def __init__(self, *sizes):\n        super().__init__(*sizes)\n"
        "        self.register_buffer('seen', torch.zeros(()))\n\n"
        "    def features(self, x):\n        self.seen += 1\n        return super().features(x)",
        "seen changes in eval mode",
    ),
    "generators: torch is seeded": (
        "generators",
        "    def features(self, x):\n        torch.manual_seed(3)\n        return super().features(x)",
        "it seeds torch's global generator in its forward pass",
    ),
    "generators: NumPy": (
        "generators",
        "    def features(self, x):\n        scale = 1 + 0.01 * np.random.rand() if self.training else 1\n"
        "        return super().features(x) * scale",
        r"it draws from NumPy's global generator",
    ),
    "generators: Python": (
        "generators",
        "    def features(self, x):\n        scale = 1 + 0.01 * random.random() if self.training else 1\n"
        "        return super().features(x) * scale",
        r"it draws from Python's global generator",
    ),
    "learns: detached": (
        "learns",
        "    def forward(self, x):\n        x = super().forward(x)\n        return x - x.detach() + 0 * x",
        r"the loss does not fall: SGD 2\.30 to 2\.30 nats in 32 steps; AdamW",
    ),
    "learns: a pair in training": (
        "learns",
        "    def forward(self, x):\n        x = super().forward(x)\n"
        "        return (x, x) if self.training else x",
        r"8 images must give logits \[8, 10\] in training mode, found tuple",
    ),
    "learns: frozen": (
        "learns",
        "    def __init__(self, *sizes):\n        super().__init__(*sizes)\n"
        "        self.requires_grad_(False)",
        "no weight is trained: requires_grad is False for all of them",
    ),
    "learns: not finite in training": (
        "learns",
        "    def forward(self, x):\n        return super().forward(x) / (0 if self.training else 1)",
        "SGD: the loss is not finite after 4 steps",
    ),
    "learns: fails in training": (
        "learns",
        "    def forward(self, x):\n        if self.training:\n            raise RuntimeError('not today')\n"
        "        return super().forward(x)",
        None,
    ),
    "state: a weight made late": (
        "state",
        "    def features(self, x):\n        if self.training and not hasattr(self, 'late'):\n"
        "            self.late = nn.Parameter(torch.ones(()))\n        return super().features(x)",
        "late is created or removed in training",
    ),
    "state: a statistic that is not saved": (
        "state",
        "    def __init__(self, *sizes):\n        super().__init__(*sizes)\n"
        "        self.register_buffer('mean', torch.zeros(()), persistent=False)\n\n"
        "    def features(self, x):\n        x = super().features(x)\n        if self.training:\n"
        "            self.mean.copy_(x.detach().mean())\n        return x * (1 + self.mean)",
        "saved and loaded, it gives other logits",
    ),
    "forks: a counter": (
        "forks",
        "    count = 0\n\n    def features(self, x):\n        self.count += self.training\n"
        "        return super().features(x) * (1 + 0.1 * self.count * self.training)",
        "a trunk to step 2 and a sibling from there differ from one run to 4 in",
    ),
    "blends: integers that differ": (
        "blends",
        "    def __init__(self, *sizes):\n        super().__init__(*sizes)\n"
        "        self.register_buffer('sums', torch.zeros((), dtype=torch.int64))\n\n"
        "    def features(self, x):\n        if self.training:\n"
        "            self.sums += (1000 * x.double().cumsum(0).abs()).long().sum()\n"
        "        return super().features(x)",
        r"'sums' is torch\.int64, cannot be blended, and differs between the states",
    ),
    "alone: a batch's own statistics": (
        "alone",
        "    def __init__(self, *sizes):\n        super().__init__(*sizes)\n"
        "        self.norm = nn.LayerNorm(16)\n\n"
        "    def features(self, x):\n        x = super().features(x)\n"
        "        return x - x.mean(0, keepdim=True)",
        "the logits of an image depend on the others in its batch",
    ),
}


def look(name, size=DIGITS, **kwargs):
    readiness = Readiness(parse_architecture(str(name), "none", kwargs), Target(size))
    assert list(run_checks(readiness)) == readiness.results
    return readiness


def statuses(readiness):
    return {result.check: result.status for result in readiness.results}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_its_own_check_and_says_what_to_do(tmp_path, fault):
    name, body, message = FAULTS[fault]
    file = tmp_path / "mine.py"
    file.write_text(of(body))
    readiness = look(f"{file}:net")
    [failed] = [result for result in readiness.results if result.status == "failed"]
    assert failed.check == name
    if message is None:  # the network's own error, and where in its file it was raised
        assert failed.found.startswith("RuntimeError: not today (mine.py, line ")
        line = int(failed.found.rpartition(" ")[2].removesuffix(")"))
        assert "raise" in file.read_text().splitlines()[line - 1]
    else:
        assert re.search(message, failed.found), failed.found
    assert failed.todo == CHECKS[name].todo
    assert not readiness.is_ready
    said = " ".join(conclusion(readiness).split())
    assert f"mine.py:net is not ready for 1 x 8 x 8, 10 classes. What to do: {name}: " in said
    needy = {n for n, entry in CHECKS.items() if name in entry.needs}
    assert all(statuses(readiness)[n] == "not tried" for n in needy)


def test_every_check_has_a_network_that_fails_it():
    tested = {name for name, _, _ in FAULTS.values()}
    # these fail only where lmcbench, or torch, does
    assert CHECKS.keys() - tested == {"recalibrates", "engines", "cost"}
    order = list(CHECKS)
    for name, entry in CHECKS.items():
        assert all(order.index(need) < order.index(name) for need in entry.needs)


def test_a_sound_network_passes_and_leaves_no_trace(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(HEAD)
    torch.manual_seed(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    readiness = look(f"{file}:sound")
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tobytes())
    assert readiness.is_ready
    assert list(statuses(readiness)) == ["builds", *CHECKS]
    assert set(statuses(readiness).values()) == {"passed"}
    found = {result.check: result for result in readiness.results}
    assert found["cost"].data["params"] == 65 * 16 + 2 * 16 + 17 * 10
    # forward and backward: 2 FLOPs a weight each; three products, but none for the gradient of the images
    assert found["cost"].data["train_flop_per_image"] == 2 * (2 * 64 * 16 + 3 * 16 * 10)
    assert found["engines"].data == {"stacked": True, "reason": None}
    assert found["learns"].data["optimizers"] == ["SGD", "AdamW"]
    losses = found["learns"].data["losses"]["SGD"]
    assert losses[-1] <= FALL * losses[0] < losses[0]
    assert json.loads(json.dumps(readiness.to_json(), allow_nan=False))["ready"] is True
    plain = look(f"{file}:sound", norm=False)
    assert plain.is_ready
    assert statuses(plain)["recalibrates"] == "not needed"


def test_statistics_that_are_not_recalibrated_get_a_note(tmp_path):
    file = tmp_path / "mine.py"
    body = (
        "    def __init__(self, *sizes):\n        super().__init__(*sizes)\n"
        "        self.register_buffer('mean', torch.zeros(16))\n\n"
        "    def features(self, x):\n        x = super().features(x)\n        if self.training:\n"
        "            self.mean.lerp_(x.detach().mean(0), 0.1)\n        return x - self.mean"
    )
    file.write_text(of(body))
    readiness = look(f"{file}:net")
    assert readiness.is_ready
    [found] = [f.found for f in readiness.results if f.check == "recalibrates"]
    assert found == "1 BatchNorm layer; mean changes in training and is interpolated, not recalibrated"


def test_dropout_is_not_stacked(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        of("    def features(self, x):\n        return F.dropout(super().features(x), 0.1, self.training)")
    )
    readiness = look(f"{file}:net")
    assert readiness.is_ready
    [engines] = [result for result in readiness.results if result.check == "engines"]
    assert not engines.data["stacked"]
    assert engines.found.startswith("reference; not stacked: ")


# --- sizes and adaptations -----------------------------------------------------------------------


def test_the_first_that_fits_is_taken():
    resnet = Architecture(name="resnet10t", recipe="none")
    assert find_fit(resnet, DIGITS).architecture == resnet
    vit = find_fit(Architecture(name="test_vit", recipe="none"), DIGITS)
    assert vit.architecture.adapt == "patch4"
    assert "Input height (8) should be divisible by patch size (16)" in vit.refused["as it is"]
    asked = find_fit(resnet.model_copy(update={"adapt": "small-stem"}), DIGITS)
    assert asked.architecture.adapt == "small-stem"
    assert asked.others == ()
    refused = find_fit(Architecture(name="lmc_mlp", recipe="none", adapt="patch4"), DIGITS)
    assert refused.architecture is None
    assert list(refused.refused) == ["patch4"]


def test_a_network_that_does_not_fit_gets_a_size_that_fits(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n\ndef big(num_classes, in_chans):\n"
        "    return nn.Sequential(nn.MaxPool2d(20), nn.Flatten(), nn.LazyLinear(num_classes))\n"
    )
    readiness = look(f"{file}:big")
    assert statuses(readiness)["builds"] == "failed"
    assert set(statuses(readiness).values()) == {"failed", "not tried"}
    [builds] = [result for result in readiness.results if result.check == "builds"]
    assert f"It can be built for 1 x 28 x 28, 10 classes: lmcbench check {file}:big --suite" in builds.todo
    assert len(builds.found.splitlines()) == 1


def test_sizes_come_from_the_suites_and_each_is_checked_once():
    sizes = find_targets(["digits", "cifar10-fork", "cifar10-shift"])
    assert [(t.size, len(t.suites)) for t in sizes] == [(DIGITS, 1), (Size((3, 32, 32), 10), 2)]
    [changed] = find_targets(["digits"], image_size=16, classes=7)
    assert changed == Target(Size((1, 16, 16), 7))
    with pytest.raises(UserError, match=r"Unknown suite 'digitz'. Did you mean 'digits'"):
        find_targets(["digitz"])


def test_made_up_images_are_separable_and_always_the_same():
    images, labels = made_up_images(Size((3, 10, 6), 10))
    assert (images.shape, images.dtype, sorted(set(labels.tolist()))) == (
        (IMAGES, 3, 10, 6),
        np.uint8,
        [0, 1, 2, 3],
    )
    assert np.array_equal(images, made_up_images(Size((3, 10, 6), 10))[0])
    means = np.stack([images[labels == k].mean(0) for k in range(4)])
    near = ((images[:, None] - means[None]) ** 2).sum((2, 3, 4)).argmin(1)
    assert np.array_equal(near, labels)
    assert set(made_up_images(Size((1, 8, 8), 2))[1].tolist()) == {0, 1}


# --- the command ---------------------------------------------------------------------------------


def test_ready_exits_0_with_the_next_command(lmcbench):
    code, out, err = lmcbench("check", "lmc_mlp")
    assert (code, err) == (0, "")
    assert out.startswith("lmc_mlp for images 1 x 8 x 8, 10 classes (suite digits)\n  ok          builds ")
    assert out.endswith(
        "lmc_mlp is ready for 1 x 8 x 8, 10 classes.\nRun it: lmcbench run digits --arch lmc_mlp\n"
    )
    _, out, _ = lmcbench("check", "lmc_lenet", "--image-size", "16")
    assert "Run it" not in out


def test_the_next_command_holds_the_arguments(lmcbench):
    code, out, _ = lmcbench("check", "lmc_mlp", "--arch-kwargs", "width=16")
    assert code == 0
    assert "Run it: lmcbench run digits --arch 'lmc_mlp(width=16)' --recipe RECIPE (one of linear," in out


def test_the_next_command_for_an_own_suite_names_its_file(lmcbench, tmp_path):
    text = published_suites()["digits"].read_text()
    (tmp_path / "mine.toml").write_text(text.replace('name = "digits"', 'name = "mine"', 1))
    code, out, _ = lmcbench("check", "lmc_linear", "--suite", tmp_path / "mine.toml")
    assert code == 0
    assert out.endswith("Run it: lmcbench run FILE.toml --arch lmc_linear\n")


def test_code_beside_a_network_is_named(lmcbench, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "beside_mine.py").write_text("WIDTH = 8\n")
    (tmp_path / "mine.py").write_text("from beside_mine import WIDTH\n" + of("    pass"))
    code, out, _ = lmcbench("check", "mine.py:net")
    assert code == 0
    assert "cannot be submitted while it imports beside_mine.py beside it" in " ".join(out.split())


def test_not_ready_exits_1_and_json_is_all_of_standard_output(lmcbench, tmp_path):
    text = of("    def forward(self, x):\n        print('noise')\n        return self.features(x)")
    (tmp_path / "mine.py").write_text(text)
    code, out, err = lmcbench("check", "mine.py:net", "--json")
    assert code == 1
    assert "noise" in err
    found = json.loads(out)
    assert (found["name"], found["ready"]) == ("mine.py:net", False)
    [size] = found["sizes"]
    assert (size["shape"], size["classes"], size["suites"]) == ([1, 8, 8], 10, ["digits"])
    assert {c["check"]: c["status"] for c in size["checks"]}["logits"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet_18",), "Unknown architecture 'resnet_18'. Did you mean 'resnet18'"),
        (("resnet18+smallstem",), "Unknown adaptation 'smallstem'. Did you mean 'small-stem'?"),
        (("typo.py:net",), "typo.py cannot be imported: SyntaxError: expected ':' (typo.py, line 3)"),
        (
            ("late.py:net",),
            "late.py cannot be imported: NameError: name 'nn' is not defined (late.py, line 2)",
        ),
        (("made.py:net",), "made.py:net is a network that is already built"),
        (
            ("leaves.py:net",),
            "leaves.py cannot be imported: RuntimeError: the code ends its process (exit code 0) (leaves.py, "
            "line 2)",
        ),
        (("typo:net",), "Module typo cannot be imported: SyntaxError: expected ':' (typo.py, line 3)"),
        (("none.py:net",), "none.py does not exist"),
        (("no_such_module:net",), "'no_such_module' is not on the import path"),
        (("lmc_mlp", "--suite", "digitz"), "Unknown suite 'digitz'. Did you mean 'digits'"),
        (("lmc_mlp", "--arch-kwargs", "width"), "write NAME=VALUE"),
    ],
)
def test_bad_input_exits_2_with_one_message(lmcbench, tmp_path, monkeypatch, arguments, message):
    (tmp_path / "typo.py").write_text("from torch import nn\n\ndef net(num_classes)\n    pass\n")
    (tmp_path / "late.py").write_text("import torch\nx = nn.Linear\n")
    (tmp_path / "made.py").write_text("from torch import nn\nnet = nn.Linear(64, 10)\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    code, out, err = lmcbench("check", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_rows_are_wrapped_and_what_was_not_tried_is_one():
    readiness = look("lmc_linear+patch4")
    assert "Without +patch4, any adaptation that fits is used: lmcbench check lmc_linear." in conclusion(
        readiness
    )
    assert "lmcbench check 'lmc_mlp(width=8)'." in conclusion(look("lmc_mlp+patch4(width=8)"))
    rows = list(row_texts(readiness.results))
    assert all(len(line) <= 110 for row in rows for line in row.splitlines())
    assert [row.split()[0] for row in rows] == ["FAILED", "not"]
    assert " ".join(rows[1].split()) == f"not tried {', '.join(CHECKS)}: builds must pass first"
    assert len(list(row_texts(look("lmc_linear").results))) == 1 + len(CHECKS)
