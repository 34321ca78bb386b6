"""Arguments that the Python functions accept; every refusal is a UserError that names the argument."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import lmcbench
from lmcbench.connect.interpolation import alpha_grid
from lmcbench.errors import UserError


@pytest.fixture
def given(nets):
    """The arguments of `trace_path` that are right; a test replaces one."""
    model = nets.build("resnet")
    x, y = nets.images(12)
    return {
        "model": model,
        "state_a": nets.train("resnet", 0),
        "state_b": nets.train("resnet", 1),
        "splits": {"t": (x, y)},
        "alphas": 3,
        "calibration": x,
    }


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_integer_type(given, dtype):
    x, y = given["splits"]["t"]
    expected = lmcbench.trace_path(**given)
    assert lmcbench.trace_path(**given | {"splits": {"t": (x, y.to(dtype))}}) == expected
    name = str(dtype).removeprefix("torch.")
    assert lmcbench.trace_path(**given | {"splits": {"t": (x, y.numpy().astype(name))}}) == expected
    call = (given["model"], given["state_a"], given["state_b"])
    prediction = [lmcbench.predict_barrier(*call, (x, labels), 3) for labels in (y, y.to(dtype))]
    assert np.array_equal(*prediction)


def test_numpy_arrays_are_tensors(given):
    """For any byte order, strides and flags; the caller's arrays are unchanged."""
    x, y = given["splits"]["t"]
    expected = lmcbench.trace_path(**given)
    images, labels = x.numpy().astype(">f8"), y.numpy()[::-1].copy()[::-1]
    images.flags.writeable = False
    found = lmcbench.trace_path(**given | {"splits": {"t": (images, labels)}, "calibration": images})
    assert found == expected
    assert images.dtype == ">f8"
    call = (given["model"], given["state_a"], given["state_b"], (images, labels), 3)
    assert lmcbench.layerwise(*call, calibration=images) == lmcbench.layerwise(
        *call[:3], (x, y), 3, calibration=x
    )


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_checkpoints_are_unpacked(nets, given, key):
    """As the command line does; names lose the prefix of data parallel training."""
    a, b = given["state_a"], given["state_b"]
    packed = {"epoch": 3, key: {f"module.{name}": value for name, value in b.items()}}
    assert lmcbench.trace_path(**given | {"state_b": packed}) == lmcbench.trace_path(**given)
    nested = {key: b, "epoch": 3}
    assert lmcbench.geometry(None, a, nested) == lmcbench.geometry(None, a, b)
    middle = lmcbench.interpolate({key: a}, nested, 0.5)
    assert all(torch.equal(v, middle[k]) for k, v in lmcbench.interpolate(a, b, 0.5).items())
    aligned = lmcbench.align(given["model"], a, nested)
    assert aligned.keys() == b.keys()


def test_a_network_whose_own_names_have_the_prefix_keeps_it(nets):
    inner = nets.build("mlp")
    model = nn.DataParallel(inner)
    state = model.state_dict()
    split = {"t": nets.images(8)}
    plain = lmcbench.trace_path(inner, inner.state_dict(), inner.state_dict(), split, 3)
    assert lmcbench.trace_path(model.module, state, state, split, 3) == plain

    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = inner

        def forward(self, x):
            return self.module(x)

    assert lmcbench.trace_path(Held(), state, state, split, 3) == plain


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_names_lose_the_prefixes_of_wrappers(given, prefix):
    expected = lmcbench.trace_path(**given)
    states = {k: {f"{prefix}{n}": v for n, v in given[k].items()} for k in ("state_a", "state_b")}
    assert lmcbench.trace_path(**given | states) == expected


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["parallel", "compiled"])
def test_a_wrapped_network_is_unwrapped(given, wrap):
    """With states of the network, and with its own, whose names have the prefix."""
    expected = lmcbench.trace_path(**given)
    wrapped = wrap(given["model"])
    assert lmcbench.trace_path(**given | {"model": wrapped}) == expected
    prefix = next(iter(wrapped.state_dict())).removesuffix(next(iter(given["state_a"])))
    states = {k: {f"{prefix}{n}": v for n, v in given[k].items()} for k in ("state_a", "state_b")}
    assert lmcbench.trace_path(**given | states | {"model": wrapped}) == expected
    layers = lmcbench.layerwise(wrapped, given["state_a"], given["state_b"], given["splits"]["t"], 3)
    assert next(iter(layers)) == "stem"


def test_tensors_without_values_are_refused(given):
    model, state, split = given["model"], given["state_a"], given["splits"]["t"]
    meta = {name: value.to("meta") for name, value in state.items()}
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    filled = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).state_dict()
    calls = [
        (lambda: lmcbench.trace_path(**given | {"state_b": meta}), "state_b: 'stem.weight' .* meta device"),
        (lambda: lmcbench.interpolate(meta, meta, 0.5), "state_a: 'stem.weight' has no values"),
        (lambda: lmcbench.geometry(meta, state, state), "state_fork: 'stem.weight' has no values"),
        (lambda: lmcbench.trace_path(**given | {"model": copy.deepcopy(model).to("meta")}), "to_empty"),
        (lambda: lmcbench.trace_path(**given | {"device": "meta"}), "device 'meta' holds no values"),
        (
            lambda: lmcbench.trace_path(lazy, filled, filled, {"t": split}),
            "model: '1.weight' has no values yet",
        ),
        (
            lambda: lmcbench.interpolate(lazy.state_dict(), filled, 0.5),
            "state_a: '1.weight' has no values yet",
        ),
    ]
    for call, message in calls:
        with pytest.raises(UserError, match=message):
            call()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_torchscript_is_refused(given):
    whole = torch.jit.trace(given["model"], given["splits"]["t"][0][:2])
    for scripted in (whole, nn.Sequential(whole)):
        with pytest.raises(UserError, match="model is TorchScript, at least in part: pass the network"):
            lmcbench.trace_path(**given | {"model": scripted})


def test_a_model_that_cannot_be_copied_is_refused(given):
    given["model"].lock = threading.Lock()
    with pytest.raises(UserError, match="The model cannot be copied: TypeError: cannot pickle '_thread"):
        lmcbench.trace_path(**given)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("model", {}, "model must be an nn.Module, found a dict"),
        ("state_a", None, "state_a must be a state dict .* found None"),
        ("state_a", {}, "state_a must be a state dict .* found an empty one"),
        ("state_a", nn.Linear(2, 2), r"state_a is a network \(Linear\), .*: pass its state_dict\(\)"),
        ("state_b", {"epoch": 3}, "state_b holds no weights"),
        ("state_b", "b.pt", "state_b must be a state dict .* found a str"),
        ("splits", [1, 2], "splits must be a dict, name -> .* found a list"),
        ("splits", {"t": torch.zeros(3, 1, 8, 8)}, r"Split 't' must be a pair .* found a Tensor"),
        ("splits", {"t": (1, 2, 3)}, r"Split 't' must be a pair .* found 3 items"),
        ("splits", {"t": ([[0.0]], [0])}, "must be a tensor or a NumPy array, found a list"),
        ("splits", {"t": (torch.zeros(3), torch.zeros(3).long())}, r"images must be \[n, c, h, w\]"),
        ("splits", {"t": (np.array(["a"]), np.array([0]))}, "images must be numbers"),
        ("splits", {"t": (torch.zeros(2, 1, 8, 8), torch.ones(2).bool())}, "integers, found torch.bool"),
        ("splits", {"t": (torch.zeros(2, 1, 8, 8), np.zeros(2))}, "integers, found torch.float64"),
        ("calibration", torch.zeros(9, 1, 8, 8).byte(), "calibration: images must be floating"),
        ("calibration", (torch.zeros(9, 1, 8, 8), torch.zeros(9)), "'calibration': labels must be integers"),
        ("calibration", (torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)), "1 images need labels"),
        ("calibration", "x.npy", "calibration: images must be a tensor or a NumPy array, found a str"),
        ("batch_size", 0, "batch_size must be a whole number of at least 1, found 0"),
        ("batch_size", 2.5, "batch_size must be a whole number, found 2.5"),
        ("batch_size", True, "batch_size must be a whole number of at least 1, found True"),
        ("device", "gpu", "device 'gpu' is unknown. Known: cpu, cuda"),
        ("device", "cuda:99", "device 'cuda:99' is missing"),
        ("alphas", [0, float("nan"), 0.5, 1], "increase strictly from 0 to 1"),
        ("alphas", "five", "alphas must be an odd whole number or a sequence of numbers, found 'five'"),
        ("alphas", None, "or a sequence of numbers, found None"),
        ("alphas", 21.0, r"or a sequence of numbers, found 21\.0"),
        ("alphas", True, "alphas must be a whole number"),
    ],
)  # fmt: skip
def test_every_refusal_names_the_argument(given, argument, value, message):
    with pytest.raises(UserError, match=message):
        lmcbench.trace_path(**given | {argument: value})


def test_the_other_functions_refuse_the_same(given):
    model, a, b, split = given["model"], given["state_a"], given["state_b"], given["splits"]["t"]
    bad = (split[0], split[1].bool())
    calls = [
        (lambda: lmcbench.plane(model, None, a, b, split), "state_fork must be a state dict .* found None"),
        (lambda: lmcbench.plane(model, a, a, model, split), r"state_b is a network \(ResNet\)"),
        (lambda: lmcbench.plane(model, a, a, b, bad), "labels must be integers, found torch.bool"),
        (lambda: lmcbench.plane(model, a, a, b, split, 2.5), "plane: size must be a whole number, found 2.5"),
        (lambda: lmcbench.plane(model, a, a, b, split, margin=-1), "plane: margin must be .* found -1"),
        (lambda: lmcbench.geometry(model, a, b), r"state_fork is a network"),
        (lambda: lmcbench.align(a, a, b), "model must be an nn.Module"),
        (lambda: lmcbench.align(model, a, None), "state_b must be a state dict"),
        (lambda: lmcbench.layerwise(model, model, b, split), "state_a is a network"),
        (lambda: lmcbench.layerwise(model, a, b, None), "Split 'split' must be a pair .* found None"),
        (lambda: lmcbench.predict_barrier(model, a, b, bad), "labels must be integers, found torch.bool"),
        (lambda: lmcbench.predict_barrier(model, a, b, split, calibration=bad), "labels must be integers"),
        (lambda: lmcbench.interpolate(a, model, 0.5), "state_b is a network"),
        (lambda: lmcbench.interpolate(a, b, "half"), "alpha must be a number, found 'half'"),
    ]
    for call, message in calls:
        with pytest.raises(UserError, match=message):
            call()


@pytest.mark.parametrize("alpha", [-0.1, 1.5, 2.0, float("nan"), float("inf")])
def test_alpha_outside_0_to_1_is_refused(given, alpha):
    """Beyond them a running variance can turn negative."""
    with pytest.raises(UserError, match=r"alpha must lie in \[0, 1\], found"):
        lmcbench.interpolate(given["state_a"], given["state_b"], alpha)


def test_a_number_of_alphas_of_any_integer_type():
    assert np.array_equal(alpha_grid(np.int64(5)), alpha_grid(5))
    with pytest.raises(UserError, match="odd number of at least 3, found 4"):
        alpha_grid(np.int64(4))


def test_images_that_the_network_cannot_take_are_named(given):
    model, a, b, (x, y) = given["model"], given["state_a"], given["state_b"], given["splits"]["t"]
    wide = (x.expand(-1, 3, -1, -1), y)
    calls = [
        lambda: lmcbench.trace_path(**given | {"splits": {"t": wide}}),
        lambda: lmcbench.layerwise(model, a, b, wide),
        lambda: lmcbench.predict_barrier(model, a, b, wide),
        lambda: lmcbench.plane(model, nets_like(a), a, b, wide),
    ]
    for call in calls:
        with pytest.raises(UserError, match=r"Split '.*': the network fails on an image \[3, 8, 8\]"):
            call()
    with pytest.raises(UserError, match=r"calibration: the network fails on an image \[3, 8, 8\]"):
        lmcbench.trace_path(**given | {"calibration": wide[0]})


def nets_like(state):
    """A fork: another state of the same network, off the line through the others."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: value + torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in state.items()
    }


def off_the_line(a, b):
    """A state off the line through A and B."""
    return {k: v / 2 if v.is_floating_point() else v for k, v in lmcbench.interpolate(a, b, 0.5).items()}


def test_every_function_checks_calibration_and_split(given):
    model, a, b = given["model"], given["state_a"], given["state_b"]
    x, y = given["splits"]["t"]
    holed = x.clone()
    holed[1, 0, 2, 3] = float("nan")
    calls = {
        "trace_path": lambda s, c: lmcbench.trace_path(model, a, b, {"split": s}, 3, c),
        "predict_barrier": lambda s, c: lmcbench.predict_barrier(model, a, b, s, 3, calibration=c),
        "layerwise": lambda s, c: lmcbench.layerwise(model, a, b, s, 3, calibration=c),
        "plane": lambda s, c: lmcbench.plane(model, off_the_line(a, b), a, b, s, 2, calibration=c),
    }
    refused = [
        ((x, y), torch.zeros(9, 3, 8, 8), r"calibration: the network fails on an image \[3, 8, 8\]"),
        ((x, y), holed, "calibration: images hold NaN or infinity"),
        ((holed, y), None, "Split 'split': images hold NaN or infinity"),
        ({"t": (x, y)}, None, "Split 'split' must be a pair .* found a dict"),
        ((x, y, y), None, "Split 'split' must be a pair .* found 3 items"),
        (x, None, "Split 'split' must be a pair .* found a Tensor"),
    ]
    for name, call in calls.items():
        for split, calibration, message in refused:
            with pytest.raises(UserError, match=message):
                pytest.fail(f"{name} took it: {call(split, calibration)}")


class Hot(nn.Module):
    """Logits that overflow."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) * 1e308 * 1e308


def test_a_prediction_is_finite_or_refused(nets):
    model = Hot(nets.build("mlp"))
    a, b = ({f"inner.{k}": v for k, v in nets.train("mlp", i).items()} for i in (0, 1))
    with pytest.raises(UserError, match="Split 'split': the loss or a derivative is not finite at A or B"):
        lmcbench.predict_barrier(model, a, b, nets.images(8), 3)


@pytest.mark.parametrize("context", [torch.inference_mode, lambda: torch.autocast("cpu"), torch.no_grad])
def test_gradient_modes_of_the_caller_change_nothing(nets, given, context):
    """Neither does inference mode, whose tensors cannot be differentiated."""
    given["model"].float()
    x, y = nets.images(12, dtype=torch.float32)
    a, b = (
        {k: v.float() if v.is_floating_point() else v for k, v in given[s].items()}
        for s in ("state_a", "state_b")
    )
    path = lambda: lmcbench.trace_path(given["model"], a, b, {"t": (x, y)}, 3, x)["t"]  # noqa: E731
    slope = lambda: lmcbench.predict_barrier(  # noqa: E731
        given["model"], a, b, (x, y), 3, gradients=True, calibration=x
    ).tolist()
    expected = path(), slope()
    with context():
        assert (path(), slope()) == expected
        x, a, b = x.clone(), *({k: v.clone() for k, v in s.items()} for s in (a, b))
    assert (path(), slope()) == expected


class Turned(nn.Module):
    """A network with an integer, a complex and real weights, in this order."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.int64), requires_grad=False)
        self.turn = nn.Parameter(torch.ones(3, dtype=torch.complex64))
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return (self.last(x.flatten(1)) * self.turn).real * self.scale


def test_images_are_cast_to_the_first_floating_parameter() -> None:
    model, x = Turned(), torch.randn(5, 1, 2, 2)
    state = model.state_dict()
    curve = lmcbench.trace_path(model, state, state, {"test": (x.double(), torch.zeros(5).long())}, 3)["test"]
    expected = F.cross_entropy(model(x), torch.zeros(5).long()).item()
    assert curve.loss == pytest.approx([expected] * 3, rel=1e-6)


def test_complex_weights_have_no_distances_and_no_derivatives() -> None:
    model, split = Turned(), (torch.randn(5, 1, 2, 2), torch.zeros(5).long())
    state = model.state_dict()
    for call in (
        lambda: lmcbench.predict_barrier(model, state, state, split),
        lambda: lmcbench.plane(model, state, state, state, split),
        lambda: lmcbench.geometry(state, state, state),
    ):
        with pytest.raises(
            UserError, match=r"'turn' is torch.complex64; distances and derivatives support real"
        ):
            call()


@pytest.mark.parametrize(
    ("out", "found"), [(lambda z: z.to(torch.complex64), "complex64"), (lambda z: z.long(), "int64")]
)
def test_logits_are_floating(out, found) -> None:
    class Odd(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return out(super().forward(x.flatten(1)))

    model = Odd(4, 3)
    state = model.state_dict()
    with pytest.raises(UserError, match=rf"must return floating logits \[n, classes\], found torch.{found}"):
        lmcbench.trace_path(
            model, state, state, {"test": (torch.randn(5, 1, 2, 2), torch.zeros(5).long())}, 3
        )


def test_sparse_and_masked_values_are_refused(given):
    x, y = given["splits"]["t"]
    for images, message in (
        (x.to_sparse(), "must be dense, found torch.sparse_coo"),
        (np.ma.masked_array(x.numpy(), mask=x.numpy() > 0), "without a mask"),
    ):
        with pytest.raises(UserError, match=f"Split 't': images {message}|{message}"):
            lmcbench.trace_path(**given | {"splits": {"t": (images, y)}})
    state = {"weight": torch.ones(2, 2)}
    with pytest.raises(UserError, match="state_b: 'weight' must be a dense tensor of numbers"):
        lmcbench.interpolate(state, {"weight": torch.ones(2, 2).to_sparse()}, 0.5)
