import pytest

from golden.make import FILES, HERE, text


@pytest.mark.parametrize("name", FILES)
def test_what_identifies_results_is_as_it_was(name):
    """Meant to change? `python tests/golden/make.py` writes the files anew."""
    assert (HERE / name).read_text() == text(FILES[name]())
