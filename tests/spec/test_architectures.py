import hashlib
import sys

import pytest
from pydantic import ValidationError

from lmcbench.errors import UserError
from lmcbench.spec import architectures
from lmcbench.spec.architectures import (
    OWN_NETWORKS,
    OWN_PREFIX,
    OWN_REVISIONS,
    Architecture,
    architecture_label,
    imports_beside,
    parse_architecture,
    parse_settings,
)


def named(name, **kwargs):
    return Architecture(name=name, recipe="sgd", kwargs=kwargs)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("lmc_mlp", "lmcbench"),
        ("resnet18", "timm"),
        ("resnet18.a1_in1k", "timm"),
        ("package.nets:make", "module"),
        ("folder/net.py:make", "file"),
    ],
)
def test_source_is_told_by_the_name(name, source):
    assert named(name).source == source


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("timm/resnet18.a1_in1k", "resnet18.a1_in1k"),
        ("hf-hub:timm/resnet18.a1_in1k", "resnet18.a1_in1k"),
        ("hf_hub:timm/resnet18", "resnet18"),
        ("https://huggingface.co/timm/resnet18.a1_in1k", "resnet18.a1_in1k"),
        ("timm.resnet18", "resnet18"),
        ("timm:resnet18", "resnet18"),
        ("timm.models.resnet18", "resnet18"),
        ("torchvision.models.resnet18", "torchvision.models:resnet18"),
        ("torchvision.models:resnet18", "torchvision.models:resnet18"),
        ("torchvision/resnet18", "torchvision.models:resnet18"),
        ("torchvision.resnet18", "torchvision.models:resnet18"),
        ("pytorch/vision:resnet18", "torchvision.models:resnet18"),
        ("timm/resnet18+small-stem(drop_rate=0.1)", "resnet18"),
        ("timm.py:net", "timm.py:net"),
        ("torchvision.models.resnet:resnet18", "torchvision.models.resnet:resnet18"),
    ],
)
def test_names_are_read_in_the_spellings_of_cards_and_scripts(text, name):
    assert parse_architecture(text, "sgd").name == name


def test_a_network_of_another_repository_is_refused_with_what_to_do():
    with pytest.raises(UserError, match="the network of a repository on the hub is not known"):
        parse_architecture("hf-hub:google/vit-base-patch16-224", "sgd")


def test_labels_show_settings_in_order_and_no_folder():
    assert named("lmc_mlp", width=64, depth=2).label == "lmc_mlp(depth=2,width=64)"
    assert named("/home/me/nets/net.py:make").label == "net.py:make"
    assert named("lmc_cnn").label == "lmc_cnn"


def test_an_adaptation_is_part_of_what_a_network_is_and_none_leaves_no_trace():
    plain, small = named("resnet18"), Architecture(name="resnet18", recipe="sgd", adapt="small-stem")
    assert small.label == "resnet18+small-stem"
    assert small.identity() == plain.identity() | {"adapt": "small-stem"}
    assert "adapt" not in plain.identity()
    with pytest.raises(ValidationError, match=r"Unknown adaptation 'small_stem'\. Did you mean 'small-stem'"):
        Architecture(name="resnet18", recipe="sgd", adapt="small_stem")


def test_every_own_network_has_a_revision_that_its_fingerprint_follows(monkeypatch):
    assert OWN_NETWORKS.keys() == OWN_REVISIONS.keys()
    before = named("lmc_mlp").fingerprint
    assert before == hashlib.sha256(b"lmcbench:lmc_mlp:1").hexdigest()[:16]
    monkeypatch.setitem(architectures.OWN_REVISIONS, "lmc_mlp", 2)
    assert named("lmc_mlp").fingerprint != before


def test_a_file_is_known_by_its_content_not_its_folder(tmp_path):
    first, second = tmp_path / "a" / "net.py", tmp_path / "b" / "net.py"
    for path in (first, second):
        path.parent.mkdir()
        path.write_text("def make(**_): ...\n")
    one, other = named(f"{first}:make"), named(f"{second}:make")
    assert one.identity() == other.identity()
    assert str(tmp_path) not in str(one.identity())
    second.write_text("def make(**_): return 1\n")
    assert named(f"{second}:make").fingerprint != one.fingerprint
    # what has been asked for stays what it was
    assert other.fingerprint == one.fingerprint


def test_a_module_is_known_by_its_content_and_not_imported(tmp_path, monkeypatch):
    (tmp_path / "user_net_of_test.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = named("user_net_of_test:make").fingerprint
    (tmp_path / "user_net_of_test.py").write_text("raise RuntimeError('changed')\n")
    assert named("user_net_of_test:make").fingerprint != before
    assert "user_net_of_test" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/net.py:make", r"nowhere/net\.py does not exist"),
        ("net.py:", "no function name. Write module:function or file.py:function"),
        ("net.py:a b", "no function name"),
        ("no_such_module_here:make", "'no_such_module_here' is not on the import path"),
        ("no_such.module_here:make", "not on the import path"),
        (":make", "module '' is not on the import path"),
        ("sys:make", "module 'sys' is not on the import path"),
    ],
)
def test_a_definition_that_is_not_there_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        _ = named(name).fingerprint


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_settings_that_no_key_can_hold_are_refused(value):
    with pytest.raises(ValidationError, match="must be finite numbers, strings"):
        named("lmc_mlp", width=value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lmc_mpl", r"Unknown architecture 'lmc_mpl'\. Did you mean 'lmc_mlp' or"),
        ("lmc_x", r"Unknown architecture 'lmc_x'\. (Known|Did you mean)"),
        ("nets/mine.py", r"'nets/mine\.py' has no function name\. Write nets/mine\.py:FUNCTION\."),
        (
            "lmc_mlp(width=3)",
            r"'lmc_mlp\(width=3\)' is not a valid name\. .*kwargs = \{\.\.\.\} in a suite file",
        ),
        ("resnet 18", "'resnet 18' is not a valid name"),
    ],
)
def test_what_can_be_no_network_is_refused_without_timm(name, message):
    with pytest.raises(ValidationError, match=message):
        named(name)


def test_ours_alone_begin_as_ours_do():
    assert all(name.startswith(OWN_PREFIX) for name in OWN_NETWORKS)
    timm = pytest.importorskip("timm")
    assert timm.list_models(f"{OWN_PREFIX}*") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lmc_mpl", "^Unknown architecture 'lmc_mpl'"),
        ("mine.py", "^Architecture 'mine.py' has no function name"),
        ("", "^Architecture '': name: String should have at least 1 character"),
        ("lmc_mlp(width=1e999)", "^Architecture 'lmc_mlp': kwargs: must be finite numbers"),
        ("resnet18(a=1", r"^Architecture 'resnet18\(a=1' is not a valid name"),
    ],
)
def test_what_a_command_names_is_refused_as_one_message(text, message):
    with pytest.raises(UserError, match=message) as refused:
        parse_architecture(text, "r")
    assert not isinstance(refused.value, ValidationError)
    assert "\n" not in str(refused.value)


# --- as the command line names them --------------------------------------------------------------


def test_names_with_adaptations():
    parsed = parse_architecture("resnet18+small-stem", "r", {"width": 2})
    assert (parsed.name, parsed.adapt, parsed.kwargs) == ("resnet18", "small-stem", {"width": 2})
    assert parse_architecture("a+b/mine.py:net", "r").name == "a+b/mine.py:net"
    assert parse_architecture("a+b/mine.py:net+patch4", "r").adapt == "patch4"
    with pytest.raises(UserError, match=r"Unknown adaptation 'smallstem'\. Did you mean 'small-stem'"):
        parse_architecture("resnet18+smallstem", "r")


@pytest.mark.parametrize(
    ("name", "adapt", "kwargs"),
    [
        ("lmc_mlp", None, {"width": 64, "depth": 2}),
        ("resnet18", "small-stem", {"width": 0.5}),
        ("net.py:make", None, {"norm": False, "act": "gelu", "depths": [2, 3], "none": None}),
        ("a+b/net.py:make", "patch4", {"table": {"a": [1, 2]}, "b": True}),
    ],
)
def test_a_label_names_what_it_was_printed_for(name, adapt, kwargs):
    asked = Architecture(name=name, recipe="r", kwargs=kwargs, adapt=adapt)
    assert parse_architecture(architecture_label(name, kwargs, adapt), "r") == asked


def test_arguments_beside_the_name_win():
    assert parse_architecture("lmc_mlp(width=8,depth=2)", "r", {"width": 4}).kwargs == {
        "width": 4,
        "depth": 2,
    }
    assert parse_architecture("lmc_mlp()", "r").kwargs == {}
    with pytest.raises(UserError, match=r"'width' .*write NAME=VALUE"):
        parse_architecture("lmc_mlp(width)", "r")


def test_settings_are_json_where_they_can_be():
    texts = ["a=1", "b=0.5", "c=True", "d=gelu", "e=[1, 2]", "f=x=y", "g=null"]
    assert parse_settings(texts) == {
        "a": 1, "b": 0.5, "c": True, "d": "gelu", "e": [1, 2], "f": "x=y", "g": None,
    }  # fmt: skip
    for bad in (["a"], ["=1"], ["a b=1"], ["a=1", "a=2"]):
        with pytest.raises(UserError, match="write NAME=VALUE"):
            parse_settings(bad)


def test_code_beside_a_network_is_found_without_executing_it(tmp_path, monkeypatch):
    file = tmp_path / "net.py"
    file.write_text("import json, helper\nfrom blocks.res import Block\nimport absent\n1 / 0\n")
    (tmp_path / "blocks").mkdir()
    for name in ("helper.py", "blocks/__init__.py", "json.py", "unused.py"):
        (tmp_path / name).write_text("1 / 0")
    # what an import finds elsewhere is not what lies beside
    assert imports_beside(file) == ["blocks/__init__.py", "helper.py"]
    monkeypatch.syspath_prepend(tmp_path)  # as `python -m lmcbench` does
    assert imports_beside(file) == ["blocks/__init__.py", "helper.py"]
    file.write_text("def broken(:")
    assert imports_beside(file) == []
