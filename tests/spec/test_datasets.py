"""What every result on a published suite has to have of its data: all images of the set."""

import pytest

from builders import make_record
from lmcbench.spec.cells import expand
from lmcbench.spec.datasets import pins_of
from lmcbench.spec.suite_files import load_suite
from lmcbench.submission.check_protocol import check_data


@pytest.mark.parametrize(
    ("suite", "sizes"),
    [("cifar10-shift", (50_000, 10_000)), ("fashion-shift-cpu", (10_000, 2_000)), ("digits", (1198, 599))],
)
def test_a_part_of_a_set_is_no_result_on_a_published_suite(suite, sizes):
    cell = expand(load_suite(suite))[0]
    pins = pins_of(cell.suite.data, published=True)
    assert (pins.train_n, pins.test_n) == sizes
    data = [
        {"name": cell.suite.data.name, "split": split, "n": n, "sha256": pinned or "0" * 64}
        for split, n, pinned in zip(("train", "test"), sizes, (pins.train, pins.test), strict=True)
    ]
    record = make_record().model_copy(update={"data": data})
    assert list(check_data(record, cell, pins)) == []
    data[0]["n"] = 60
    assert list(check_data(record, cell, pins)) == [("data.train.n", f"found 60, the suite's has {sizes[0]}")]
