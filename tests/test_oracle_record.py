"""A whole record, recomputed naively: plain torch and NumPy on the stored weights, from the contract alone.

Of lmcbench only the networks and the views are used. Every other number is derived anew and by loops, so
that a formula changed on one side, or a split, a list of images or a statistic mixed up, shows here.
"""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.numpy import load_file as arrays
from safetensors.torch import load_file
from sklearn import datasets

from lmcbench.results.run_folder import RunFolder
from lmcbench.running.plan import plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.cells import expand
from lmcbench.spec.shifts import Shift
from lmcbench.spec.suite_files import parse_suite
from lmcbench.train.networks import lmc_resnet

torch.set_num_threads(1)

SUITE = """
name = "oracle"
version = 1
description = "one small family"
shifts = ["label-skew"]
forks = [1]
replicates = 1

[data]
name = "digits"

[protocol]
alphas = 5
calibration = 200
train_eval = 300

[probe]
shifts = ["label-skew"]
images = 100

[recipes.quick]
lr = 0.1
batch_size = 32
epochs = 2

[[architectures]]
name = "lmc_resnet"
recipe = "quick"
kwargs = { width = 4, stem_stride = 2 }
"""
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
CLASSES = 10
STEPS = 45
"""Full batches of 32 in the 1,442 training images: an epoch."""
ROUNDING = 2e-6
"""What fp32 forward passes in other batches leave of a loss in nats."""


class Oracle:
    """The run's stored weights and what a reader of the contract makes of them."""

    def __init__(self, root) -> None:
        [path] = (root / "records").iterdir()
        self.record = json.loads(path.read_text())
        self.pair = self.record["pairs"][0]
        stored = root / "checkpoints"
        self.a, self.b = (load_file(stored / f"{path.stem}-{i}.safetensors") for i in (0, 1))
        trunk = load_file(next(stored.glob(f"trunk-*-{STEPS}.safetensors")))
        self.fork = {n.split("/", 1)[1]: v for n, v in trunk.items() if not n.startswith("slots/")}
        self.logits16 = arrays(root / self.record["evidence"]["predictions"]["path"])["test"]
        self.model = lmc_resnet(CLASSES, 1, width=4, stem_stride=2)
        self.names = [name for name, _ in self.model.named_parameters()]
        self._data()

    def _data(self) -> None:
        """Every fifth image of each class is the test set; parts are stratified by `spaced`."""
        grey, labels = datasets.load_digits(return_X_y=True)
        seen, held = Counter(), []
        for label in labels:
            held.append(seen[label] % 5 == 4)
            seen[label] += 1
        test = np.array(held)
        images = np.round(grey.reshape(-1, 1, 8, 8) * 255 / 16) / 255
        mean, std = images[~test].mean(), images[~test].std()
        images = torch.tensor((images - mean) / std, dtype=torch.float32)
        train, self.train_labels = images[~test], labels[~test]
        seed = self.record["seeds"]["shift"]
        self.views = [v.indices for v in Shift.parse("label-skew").views(self.train_labels, 2, seed, 0)]
        self.rows = spaced(self.train_labels, 300)
        a, b = (self.rows[np.isin(self.rows, view)] for view in self.views)
        self.splits = {
            name: (train[rows], torch.tensor(self.train_labels[rows]))
            for name, rows in {"train": self.rows, "train_a": a, "train_b": b}.items()
        }
        self.splits["test"] = images[test], torch.tensor(labels[test])
        self.calibration = train[spaced(self.train_labels, 200)]
        few = spaced(self.train_labels, 100)
        self.probe = train[few], torch.tensor(self.train_labels[few])

    def at(self, state, calibrated=True):
        """The network with `state`, its statistics those of one pass over the calibration images."""
        self.model.load_state_dict(state)
        if calibrated:
            norms = [m for m in self.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None
            self.model.train()
            with torch.no_grad():
                self.model(self.calibration)
        return self.model.eval()

    def blend(self, alpha):
        """The point on the line; counters are nobody's business here."""
        return {
            name: (1 - alpha) * a + alpha * self.b[name] if a.is_floating_point() else a
            for name, a in self.a.items()
        }

    def curve(self, images, labels, calibrated=True, ends=False):
        """Loss in nats and error at every alpha; the ends as trained, unless they are `calibrated` too."""
        points = [
            score(self.at(self.blend(x), calibrated and (ends or 0 < x < 1)), images, labels)[:2]
            for x in ALPHAS
        ]
        return [p[0] for p in points], [p[1] for p in points]

    def flat(self, state):
        return torch.cat([state[name].double().flatten() for name in self.names])

    def derivatives(self, state, direction):
        """Gradient along and curvature along `direction`, in fp64, statistics held fixed."""
        model = self.at(state).double()
        weights = list(model.parameters())
        loss = F.cross_entropy(model(self.probe[0].double()), self.probe[1])
        slope = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, create_graph=True)])
        along = slope @ direction
        bend = torch.cat([g.flatten() for g in torch.autograd.grad(along, weights)]) @ direction
        self.model.float()
        return float(along.detach()), float(bend)


def spaced(labels, n):
    """`n` positions: classes in proportion (largest remainders), evenly spaced in each, sorted."""
    classes = {int(c): np.flatnonzero(labels == c) for c in np.unique(labels)}
    exact = {c: len(rows) * n / len(labels) for c, rows in classes.items()}
    quota = {c: math.floor(x) for c, x in exact.items()}
    by_remainder = sorted(classes, key=lambda c: (quota[c] - exact[c], c))
    for c in by_remainder[: n - sum(quota.values())]:
        quota[c] += 1
    return np.sort([rows[j * len(rows) // quota[c]] for c, rows in classes.items() for j in range(quota[c])])


def score(model, images, labels):
    """Loss in nats, error, ECE (15 bins) and probabilities."""
    with torch.no_grad():
        logits = model(images).double()
    p = logits.softmax(1).numpy()
    y = labels.numpy()
    loss = -np.mean([math.log(p[i, y[i]]) for i in range(len(y))])
    return loss, (p.argmax(1) != y).mean(), calibration_error(p, y), p


def calibration_error(p, y):
    confidence, right = p.max(1), p.argmax(1) == y
    gaps = 0.0
    for k in range(15):
        held = (confidence > k / 15) & (confidence <= (k + 1) / 15)
        if held.any():
            gaps += held.mean() * abs(confidence[held].mean() - right[held].mean())
    return gaps


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """A run of one cell with its curvature, and what recomputes it."""
    root = tmp_path_factory.mktemp("oracle") / "run"
    folder = RunFolder(root)
    plan = plan_run(expand(parse_suite(SUITE.encode(), "oracle.toml")), folder, ["curvature"])
    list(run_plan(plan, folder, data_dir=None, device="cpu", jobs=1))
    return Oracle(root)


def test_siblings(oracle):
    for state, sibling, view in zip(
        (oracle.a, oracle.b), oracle.record["siblings"], ("train_a", "train_b"), strict=True
    ):
        for name, split in {"train": "train", "view": view, "test": "test"}.items():
            for stored, calibrated in (("splits", False), ("recalibrated", True)):
                found = sibling[stored][name]
                loss, error, ece, _ = score(oracle.at(state, calibrated), *oracle.splits[split])
                assert found["error"] == error
                assert found["loss"] == pytest.approx(loss, abs=ROUNDING)
                assert found["ece"] == pytest.approx(ece, abs=ROUNDING)


def test_curves_and_barriers(oracle):
    pair = oracle.pair
    assert pair["curves"].keys() == oracle.splits.keys()
    for name, split in oracle.splits.items():
        for stored, calibrated in (("curves", True), ("curves_uncalibrated", False)):
            loss, error = oracle.curve(*split, calibrated)
            assert pair[stored][name]["loss"] == pytest.approx(loss, abs=ROUNDING)
            assert pair[stored][name]["error"] == error
        loss, error = oracle.curve(*split, ends=True)
        recalibrated = pair["ends_recalibrated"][name]
        assert recalibrated["loss"] == pytest.approx([loss[0], loss[-1]], abs=ROUNDING)
        assert recalibrated["error"] == [error[0], error[-1]]
        for kind, values in zip(("loss", "error"), oracle.curve(*split), strict=True):
            above = [v - (1 - x) * values[0] - x * values[-1] for x, v in zip(ALPHAS, values, strict=True)]
            barrier = {
                "chord": max(above),
                "chord_interior": max(above[1:-1]),
                "mid": above[2],
                "mean": max(values) - (values[0] + values[-1]) / 2,
                "floor": abs(values[0] - values[-1]) / 2,
            }
            for form, value in barrier.items():
                assert pair["barriers"][name][f"{kind}_{form}"] == pytest.approx(value, abs=ROUNDING)
            trapezoids = sum((above[i] + above[i + 1]) / 2 * 0.25 for i in range(4))
            assert pair["area"][name][kind] == pytest.approx(trapezoids, abs=ROUNDING)


def test_losses_at_fitted_temperatures(oracle):
    """The least loss over temperatures, by a search over a grid that gets finer."""
    scaled = oracle.pair["temperature_scaled"]["test"]
    images, labels = oracle.splits["test"]
    for k, alpha in enumerate((0, 0.5, 1)):
        model = oracle.at(oracle.blend(alpha), alpha == 0.5)
        with torch.no_grad():
            logits = model(images).double()
        centre, width = 50.0, 50.0
        for _ in range(12):
            grid = [max(0.0, centre + width * (i / 10 - 1)) for i in range(21)]
            losses = [float(F.cross_entropy(b * logits, labels)) for b in grid]
            centre, width = grid[int(np.argmin(losses))], width / 4
        # logits are stored with 11 bits
        assert scaled["loss"][k] == pytest.approx(min(losses), abs=2e-4)
        assert scaled["inverse_temperature"][k] == pytest.approx(centre, rel=1e-2)


def together(p, y):
    """What two networks' probabilities `[2, n, classes]` have in common, image by image."""
    guesses, n = p.argmax(2), len(y)
    mean = p.mean(0)
    both = either = same = other = divergence = 0.0
    for i in range(n):
        first, second = (guesses[k][i] != y[i] for k in (0, 1))
        both += first and second
        either += first or second
        other += guesses[0][i] != guesses[1][i]
        same += first and guesses[0][i] == guesses[1][i]
        divergence += sum((p[k][i] * np.log(p[k][i] / mean[i])).sum() for k in (0, 1)) / 2

    def nll(q):
        return -np.mean([math.log(q[i, y[i]]) for i in range(n)])

    def brier(q):
        return np.mean([((q[i] - np.eye(CLASSES)[y[i]]) ** 2).sum() for i in range(n)])

    accuracy, ensemble = (guesses == y).mean(), (mean.argmax(1) == y).mean()
    return {
        "accuracy_mean": accuracy,
        "ensemble_accuracy": ensemble,
        "ensemble_gain": ensemble - accuracy,
        "nll_mean": (nll(p[0]) + nll(p[1])) / 2,
        "ensemble_nll": nll(mean),
        "brier_mean": (brier(p[0]) + brier(p[1])) / 2,
        "ensemble_brier": brier(mean),
        "ensemble_ece": calibration_error(mean, y),
        "disagreement": other / n,
        "both_wrong": both / n,
        "same_wrong": same / n,
        "js_divergence": divergence / n,
        "error_overlap": both / either,
        "mutual_information": divergence / n,  # of two networks the same
    }


def test_ensemble_is_of_the_stored_logits(oracle):
    y = oracle.splits["test"][1].numpy()
    mine = np.stack([score(oracle.at(s, False), *oracle.splits["test"])[3] for s in (oracle.a, oracle.b)])
    p = torch.tensor(oracle.logits16.astype(np.float64)).softmax(2).numpy()
    assert p == pytest.approx(mine, abs=2e-3)  # fp16
    expected = together(p, y)
    found = oracle.record["ensemble"]["test"]
    assert found == pytest.approx(expected, abs=1e-12)
    assert oracle.pair["disagreement"]["test"] == expected["disagreement"]
    e, f = ((p[k].argmax(1) != y).mean() for k in (0, 1))
    apart = e + f - 2 * e * f + e * f * (CLASSES - 2) / (CLASSES - 1)
    functions = oracle.record["functions"]["test"]
    assert functions["disagreement_independent"] == pytest.approx(apart)
    assert functions["disagreement_normalised"] == pytest.approx(expected["disagreement"] / apart)
    assert functions["error_agreement"] == pytest.approx(expected["same_wrong"] / expected["both_wrong"])
    agree, chance = 1 - e - f + 2 * expected["both_wrong"], (1 - e) * (1 - f) + e * f
    assert functions["error_consistency"] == pytest.approx((agree - chance) / (1 - chance))


def test_accuracies_without_the_label_prior_of_each_view(oracle):
    y = oracle.splits["test"][1].numpy()
    probs = []
    for z, view in zip(oracle.logits16.astype(np.float64), oracle.views, strict=True):
        counts = Counter(oracle.train_labels[view].tolist())
        prior = [(counts[c] + 1) / (len(view) + CLASSES) for c in range(CLASSES)]
        odds = np.exp(z) / np.array(prior)
        probs.append(odds / odds.sum(1, keepdims=True))
    right = [(p.argmax(1) == y).mean() for p in probs]
    ensemble = (np.mean(probs, axis=0).argmax(1) == y).mean()
    found = oracle.record["corrected"]["test"]
    assert found["accuracies"] == pytest.approx(right)
    assert found["ensemble_accuracy"] == pytest.approx(ensemble)
    assert found["ensemble_gain"] == pytest.approx(ensemble - sum(right) / 2)
    # the prior changes predictions, else this test shows nothing
    assert found["accuracy_mean"] != oracle.record["ensemble"]["test"]["accuracy_mean"]


def test_the_fork(oracle):
    fork = oracle.record["fork"]
    assert (fork["name"], fork["epoch"], fork["step"], fork["fraction"]) == ("1", 1, STEPS, 0.5)
    # of a cosine over 2 epochs, half-way
    assert fork["learning_rate"] == pytest.approx(0.1 * 0.5)
    error = score(oracle.at(oracle.fork, False), *oracle.splits["test"])[1]
    assert fork["trunk_accuracy"] == pytest.approx(1 - error, abs=1e-12)


def test_soup_is_the_middle_of_the_line(oracle):
    loss, error, ece, _ = score(oracle.at(oracle.blend(0.5)), *oracle.splits["test"])
    assert oracle.record["soup"]["test"] == pytest.approx(
        {"loss": loss, "error": error, "ece": ece}, abs=ROUNDING
    )


def test_geometry(oracle):
    fork, a, b = (oracle.flat(s) for s in (oracle.fork, oracle.a, oracle.b))
    u, v = a - fork, b - fork
    cosine = float(u @ v / (u.norm() * v.norm()))
    expected = {"distance_ab": (a - b).norm(), "distance_a": u.norm(), "distance_b": v.norm()}
    expected |= {"cosine": cosine, "angle": math.acos(cosine)}
    for name, value in expected.items():
        assert oracle.pair["geometry"][name] == pytest.approx(float(value), rel=1e-9)


def test_noise_and_cost(oracle):
    noise, cost = oracle.record["noise"], oracle.record["cost"]
    assert noise["g"] == pytest.approx([0.1 * (len(v) / 32 - 1) for v in oracle.views])
    assert cost["train_steps"] == STEPS + 2 * STEPS
    # multiply-adds an image: stem, then two 3 x 3 a block and the projections (sides 4, 4, 2, 1)
    stem = 16 * 9 * 4
    blocks = 16 * 2 * 9 * 16 + 4 * (9 * 32 + 9 * 64 + 32) + 1 * (9 * 128 + 9 * 256 + 128)
    forward = stem + blocks + 16 * CLASSES
    # backward twice that, but for the first layer's input, which needs no gradient
    assert cost["train_flop"] == 2 * (3 * forward - stem) * 32 * 3 * STEPS


def test_gradient_noise_between_the_views(oracle):
    model = oracle.at(oracle.fork)
    gradients = []
    # 300 images, stratified: those of the train split
    for image, label in zip(*oracle.splits["train"], strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None]), label[None]).backward()
        gradients.append(torch.cat([w.grad.double().flatten() for w in model.parameters()]))
    g = torch.stack(gradients)
    first = torch.tensor(np.isin(oracle.rows, oracle.views[0]))
    total = ((g - g.mean(0)) ** 2).sum(1).mean()
    between = sum(p.double().mean() * ((g[p].mean(0) - g.mean(0)) ** 2).sum() for p in (first, ~first))
    found = oracle.record["noise"]["gradient"]
    assert found["union"]["trace"] == pytest.approx(float(total), rel=1e-4)
    assert found["between_share"] == pytest.approx(float(between / total), rel=1e-3)


def test_second_order_prediction(oracle):
    found = oracle.pair["curvature"]
    d = oracle.flat(oracle.b) - oracle.flat(oracle.a)
    (slope_a, bend_a), (slope_b, bend_b) = (oracle.derivatives(s, d) for s in (oracle.a, oracle.b))
    published = [x * (1 - x) / 2 * (x * bend_a + (1 - x) * bend_b) for x in ALPHAS]
    with_gradients = [p + x * (1 - x) * (slope_a - slope_b) for x, p in zip(ALPHAS, published, strict=True)]
    assert found["predicted"] == pytest.approx(published, rel=1e-3)
    assert found["predicted_with_gradients"] == pytest.approx(with_gradients, rel=1e-3, abs=1e-6)
    loss, error = oracle.curve(*oracle.probe, ends=True)
    assert found["loss"] == pytest.approx(loss, abs=ROUNDING)
    assert found["error"] == error
