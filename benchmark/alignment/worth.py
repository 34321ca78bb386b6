"""What alignment is worth: barriers between independent siblings before and after it.

python benchmark/alignment/worth.py digits --replicates 5 --out RUN            all networks of a suite
python benchmark/alignment/worth.py cifar10-cpu-fork --replicates 3:5 --out RUN --arch 'vit*'

Siblings without a record in the run folder are trained, as `lmcbench run SUITE --fork independent --shift
none` does. B is taken as it is, and aligned with A by weights, by activations and, if the network has a
residual stream that can be turned, by orthogonal maps. On each line the barrier is measured with blended
statistics and with repaired ones (Jordan et al., 2023): recalibrated in networks with BatchNorm, else the
moments of every layer. Barriers are of the chord form, on all test images. Rows are stored in `worth.csv`
after every replicate; those that it has are not measured again. `summary.py` makes table and figure of
`docs/align.md`.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmcbench.connect.alignment import align
from lmcbench.connect.blending import State
from lmcbench.connect.geometry import geometry
from lmcbench.connect.interpolation import trace_path
from lmcbench.connect.repair import repair_path
from lmcbench.data.dataset import Dataset
from lmcbench.data.selection import open_suite_data, select_calibration
from lmcbench.errors import UserError
from lmcbench.results.curves import Curve, barrier
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.family_data import FamilyData, prepare
from lmcbench.running.from_python import run
from lmcbench.running.run import expand_views
from lmcbench.running.stored_cells import load_siblings
from lmcbench.spec.cells import Cell, Selection, expand, families, parse_replicates
from lmcbench.spec.suite_files import load_suite

ROWS = Path(__file__).with_name("worth.csv")

Method = Callable[[nn.Module, State, State, Tensor], State]

METHODS: dict[str, Method] = {
    "none": lambda model, a, b, images: b,
    "weights": lambda model, a, b, images: align(model, a, b, images=images[:2]),
    "activations": lambda model, a, b, images: align(model, a, b, match="activations", images=images),
    "orthogonal": lambda model, a, b, images: align(model, a, b, symmetry="orthogonal", images=images[:2]),
}
"""How B is aligned with A; images are those for calibration."""

UNITLESS = "lmc_linear"
"""The baseline, which has no unit to permute."""


@dataclass(frozen=True)
class Row:
    """One line between two siblings.

    Attributes:
        suite: name and version.
        network: label of the architecture.
        replicate: its number.
        method: key of `METHODS`.
        statistics: `blended`, or `repaired`.
        loss_barrier: chord form, nats; empty if it was not measured.
        error_barrier: chord form, fraction.
        error_a: test error of A on this line.
        error_b: of B.
        error_mid: of the midpoint.
        distance: between the weights of A and aligned B, over that before.
        align_s: processor seconds of the alignment.
        reason: why it was not measured.
    """

    suite: str
    network: str
    replicate: int
    method: str
    statistics: str
    loss_barrier: float | None = None
    error_barrier: float | None = None
    error_a: float | None = None
    error_b: float | None = None
    error_mid: float | None = None
    distance: float | None = None
    align_s: float | None = None
    reason: str = ""


def main() -> None:
    """Train and measure what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite")
    parser.add_argument("--replicates", required=True, metavar="N|A:B")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run folder")
    parser.add_argument("--arch", action="append", metavar="GLOB", help="these networks only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    suite = load_suite(options.suite)
    names = options.arch or [a.label for a in suite.architectures if a.name != UNITLESS]
    found = list(read_rows())
    done = {(row["suite"], row["network"], row["replicate"]) for row in found}
    dataset = open_suite_data(suite, None)
    for replicate in parse_replicates(options.replicates):
        part = range(replicate, replicate + 1)
        for cell in expand(suite, Selection(names, ("none",), ("independent",), part)):
            key = (f"{suite.name}-v{suite.version}", cell.architecture.label, str(replicate))
            if key in done:
                continue
            run(
                suite,
                architectures=cell.architecture.label,
                shifts="none",
                forks="independent",
                replicates=part,
                out=options.out,
                device="cpu",
                jobs=1,
            )
            found += [
                {name: _text(value) for name, value in asdict(row).items()}
                for row in measure(cell, RunFolder(options.out), dataset, key[0])
            ]
            write_rows(found)
            print(*key, flush=True)


def measure(cell: Cell, folder: RunFolder, dataset: Dataset, suite: str) -> Iterator[Row]:
    """Yield the rows of a trained cell."""
    [family] = families([cell])
    data = prepare(family, expand_views([family], dataset)[cell.replicate], dataset, torch.device("cpu"))
    a, b = load_siblings(cell, folder, data.model)
    images, test = calibration_images(cell, data), data.tests[None].split()
    splits = {"test": (test[0].whole(), test[1])}
    before = geometry(None, a, b).distance_ab

    def blended(other: State) -> Curve:
        return trace_path(data.model, a, other, splits, cell.suite.protocol.alphas)["test"]

    def repaired(other: State) -> Curve:
        return repair_path(data.model, a, other, splits, images, cell.suite.protocol.alphas)["test"]

    for method, bring in METHODS.items():
        start = time.process_time()
        row = {"suite": suite, "network": cell.architecture.label, "replicate": cell.replicate}
        try:
            moved = bring(data.model, a, b, images)
        except UserError as error:
            for statistics in ("blended", "repaired"):
                yield Row(**row, method=method, statistics=statistics, reason=str(error))
            continue
        took = round(time.process_time() - start, 2)
        distance = geometry(None, a, moved).distance_ab / before
        for statistics, trace in (("blended", blended), ("repaired", repaired)):
            some = {**row, "method": method, "statistics": statistics}
            try:
                yield Row(**some, **scores(trace(moved)), distance=distance, align_s=took)
            except UserError as error:
                yield Row(**some, distance=distance, align_s=took, reason=str(error))


def calibration_images(cell: Cell, data: FamilyData) -> Tensor:
    """Return the suite's number of training images for statistics and activations, `[n, c, h, w]`."""
    views = data.views[cell.key].items
    items = select_calibration(views, data.pool.source, data.pool.labels, cell.suite.protocol.calibration)
    return data.train.split(torch.as_tensor(items))[0].whole()


def scores(curve: Curve) -> dict[str, float]:
    """Return barriers and errors of a curve."""
    height = barrier(curve)
    return {
        "loss_barrier": height.loss_chord,
        "error_barrier": height.error_chord,
        "error_a": float(curve.error[0]),
        "error_b": float(curve.error[-1]),
        "error_mid": float(curve.error[len(curve.error) // 2]),
    }


def read_rows() -> list[dict[str, str]]:
    """Return the stored rows; none without a file."""
    if not ROWS.exists():
        return []
    with ROWS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(rows: list[dict[str, str]]) -> None:
    """Write all rows in a fixed order."""
    names = [field.name for field in fields(Row)]
    kinds = list(METHODS)

    def place(row: dict[str, str]) -> tuple[Any, ...]:
        which = kinds.index(row["method"]), row["statistics"]
        return row["suite"], row["network"], int(row["replicate"]), *which

    lines = [names, *([row[name] for name in names] for row in sorted(rows, key=place))]
    with ROWS.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


if __name__ == "__main__":
    main()
