"""What every part of the measurements on a GPU needs: the device, the networks, and how much to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from timing import interleaved, median
from workloads import Work, fleet

from lmcbench.train.engines import Advanced, advance
from lmcbench.train.train_state import TrainState

Row = dict[str, Any]

LENGTH = 10**6
"""Steps of a whole training: far more than are timed."""


class Probe:
    """What every part needs: the device, and how much to do on it."""

    def __init__(self, device: torch.device, quick: bool) -> None:
        self.device, self.quick, self.cuda = device, quick, device.type == "cuda"
        self.batch, self.members, self.steps, self.repeats = (4, 3, 2, 1) if quick else (128, 40, 12, 3)
        size = {"width": 8, "blocks": 1} if quick else {"width": 16, "blocks": 3}
        self.main = [
            self.work("lmc_mlp"),
            self.work("lmc_resnet", **size),
            self.work("vit_tiny_patch16_224", patch_size=16, depth=1)
            if quick
            else self.work("vit_tiny_patch16_224", patch_size=4),
        ]
        others = ("lmc_vgg16", "regnetx_002", "convnext_atto", "nf_regnet_b0", "resnet18")
        self.all = self.main if quick else [*self.main, *map(self.work, others)]
        self.precisions = ("fp32",) if quick else ("fp32", "bf16")

    def work(self, name: str, **kwargs: Any) -> Work:
        """A network on 3 x 32 x 32 images."""
        return Work(name, name, kwargs, batch_size=self.batch)

    def cases(self, works: Iterable[Work]) -> Iterator[tuple[Work, str]]:
        """Each network in each precision."""
        return ((work, precision) for work in works for precision in self.precisions)

    def train(
        self,
        engine: str,
        work: Work,
        count: int,
        steps: int,
        precision: str,
        *,
        limit: int | None = None,
        start: int = 0,
        states: list[TrainState] | None = None,
    ) -> Advanced:
        """Advance a fleet of `count` members, or given states."""
        recipe = work.recipe(precision)
        model, fresh, feed = fleet(work, count, recipe, self.device)
        chosen = fresh if states is None else states
        n = len(chosen)
        return advance(engine, model, chosen, feed, recipe, [LENGTH] * n, [0] * n, start, steps, limit)  # type: ignore[arg-type]

    def seconds(self, job: Callable[[], object]) -> float:
        """Median wall seconds of `job`."""
        return median(interleaved({"job": job}, self.device, self.repeats)["job"])


def first_line(error: Exception) -> str:
    """Return type and first line of an error."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"
