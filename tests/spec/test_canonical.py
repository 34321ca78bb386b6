import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcbench.spec.canonical import canonical_json, digest

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


def test_the_text_is_sorted_and_without_spaces():
    assert canonical_json({"b": [1, 2.5, None], "a": {"d": "é", "c": True}}) == (
        '{"a":{"c":true,"d":"é"},"b":[1,2.5,null]}'
    )


def check_canonical(value):
    backwards = dict(reversed(value.items()))
    assert canonical_json(backwards) == canonical_json(value)
    assert json.loads(canonical_json(value)) == value


@settings(max_examples=10, deadline=None)
@given(st.dictionaries(st.text(), values))
def test_order_of_keys_does_not_matter_and_nothing_is_lost(value):
    check_canonical(value)


@pytest.mark.slow_tier
@settings(max_examples=2000, deadline=None)
@given(st.dictionaries(st.text(), values))
def test_order_of_keys_in_many_values(value):
    check_canonical(value)


def test_a_digest_is_sha256_of_the_utf8_text():
    assert digest({"a": "é"}) == hashlib.sha256(b'{"a":"\xc3\xa9"}').hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": [value]})
