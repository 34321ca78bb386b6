"""Simulate rank intervals: how often they are wrong, which differences they find (benchmark/board.md).

    python benchmark/simulate_ranks.py [--tables 2000]

An interval is wrong if it does not contain all ranks that its entry shares with entries of equal expected
area. The procedure is `lmcbench.stats.ranks` ("board"). For comparison: intervals corrected for an entry's
own comparisons only ("own"), and paired t tests of areas with Holm's correction, the former procedure.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, stdtr
from scipy.stats import beta as beta_distribution

from lmcbench.stats.inference import ALPHA, holm
from lmcbench.stats.ranks import better_entries, p_values

SPREAD = 0.05
"""Standard deviation of a replicate's asin(sqrt(area)). Measured on digits, version 2: 0.04 to 0.08."""

VARYING = 0.35
"""Standard deviation of its logarithm over entries. Measured: 0.37 over the 42 rows of `SHAPES`."""

Draw = Callable[[np.random.Generator, int], list[np.ndarray]]
"""Generator, replicates -> the areas of each entry."""


@dataclass(frozen=True)
class Scenario:
    """A table's truth.

    Attributes:
        name: of the row.
        means: expected area of each entry.
        draw: makes the areas.
    """

    name: str
    means: np.ndarray
    draw: Draw


def beta(means: Sequence[float], spread: Sequence[float] | float = SPREAD, correlation: float = 0.0) -> Draw:
    """Return areas with a Beta distribution; `spread` is approximately that of asin(sqrt(area)).

    Args:
        means: of each entry.
        spread: of each entry.
        correlation: of the entries' normal scores within a replicate.
    """
    m = np.asarray(means, dtype=float)[:, None]
    size = 1 / (4 * np.broadcast_to(spread, m.shape[0])[:, None] ** 2) - 1

    def draw(rng: np.random.Generator, n: int) -> list[np.ndarray]:
        if correlation == 0:
            return list(rng.beta(m * size * np.ones(n), (1 - m) * size * np.ones(n)))
        shared, own = rng.standard_normal(n), rng.standard_normal((len(m), n))
        scores = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
        return list(beta_distribution.ppf(ndtr(scores), m * size, (1 - m) * size))

    return draw


def lognormal(means: Sequence[float], spread: Sequence[float]) -> Draw:
    """Return lognormal areas; `spread` is the standard deviation of the logarithm."""
    m, s = np.asarray(means)[:, None], np.asarray(spread)[:, None]
    return lambda rng, n: list(np.minimum(1, m * np.exp(s * rng.standard_normal((len(m), n)) - s**2 / 2)))


def clipped(means: Sequence[float], spread: Sequence[float]) -> Draw:
    """Return normal areas clipped at 0 with the given means after clipping, as where D is near 0."""

    def centre(mean: float, sd: float) -> float:
        def excess(c: float) -> float:
            density = np.exp(-((c / sd) ** 2) / 2) / np.sqrt(2 * np.pi)
            return float(c * ndtr(c / sd) + sd * density - mean)

        return float(brentq(excess, -8 * sd, 1))

    s = np.asarray(spread)[:, None]
    c = np.array([centre(m, float(sd)) for m, sd in zip(means, spread, strict=True)])[:, None]
    return lambda rng, n: list(np.clip(c + s * rng.standard_normal((len(c), n)), 0, 1))


def zero_inflated(means: Sequence[float], positive: float) -> Draw:
    """Return areas of 0, with probability 1 - `positive`, or of a Beta distribution."""
    inner = beta(np.asarray(means) / positive)
    return lambda rng, n: [x * (rng.random(n) < positive) for x in inner(rng, n)]


def measured(means: Sequence[float], rows: slice = slice(None)) -> Draw:
    """Return areas whose shape and relative spread are resampled from a random row of `SHAPES` per entry."""
    shapes = np.array([[float(v) for v in row.split()] for row in SHAPES.strip().splitlines()])[rows]
    shapes /= shapes.mean(axis=1, keepdims=True)

    def draw(rng: np.random.Generator, n: int) -> list[np.ndarray]:
        chosen = shapes[rng.integers(len(shapes), size=len(means))]
        return [np.minimum(1, m * rng.choice(row, n)) for m, row in zip(means, chosen, strict=True)]

    return draw


def joined(*parts: Draw) -> Draw:
    """Return the entries of several tables in one."""
    return lambda rng, n: [entry for part in parts for entry in part(rng, n)]


def unequal_counts(inner: Draw) -> Draw:
    """Return every second entry with half of the replicates, at least five."""
    return lambda rng, n: [x[: max(5, n // 2)] if i % 2 else x for i, x in enumerate(inner(rng, n))]


SMALL, LARGE = slice(0, 16), slice(12, None)
"""Rows of `SHAPES` with a mean B of up to 0.034, and from 0.025 up."""

SPREADS = np.linspace(0.01, 0.05, 10)
"""Standard deviations before clipping."""


def scenarios() -> list[Scenario]:
    """Return the rows of the table of error rates."""
    wide = SPREAD * np.geomspace(0.5, 2, 10)
    groups = np.repeat([0.02, 0.15], 5)
    skews = np.linspace(0.2, 0.8, 10)

    def equal(area: float, entries: int = 10) -> np.ndarray:
        return np.full(entries, area)

    def scenario(name: str, means: np.ndarray, draw: Callable[..., Draw], *args: object) -> Scenario:
        return Scenario(name, means, draw(means, *args))

    return [
        scenario("2 equal entries, area 0.05", equal(0.05, 2), beta),
        scenario("4 equal means, spreads 1 to 4", equal(0.05, 4), beta, SPREAD * np.geomspace(0.5, 2, 4)),
        scenario("10 equal entries, area 0.05", equal(0.05), beta),
        scenario("10 equal entries, area 0.3", equal(0.3), beta),
        scenario("40 equal entries, area 0.05", equal(0.05, 40), beta),
        scenario("10 equal entries, correlation 0.5 in replicates", equal(0.05), beta, SPREAD, 0.5),
        scenario("near zero: 10 equal entries, area 0.005", equal(0.005), beta),
        scenario("near zero: area 0.005, normal clipped at 0", equal(0.005), clipped, np.full(10, 0.02)),
        scenario("near zero: area 0.02, clipped, spreads 1 to 5", equal(0.02), clipped, SPREADS),
        scenario("unequal spreads, 1 to 4, area 0.05", equal(0.05), beta, wide),
        scenario("unequal spreads, 1 to 4, area 0.2", equal(0.2), beta, wide),
        scenario("skewed: lognormal, log sd 0.2 to 0.8", equal(0.05), lognormal, skews),
        scenario("measured shapes and spreads, area 0.05", equal(0.05), measured, LARGE),
        scenario("measured shapes and spreads, area 0.01", equal(0.01), measured, SMALL),
        scenario("measured shapes of small areas too, area 0.05", equal(0.05), measured),
        scenario("0 in 40 % of replicates", equal(0.03), zero_inflated, 0.6),
        scenario("0 in 80 % of replicates", equal(0.03), zero_inflated, 0.2),
        Scenario(
            "mixture: 5 steady, 5 that are 0 in half of the replicates",
            equal(0.03),
            joined(beta(equal(0.03, 5), SPREAD / 2), zero_inflated(equal(0.03, 5), 0.5)),
        ),
        scenario("two groups of 5, areas 0.02 and 0.15", groups, beta),
        scenario("two groups of 5, spreads 1 to 3", groups, beta, np.tile(wide[::2], 2)),
        scenario("two groups of 5, measured shapes", groups, measured, LARGE),
        Scenario(
            "unequal spreads, half of the entries with n / 2 (at least 5)",
            equal(0.05),
            unequal_counts(beta(equal(0.05), wide)),
        ),
    ]


Procedure = Callable[[list[np.ndarray]], np.ndarray]
"""Areas of each entry -> [i, j]: +1 where the interval of i says that i is better than j, -1 for worse."""


def moderated(values: list[np.ndarray]) -> np.ndarray:
    """Run the procedure of the board."""
    better = better_entries(values).astype(int)
    return better - better.T


def own_comparisons(values: list[np.ndarray]) -> np.ndarray:
    """Run the same tests, corrected for each entry over its own comparisons (marginal confidence sets)."""
    scaled = np.array([np.arcsin(np.sqrt(x.mean())) for x in values])
    gaps = scaled - scaled[:, None]
    p = p_values(values)
    found = np.zeros_like(p, dtype=int)
    for i in range(len(values)):
        others = np.arange(len(values)) != i
        found[i, others] = np.where(np.array(holm(p[i, others])) <= ALPHA, np.sign(gaps[i, others]), 0)
    return found


def paired_t(values: list[np.ndarray]) -> np.ndarray:
    """Run the former procedure: paired t tests, Holm over all pairs; entries cut to the fewest replicates."""
    n = min(len(x) for x in values)
    cut = np.array([x[:n] for x in values])
    i, j = np.triu_indices(len(cut), 1)
    gaps = cut[j] - cut[i]
    means, sds = gaps.mean(axis=1), gaps.std(axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(means == 0, 0, np.abs(means) / sds * np.sqrt(n))
    called = np.where(np.array(holm((2 * stdtr(n - 1, -t)).tolist())) <= ALPHA, np.sign(means), 0)
    found = np.zeros((len(values), len(values)), dtype=int)
    found[i, j], found[j, i] = called, -called
    return found


PROCEDURES: dict[str, Procedure] = {"board": moderated, "own": own_comparisons, "paired t": paired_t}


@dataclass(frozen=True)
class Errors:
    """Shares of wrong intervals.

    Attributes:
        tables: share of tables with a wrong interval.
        intervals: share of wrong intervals.
        width: mean number of ranks in an interval.
    """

    tables: float
    intervals: float
    width: float


def error_rates(scenario: Scenario, n: int, tables: int, procedure: Procedure = moderated) -> Errors:
    """Return how often intervals are wrong in tables drawn from a scenario; deterministic."""
    rng = np.random.default_rng(0)
    gaps = scenario.means - scenario.means[:, None]
    truth = np.sign(np.where(np.abs(gaps) < 1e-12, 0, gaps)).astype(int)
    any_wrong, wrong, width = 0, 0.0, 0.0
    for _ in range(tables):
        found = procedure(scenario.draw(rng, n))
        bad = ((found != 0) & (found != truth)).any(axis=1)
        any_wrong += bool(bad.any())
        wrong += bad.mean()
        width += len(found) - (found != 0).sum(axis=1).mean()
    return Errors(any_wrong / tables, wrong / tables, width / tables)


OTHERS = (0.0005, 0.002, 0.01, 0.03, 0.06, 0.1, 0.2, 0.3)
"""Expected areas of the other entries of a table in which two are told apart."""


def power(area: float, gap: float, n: int, tables: int, procedure: Procedure = moderated) -> float:
    """Return how often entries of areas `area` and `area + gap` are told apart in a table of ten."""
    rng = np.random.default_rng(1)
    means = np.array([area, area + gap, *OTHERS])
    hits = 0
    for _ in range(tables):
        spread = SPREAD * np.exp(VARYING * rng.standard_normal(len(means)))
        hits += int(procedure(beta(means, spread)(rng, n))[0, 1] == 1)
    return hits / tables


SHAPES = """
2.27 0.24 0.41 1.05 1.03
0.29 0.99 0.19 2.04 1.49
3.99 0.00 0.00 0.89 0.12
2.37 0.72 0.00 1.65 0.26
3.25 0.81 0.00 0.94 0.00
2.69 0.00 0.00 0.00 2.31
0.89 0.00 0.04 3.60 0.47
1.52 0.00 0.00 3.45 0.02
2.44 0.00 0.18 0.59 1.79
1.81 0.87 0.00 1.15 1.18
1.18 1.43 1.09 0.60 0.69
1.29 1.41 0.47 1.22 0.61
1.64 0.39 0.00 1.18 1.79
1.01 0.00 0.00 1.44 2.54
0.73 0.08 0.12 0.97 3.10
1.42 0.90 0.27 1.54 0.87
1.59 0.22 0.39 1.37 1.43
0.46 1.16 0.69 0.94 1.76
1.63 0.14 0.76 0.99 1.48
0.22 1.58 0.96 0.86 1.38
0.33 1.45 1.00 0.65 1.58
0.45 0.58 1.06 1.70 1.21
1.01 0.67 0.97 1.46 0.89
0.63 1.81 0.37 1.33 0.86
0.86 1.14 0.50 1.69 0.82
0.86 0.84 1.04 0.89 1.35
0.91 0.66 0.81 0.68 1.95
0.80 0.64 0.17 1.45 1.94
0.82 0.75 0.35 1.62 1.45
0.76 0.67 1.24 0.71 1.62
1.37 0.65 0.89 0.50 1.60
0.75 0.89 0.34 0.87 2.16
1.08 1.01 0.83 0.94 1.14
0.76 1.23 1.37 0.87 0.77
0.86 0.76 0.57 1.42 1.39
1.27 1.14 0.32 1.05 1.22
0.96 0.41 1.15 1.29 1.19
0.94 0.47 1.00 1.23 1.36
1.09 0.56 1.54 1.02 0.79
1.28 0.36 1.35 1.27 0.74
1.16 0.95 0.89 0.93 1.07
0.58 1.09 1.03 1.04 1.26
"""
"""B at fork 0 over its mean: 42 recipes and shifts of noise-grid, version 1, by five replicates."""


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Simulate rank intervals.")
    parser.add_argument("--tables", type=int, default=2000, help="drawn per row (default: 2000)")
    tables = parser.parse_args().tables
    columns = [(n, name) for n in (5, 10) for name in PROCEDURES]
    print("| truth | " + " | ".join(f"n = {n}, {name}" for n, name in columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for scenario in scenarios():
        cells = []
        for n, name in columns:
            e = error_rates(scenario, n, tables, PROCEDURES[name])
            cells.append(f"{100 * e.tables:.1f}, {100 * e.intervals:.1f} ({e.width:.1f})")
        print(f"| {scenario.name} | " + " | ".join(cells) + " |", flush=True)
    print("\n| areas | " + " | ".join(f"n = {n}, {name}" for n, name in columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for area in (0.005, 0.05, 0.15):
        for gap in (0.02, 0.05, 0.1):
            cells = [f"{100 * power(area, gap, n, tables, PROCEDURES[name]):.0f}" for n, name in columns]
            print(f"| {area:g} and {area + gap:g} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
