"""Pictures of landscapes: the toy's closed form, and planes and paths from records."""

from __future__ import annotations

import numpy as np
import pytest

from builders import make_record, toy_cell, write_run
from further import probed_record
from lmcbench.draw_landscapes import find_record, picture_format, toy_landscape, toy_text
from lmcbench.errors import UserError


@pytest.fixture
def landscape(lmcbench):
    return lambda *arguments: lmcbench("landscape", *arguments)


@pytest.mark.parametrize(
    ("toy", "barrier"),
    [
        ({}, 0.25),  # d = 2, s = 4 each: 16 / 64
        ({"distance": 4.0}, 4.0),  # the fourth power of the distance
        ({"sharpness_a": 3.0, "sharpness_b": 2.0}, 1.5),
        ({"roundness": 9.0}, 0.25),  # across the line nothing counts
        ({"roundness": 3.0, "turn": 90.0}, 0.75),  # but for a turned well
    ],
)
def test_the_barrier_by_hand(toy, barrier):
    landscape = toy_landscape(**toy)
    assert landscape.barrier == pytest.approx(barrier)
    said = toy_text(landscape)
    closed, measured, predicted = (float(line.split(":")[1].split()[0]) for line in said.splitlines())
    assert closed == pytest.approx(barrier)
    assert measured == pytest.approx(barrier)
    assert predicted == pytest.approx(4 * barrier)
    assert "(4 times)" in said


def test_the_toy_is_drawn(landscape, tmp_path, monkeypatch):
    monkeypatch.setattr("lmcbench.draw_landscapes.GRID", 21)
    for kind, head in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        code, out, _ = landscape("toy", "--turn", "30", "--out", tmp_path / f"toy.{kind}")
        assert code == 0
        assert f"Wrote {tmp_path / f'toy.{kind}'}" in out
        assert (tmp_path / f"toy.{kind}").read_bytes().startswith(head)
    again = (tmp_path / "toy.svg").read_bytes()
    landscape("toy", "--turn", "30", "--out", tmp_path / "toy.svg")
    assert (tmp_path / "toy.svg").read_bytes() == again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--distance", "0"], "--distance must be above 0, found 0"),
        (["--sharpness-b", "-1"], "--sharpness-b must be above 0"),
        (["--roundness", "nan"], "--roundness must be above 0, found nan"),
        (["--out", "toy.jpg"], "pictures are png, svg, pdf"),
    ],
)
def test_parameters_that_make_no_landscape(landscape, tmp_path, monkeypatch, options, message):
    code, out, err = landscape("toy", *options)
    assert (code, out) == (2, "")
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_cells_are_drawn_from_their_records(landscape, tmp_path):
    cell, apart = probed_record("lmc_mlp", "0", 0.5), probed_record("lmc_mlp", "independent", 2.0)
    plain, dead = (
        make_record(toy_cell(fork="2")),
        make_record(toy_cell(shift="label-skew"), status="diverged"),
    )
    write_run(tmp_path / "run", [cell, apart, plain, dead])
    for what in ("plane", "siblings"):
        target = tmp_path / f"{what}.png"
        assert landscape(what, tmp_path / "run", cell.key[:10], "--out", target)[0] == 0
        assert target.read_bytes().startswith(b"\x89PNG")
    for record, message in (
        (apart, "has no plane: Independent networks have no fork"),
        (plain, "'lmcbench run FILE.toml --measure plane' adds it"),
        (dead, "has no plane: its status is 'diverged'"),
    ):
        code, _, err = landscape("plane", tmp_path / "run", record.key)
        assert code == 2
        assert message in err
    assert find_record(tmp_path / "run", cell.key).key == cell.key
    with pytest.raises(UserError, match="has no record whose key begins with 'xyz'"):
        find_record(tmp_path / "run", "xyz")
    with pytest.raises(UserError, match="Give a run folder"):
        find_record(tmp_path, "ab")
    with pytest.raises(UserError, match="pictures are png, svg, pdf"):
        picture_format(tmp_path / "x")
    assert np.isfinite(cell.pairs[0].model_extra["plane"]["anchors"]).all()
