"""Siblings whose images are standardised by their own view's statistics (docs/design.md, section 9.5)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from lmcbench.connect.blending import interpolate
from lmcbench.data.batches import Feed
from lmcbench.data.dataset import ImageSet
from lmcbench.data.selection import open_suite_data, select_calibration
from lmcbench.data.transforms import apply_transform
from lmcbench.errors import UserError
from lmcbench.results.record import Record
from lmcbench.results.record_files import read_records
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.family_data import prepare
from lmcbench.running.plan import plan_run
from lmcbench.running.run import expand_views, run_plan
from lmcbench.running.siblings import make_siblings
from lmcbench.spec.cells import expand, families
from lmcbench.spec.shifts import Shift
from lmcbench.spec.suite_files import parse_suite
from lmcbench.train.build import build
from lmcbench.train.train_state import load_tensors

SUITE = """
name = "own"
version = 1
description = "for tests"
shifts = [{shifts}]
forks = {forks}
siblings = {siblings}
replicates = 1
evaluations = ["rotate-15"]
[data]
name = "digits"
train_size = 240
test_size = 60
[protocol]
alphas = 5
calibration = 50
[recipes.short]
lr = 0.1
batch_size = 24
epochs = 2
[[architectures]]
name = "{network}"
recipe = "short"
kwargs = {kwargs}
"""
OWN = '{ name = "own-normalisation", params = { views = "%s" } }'


def suite(*shifts, network="lmc_resnet", forks="[1]", siblings=2):
    kwargs = "{ width = 4, stem_stride = 2 }" if network == "lmc_resnet" else "{ width = 16, depth = 1 }"
    listed = ", ".join(OWN % shift if "{" not in shift and "'" not in shift else shift for shift in shifts)
    text = SUITE.format(
        shifts=listed.replace("'", '"'), network=network, kwargs=kwargs, forks=forks, siblings=siblings
    )
    return parse_suite(text.encode(), "own.toml")


def run(chosen, root) -> dict[str, Record]:
    """Run a suite; its records by shift."""
    folder = RunFolder(root)
    list(run_plan(plan_run(expand(chosen), folder), folder, data_dir=None, device="cpu", jobs=1))
    records = list(read_records(root))
    assert [r.reason for r in records] == [None] * len(records)
    return {f"{r.shift.name}/{r.fork.name}": r for r in records}


def statistics(pixels):
    return (pixels / 255).mean(), (pixels / 255).std()


def held_items(chosen, data):
    """Positions of the calibration images in the training set."""
    [family] = families(expand(chosen))
    held = prepare(family, expand_views([family], data)[0], data, torch.device("cpu"))
    views = held.views[family.cells[0].key].items
    return held.pool.source[select_calibration(views, held.pool.source, held.pool.labels, 50)]


def recalibrated(model, state, pixels, mean, std):
    """The state with the statistics that BatchNorm computes in training mode, in one pass."""
    model.load_state_dict(state)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for module in norms:
        module.train()
        module.momentum = 1.0
    with torch.no_grad():
        model(torch.tensor((pixels / 255 - mean) / std, dtype=torch.float32))
    model.eval()
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(("network", "siblings"), [("lmc_mlp", 3), ("lmc_resnet", 2)])
def test_every_point_sees_images_standardised_by_the_statistics_at_this_point(tmp_path, network, siblings):
    chosen = suite("label-skew", network=network, siblings=siblings)
    record = run(chosen, tmp_path / "r")["own-normalisation/1"]
    data = open_suite_data(chosen)
    views = Shift.parse("label-skew").views(data.train.labels, siblings, record.seeds["shift"], 0)
    own = [statistics(data.train.images[v.indices].astype(np.float64)) for v in views]
    assert len({mean for mean, _ in own}) == siblings
    [cell] = expand(chosen)
    model = build(cell.architecture, data.shape, len(data.classes), 0).eval()
    folder = RunFolder(tmp_path / "r")
    states = [load_tensors(folder.sibling(record.key, i)) for i in range(siblings)]
    labels = torch.tensor(data.test.labels)

    def losses(state, mean, std, pixels=data.test.images):
        model.load_state_dict(state)
        images = torch.tensor((pixels / 255 - mean) / std, dtype=torch.float32)
        with torch.no_grad():
            return float(F.cross_entropy(model(images), labels))

    rotated = apply_transform("rotate-15", data.test.images, np.arange(60), 0)
    for i, state in enumerate(states):
        splits = record.siblings[i].splits
        assert splits["test"].loss == pytest.approx(losses(state, *own[i]), abs=1e-5)
        assert splits["test:rotate-15"].loss == pytest.approx(losses(state, *own[i], rotated), abs=1e-5)
    # by the whole training set's statistics they are others
    usual = [losses(state, *data.statistics) for state in states]
    assert max(abs(s.splits["test"].loss - x) for s, x in zip(record.siblings, usual, strict=True)) > 1e-4
    pair = record.pairs[0]
    assert {"test", "test_a", "test_b"} < pair.curves.keys()
    for split, held in (("test_a", own[0]), ("test_b", own[1])):
        ends = pair.curves[split].loss
        assert ends[0] == pytest.approx(losses(states[0], *held), abs=1e-5)
        assert ends[-1] == pytest.approx(losses(states[1], *held), abs=1e-5)
    stored = pair.curves_uncalibrated if network == "lmc_resnet" else pair.curves
    for at, alpha in enumerate((0, 0.25, 0.5, 0.75, 1)):
        between = [(1 - alpha) * a + alpha * b for a, b in zip(*own[:2], strict=True)]
        there = losses(interpolate(states[0], states[1], alpha), *between)
        assert stored["test"].loss[at] == pytest.approx(there, abs=1e-5)
    if network == "lmc_resnet":  # between the ends, statistics are those of calibration images seen likewise
        items = held_items(chosen, data)
        shown = data.train.images[items]
        assert len(items) == 50
        middle = [(a + b) / 2 for a, b in zip(*own, strict=True)]
        fresh = recalibrated(model, interpolate(*states, 0.5), shown, *middle)
        assert pair.curves["test"].loss[2] == pytest.approx(losses(fresh, *middle), abs=1e-5)
        assert record.soup["test"].loss == pytest.approx(losses(fresh, *middle), abs=1e-5)
        for i, end in enumerate(states):
            fresh = recalibrated(model, end, shown, *own[i])
            loss = record.siblings[i].recalibrated["test"].loss
            assert loss == pytest.approx(losses(fresh, *own[i]), abs=1e-5)
            usual = recalibrated(model, end, shown, *data.statistics)
            assert abs(loss - losses(usual, *own[i])) > 1e-4
    if network == "lmc_mlp":
        mean = [sum(values) / siblings for values in zip(*own, strict=True)]
        soup = {name: sum(s[name].double() for s in states).float() / siblings for name in states[0]}
        assert record.soup["test"].loss == pytest.approx(losses(soup, *mean), abs=1e-5)


def test_statistics_of_the_whole_set_are_the_usual_ones(tmp_path):
    """Views without a shift: the same networks and numbers as without own statistics, bit for bit."""
    found = run(suite("none", "'none'", network="lmc_mlp", forks='[0, "whole-budget"]'), tmp_path / "r")
    for fork in ("0", "whole-budget"):
        own, usual = found[f"own-normalisation/{fork}"], found[f"none/{fork}"]
        assert own.siblings == usual.siblings
        assert own.key != usual.key
        assert own.views_digest != usual.views_digest
    own, usual = found["own-normalisation/0"], found["none/0"]
    for split in ("train", "test", "test:rotate-15"):
        assert own.pairs[0].curves[split] == usual.pairs[0].curves[split]
        assert own.pairs[0].curves.get("test_a") == own.pairs[0].curves["test"]
    assert (own.soup, own.ensemble, own.noise) == (usual.soup, usual.ensemble, usual.noise)


def test_siblings_are_trained_on_images_standardised_by_their_own_view():
    chosen = suite("label-skew", "'label-skew'", network="lmc_mlp")
    [family] = families(expand(chosen))
    data = open_suite_data(chosen)
    held = prepare(family, expand_views([family], data)[0], data, torch.device("cpu"))
    own, usual = (make_siblings(family, cell, held) for cell in family.cells)
    assert own[0].identity != usual[0].identity
    feed = Feed(held.train, [s.stream for s in (*own, *usual)], ())
    images, labels = next(feed(range(4), 0, 1))
    mean, std = data.statistics
    for i in (0, 1):
        assert torch.equal(labels[i], labels[2 + i])
        view = data.train.images[held.views[family.cells[1].key].items[i]]
        m, s = statistics(view.astype(np.float64))
        pixels = images[2 + i].double() * std[0] + mean[0]
        assert images[i].double() == pytest.approx((pixels - m) / s, abs=1e-5)


def test_a_view_with_a_constant_channel_cannot_be_standardised():
    """A channel that a view does not show is constant."""
    data = open_suite_data(suite("none"))
    colours = np.repeat(data.train.images, 3, axis=1)
    tests = np.repeat(data.test.images, 3, axis=1)
    three = replace(
        data, train=ImageSet(colours, data.train.labels), test=ImageSet(tests, data.test.labels), shifted={}
    )
    [family] = families(expand(suite("channels")))
    with pytest.raises(
        UserError, match=r"own-normalisation\[views=channels\], sibling 0: channel 1 is const"
    ):
        prepare(family, expand_views([family], three)[0], three, torch.device("cpu"))


def test_the_shift_takes_other_shifts_only_and_no_analyses():
    with pytest.raises(UserError, match="Unknown shift whose views own-normalisation takes 'nothing'"):
        Shift.parse("own-normalisation", {"views": "nothing"})
    with pytest.raises(UserError, match="own-normalisation takes 'own-normalisation'"):
        Shift.parse("own-normalisation", {"views": "own-normalisation"})
    text = (
        SUITE.format(shifts=OWN % "none", network="lmc_linear", kwargs="{}", forks="[0]", siblings=2)
        + '[probe]\nshifts = ["own-normalisation[views=none]"]\n'
    )
    with pytest.raises(UserError, match="analyses need one standardisation of the images"):
        parse_suite(text.encode(), "own.toml")
