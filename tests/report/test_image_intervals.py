import json
import math

import numpy as np
import pytest
from safetensors.numpy import load, save
from scipy.special import log_softmax

from builders import make_record, toy_cell, toy_suite
from lmcbench.report.image_intervals import areas_over_images
from lmcbench.report.tables import make_tables
from lmcbench.results.record_parser import parse_record
from lmcbench.stats.estimates import estimate

TEN = toy_suite(
    recipes={name: {"lr": 0.1, "batch_size": 32, "epochs": 10} for name in ("slow", "fast")},
    forks=[0, 3, "independent"],
)
FORKS = {"0": 1.0, "3": 0.3, "independent": 2.0}
IMAGES = 60
MLP = ("lmc_mlp", "fast")


def cross_entropy(logits, labels):
    return -log_softmax(logits.astype(float), axis=-1)[..., np.arange(len(labels)), labels]


@pytest.fixture
def run(tmp_path):
    """A run folder of three replicates, and D of every image by fork and replicate."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, IMAGES)
    records, excess = [], {}
    for replicate in range(3):
        for fork, height in FORKS.items():
            record = make_record(
                toy_cell("lmc_mlp", "disjoint-halves", fork, replicate, TEN), barrier_loss=height
            )
            ends = generator.normal(size=(2, IMAGES, 4)).astype(np.float16)
            ends[:, np.arange(IMAGES), labels] += 4
            middle = (ends.mean(axis=0) * (1 - height / 2.5)).astype(np.float16)
            excess[fork, replicate] = cross_entropy(middle, labels) - cross_entropy(ends, labels).mean(axis=0)
            path = tmp_path / "predictions" / f"{record.key}.safetensors"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(save({"test": ends, "test.labels": labels, "test.midpoint-0-1": middle}))
            table = json.loads(record.to_json())
            table["evidence"] = {
                "predictions": {"path": f"predictions/{record.key}.safetensors", "sha256": "0" * 64},
                "checkpoints": [],
            }
            records.append(parse_record(json.dumps(table), "x"))
    return records, tmp_path, excess


def test_areas_of_logits_with_both_parts_of_the_interval(run):
    records, folder, excess = run

    def area(replicate, images):
        d = [excess[fork, replicate][images].mean() for fork in FORKS]
        return (np.clip(d[0] / d[2], 0, 1) + np.clip(d[1] / d[2], 0, 1)) / 2  # the trapezoid of two forks

    found = areas_over_images(records, folder)
    assert found.keys() == {MLP}
    alone = estimate([area(r, slice(None)) for r in range(3)])
    assert found[MLP].mean == pytest.approx(alone.mean, abs=1e-9)
    generator = np.random.default_rng(1)
    draws = [generator.integers(0, IMAGES, IMAGES) for _ in range(1000)]
    spread = 1.96 * np.std([np.mean([area(r, images) for r in range(3)]) for images in draws])
    assert found[MLP].half_width == pytest.approx(math.hypot(alone.half_width, spread), rel=0.12)
    assert areas_over_images(records[::-1], folder)[MLP].half_width == pytest.approx(found[MLP].half_width)


def test_a_network_without_all_of_its_logits_is_left_out(run):
    records, folder, _ = run
    assert areas_over_images(records[1:], folder) == {}
    path = folder / records[0].evidence["predictions"]["path"]
    path.write_bytes(path.read_bytes()[:-7])
    assert areas_over_images(records, folder) == {}
    path.unlink()
    assert areas_over_images(records, folder) == {}
    assert areas_over_images([make_record()], folder) == {}


def test_the_table_says_which_interval_has_the_images(run):
    records, folder, _ = run
    plain = make_tables(records)
    both = make_tables(records, folder=folder)
    [row] = both.instability[both.instability["shift"] == "mean of shifts"].to_dict("records")
    [other] = plain.instability[plain.instability["shift"] == "mean of shifts"].to_dict("records")
    assert row["area"] != other["area"]
    assert any("over replicates and test images" in note for note in both.notes)
    assert not any("test images" in note for note in plain.notes)


def test_an_undefined_area_is_a_dash_and_no_number(run):
    """Independent networks that are connected in one replicate define no scale there."""
    records, folder, _ = run
    [far] = [r for r in records if (r.fork.name, r.replicate) == ("independent", 1)]
    tensors = load((folder / far.evidence["predictions"]["path"]).read_bytes())
    flat = {**tensors, "test.midpoint-0-1": tensors["test"][0]}
    (folder / far.evidence["predictions"]["path"]).write_bytes(save(flat))
    assert areas_over_images(records, folder) == {}
    shown = make_tables(records, folder=folder)
    assert "nan" not in shown.render("simple")
    assert not any("test images (bootstrap" in note for note in shown.notes)
