"""Messages for unknown names."""

from __future__ import annotations

import pytest

from lmcbench.errors import unknown


@pytest.mark.parametrize(
    ("name", "allowed", "message"),
    [
        ("resnt", ["resnet", "vgg"], "Unknown network 'resnt'. Did you mean 'resnet'?"),
        ("zzz", ["vgg", "a"], "Unknown network 'zzz'. Known: a, vgg."),
        ("zzz", map(str, range(21)), "Unknown network 'zzz'. 21 names are known."),
        ("zzz", [], "Unknown network 'zzz'. There is none."),
    ],
)
def test_an_unknown_name_is_answered_with_close_or_known_ones(name, allowed, message):
    assert str(unknown("network", name, allowed)) == message
