import hashlib
import sys

import pytest
from pydantic import ValidationError

from lmcbench.errors import UserError
from lmcbench.spec import architectures
from lmcbench.spec.architectures import OWN_NETWORKS, OWN_REVISIONS, Architecture


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
    assert one.fingerprint != other.fingerprint


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
        ("nowhere/net.py:make", r"no file nowhere/net\.py"),
        ("net.py:", "names no function. Write module:function or file.py:function"),
        ("net.py:a b", "names no function"),
        ("no_such_module_here:make", "no module 'no_such_module_here' on the import path"),
        ("no_such.module_here:make", "no module"),
        (":make", "no module ''"),
        ("sys:make", "no module 'sys'"),
    ],
)
def test_a_definition_that_is_not_there_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        _ = named(name).fingerprint


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_settings_that_no_key_can_hold_are_refused(value):
    with pytest.raises(ValidationError, match="must be finite numbers, strings"):
        named("lmc_mlp", width=value)
