"""A run in up to three sentences: how early siblings are connected, what shift does, what ensembles gain."""

from __future__ import annotations

import pandas as pd

from lmcbench.report.findings import Finding, Findings, claim_finding
from lmcbench.results.cell_values import CONNECTED
from lmcbench.spec.architectures import short_labels
from lmcbench.spec.forks import INDEPENDENT, Fork
from lmcbench.stats.cells import Cells, average_pairs
from lmcbench.stats.estimates import Estimate, estimate


def conclude(found: Findings) -> list[str]:
    """Return up to three sentences on a run; those that its records have no numbers for are absent.

    The convex baseline, whose networks are always connected, is in none of them.
    """
    cells = found.cells
    rows = cells.rows[~cells.rows["architecture"].isin(cells.baselines())]
    sentences = (_connected_from(cells, rows), _effect_of_shift(found), _worth(rows))
    return [sentence for sentence in sentences if sentence]


def _connected_from(cells: Cells, rows: pd.DataFrame) -> str:
    """Say how high barriers are at the earliest and at the latest fork of the trunk, by network."""
    values = average_pairs(rows)
    shift = "none" if (values["shift"] == "none").any() else next(iter(values["shift"]), "")
    values = values[(values["shift"] == shift) & values["fork_share"].notna()].dropna(subset="error_chord")
    if values.empty:
        return ""
    short = short_labels(cells.architectures())
    order = values.drop_duplicates("fork").sort_values("fork_share")["fork"].tolist()
    means = {fork: _by_network(values[values["fork"] == fork], "error_chord") for fork in order}
    first = means[order[0]]
    low, high = min(first, key=lambda name: first[name]), max(first, key=lambda name: first[name])
    where = "" if shift == "none" else f" under {shift}"
    n = values["replicate"].nunique()
    upper = "" if low == high else f" to {100 * first[high]:.1f} points ({short[high]})"
    text = (
        f"Siblings that leave the trunk at {_fork(order[0])} have an error barrier of "
        f"{100 * first[low]:.1f} points ({short[low]}){upper}{where} between them (means, n = {n})"
    )
    later = [
        all(mean < CONNECTED for f in order[k:] for mean in means[f].values()) for k in range(len(order))
    ]
    connected = next((fork for fork, holds in zip(order, later, strict=True) if holds), None)
    if connected is None:
        last = means[order[-1]]
        count = sum(mean < CONNECTED for mean in last.values())
        return (
            f"{text}; at {_fork(order[-1])} {count} of {len(last)} networks are connected (below 2 points)."
        )
    if connected == order[0]:
        return f"{text}, and all are connected (below 2 points)."
    whole = "all networks are" if len(means[connected]) > 1 else "it is"
    return f"{text}; from {_fork(connected)} on {whole} connected, below 2 points."


def _effect_of_shift(found: Findings) -> str:
    """Say what training on different data does beyond training on the same, with its verdict."""
    finding = claim_finding(found, "shift-raises-barrier")
    if finding is None or finding.effect.mean is None:
        return ""
    verdict = {
        "supported": "shift raises the barrier",
        "contrary": "shift lowers the barrier",
        "equivalent": f"shift does not change the barrier by more than {100 * finding.claim.margin:g} points",
        "not supported": "no effect is shown" + _detectable(finding),
        "not testable": f"no verdict: {finding.reason}",
    }[finding.verdict]
    return (
        "Different data for each sibling, in place of the same for all, change the barrier by "
        f"{_points(finding.effect)} points: {verdict}."
    )


def _detectable(finding: Finding) -> str:
    return (
        "" if finding.smallest is None else f"; one below {100 * finding.smallest:.1f} points could be missed"
    )


def _worth(rows: pd.DataFrame) -> str:
    """Say what ensembles of the latest fork gain, beside independent networks."""
    values = average_pairs(rows)
    if "ensemble_gain" not in values:
        return ""
    values = values.dropna(subset="ensemble_gain")
    trunk = values[values["fork_share"].notna()]
    if trunk.empty:
        return ""
    latest = str(trunk.sort_values("fork_share")["fork"].iloc[-1])
    siblings = trunk[trunk["fork"] == latest]
    text = (
        f"The ensemble of {int(siblings['siblings'].max())} siblings that part at {_fork(latest)} gains "
        f"{_points(_over_replicates(siblings))} points of accuracy over one of them"
    )
    far = values[values["fork"] == INDEPENDENT]
    # the same networks and shifts on both sides
    place = ["architecture", "recipe", "shift", "replicate"]
    both = siblings.merge(far[place], on=place)
    if len(both) == len(siblings) > 0:
        alone = far.merge(siblings[place], on=place)
        return f"{text}; an ensemble of independent networks gains {_points(_over_replicates(alone))} points."
    return f"{text}."


def _over_replicates(values: pd.DataFrame) -> Estimate:
    return estimate(values.groupby("replicate")["ensemble_gain"].mean().tolist())


def _by_network(values: pd.DataFrame, column: str) -> dict[str, float]:
    return {str(name): float(mean) for name, mean in values.groupby("architecture")[column].mean().items()}


def _fork(name: str) -> str:
    fork = Fork.parse(name)
    if fork.percent is not None:
        return f"{fork.percent:g} % of training"
    return "initialisation" if fork.epoch == 0 else f"epoch {name}"


def _points(value: Estimate) -> str:
    return value.text(unit=100, sign=True).replace("-", "−")
