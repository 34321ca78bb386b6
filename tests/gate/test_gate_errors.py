"""How often the gate errs, by simulation of whole verdicts: prints its table.

Simulated runs of a suite: skewed, discrete, correlated over cells, measures and the two sides. Modelled on
digits at fork 0, where the barriers of a cell scatter about as much as their mean and members' errors by a
third of theirs (measured: 3 replicates of lmc_mlp and lmc_resnet). Each value is a function of normal parts:
one of the replicate (its seeds, in every cell and on both sides), one of the cell (on both sides) and one of
the side (another draw of noise).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
from scipy.special import gammaincinv, ndtr
from scipy.stats import binomtest
from tabulate import tabulate

from lmcbench.stats.inference import Difference, Judgement, Rule, judge, paired, welch

MARGINS = (0.05, 0.01, 0.01)
RULES = (
    Rule("equivalence", MARGINS[0], None),
    Rule("non-inferiority", MARGINS[1], "higher"),
    Rule("non-inferiority", MARGINS[2], "higher"),
)
BARRIER, ERROR = (0.08, 1.0), (0.03, 9.0)  # mean and gamma shape: standard deviation = mean / sqrt(shape)
IMAGES = 360
REPLICATES = (3, 5, 10)


@dataclass(frozen=True)
class Scenario:
    """How the sides of a replicate correlate (`shared`), cells averaged in it, how the barrier moves."""

    shared: float
    cells: int = 4
    scaled: bool = False
    paired: bool = True


@lru_cache
def draw(n: int, shared: float, c: int, runs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Barriers `[runs, side, n, cells]` and errors `[..., 2]` of two sides that are alike."""
    rng = np.random.default_rng([n, int(100 * shared), c, seed])

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=(runs, *shape))

    both = np.sqrt(shared / 2) * (normal(1, n, 1, 3) + normal(1, n, c, 3))
    z = both + np.sqrt(1 - shared) * normal(2, n, c, 3)
    z[..., 2] = 0.8 * z[..., 1] + 0.6 * z[..., 2]  # an ensemble is as good as its members, mostly
    u = ndtr(z)
    barrier = BARRIER[0] / BARRIER[1] * gammaincinv(BARRIER[1], u[..., 0])
    return barrier, ERROR[0] / ERROR[1] * gammaincinv(ERROR[1], u[..., 1:])


def measured(barrier: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Replicates' means over cells `[runs, n, 3]`, counted in whole images."""
    values = np.concatenate([barrier[..., None], 1 - error], -1)
    return (np.round(values * IMAGES) / IMAGES).mean(2)


def simulate(n: int, scenario: Scenario, size: float, runs: int) -> list[list[Judgement]]:
    """The judgements of `runs` simulated comparisons of `n` replicates (a side).

    The head is worse by `size` margins in every measure on average.
    """
    barrier, error = draw(n, scenario.shared, scenario.cells, runs, 0)
    moved = barrier[:, 1] * (1 + size * MARGINS[0] / BARRIER[0])
    if not scenario.scaled:
        moved = barrier[:, 1] + size * MARGINS[0]
    head = measured(moved, error[:, 1] + size * np.array(MARGINS[1:]))
    if scenario.paired:
        found = differences(measured(barrier[:, 0], error[:, 0]), head)
    else:
        barrier, error = draw(n, scenario.shared, scenario.cells, runs, 1)
        base = measured(barrier[:, 0], error[:, 0])
        found = [[welch(b, h) for b, h in zip(base[i].T, head[i].T, strict=True)] for i in range(runs)]
    return [judge(three, RULES) for three in found]


def differences(base: np.ndarray, head: np.ndarray) -> list[list[Difference]]:
    """What `paired` finds in each run and measure, for all of them at once."""
    apart = np.moveaxis(head - base, 1, -1)
    n = apart.shape[-1]
    columns = (apart.mean(-1), apart.var(-1, ddof=1), (apart == 0).all(-1))
    found = [
        [
            Difference((n, n), mean, variance, math.sqrt(variance / n), n - 1, exact, True)
            for mean, variance, exact in zip(*row, strict=True)
        ]
        for row in zip(*(column.tolist() for column in columns), strict=True)
    ]
    first = [paired(b, h) for b, h in zip(base[0].T, head[0].T, strict=True)]
    assert [d.estimate for d in found[0]] == pytest.approx([d.estimate for d in first])
    assert [d.error for d in found[0]] == pytest.approx([d.error for d in first])
    return found


SCENARIOS = {
    "another draw of noise": Scenario(0.0),
    "half shared": Scenario(0.5),
    "half shared, one cell": Scenario(0.5, cells=1),
    "nine tenths shared": Scenario(0.9),
    "other seeds (Welch)": Scenario(0.0, paired=False),
}
STRESS = {"barriers multiplied": Scenario(0.5, scaled=True)}
GRANTED = ("identical", "equivalent", "non-inferior", "improved")


def fails(judged):
    return any(j.verdict in ("changed", "regressed") for j in judged)


def share(event, judgements):
    return sum(map(event, judgements))


@pytest.fixture(scope="module", params=[250, pytest.param(1000, marks=pytest.mark.slow_tier)])
def table(request):
    """Number of simulated comparisons, and scenario and n -> how many of them erred in which way."""
    with pytest.MonkeyPatch.context() as patched:
        # what a comparison says beside its verdict takes most of its time
        patched.setattr("lmcbench.stats.inference._needed", lambda *_: None)
        patched.setattr("lmcbench.stats.inference._power", lambda *_: None)
        return request.param, count_errors(request.param)


def count_errors(runs):
    rows = {}
    for name, scenario in (SCENARIOS | STRESS).items():
        for n in REPLICATES:
            same, margin, twice = (simulate(n, scenario, size, runs) for size in (0, 1, 2))
            rows[name, n] = {
                "false alarm": share(fails, same),
                "barrier granted at margin": share(lambda js: js[0].verdict in GRANTED, margin),
                "accuracy granted at margin": share(lambda js: js[1].verdict in GRANTED, margin),
                "all granted at margin": share(lambda js: all(j.verdict in GRANTED for j in js), margin),
                "passes when same": share(lambda js: all(j.verdict in GRANTED for j in js), same),
                "barrier found at twice": share(lambda js: js[0].verdict == "changed", twice),
                "accuracy found at twice": share(lambda js: js[1].verdict == "regressed", twice),
            }
    return rows


@pytest.mark.slow
def test_error_rates_of_the_whole_verdict(table, capsys):
    runs, table = table
    with capsys.disabled():
        names = list(next(iter(table.values())))
        print(f"\n\n{runs} simulated comparisons a row, in percent")
        print(
            tabulate(
                [[*row, *(100 * v / runs for v in c.values())] for row, c in table.items()],
                ["scenario", "n", *names],
                maxheadercolwidths=12,
                floatfmt=".1f",
            )
        )
    for (name, n), counts in table.items():
        errors = ["false alarm", "all granted at margin"]
        if name in SCENARIOS:
            errors += ["barrier granted at margin", "accuracy granted at margin"]
        for error in errors:
            # a true rate of 5 % shows more than this once in a thousand
            low = binomtest(counts[error], runs).proportion_ci(0.998, method="exact").low
            assert low <= 0.05, (name, n, error, counts[error] / runs)


@pytest.mark.slow
def test_a_multiplied_skewed_barrier_is_granted_too_often_but_boundedly(table):
    """The limit of t intervals that the documentation states: 5 % holds for shifts, not for factors."""
    runs, table = table
    for n in REPLICATES:
        assert table["barriers multiplied", n]["barrier granted at margin"] / runs < 0.15


@pytest.mark.slow
def test_power_grows_with_replicates_and_is_wanting_at_three(table):
    runs, table = table
    for name in SCENARIOS:
        found = [table[name, n]["barrier found at twice"] for n in REPLICATES]
        assert found == sorted(found)
        assert found[-1] > 0.8 * runs
    assert table["half shared, one cell", 3]["barrier found at twice"] < 0.5 * runs
