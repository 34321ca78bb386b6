"""Preview which domains each sibling of a run would see, without reading images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lmcbench.catalogue import domain_table
from lmcbench.data.contents import select_without_images
from lmcbench.data.dataset import Listed
from lmcbench.running.plan import Plan
from lmcbench.spec.domains import counts_text
from lmcbench.spec.evaluation_shifts import DOMAIN
from lmcbench.spec.seeds import derive_seed


def preview_domains(plan: Plan, data_dir: Path | None) -> str:
    """Return the images by split, domain and class, and the domains of each view of the first replicate.

    Raises:
        UserError: if the data do not suit the suite.
    """
    suite, replicate = plan.cells[0].suite, plan.cells[0].replicate
    data = select_without_images(suite, data_dir)
    splits = {"train": data.train, "test": data.test}
    listed = {name: Listed(split.labels, data.classes, split.domains) for name, split in splits.items()}
    lines = ["", "Images by domain (train + test by class):", domain_table(listed)]
    if suite.data.hold_out:
        tested = {n: data.shifted.get(f"{DOMAIN}{n}") for n in suite.data.hold_out}
        sizes = [f"{n} ({'not tested on' if s is None else f'{len(s):,} images'})" for n, s in tested.items()]
        lines.append(f"Held out: {', '.join(sizes)}.")
    assert data.train.domains is not None
    domains = replace(data.train.domains, classes=data.classes)
    seed = derive_seed(suite.name, suite.version, replicate, "shift")
    for shift in dict.fromkeys(cell.shift.label for cell in plan.cells):
        [one] = {id(s.shift): s.shift for s in suite.shifts if s.shift.label == shift}.values()
        if not one.needs_domains:
            continue
        views = one.views(data.train.labels, suite.siblings, seed, replicate, domains)
        seen = "; ".join(
            f"sibling {i}: {counts_text(domains.take(view.indices).counts)}" for i, view in enumerate(views)
        )
        lines.append(f"{shift}: {seen}")
    return "\n".join(lines)
