"""`lmcbench measure`: its numbers are the API's, bad files give one message, nothing is executed."""

from __future__ import annotations

import argparse
import copy
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file, save_model

import lmcbench
from lmcbench.cli.app import parse_channels
from lmcbench.data.open_dataset import open_dataset
from lmcbench.data.selection import select_stratified
from lmcbench.measure.networks import Bench
from lmcbench.measure.text import measured_text, warnings_of
from lmcbench.measure.verdict import verdict
from lmcbench.results.curves import chord_excess
from lmcbench.running.analyses import LAYER_ALPHAS
from lmcbench.spec.architectures import Architecture, parse_architecture
from lmcbench.train.build import build
from lmcbench.train.checkpoints import load_checkpoint
from lmcbench.train.train_state import initial_state, save_state

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[2]

MLP = ["--arch", "lmc_mlp", "--arch-kwargs", "width=16", "--arch-kwargs", "depth=1", "--data", "digits"]
RESNET = ["--arch", "lmc_resnet", "--arch-kwargs", "width=4", "--data", "digits"]


def network(name="lmc_mlp", seed=0, **kwargs):
    kwargs = kwargs or ({"width": 16, "depth": 1} if name == "lmc_mlp" else {"width": 4})
    return build(Architecture(name=name, recipe="x", kwargs=kwargs), (1, 8, 8), 10, seed)


@pytest.fixture
def files(tmp_path):
    """Two networks of each kind, as MLP and ResNet files."""
    found = {}
    for name, short in (("lmc_mlp", "mlp"), ("lmc_resnet", "resnet")):
        for i in range(2):
            found[f"{short}{i}"] = tmp_path / f"{short}{i}.safetensors"
            save_file(network(name, seed=i + 1).state_dict(), found[f"{short}{i}"])
    return found


@pytest.fixture
def measure(lmcbench):
    """`lmcbench measure ...`: exit code, standard output, standard error."""
    return lambda *arguments: lmcbench("measure", *arguments)


def digits(split="test", n=None):
    """The split as the command sees it: normalised by the training set's statistics."""
    data = open_dataset("digits")
    pixels = data.train.images.astype(np.float64) / 255
    images = getattr(data, split)
    rows = np.arange(len(images)) if n is None else select_stratified(images.labels, n)
    x = (images.images[rows] / 255 - pixels.mean()) / pixels.std()
    return torch.tensor(x).float(), torch.tensor(images.labels[rows])


def states(files, name):
    return [load_checkpoint(files[f"{name}{i}"], network(f"lmc_{name}")) for i in range(2)]


def test_numbers_are_those_of_the_api(files, measure):
    code, out, err = measure(
        *(files["mlp0"], files["mlp1"], *MLP, "--json", "--split", "test", "--split", "train"),
        *("--measure", "curvature", "--measure", "layers", "--alphas", "5", "--device", "cpu"),
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    a, b = states(files, "mlp")
    model = network()
    for split in ("test", "train"):
        curve = lmcbench.trace_path(model, a, b, {split: digits(split)}, 5)[split]
        assert found["pairs"][0]["curves"][split]["loss"] == pytest.approx(curve.loss.tolist(), rel=1e-6)
        assert found["pairs"][0]["curves"][split]["error"] == pytest.approx(curve.error.tolist(), abs=1e-3)
        assert found["pairs"][0]["curves"][split]["n"] == curve.n
        curve = lmcbench.Curve(found["alphas"], **found["pairs"][0]["curves"][split])
        assert vars(lmcbench.barrier(curve)) == found["pairs"][0]["barriers"][split]
    expected = lmcbench.geometry(None, a, b).to_json()
    assert found["pairs"][0]["geometry"] == expected
    for kind, gradients in (("predicted", False), ("predicted_with_gradients", True)):
        api = lmcbench.predict_barrier(model, a, b, digits(), 5, gradients)
        assert found["pairs"][0]["curvature"][kind] == pytest.approx(api.tolist(), rel=1e-4)
    api = lmcbench.layerwise(model, a, b, digits(), LAYER_ALPHAS)
    assert found["pairs"][0]["layers"]["layers"].keys() == api.keys()
    for layer, curve in api.items():
        line = found["pairs"][0]["layers"]["layers"][layer]["from_a"]["loss"]
        assert line == pytest.approx(curve.loss.tolist(), rel=1e-5)
    assert not {"curves_uncalibrated", "ends_recalibrated"} & found["pairs"][0].keys()
    assert all("recalibrated" not in s for s in found["siblings"])
    for end, sibling in zip((0, -1), found["siblings"], strict=True):
        assert sibling["splits"]["test"]["loss"] == pytest.approx(
            found["pairs"][0]["curves"]["test"]["loss"][end]
        )


def test_statistics_are_recalibrated_unless_calibration_is_0(files, measure):
    arguments = (files["resnet0"], files["resnet1"], *RESNET, "--json", "--alphas", "3", "--device", "cpu")
    recalibrated = json.loads(measure(*arguments, "--calibration", "50")[1])
    blended = json.loads(measure(*arguments, "--calibration", "0")[1])
    scores = recalibrated["siblings"]
    assert [s["splits"] for s in scores] == [s["splits"] for s in blended["siblings"]]
    recalibrated, blended = recalibrated["pairs"][0], blended["pairs"][0]
    assert not {"curves_uncalibrated", "ends_recalibrated"} & blended.keys()
    assert recalibrated["curves_uncalibrated"] == blended["curves"]
    for kind in ("loss", "error"):
        ends = [recalibrated["curves"]["test"][kind][i] for i in (0, -1)]
        assert ends == [blended["curves"]["test"][kind][i] for i in (0, -1)]  # as trained
        again = [sibling["recalibrated"]["test"][kind] for sibling in scores]
        assert recalibrated["ends_recalibrated"]["test"][kind] == pytest.approx(again)
    assert recalibrated["curves"]["test"]["loss"][1] != blended["curves"]["test"]["loss"][1]
    a, b = states(files, "resnet")
    curve = lmcbench.trace_path(network("lmc_resnet"), a, b, {"test": digits()}, 3)["test"]
    assert blended["curves"]["test"]["loss"] == pytest.approx(curve.loss.tolist(), rel=1e-5)


@pytest.mark.parametrize(("kind", "options"), [("mlp", MLP), ("resnet", RESNET)])
def test_identical_files_are_at_no_distance_and_behind_no_barrier(files, measure, kind, options):
    few = ("--images", "60", "--calibration", "60", "--alphas", "5")
    code, out, _ = measure(files[f"{kind}0"], files[f"{kind}0"], *options, *few, "--json", "--measure", "all")
    assert code == 0
    found = json.loads(out)
    assert found["pairs"][0]["geometry"]["distance_ab"] == 0
    [pair] = found["pairs"]
    if kind == "mlp":
        assert set(pair["barriers"]["test"].values()) == {0.0}
        assert len(set(pair["curves"]["test"]["loss"])) == 1
    else:  # the ends are as trained, the rest is recalibrated
        inner = pair["curves"]["test"]["loss"][1:-1]
        assert {*inner, *pair["ends_recalibrated"]["test"]["loss"]} == {inner[0]}
    assert found["pairs"][0]["disagreement"] == {"test": 0.0}
    assert set(found["pairs"][0]["curvature"]["predicted_with_gradients"]) == {0.0}


def test_every_further_measure_has_its_rows_in_the_table(files, measure):
    fork = files["resnet0"].with_name("fork.safetensors")
    save_file(network("lmc_resnet", seed=9).state_dict(), fork)
    few = ("--images", "60", "--calibration", "60", "--alphas", "5", "--fork", fork)
    out = measure(files["resnet0"], files["resnet1"], *RESNET, *few, "--measure", "all", "--json")[1]
    found = json.loads(out)
    out = measured_text(found)
    [pair] = found["pairs"]
    rows = dict(re.findall(r"^(.*?\S)  +(\S.*)$", out, re.MULTILINE))
    for name, kind, what in (
        ("barrier, statistics repaired (test)", "repair", "repaired"),
        ("barrier, B aligned to A (test)", "align", "aligned"),
    ):
        curve = lmcbench.Curve(found["alphas"], **pair[kind][what]["test"], n=60)
        barrier = lmcbench.barrier(curve)
        assert rows[name].split() == [f"{100 * barrier.error_chord:.2f}", f"{barrier.loss_chord:.4f}"]
    assert rows["distance A to B aligned"] == f"{pair['align']['distance']:.4g}"
    cka = pair["features"]["splits"]["test"]["siblings"]
    assert rows["linear CKA of A's and B's features (test)"] == f"{cka:.4f}"
    span = rows["range on the plane through the fork (test)"]
    assert span.endswith(f"{np.min(pair['plane']['loss']):.4g} to {np.max(pair['plane']['loss']):.4g}")
    grid = np.linspace(0, 1, LAYER_ALPHAS)
    of_layers = {}
    for layer, path in pair["layers"]["layers"].items():
        ends = [max(chord_excess(grid, np.array(path[end]["loss"]))) for end in ("from_a", "from_b")]
        of_layers[layer] = max(ends)
        assert [rows[layer].split()[column] for column in (1, 3)] == [f"{end:.4f}" for end in ends]
    worst = max(of_layers, key=of_layers.get)
    assert rows[f"highest of a layer alone, {worst}"].endswith(f" {of_layers[worst]:.4f}")
    assert "\nlandscape was skipped: " in out


def test_a_plane_without_a_fork_says_which_option_gives_one(files, measure):
    out = measure(files["mlp0"], files["mlp1"], *MLP, "--measure", "plane")[1]
    assert "plane was skipped: " in out
    assert "(measure --fork)" in out


def test_a_fork_gives_the_triangle(files, measure, tmp_path):
    fork = tmp_path / "trunk.safetensors"  # a whole training state, as a run keeps it
    save_state(initial_state(network(seed=9), ("momentum",)), fork)
    code, out, _ = measure(files["mlp0"], files["mlp1"], *MLP, "--json", "--fork", fork, "--measure", "plane")
    assert code == 0
    found = json.loads(out)
    a, b = states(files, "mlp")
    assert found["pairs"][0]["geometry"] == lmcbench.geometry(network(seed=9).state_dict(), a, b).to_json()
    assert found["pairs"][0]["plane"]["anchors"][1] == [
        pytest.approx(found["pairs"][0]["geometry"]["distance_a"]),
        0.0,
    ]
    text = measure(files["mlp0"], files["mlp1"], *MLP, "--fork", fork)[1]
    assert "angle at the fork" in text
    assert "barrier over the chord" in text


def test_images_can_be_resized_fewer_and_normalised_otherwise(files, measure):
    plain = (
        files["mlp0"],
        files["mlp1"],
        "--json",
        "--images",
        "40",
        "--alphas",
        "3",
        "--device",
        "cpu",
        *MLP,
    )
    found = json.loads(measure(*plain)[1])
    a, b = states(files, "mlp")
    curve = lmcbench.trace_path(network(), a, b, {"test": digits(n=40)}, 3)["test"]
    assert found["pairs"][0]["curves"]["test"]["loss"] == pytest.approx(curve.loss.tolist(), rel=1e-5)
    assert found["pairs"][0]["curves"]["test"]["n"] == 40
    other = json.loads(measure(*plain, "--mean", "0", "--std", "1")[1])
    data = open_dataset("digits").test
    rows = select_stratified(data.labels, 40)
    raw = torch.tensor(data.images[rows] / 255).float(), torch.tensor(data.labels[rows])
    curve = lmcbench.trace_path(network(), a, b, {"test": raw}, 3)["test"]
    assert other["pairs"][0]["curves"]["test"]["loss"] == pytest.approx(curve.loss.tolist(), rel=1e-5)
    code, out, _ = measure(files["resnet0"], files["resnet1"], *RESNET, "--json", "--image-size", "12")
    assert (code, json.loads(out)["pairs"][0]["curves"]["test"]["n"]) == (0, 355)
    code, _, err = measure(files["mlp0"], files["mlp1"], *MLP, "--image-size", "12")
    assert code == 2
    assert "does not fit the network" in err


@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
def test_torch_files_of_tensors_are_read(files, measure, tmp_path, wrapped):
    paths = []
    for i in range(2):
        state = network(seed=i + 1).state_dict()
        if wrapped == "model":
            state = {f"module.{name}": value for name, value in state.items()}
        paths.append(tmp_path / f"{i}.pt")
        torch.save(state if wrapped is None else {wrapped: state, "epoch": 3}, paths[-1])
    found = json.loads(measure(*paths, *MLP, "--json", "--device", "cpu")[1])
    same = json.loads(measure(files["mlp0"], files["mlp1"], *MLP, "--json", "--device", "cpu")[1])
    for result, entry in ((found, wrapped or ""), (same, "")):
        assert {s.pop("weights") for s in result["siblings"]} == {entry}
        assert len({s.pop("file") for s in result["siblings"]}) == 2
    assert found == same


def test_a_tied_weight_may_stand_under_one_of_its_names(tmp_path):
    """As safetensors writes models; under which one is safetensors' choice."""

    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.other = (torch.nn.Linear(4, 4) for _ in range(3))
            self.second.weight = self.first.weight

    model = Tied()
    save_model(model, tmp_path / "a.safetensors")
    assert len(load_file(tmp_path / "a.safetensors")) == 5
    state = model.state_dict()
    for left_out in ("first.weight", "second.weight"):
        torch.save({n: v for n, v in state.items() if n != left_out}, tmp_path / "a.pt")
        for path in (tmp_path / "a.pt", tmp_path / "a.safetensors"):
            found = load_checkpoint(path, Tied())
            assert list(found) == list(state)
            assert all(torch.equal(found[name], state[name]) for name in state)
    save_file({n: v for n, v in state.items() if n not in ("other.weight", "second.weight")}, path)
    with pytest.raises(lmcbench.UserError, match=r"1 of its 6 tensors is missing \('other\.weight'\)"):
        load_checkpoint(path, Tied())


def test_tensors_without_values_are_refused(tmp_path):
    torch.save(network().to("meta").state_dict(), tmp_path / "meta.pt")
    with pytest.raises(
        lmcbench.UserError, match=r"meta.pt: '\S+' has no values, it was saved from the meta device"
    ):
        load_checkpoint(tmp_path / "meta.pt", network())


# --- more than two -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Four networks trained from one fork, so that their averages are good; the last one is not trained."""
    folder = tmp_path_factory.mktemp("family")
    data = open_dataset("digits").train
    x = (torch.tensor(data.images / 255).float() - 0.3052) / 0.376
    y = torch.tensor(data.labels)

    def train(model, seed, passes):
        optimizer = torch.optim.SGD(model.train().parameters(), lr=0.05, momentum=0.9)
        order = torch.Generator().manual_seed(seed)
        for _ in range(passes):
            for batch in torch.randperm(len(x), generator=order).split(64):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
        return model

    fork = train(network("lmc_resnet", 1), 0, 2)
    paths = []
    for i in range(3):
        save_file(train(copy.deepcopy(fork), i + 1, 1).state_dict(), folder / f"{i}.safetensors")
        paths.append(folder / f"{i}.safetensors")
    save_file(network("lmc_resnet", 9).state_dict(), folder / "other.safetensors")
    return [*paths, folder / "other.safetensors"]


FEW = ("--images", "150", "--calibration", "100", "--alphas", "3", "--device", "cpu")


def test_three_and_more_are_measured_in_all_pairs(family, measure, tmp_path):
    code, out, err = measure(*family, *RESNET, *FEW, "--json", "--soup", tmp_path / "soup.safetensors")
    assert (code, "Error" in err) == (0, False)
    found = json.loads(out)
    assert [(p["i"], p["j"]) for p in found["pairs"]] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert [s["file"] for s in found["siblings"]] == [path.name for path in family]
    two = json.loads(measure(family[1], family[3], *RESNET, *FEW, "--json")[1])
    of_two, of_four = two["pairs"][0], found["pairs"][4]
    assert of_two | {"i": 1, "j": 3} == of_four
    assert "greedy_soup" not in found
    # the written soup, measured again
    again = json.loads(measure(tmp_path / "soup.safetensors", family[0], *RESNET, *FEW, "--json")[1])
    assert again["siblings"][0]["splits"] == found["soup"]
    expected = lmcbench.soup([load_file(path) for path in family])
    written = load_file(tmp_path / "soup.safetensors")
    weights = [n for n in written if "running" not in n and "tracked" not in n]
    assert all(torch.allclose(written[n], expected[n], atol=1e-7) for n in weights)


def test_the_greedy_soup_leaves_out_what_hurts(family, measure, tmp_path):
    """Against the recipe in plain steps, with the functions of the API."""
    soups = ("--greedy-soup", tmp_path / "greedy.safetensors", "--select", "train")
    code, out, _ = measure(*family, *RESNET, *FEW, "--json", *soups)
    assert code == 0
    found = json.loads(out)
    greedy = found["greedy_soup"]
    model = network("lmc_resnet")
    states = [load_file(path) for path in family]
    x, y = digits("train", 150)
    data = open_dataset("digits")
    calibration = digits("train")[0][select_stratified(data.train.labels, 100)]

    def accuracy(state):
        return lmcbench.trace_path(model, state, state, {"x": (x, y)}, 3)["x"].error[0]

    def souped(members):
        return lmcbench.recalibrate(model, lmcbench.soup([states[i] for i in members]), calibration)

    ranked = sorted(range(4), key=lambda i: accuracy(states[i]))
    members, best = ranked[:1], accuracy(states[ranked[0]])
    for i in ranked[1:]:
        if (error := accuracy(souped([*members, i]))) <= best:
            members, best = [*members, i], error
    assert greedy["members"] == members
    assert 3 not in members
    assert greedy["splits"]["test"]["error"] < found["soup"]["test"]["error"]
    again = json.loads(measure(tmp_path / "greedy.safetensors", family[0], *RESNET, *FEW, "--json")[1])
    assert again["siblings"][0]["splits"] == greedy["splits"]


def test_the_text_has_a_matrix_and_ends_with_an_answer(family, measure, tmp_path):
    figure = tmp_path / "curves.svg"
    code, out, _ = measure(*family[:3], *RESNET, *FEW, "--figure", figure)
    assert code == 0
    lines = out.rstrip().splitlines()
    head = next(i for i, line in enumerate(lines) if "barriers over the chord: error in %" in line)
    found = json.loads(measure(*family[:3], *RESNET, *FEW, "--json")[1])
    barriers = {(p["i"], p["j"]): p["barriers"]["test"] for p in found["pairs"]}
    assert lines[head + 1].split() == ["A", "B", "C"]
    for i in range(3):
        shown = lines[head + 2 + i].split()
        assert shown[0] == "ABC"[i]
        above = [f"{100 * barriers[i, j]['error_chord']:.2f}" for j in range(i + 1, 3)]
        below = [f"{barriers[j, i]['loss_chord']:.4f}" for j in range(i)]
        assert shown[1:] == below + above
    assert lines[-1] == found["verdict"]
    assert re.match(
        r"Average them.*: the soup has [\d.]+ % error, .* on 150 test images of digits", lines[-1]
    )
    assert figure.read_text().startswith("<?xml")
    assert figure.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("networks", "ensemble", "soup", "advice"),
    [
        ((20, 22), 19, 19, "Average them:"),
        ((20, 22), 5, 19, "Average them, or ensemble them if"),
        ((20, 22), 8, 60, "Ensemble them, and do not average them:"),
        ((20, 22), 20, 60, "Keep the best network, A, because"),
    ],
)
def test_the_verdict_weighs_error_and_cost(networks, ensemble, soup, advice):
    def wrong(n):
        return np.arange(200) < n

    sentence = verdict(
        "test", "x", np.stack([wrong(n) for n in networks]), wrong(ensemble), {"soup": wrong(soup)}
    )
    assert sentence.startswith(advice)
    assert f"the soup has {soup / 2:.2f} % error" in sentence
    assert "on 200 test images of x" in sentence


def test_networks_that_only_guess_get_no_advice():
    wrong = np.arange(200) < 150
    given = "test", "x", np.stack([wrong, wrong]), wrong, {"soup": wrong}
    assert verdict(*given, chance=0.76).startswith("Average them")
    sentence = verdict(*given, chance=0.75)
    assert sentence.startswith("No answer: no network beats always predicting the commonest class (75.00 %")


def test_folders_of_domains_hold_folders_of_classes(measure, tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    for hospital, k in (("north", 0), ("south", 1)):
        for label in ("ill", "unsure", "well"):
            folder = tmp_path / "mine" / hospital / label
            folder.mkdir(parents=True)
            for i in range(10 + k):
                Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        save_file({"1.weight": torch.randn(3, 64), "1.bias": torch.zeros(3)}, f"{name}.safetensors")
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net(num_classes, in_chans, img_size):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * img_size**2, num_classes))\n"
    )
    given = ("a.safetensors", "b.safetensors", "--arch", "net.py:net", "--data", "./mine", "--alphas", "3")
    code, out, err = measure(*given, "--domain", "folder", "--json")
    assert code == 0, err
    assert json.loads(out)["pairs"][0]["curves"]["test"]["n"] == 12
    code, _, err = measure(*given)
    assert code != 0  # the hospitals are two classes, and the networks have three


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--soup", "soup.pt"), "must end in .safetensors"),
        (("--soup", "nowhere/soup.safetensors"), "the folder nowhere does not exist"),
        (("--figure", "a.gif"), "must end in .png, .pdf, .svg"),
        (("--select", "test"), "a soup chosen on the test set is not tested by it"),
        (("--select", "val"), "Unknown split 'val'"),
        (("--select", "train"), "Add --greedy-soup FILE"),
        (("--weights", "ema"), "has no weights 'ema'"),
        (("--soup", "a.safetensors", "--greedy-soup", "./a.safetensors"), "are both a.safetensors"),
        (("--mean", "1e300", "--std", "1e-300"), "turn pixels into numbers of up to inf"),
    ],
)
def test_bad_options_of_soups_are_refused(files, measure, options, message):
    code, out, err = measure(files["mlp0"], files["mlp1"], *MLP, *options)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("option", ["--soup a.safetensors", "--greedy-soup a.safetensors", "--figure a.png"])
def test_a_read_only_folder_is_found_before_anything_slow(files, measure, monkeypatch, option):
    monkeypatch.setattr("os.access", lambda path, mode: mode == os.R_OK)
    monkeypatch.setattr("lmcbench.measure.checkpoints.build", None)
    code, out, err = measure(files["mlp0"], files["mlp1"], *MLP, *option.split())
    assert (code, out) == (2, "")
    assert f"{option}: the folder . is read-only" in err


def test_weights_whose_outputs_overflow_are_named(files, measure, tmp_path):
    huge = {name: value * 1e30 for name, value in load_file(files["mlp1"]).items()}
    save_file(huge, tmp_path / "huge.safetensors")
    code, out, err = measure(files["mlp0"], tmp_path / "huge.safetensors", *MLP)
    assert (code, out) == (2, "")
    assert "huge.safetensors has outputs on split 'test' that are not finite" in err


def test_one_checkpoint_and_a_soup_over_a_checkpoint_are_refused(files, measure):
    code, _, err = measure(files["mlp0"], *MLP)
    assert (code, "at least two checkpoints" in err) == (2, True)
    before = files["mlp0"].read_bytes()
    code, _, err = measure(files["mlp0"], files["mlp1"], *MLP, "--soup", files["mlp0"])
    assert (code, "is one of the checkpoints" in err) == (2, True)
    assert files["mlp0"].read_bytes() == before


def test_averaged_weights_are_offered_and_read(measure, tmp_path):
    paths = []
    for i in range(2):
        paths.append(tmp_path / f"{i}.pth")
        both = {
            "state_dict": network(seed=i).state_dict(),
            "state_dict_ema": network(seed=i + 5).state_dict(),
        }
        torch.save({**both, "args": argparse.Namespace(lr=0.1)}, paths[-1])
    few = ("--images", "20", "--alphas", "3", "--json")
    code, out, err = measure(*paths, *MLP, *few)
    assert code == 0
    assert err.count("Note: ") == err.count("'state_dict_ema': --weights ema") == 2
    code, averaged, err = measure(*paths, *MLP, *few, "--weights", "ema")
    assert [s["weights"] for s in json.loads(averaged)["siblings"]] == ["state_dict_ema"] * 2
    assert json.loads(out)["pairs"] != json.loads(averaged)["pairs"]


def test_the_documented_example_of_fine_tuned_siblings_runs(lmcbench, tmp_path, monkeypatch):
    """Its two commands, as they stand in docs/own-checkpoints.md."""
    text = (ROOT / "docs" / "own-checkpoints.md").read_text()
    example = text.partition("## Siblings fine-tuned")[2].split("```")[1]
    lines = [line for line in example.strip().splitlines() if not line.startswith("#")]
    run, soup = (line.split()[1:] for line in lines)
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": build(parse_architecture("lmc_mlp", "x"), (1, 8, 8), 10, 3).state_dict()}
    torch.save({**content, "args": argparse.Namespace(lr=0.1)}, "pretrained.pth")
    assert lmcbench(*run, "--jobs", "1")[0] == 0
    [pattern] = [word for word in soup if "*" in word]
    files = sorted(tmp_path.glob(pattern))
    at = soup.index(pattern)
    code, out, err = lmcbench(*soup[:at], *files, *soup[at + 1 :], "--json", "--images", "100")
    assert (code, len(files)) == (0, 2), err
    found = json.loads(out)
    assert found["pairs"][0]["geometry"]["distance_a"] > 0
    assert found["normalisation"]["mean"]["from"] == "training set"
    assert found["soup"]["test"]["error"] < 0.2
    assert (tmp_path / "soup.safetensors").is_file()


def test_images_are_prepared_as_the_networks_published_weights_were(measure, tmp_path, monkeypatch):
    """Size, crop and normalisation of timm's pretrained_cfg, unless they are given."""
    monkeypatch.setenv("LMCBENCH_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for i in range(20):
        folder = tmp_path / "birds" / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        size = (170 + i, 190, 3)
        Image.fromarray(draw.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{i}.png")
    paths = []
    for i in range(2):
        paths.append(tmp_path / f"{i}.pt")
        state = build(parse_architecture("test_resnet", "x"), (3, 160, 160), 2, i).state_dict()
        torch.save(state, paths[-1])
    call = (*paths, "--arch", "timm/test_resnet.r160_in1k", "--data", tmp_path / "birds", "--json")
    code, out, err = measure(*call, "--alphas", "3", "--device", "cpu")
    assert code == 0, err
    assert "resized (bilinear, crop 0.95) to 160 x 160, as the network's pretrained_cfg says" in err
    assert "every fifth image of each class is the test set" in err
    used = json.loads(out)["normalisation"]
    assert used["mean"] == {"values": [0.5, 0.5, 0.5], "from": "network"}
    code, out, err = measure(*call, "--alphas", "3", "--device", "cpu", "--image-size", "64", "--std", "1")
    assert "resized (bilinear, crop 0.95) to 64 x 64." in err
    assert json.loads(out)["normalisation"]["std"] == {"values": [1.0] * 3, "from": "given"}


# --- normalisation -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_raw_pixels(tmp_path_factory):
    """A BatchNorm network trained on pixels in 0..1, as many scripts do."""
    data = open_dataset("digits").train
    x, y = torch.tensor(data.images / 255).float(), torch.tensor(data.labels)
    model = network("lmc_resnet").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    order = torch.Generator().manual_seed(0)
    for _ in range(6):
        for batch in torch.randperm(len(x), generator=order).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    path = tmp_path_factory.mktemp("raw") / "raw.safetensors"
    save_file(model.state_dict(), path)
    return path


def test_wrong_preprocessing_shows_in_the_table_and_gives_a_warning(on_raw_pixels, measure, monkeypatch):
    """Recalibration hides it: only the error as trained shows it.

    A table that is kept in a file has the warning too, and a person who reads it on a terminal reads it once.
    """
    call = (on_raw_pixels, on_raw_pixels, *RESNET, "--alphas", "3", "--device", "cpu")
    code, out, err = measure(*call)
    assert code == 0
    assert "mean 0.3052 (training set) and std 0.376 (training set)" in out
    [warning] = err.splitlines()
    assert warning.startswith("Warning: errors as trained and recalibrated differ much: A on test")
    assert [line for line in out.splitlines() if "Warning" in line] == [warning]
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout.isatty", lambda: True)
        assert measure(*call) == (0, out, "")
        code, document, err = measure(*call, "--json")
    assert (code, err) == (0, f"{warning}\n")
    found = json.loads(document)
    a = found["siblings"][0]
    raw, recalibrated = a["splits"]["test"]["error"], a["recalibrated"]["test"]["error"]
    assert raw > recalibrated + 0.05
    [row] = [line.split() for line in out.splitlines() if line.startswith("A recalibrated")]
    assert row[2] == f"{100 * recalibrated:.2f}"
    assert found["normalisation"]["mean"] == {
        "values": [pytest.approx(0.3052, abs=1e-4)],
        "from": "training set",
    }
    right = (*call, "--mean", "0", "--std", "1")
    code, out, err = measure(*right)
    assert (code, err) == (0, "")
    assert "mean 0 (--mean) and std 1 (--std)." in out
    assert "Warning" not in out
    assert json.loads(measure(*right, "--json")[1])["normalisation"]["std"] == {
        "values": [1.0],
        "from": "given",
    }


@pytest.mark.parametrize(
    ("before", "after", "n", "warned"),
    [
        (0.048, 0.0169, 355, True),
        (0.0169, 0.048, 355, True),
        (0.048, 0.0169, 100, False),  # of so few images it may be chance
        (0.048, 0.040, 100_000, False),  # certain, but little
        (0.051, 0.040, 100_000, True),
        (0.2, 0.2, 10, False),
    ],
)
def test_much_is_a_percent_and_more_than_chance(before, after, n, warned):
    sibling = {"splits": {"test": {"error": before}}, "recalibrated": {"test": {"error": after}}}
    plain = {"splits": {"test": {"error": 0.9}}}
    pairs = [{"curves": {"test": {"n": n}}}]
    found = {"ensemble": {"test": {}}, "pairs": pairs, "siblings": [plain, sibling]}
    assert bool(warnings_of(found)) is warned
    assert not warned or "B on test" in warnings_of(found)[0]


# --- refusals ------------------------------------------------------------------------------------


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def _bomb(tmp_path):
    """As torch.save writes it, without weights."""
    torch.save({"state_dict": {"x": Bomb(str(tmp_path / "executed"))}}, tmp_path / "bad.pt")
    return tmp_path / "bad.pt"


def _bare(tmp_path):
    (tmp_path / "bad.bin").write_bytes(pickle.dumps(Bomb(str(tmp_path / "executed"))))
    return tmp_path / "bad.bin"


def _disguised(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(pickle.dumps(Bomb(str(tmp_path / "executed"))))
    return tmp_path / "bad.safetensors"


def _nan(tmp_path):
    state = network().state_dict()
    state["head.bias"][3] = float("nan")
    save_file(state, tmp_path / "bad.safetensors")
    return tmp_path / "bad.safetensors"


def _other(tmp_path):
    save_file(network(width=17, depth=1).state_dict(), tmp_path / "bad.safetensors")
    return tmp_path / "bad.safetensors"


def _another_kind(tmp_path):
    save_file(network("lmc_resnet").state_dict(), tmp_path / "bad.safetensors")
    return tmp_path / "bad.safetensors"


def _number(tmp_path):
    torch.save(3, tmp_path / "bad.pt")
    return tmp_path / "bad.pt"


def _numbers(tmp_path):
    torch.save({"state_dict": {"x": 3}}, tmp_path / "bad.pt")
    return tmp_path / "bad.pt"


def _torn(tmp_path):
    torch.save(network().state_dict(), tmp_path / "bad.pt")
    content = (tmp_path / "bad.pt").read_bytes()
    (tmp_path / "bad.pt").write_bytes(content[: len(content) // 2])
    return tmp_path / "bad.pt"


def _empty(tmp_path):
    (tmp_path / "bad.safetensors").touch()
    return tmp_path / "bad.safetensors"


def _pipe(tmp_path):
    os.mkfifo(tmp_path / "bad.safetensors")
    return tmp_path / "bad.safetensors"


def _deep(tmp_path):
    header = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    (tmp_path / "bad.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return tmp_path / "bad.safetensors"


def _kind(tmp_path):
    (tmp_path / "bad.txt").write_text("weights")
    return tmp_path / "bad.txt"


@pytest.mark.parametrize("place", [0, 1, "--fork"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_bomb, "holds no weights"),
        (_bare, "holds a io.open, not a state dict"),
        (_disguised, "holds a io.open, not a state dict"),
        (_nan, "'head.bias' holds NaN or infinity"),
        (_other, "does not fit the network: 3 tensors of 4 have other shapes: 'hidden.0.weight' is [17, 64]"),
        (
            _another_kind,
            "does not fit the network: 2 of its 4 tensors are missing ('hidden.0.weight', 'hidden.0.bias')",
        ),
        (_number, "holds a int, not a state dict"),
        (_numbers, "holds no weights"),
        (_empty, "is empty, perhaps because writing was interrupted"),
        (_torn, "is damaged or incomplete"),
        (_kind, "is not a checkpoint"),
        (lambda tmp_path: tmp_path / "absent.pt", "does not exist"),
        (_pipe, "is not a regular file"),
        (_deep, "nest more than 40 levels"),
    ],
)
def test_bad_files_are_refused_in_one_message(files, measure, tmp_path, make, message, place):
    bad, good = make(tmp_path), files["mlp0"]
    before = sorted(tmp_path.iterdir())
    arguments = [good, good, *MLP, "--fork", bad] if place == "--fork" else [good, good, *MLP]
    if place != "--fork":
        arguments[place] = bad
    code, out, err = measure(*arguments, "--json")
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert message in err
    assert len(err.splitlines()) == 1
    assert str(bad) in err
    assert sorted(tmp_path.iterdir()) == before  # nothing was executed, nothing written


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--alphas", "4"], "alphas must be an odd number of at least 3, found 4"),
        (["--split", "tset"], "Unknown split 'tset'. Did you mean 'test'"),
        (["--measure", "curve"], "Unknown measure 'curve'"),
        (["--arch-kwargs", "width"], "write NAME=VALUE"),
        (["--mean", "a"], "--mean 'a': write one number per channel"),
        (["--mean", "0,1"], "--mean: 2 numbers for 1 channel"),
        (["--std", "0"], "--std must be above 0"),
        (["--mean", "nan"], "--mean must be finite, found nan"),
        (["--std", "inf"], "--std must be finite, found inf"),
        (["--data", "digit"], "Unknown data set 'digit'. Did you mean 'digits'"),
        (["--data", ""], "Unknown data set ''. Known: "),
        (["--arch", "lmc_mpl"], "Unknown architecture 'lmc_mpl'"),
    ],
)
def test_bad_options_are_refused(files, measure, options, message):
    code, out, err = measure(files["mlp0"], files["mlp1"], *MLP, *options)
    assert (code, out) == (2, "")
    assert message in err


def test_channel_statistics_are_one_number_a_channel():
    assert parse_channels(None, "--mean") is None
    assert parse_channels("0.5,1", "--mean") == (0.5, 1.0)


def test_a_channel_of_one_value_needs_statistics_from_the_user(measure, tmp_path, monkeypatch):
    """A set's own statistics cannot divide by it; those that a network was trained with can."""
    monkeypatch.setenv("LMCBENCH_CACHE", str(tmp_path / "cache"))
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    pixels[..., 2] = 7
    for i, image in enumerate(pixels):
        folder = tmp_path / "red-green" / ("train", "test")[i % 2] / f"class{i // 2 % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    pair = [tmp_path / f"{i}.safetensors" for i in (0, 1)]
    for i, path in enumerate(pair):
        mlp = Architecture(name="lmc_mlp", recipe="x", kwargs={"width": 4, "depth": 1})
        save_file(build(mlp, (3, 8, 8), 2, i).state_dict(), path)
    call = [*pair, "--arch", "lmc_mlp", "--arch-kwargs", "width=4", "--arch-kwargs", "depth=1"]
    call += ["--data", tmp_path / "red-green", "--json"]
    code, _, err = measure(*call)
    assert code == 2
    assert "channel 2 has the value 7 in every pixel of all training images" in err
    code, out, _ = measure(*call, "--mean", "0.5", "--std", "0.2,0.3,0.4")
    assert code == 0
    used = json.loads(out)["normalisation"]
    assert used["mean"] == {"values": [0.5, 0.5, 0.5], "from": "given"}
    assert used["std"] == {"values": [0.2, 0.3, 0.4], "from": "given"}


class CountedImages:
    """Noise of 224 x 224 created on demand; `sizes` are those of the batches that were created."""

    def __init__(self, n):
        self.n, self.sizes = n, []

    def __len__(self):
        return self.n

    def split(self, size):
        for start in range(0, self.n, size):
            b = min(size, self.n - start)
            self.sizes.append(b)
            yield torch.rand(b, 1, 224, 224, generator=torch.Generator().manual_seed(start))


def normed(seed):
    torch.manual_seed(seed)
    layers = torch.nn.Conv2d(1, 2, 8, 8), torch.nn.BatchNorm2d(2), torch.nn.AdaptiveAvgPool2d(1)
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(2, 3))


def test_large_images_are_never_created_all_at_once():
    """A pass of the line takes as few of them as a pass of the networks; 1000 would take 600 MB."""
    model, labels = normed(0), torch.arange(60) % 3
    states = [normed(seed).state_dict() for seed in (1, 2)]
    images, calibration = CountedImages(60), CountedImages(90)
    bench = Bench(model, torch.device("cpu"), {"test": (images, labels)}, 3)
    bench.calibration = calibration
    siblings = bench.score_siblings(states)
    bench.pair(siblings, states, 0, 1, None, ())
    most = bench.network.images_per_pass(torch.zeros(1, 1, 224, 224))
    assert most < 60
    assert max(images.sizes) <= most
    assert max(calibration.sizes) <= 2**21 // 224**2


def test_the_images_of_further_measures_are_created_once_for_all_pairs(monkeypatch):
    model, images = normed(0), CountedImages(6)
    states = [normed(seed).state_dict() for seed in (1, 2, 3)]
    bench = Bench(model, torch.device("cpu"), {"test": (images, torch.arange(6) % 3)}, 3)
    siblings = bench.score_siblings(states)
    given = []
    monkeypatch.setattr("lmcbench.measure.networks.analyze", lambda name, found: given.append(found) or {})
    bench.pair(siblings, states, 0, 1, None, ["curvature"])
    bench.pair(siblings, states, 0, 2, None, ["curvature"])
    assert given[0].splits["test"][0] is given[1].splits["test"][0]
    assert torch.equal(given[0].splits["test"][0], next(images.split(6)))
