"""Checkpoints of training scripts are read as the plain state dict; nothing in them is executed."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import json
import pathlib
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import lmcbench
from lmcbench import UserError
from lmcbench.connect.arguments import as_state
from lmcbench.spec.architectures import Architecture
from lmcbench.train import safe_pickle
from lmcbench.train.build import build
from lmcbench.train.checkpoint_files import read_content
from lmcbench.train.checkpoints import load_checkpoint, read_checkpoint

torch.set_num_threads(1)


def network(seed=0, width=4):
    return build(Architecture(name="lmc_resnet", recipe="x", kwargs={"width": width}), (1, 8, 8), 10, seed)


@pytest.fixture
def model():
    """A network whose statistics and counters are not the initial ones."""
    model = network(1).train()
    model(torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    return model.eval()


def trained(model):
    """An optimizer with a state, as training scripts store it."""
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    return optimizer


def same(found, state):
    assert list(found) == list(state)
    return all(torch.equal(found[name], state[name]) for name in state)


class Kind(enum.Enum):
    SGD = "sgd"


EXTRAS = {
    "args": argparse.Namespace(model="resnet18", lr=0.1, out=pathlib.Path("runs"), kind=Kind.SGD),
    "acc": np.float64(0.93),
    "rng": np.random.default_rng(0).bit_generator.state,
    "array": np.arange(3),
    "when": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "kind": Kind.SGD,
    "path": pathlib.Path("/data"),
    "tags": {"a", "b"},
    "counts": collections.Counter("aab"),
    "history": collections.defaultdict(list, loss=[1.0]),
    "dtype": torch.float16,
    "size": torch.Size([2, 3]),
    "device": torch.device("cpu"),
    "complex": 1 + 2j,
    "slice": slice(1, 2),
    "epoch": 3,
}
"""Objects that training scripts store beside the weights."""


# --- formats -------------------------------------------------------------------------------------


def _timm(model, folder):
    ema = ModelEmaV3(model, decay=0.5)
    optimizer = trained(model)  # the weights move, the average does not
    saver = CheckpointSaver(
        model, optimizer, args=EXTRAS["args"], model_ema=ema, checkpoint_dir=folder, recovery_dir=folder
    )
    saver.save_checkpoint(0, 0.5)
    return folder / "model_best.pth.tar"


def _torchvision(model, folder):
    """references/classification/train.py."""
    averaged = AveragedModel(network(5), multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    content = {"model": model.state_dict(), "optimizer": trained(network()).state_dict(), "epoch": 1}
    content |= {"args": EXTRAS["args"], "model_ema": averaged.state_dict(), "lr_scheduler": {"base": [0.1]}}
    torch.save(content, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


def _lightning(model, folder):
    """Trainer.save_checkpoint of a module with the attributes `model` and `criterion`."""
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    content = {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**state, "criterion.weight": torch.ones(10)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "dirpath": "/x"}},
        "optimizer_states": [trained(network()).state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": argparse.Namespace(lr=0.1),
    }
    torch.save(content, folder / "epoch=1.ckpt")
    return folder / "epoch=1.ckpt"


def _sharded(model, folder):
    """save_pretrained of transformers with a small max_shard_size; the folder is given."""
    names = list(model.state_dict())
    parts = names[: len(names) // 2], names[len(names) // 2 :]
    index = {}
    for i, part in enumerate(parts, 1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file(
            {f"timm_model.{n}": model.state_dict()[n].clone() for n in part},
            folder / file,
            {"format": "pt"},
        )
        index |= dict.fromkeys((f"timm_model.{n}" for n in part), file)
    document = {"metadata": {"total_size": 1}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(document))
    return folder


def _sharded_index(model, folder):
    return _sharded(model, folder) / "model.safetensors.index.json"


def _saved(wrap):
    def make(model, folder):
        torch.save(wrap(model), folder / "weights.pth")
        return folder / "weights.pth"

    return make


def _legacy(model, folder):
    content = {"net": model.state_dict(), "optimizer": trained(network()).state_dict(), **EXTRAS}
    torch.save(content, folder / "old.pth", _use_new_zipfile_serialization=False)
    return folder / "old.pth"


def _averaged(model):
    return AveragedModel(model).state_dict()


def _prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


FORMATS = {
    "timm": _timm,
    "torchvision": _torchvision,
    "lightning": _lightning,
    "hugging face, folder of parts": _sharded,
    "hugging face, index": _sharded_index,
    "data parallel": _saved(lambda model: nn.DataParallel(model).state_dict()),
    "compiled": _saved(lambda model: torch.compile(model).state_dict()),
    "compiled data parallel": _saved(lambda model: torch.compile(nn.DataParallel(model)).state_dict()),
    "compiled inside": _saved(
        lambda model: {
            name.replace("stages.", "stages._orig_mod."): v for name, v in model.state_dict().items()
        }
    ),
    "swa": _saved(_averaged),
    "swa of a compiled network": _saved(lambda model: AveragedModel(torch.compile(model)).state_dict()),
    "any nesting": _saved(lambda m: {"a": {"b": [1], "net": _prefixed("x.y.module.", m.state_dict())}}),
    "objects beside the weights": _saved(lambda model: {"state_dict": model.state_dict(), **EXTRAS}),
    "objects among the weights": _saved(lambda model: {**model.state_dict(), **EXTRAS}),
    "the whole network": _saved(lambda model: model),
    "the whole network, nested": _saved(lambda model: {"model": model, "ema": None, "train_args": EXTRAS}),
    "parameters": _saved(
        lambda m: {
            "params": {n: nn.Parameter(v) if v.is_floating_point() else v for n, v in m.state_dict().items()}
        }
    ),
    "views of one storage": _saved(lambda m: {n: torch.stack([v, v])[1] for n, v in m.state_dict().items()}),
    "transposed": _saved(
        lambda m: {n: v.T.contiguous().T if v.ndim == 2 else v for n, v in m.state_dict().items()}
    ),
    "torch before 1.6": _legacy,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_plain_state_dict(model, tmp_path, name):
    path = FORMATS[name](model, tmp_path)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert same(load_checkpoint(path, network()), state)


def test_a_distributed_network_is_read(model, tmp_path):
    """DistributedDataParallel itself, in a group of one process."""
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    try:
        state = nn.parallel.DistributedDataParallel(model).state_dict()
        torch.save({"model": state}, tmp_path / "a.pt")
    finally:
        torch.distributed.destroy_process_group()
    assert next(iter(state)).startswith("module.")
    assert same(load_checkpoint(tmp_path / "a.pt", network()), model.state_dict())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pth.tar", ""])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted_whatever_the_name(model, tmp_path, suffix, dtype):
    state = {n: v.to(dtype) if v.is_floating_point() else v for n, v in model.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    own = {n: v.float() if v.is_floating_point() else v for n, v in state.items()}
    assert same(load_checkpoint(path, network()), own)


def test_the_format_is_found_from_the_content_not_the_name(model, tmp_path):
    save_file(model.state_dict(), tmp_path / "weights.pt")
    torch.save(model.state_dict(), tmp_path / "weights.safetensors")
    for path in tmp_path.iterdir():
        assert same(load_checkpoint(path, network()), model.state_dict())


def test_batchnorm_without_counters_is_read(model, tmp_path):
    """As torch before 0.4.1 saved it; the missing counters are 0."""
    state = {n: v for n, v in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "a.pt")
    found = load_checkpoint(tmp_path / "a.pt", network())
    assert list(found) == list(model.state_dict())
    assert all(torch.equal(found[n], v) for n, v in state.items())
    assert {int(v) for n, v in found.items() if n not in state} == {0}


def test_constants_may_be_saved_or_not(tmp_path):
    """Versions of a network differ in which buffers they save."""

    class Positions(nn.Module):
        def __init__(self, persistent):
            super().__init__()
            self.head = nn.Linear(2, 2)
            self.register_buffer("index", torch.arange(3), persistent)

    for saved, own in ((True, False), (False, True)):
        torch.save(Positions(saved).state_dict(), tmp_path / "a.pt")
        found = load_checkpoint(tmp_path / "a.pt", Positions(own))
        assert list(found) == list(Positions(own).state_dict())


# --- averaged weights ----------------------------------------------------------------------------


def test_plain_weights_are_read_and_averaged_ones_are_offered(model, tmp_path):
    path = _timm(model, tmp_path)
    plain = read_checkpoint(path, network())
    assert plain.entry == "state_dict"
    [note] = plain.notes
    assert "plain weights" in note
    assert "'state_dict_ema': --weights ema" in note
    average = read_checkpoint(path, network(), "ema")
    assert (average.entry, average.notes[0].count("state_dict")) == ("state_dict_ema", 2)
    assert not same(average.state, plain.state)
    assert same(read_checkpoint(path, network(), "state_dict_ema").state, average.state)
    with pytest.raises(UserError, match=r"has no weights 'swa'.*'state_dict', 'state_dict_ema'"):
        read_checkpoint(path, network(), "swa")


def test_entries_are_told_apart_by_prefix_too(model, tmp_path):
    """A Lightning module with the averaged network as an attribute."""
    average = network(7).state_dict()
    state = {**_prefixed("net.", model.state_dict()), **_prefixed("ema_net.module.", average)}
    torch.save({"state_dict": {**state, "ema_net.n_averaged": torch.tensor(3)}}, tmp_path / "a.ckpt")
    assert same(load_checkpoint(tmp_path / "a.ckpt", network()), model.state_dict())
    assert same(read_checkpoint(tmp_path / "a.ckpt", network(), "ema").state, average)
    assert same(read_checkpoint(tmp_path / "a.ckpt", network(), "ema_net").state, average)


def test_several_plain_weights_need_a_choice(model, tmp_path):
    torch.save({"first": model.state_dict(), "second": network(7).state_dict()}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"several weights .*'first', 'second'.*--weights NAME"):
        load_checkpoint(tmp_path / "a.pt", network())
    assert same(read_checkpoint(tmp_path / "a.pt", network(), "second").state, network(7).state_dict())
    torch.save({"last": model.state_dict(), "model": network(7).state_dict()}, tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt", network())
    assert (found.entry, len(found.notes)) == ("model", 1)
    assert "also holds weights under 'last'" in found.notes[0]


def test_averaged_weights_alone_are_read_and_reported(model, tmp_path):
    torch.save({"ema_state_dict": model.state_dict()}, tmp_path / "a.pt")
    [note] = read_checkpoint(tmp_path / "a.pt", network()).notes
    assert "averaged (EMA) weights alone" in note


def _shadows(model, only_trainable=False):
    """Averaged parameters as torch_ema (only those that are trained) and diffusers' EMAModel store them."""
    shadows = [p.detach() * 0.5 for p in model.parameters() if p.requires_grad or not only_trainable]
    return {"decay": 0.999, "num_updates": 10, "shadow_params": shadows, "collected_params": None}


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
def test_averaged_parameters_in_a_list_are_matched_in_order(model, tmp_path, trainable, legacy):
    target = network()
    if trainable:  # the first layer is frozen
        model.stem.requires_grad_(False)
        target.stem.requires_grad_(False)
    content = {"net": model.state_dict(), "ema": _shadows(model, trainable), "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    plain = read_checkpoint(tmp_path / "a.pt", target)
    assert same(plain.state, model.state_dict())
    assert "'ema.shadow_params': --weights ema" in plain.notes[0]
    found = read_checkpoint(tmp_path / "a.pt", target, "ema")
    averaged = {name for name, p in model.named_parameters() if p.requires_grad or not trainable}
    assert len(averaged) == len(content["ema"]["shadow_params"])
    expected = {n: v * 0.5 if n in averaged else v for n, v in model.state_dict().items()}
    assert same(found.state, expected)
    assert same(as_state(content["ema"] | content["net"], "x", target), plain.state)


def test_a_list_of_another_length_or_order_is_refused(model, tmp_path):
    shadows = _shadows(model)
    torch.save(shadows, tmp_path / "a.pt")  # without statistics
    with pytest.raises(UserError, match=r"lists parameters alone, and .*running_mean.*are not in the file"):
        load_checkpoint(tmp_path / "a.pt", network())
    linear = nn.Linear(3, 2)
    torch.save(_shadows(linear), tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt", nn.Linear(3, 2))
    assert same(found.state, {n: v * 0.5 for n, v in linear.state_dict().items()})
    assert "averaged (EMA) weights alone" in found.notes[0]
    torch.save(
        {"net": model.state_dict(), "ema": {**shadows, "shadow_params": shadows["shadow_params"][1:]}},
        tmp_path / "a.pt",
    )
    found = read_checkpoint(tmp_path / "a.pt", network())
    assert same(found.state, model.state_dict())
    count = len(shadows["shadow_params"])
    assert (
        f"'ema.shadow_params' has {count - 1} tensors, but the network has {count} parameters"
        in found.notes[0]
    )
    torch.save(
        {"ema": {**shadows, "shadow_params": shadows["shadow_params"][::-1]}, "net": model.state_dict()},
        tmp_path / "a.pt",
    )
    with pytest.raises(UserError, match="has no weights 'ema'"):
        read_checkpoint(tmp_path / "a.pt", network(), "ema")


def test_ignored_tensors_are_reported(model, tmp_path):
    state = {**_prefixed("net.", model.state_dict()), "projector.weight": torch.ones(3)}
    torch.save(state, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt", network()).notes == (
        f"{tmp_path / 'a.pt'}: 1 tensor beside the network's were ignored: 'projector.weight'.",
    )


@pytest.mark.parametrize("legacy", [False, True])
def test_of_a_storage_that_tensors_share_each_reads_its_own_bytes(model, tmp_path, monkeypatch, legacy):
    """As of parameters that a trainer keeps in one flat tensor."""
    state = model.state_dict()
    flat = torch.cat([value.flatten() for value in state.values() if value.is_floating_point()])
    start, views = 0, dict(state)
    for name, value in state.items():
        if value.is_floating_point():
            views[name] = flat[start : start + value.numel()].view_as(value)
            start += value.numel()
    weight = state["head.weight"]
    views["head.weight"] = weight.t().contiguous().t()  # other strides
    torch.save(views, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    sizes = []
    read = safe_pickle.FileStorages.read
    monkeypatch.setattr(
        safe_pickle.FileStorages, "read", lambda self, *place: sizes.append(place[1]) or read(self, *place)
    )
    assert same(load_checkpoint(tmp_path / "a.pt", network()), state)
    assert sizes == [value.numel() * value.element_size() for value in state.values()]


def test_lazy_signs_and_conjugates_are_applied(tmp_path):
    """`torch.save` stores the values of the tensor below and a flag."""
    values = torch.tensor([1 + 2j, 3 - 1j])
    lazy = {"conj": values.conj(), "neg": values.conj().imag, "both": torch._neg_view(values.conj())}
    assert lazy["neg"].is_neg()
    for name, value in lazy.items():
        torch.save({name: value}, tmp_path / "a.pt")
        found = read_content(tmp_path / "a.pt")[name].read()
        assert torch.equal(found, value.resolve_conj().resolve_neg())


class Scaled(nn.Module):
    """A network whose parts have names like those of a training script's entries."""

    def __init__(self):
        super().__init__()
        self.scaler_net, self.amplitude, self.loops2 = (nn.Linear(2, 2) for _ in range(3))


def test_parts_of_a_network_are_not_taken_for_those_of_an_optimizer(tmp_path):
    model = Scaled()
    for key in ("optimizer", "optimizer_state_dict", "lr_scheduler", "grad_scaler", "amp_scaler", "amp"):
        torch.save({"net": {key: model.state_dict()}}, tmp_path / "a.pt")
        with pytest.raises(UserError, match="there is no tensor in it"):
            load_checkpoint(tmp_path / "a.pt", model)
    for key in ("scaler_net", "amplitude", "loops_encoder", "ampere"):
        torch.save({"net": {key: model.state_dict()}}, tmp_path / "a.pt")
        assert same(load_checkpoint(tmp_path / "a.pt", model), model.state_dict())


def test_one_name_of_a_training_state_makes_no_training_state(model, tmp_path):
    state = {"params/head": torch.ones(1), **model.state_dict()}
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="1 of the 57 given is not the network's \\('params/head'\\)"):
        load_checkpoint(tmp_path / "a.safetensors", network())


# --- nothing is executed -------------------------------------------------------------------------


class Bomb:
    """Writes a file when it is unpickled by the pickle module."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_execute_code_executes_nothing(model, tmp_path, legacy):
    canary = tmp_path / "executed"
    text = f"open({str(canary)!r}, 'w')"
    bombs = [Bomb(open, str(canary), "w"), Bomb(eval, text), Bomb(exec, text)]
    bombs += [Bomb(subprocess.run, ["touch", str(canary)]), Bomb(pathlib.Path.touch, canary)]
    bombs += [Bomb(getattr, pathlib.Path(canary), "touch"), Bomb(torch.save, 1, str(canary))]
    bombs += [{Bomb(open, str(canary), "w"): 1}]
    content = {"model": model.state_dict(), "extras": bombs}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    assert same(load_checkpoint(tmp_path / "a.pt", network()), model.state_dict())
    assert not canary.exists()
    torch.load(tmp_path / "a.pt", weights_only=False)  # the canary sings
    assert canary.exists()


def test_no_module_that_a_pickle_names_is_imported(model, tmp_path, monkeypatch):
    (tmp_path / "sings.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    data = b"\x80\x02csings\nThing\n)\x81."  # protocol 2, GLOBAL, EMPTY_TUPLE, NEWOBJ
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(UserError, match=r"holds a sings.Thing, not a state dict"):
        load_checkpoint(tmp_path / "a.bin", network())
    assert "sings" not in sys.modules
    assert not (tmp_path / "executed").exists()


def test_reading_changes_no_function_of_torch(tmp_path):
    """BUILD sets attributes on what is on the stack, and must reach nothing real."""
    before = torch._utils._rebuild_tensor_v2.__defaults__
    for target in (b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"cos\nsystem\n"):
        (tmp_path / "a.bin").write_bytes(b"\x80\x02" + target + b"}X\x01\x00\x00\x00aK\x01sN\x86b.")
        with pytest.raises(UserError):
            load_checkpoint(tmp_path / "a.bin", network())
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before
    assert not hasattr(torch._utils._rebuild_tensor_v2, "a")
    assert not hasattr(collections.OrderedDict, "a")


# --- refusals ------------------------------------------------------------------------------------


def _write(content):
    def make(folder, model):
        (folder / "bad.pt").write_bytes(content)
        return folder / "bad.pt"

    return make


def _cut(save, part):
    def make(folder, model):
        save(model.state_dict(), folder / "bad.pt")
        data = (folder / "bad.pt").read_bytes()
        (folder / "bad.pt").write_bytes(data[: int(len(data) * part)])
        return folder / "bad.pt"

    return make


def _old(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)


def _script(folder, model):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), folder / "bad.pt")
    return folder / "bad.pt"


def _with(extra, replace=False):
    def make(folder, model):
        torch.save(extra if replace else {**model.state_dict(), **extra}, folder / "bad.pt")
        return folder / "bad.pt"

    return make


def _quantised(folder, model):
    weight = torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)
    return _with({"head.weight": weight})(folder, model)


def _part(folder, model):
    return sorted(_sharded(model, folder).glob("*-of-*"))[0]


def _missing_part(folder, model):
    _part(folder, model).unlink()
    return folder


def _npz(folder, model):
    np.savez(folder / "bad.npz", a=np.ones(3))
    return folder / "bad.npz"


def _zip(folder, model):
    with zipfile.ZipFile(folder / "bad.zip", "w") as archive:
        archive.writestr("weights.pt", b"x")
    return folder / "bad.zip"


def _huge_storage(folder, model):
    """A tensor larger than its storage."""
    weight = torch.ones(10, 16)
    torch.save({**model.state_dict(), "head.weight": weight}, folder / "bad.pt")
    data = (folder / "bad.pt").read_bytes()
    with zipfile.ZipFile(folder / "bad.pt") as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    assert data
    key = max((n for n in records if "/data/" in n), key=lambda n: len(records[n]))
    with zipfile.ZipFile(folder / "bad.pt", "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content[:8] if name == key else content)
    return folder / "bad.pt"


LORA = {
    "base_model.model.head.lora_A.weight": torch.ones(2),
    "base_model.model.head.lora_B.weight": torch.ones(2),
}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_write(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n"), "git lfs pull"),
        (_write(b"<!DOCTYPE html><html>Sign in</html>"), "web page"),
        (_write(b"\x89HDF\r\n\x1a\n" + bytes(50)), "HDF5"),
        (_write(b"GGUF" + bytes(50)), "GGUF"),
        (_write(b"\x08\x07\x12\x07pytorch" + bytes(50)), "neither safetensors nor a file of torch.save"),
        (_write(b'{"a": 1}'), "JSON file without a weight_map"),
        (_write(pickle.dumps({"a": [1.0]})), "there is no tensor in it"),
        (_write(pickle.dumps([1, 2])), "holds a list, not a state dict"),
        (_write(b"\x80\x02X\xff\xff\x00\x00abc"), "damaged or incomplete"),
        (_cut(torch.save, 0.5), "damaged or incomplete"),
        (_cut(torch.save, 0.99), "damaged or incomplete"),
        (_cut(_old, 0.5), "damaged or incomplete"),
        (_cut(_old, 0.99), "damaged or incomplete"),
        (_cut(save_file, 0.5), "its header says"),
        (_cut(save_file, 0.01), "damaged or incomplete"),
        (_huge_storage, "damaged or incomplete"),
        (_script, "TorchScript"),
        (_npz, "NumPy arrays"),
        (_zip, "zip archive"),
        (_quantised, "quantised weights"),
        (_with({"head.SCB": torch.ones(2)}), "quantised weights"),
        (_with({"head.qweight": torch.ones(2).byte()}, replace=True), "quantised weights"),
        (_with(LORA, replace=True), "is a LoRA adapter alone.*merge_and_unload"),
        (_with(LORA), "has a LoRA adapter beside the weights"),
        (_part, r"It is one of several parts: give .*model.safetensors.index.json"),
        (_missing_part, "names model-00001-of-00002.safetensors, which is missing"),
        (lambda folder, model: folder, "folder without model.safetensors"),
        (_with({"head.weight": torch.ones(10, 16).to(torch.int8)}), "Quantised weights"),
    ],
)
def test_other_files_are_named_in_one_message(model, tmp_path, make, message):
    path = make(tmp_path, model)
    with pytest.raises(UserError, match=message) as refused:
        load_checkpoint(path, network())
    assert "\n" not in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_tensors_that_do_not_fit_are_counted_by_kind(model, tmp_path):
    state = model.state_dict()
    state = {n: v for n, v in state.items() if "norm1" not in n} | {
        "neck.a": torch.ones(1),
        "neck.b": torch.ones(1),
    }
    torch.save({"state_dict": _prefixed("model.", state)}, tmp_path / "a.pt")
    with pytest.raises(UserError) as refused:
        load_checkpoint(tmp_path / "a.pt", network())
    assert "12 of its 56 tensors are missing ('stages.0.norm1.weight', 'stages.0.norm1.bias', " in str(
        refused.value
    )
    assert "2 of the 43 given are not the network's ('model.neck.a', 'model.neck.b')" in str(refused.value)


def test_another_number_of_classes_is_named(tmp_path):
    other = build(Architecture(name="lmc_resnet", recipe="x", kwargs={"width": 4}), (1, 8, 8), 7, 0)
    torch.save(other.state_dict(), tmp_path / "a.pt")
    with pytest.raises(
        UserError, match=r"'head.weight' is \[7, 16\], the network's is \[10, 16\]; then 'head.bias'"
    ):
        load_checkpoint(tmp_path / "a.pt", network())


def test_the_api_takes_the_same_checkpoints(model, tmp_path):
    """With a network, `trace_path` finds the weights as the command line does."""
    other = network(2)
    split = {"test": (torch.randn(20, 1, 8, 8), torch.arange(20) % 10)}
    content = {"state_dict": _prefixed("model.", model.state_dict()), "epoch": 3}
    content["state_dict"]["criterion.weight"] = torch.ones(10)
    found = lmcbench.trace_path(network(), content, AveragedModel(other).state_dict(), split, 3)["test"]
    expected = lmcbench.trace_path(network(), model.state_dict(), other.state_dict(), split, 3)["test"]
    assert found.loss.tolist() == expected.loss.tolist()
    half = {n: v.bfloat16() if v.is_floating_point() else v for n, v in model.state_dict().items()}
    wide = {n: v.float() if v.is_floating_point() else v for n, v in half.items()}
    found = lmcbench.trace_path(network(), half, other.state_dict(), split, 3)["test"]
    expected = lmcbench.trace_path(network(), wide, other.state_dict(), split, 3)["test"]
    assert found.loss.tolist() == expected.loss.tolist()


@pytest.mark.parametrize("offsets", ["[]", "[0]", '["a", "b"]', "[[], {}]", "3", "null", "[0, 1e300]"])
def test_odd_offsets_in_a_header_are_one_message(tmp_path, offsets):
    header = f'{{"a": {{"dtype": "F32", "shape": [1], "data_offsets": {offsets}}}}}'.encode()
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(UserError, match=r"odd\.safetensors"):
        read_content(path)
