import pytest

from golden.make import FILES, HERE, text


@pytest.mark.parametrize("name", FILES)
def test_seeds_digests_and_keys_are_unchanged(name):
    """If the change is intended, run `python tests/golden/make.py`."""
    assert (HERE / name).read_text() == text(FILES[name]())
