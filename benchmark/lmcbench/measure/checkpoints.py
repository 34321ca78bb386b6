"""Measure checkpoints of the user's own, as a run measures a pair of siblings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from lmcbench.connect.blending import State, check_pair
from lmcbench.errors import UserError, unknown
from lmcbench.machine import choose_device, compute_exactly
from lmcbench.measure.images import MeasureImages, choose_normalisation, open_images
from lmcbench.measure.networks import Bench, scores_of
from lmcbench.measure.verdict import verdict
from lmcbench.results.atomic_files import check_folder
from lmcbench.running.analyses import select_analyses
from lmcbench.spec.architectures import parse_architecture
from lmcbench.train.build import build, published_settings
from lmcbench.train.checkpoints import read_checkpoint
from lmcbench.train.train_state import save_tensors
from lmcbench.untrusted import check_regular

SPLITS = ("test", "train")

SELECTION = ("held-out", "train")
"""Splits on which a greedy soup may be chosen: a stratified tenth of the training set, or all of it."""

SUFFIX = ".safetensors"

Report = Callable[[str, int, int], None]
"""Called with what is measured next, how many are done, and how many there are."""


@dataclass(frozen=True)
class Request:
    """The checkpoints to measure, and how.

    Attributes:
        checkpoints: files with the weights of two or more networks of one architecture.
        architecture: timm name, `module:function` or `file.py:function`.
        data: a data set's name or path.
        arch_kwargs: keyword arguments of the architecture.
        weights: entry of the files to read, or `ema`; None: the plain weights.
        image_size: pixels a side that images are resized to; None: no resizing.
        mean: per channel, of pixels scaled to 0..1, or one number for all; None: the network's published
            ones, else the training set's.
        std: likewise.
        splits: of the data set.
        images: size of the stratified subset of each split; None: all images.
        calibration: training images for normalisation statistics; 0: the statistics are interpolated.
        fork: file of the state the networks were trained from; None: they are independent.
        measures: names of further analyses, or `all`.
        alphas: points on the line.
        soup: file to write the uniform average to; None: it is not written.
        greedy_soup: file to write the greedy soup to; None: there is none.
        select: split on which the greedy soup is chosen; None: `held-out`.
        domain: column of the data's domains, or `folder` for folders DOMAIN/CLASS; None: there are none.
    """

    checkpoints: Sequence[Path]
    architecture: str
    data: str
    arch_kwargs: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    image_size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    splits: Sequence[str] = ("test",)
    images: int | None = None
    calibration: int = 1000
    fork: Path | None = None
    measures: Sequence[str] = ()
    alphas: int = 21
    soup: Path | None = None
    greedy_soup: Path | None = None
    select: str | None = None
    domain: str | None = None

    def check(self) -> None:
        """Check what can be checked before anything slow.

        Raises:
            UserError: naming the option.
        """
        if len(self.checkpoints) < 2:
            raise UserError("measure needs at least two checkpoints.")
        for split in self.splits:
            if split not in SPLITS:
                raise unknown("split", split, SPLITS)
        if self.select == "test":
            raise UserError("--select test: a soup chosen on the test set is not tested by it.")
        if self.select is not None and self.select not in SELECTION:
            raise unknown("split", self.select, SELECTION)
        if self.select is not None and self.greedy_soup is None:
            raise UserError("--select chooses a greedy soup. Add --greedy-soup FILE, or leave it out.")
        inputs = [*self.checkpoints, *([] if self.fork is None else [self.fork])]
        for path in inputs:
            if not path.exists():
                raise UserError(f"{path} does not exist.")
            if not path.is_dir():
                check_regular(path, limit=sys.maxsize)
        if self.soup and self.greedy_soup and self.soup.resolve() == self.greedy_soup.resolve():
            raise UserError(f"--soup and --greedy-soup are both {self.soup}. Give two files.")
        for option, out in (("--soup", self.soup), ("--greedy-soup", self.greedy_soup)):
            if out is None:
                continue
            if out.suffix != SUFFIX:
                raise UserError(f"{option} {out}: the file must end in {SUFFIX}.")
            check_folder(option, out)
            if any(path.exists() and out.exists() and path.samefile(out) for path in inputs):
                raise UserError(f"{option} {out} is one of the checkpoints. Give another file.")


def measure(
    request: Request,
    data_dir: Path | None = None,
    device: str = "auto",
    report: Report = lambda what, done, total: None,
) -> dict[str, Any]:
    """Return `siblings`, `pairs` (each shaped like one of a record), `ensemble`, `soup` and `verdict`.

    With normalisation statistics, the ends of curves are the networks as given and the points between them
    are recalibrated. Scores, predictions and the ensemble are of the networks as given, soups are
    recalibrated. `normalisation` has the mean and standard deviation that pixels (scaled to 0..1) were
    normalised by, `notes` sentences on what else the files hold, and `greedy_soup`, if it was asked for, its
    members in the order of their entry and its scores.

    Raises:
        UserError: for files that are not states of this network, unknown names or missing data.
    """
    request.check()
    names = select_analyses(request.measures)
    where = choose_device(device)
    compute_exactly(where)
    architecture = parse_architecture(request.architecture, "none", request.arch_kwargs)
    published = published_settings(architecture)
    dataset, notes = open_images(request.data, data_dir, request.image_size, published, request.domain)
    channels, *sides = dataset.shape
    height, width = sides if request.image_size is None else (request.image_size, request.image_size)
    model = build(architecture, (channels, height, width), len(dataset.classes), 0).to(where)
    checkpoints = [read_checkpoint(path, model, request.weights) for path in request.checkpoints]
    states = [checkpoint.state for checkpoint in checkpoints]
    fork = None if request.fork is None else read_checkpoint(request.fork, model).state
    for path, state in zip(request.checkpoints[1:], states[1:], strict=True):
        check_pair(states[0], state, (str(request.checkpoints[0]), str(path)))

    from_run = all(checkpoint.from_run for checkpoint in checkpoints)
    normalisation = choose_normalisation(dataset, model, request.mean, request.std, from_run)
    images = MeasureImages(dataset, normalisation, request.image_size, request.images)
    splits = {name: images.split(name) for name in dict.fromkeys(request.splits)}
    bench = Bench(model, where, splits, request.alphas)
    if bench.network.norms and request.calibration:
        bench.calibration = images.calibration(request.calibration)

    pairs = list(combinations(range(len(states)), 2))
    report("the networks", 0, len(pairs) + 1)
    siblings = bench.score_siblings(states, [str(path) for path in request.checkpoints])
    result: dict[str, Any] = {"siblings": [], "pairs": []}
    for path, checkpoint, scores in zip(request.checkpoints, checkpoints, siblings.records(), strict=True):
        result["siblings"].append({"file": path.name, "weights": checkpoint.entry, **scores})
    for done, (i, j) in enumerate(pairs, 1):
        report(f"{request.checkpoints[i].name} to {request.checkpoints[j].name}", done, len(pairs) + 1)
        result["pairs"].append(bench.pair(siblings, states, i, j, fork, names))
    result["ensemble"] = siblings.ensemble
    souped = bench.soup(states)
    outputs = bench.outputs([souped], names=["The soup"])
    result["soup"] = scores_of(outputs, 0, splits)
    wrong = {"soup": outputs.wrong(0, next(iter(splits)))}
    _write(request.soup, souped)
    if request.greedy_soup is not None:
        report("the greedy soup", len(pairs), len(pairs) + 1)
        select = request.select or SELECTION[0]
        members, best = bench.greedy(states, images.split(select))
        outputs = bench.outputs([best], names=["The greedy soup"])
        result["greedy_soup"] = {
            "members": members,
            "splits": scores_of(outputs, 0, splits),
            "selected_on": select,
        }
        wrong["greedy soup"] = outputs.wrong(0, next(iter(splits)))
        _write(request.greedy_soup, best)
    report("", len(pairs) + 1, len(pairs) + 1)
    tested = next(iter(splits.values()))[1]
    return {
        **result,
        "normalisation": normalisation.to_json(),
        "alphas": bench.grid,
        "notes": [*notes, *(note for checkpoint in checkpoints for note in checkpoint.notes)],
        "verdict": verdict(
            *(next(iter(splits)), dataset.name, siblings.wrong, siblings.ensemble_wrong, wrong),
            chance=1 - int(tested.bincount().max()) / len(tested),
        ),
    }


def _write(path: Path | None, state: State) -> None:
    if path is not None:
        save_tensors(state, path, {"format": "pt"})
