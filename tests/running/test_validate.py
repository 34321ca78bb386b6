"""One misfit among many cells is refused before anything is trained, and named."""

import hashlib
import json

import numpy as np
import pytest

from lmcbench.data.open_dataset import open_dataset
from lmcbench.data.selection import select
from lmcbench.data.transforms import apply_transform
from lmcbench.errors import UserError
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.plan import plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.cells import Selection, expand
from lmcbench.spec.seeds import Seeds
from lmcbench.spec.shift_rules import by_class
from lmcbench.spec.suite_files import parse_suite
from lmcbench.spec.suite_tables import DataSpec

SUITE = """
name = "misfit"
version = 1
description = "a shift or a recipe that does not suit digits"
shifts = ["none", {shift}]
forks = [0]
replicates = 1
{more}
[data]
name = "digits"
train_size = 240
[protocol]
alphas = 3
calibration = 50
[recipes.small]
lr = 0.1
batch_size = 8
epochs = 1
[recipes.large]
lr = 0.1
batch_size = {batch}
epochs = 1
[[architectures]]
name = "lmc_linear"
recipe = "small"
[[architectures]]
name = "lmc_mlp"
recipe = "large"
"""


def run(root, shift='"same-half"', batch=32, more="", **selection):
    suite = parse_suite(SUITE.format(shift=shift, batch=batch, more=more).encode(), "misfit.toml")
    folder = RunFolder(root)
    plan = plan_run(expand(suite, Selection(**selection)), folder)
    return list(run_plan(plan, folder, data_dir=None, device="cpu", jobs=1))


def test_a_record_has_the_digest_of_transformed_bytes(tmp_path):
    run(tmp_path / "run", shift='"corruption", "rotation"', architectures=["lmc_linear"], replicates=range(2))
    found = {}
    for path in (tmp_path / "run" / "records").iterdir():
        record = json.loads(path.read_bytes())
        found[record["shift"]["name"], record["replicate"]] = record
    data = select(open_dataset("digits"), DataSpec(name="digits", train_size=240))
    order = by_class(data.train.labels, np.arange(240))
    for (shift, replicate), record in found.items():
        name = {"corruption": "gaussian_noise-3", "rotation": "rotate-30", "none": None}[shift]
        if name is None:
            assert "views_pixels" not in record
            continue
        seed = Seeds.of("misfit", 1, replicate, 2).shift
        shown = apply_transform(name, data.train.images[order], order, seed)
        assert record["views_pixels"] == {name: hashlib.sha256(shown.tobytes()).hexdigest()}
    # the name of a transform is the same in every replicate, its draws are not
    digests, pixels = (
        [found["corruption", r][key] for r in (0, 1)] for key in ("views_digest", "views_pixels")
    )
    assert digests[0] == digests[1]
    assert pixels[0] != pixels[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch": 150},
            "shift same-half, replicate 0: a sibling sees 120 images, fewer than one batch of recipe large",
        ),
        (
            {"shift": '{ name = "channels", params = { groups = "0/1" } }'},
            "Suite misfit, shift channels.*: Transform channels-1: the images have 1 channel",
        ),
        (
            {"more": 'evaluations = ["channels-1"]'},
            "Suite misfit, evaluation shift channels-1: Transform channels-1: the images have 1 channel",
        ),
    ],
)
def test_a_misfit_is_named_before_anything_is_trained(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_only_what_is_asked_for_must_fit(tmp_path):
    assert run(tmp_path / "run", batch=150, architectures=["lmc_linear"], shifts=["same-half"])
    assert run(tmp_path / "run", batch=150, architectures=["lmc_mlp"], shifts=["none"])
