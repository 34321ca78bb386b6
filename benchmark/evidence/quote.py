"""Quote the committed evidence in README.md and docs/findings.md: python benchmark/evidence/quote.py.

In README.md this writes the tables under "What you see" and the number of replicates; in docs/findings.md the
list of runs, "In short, on digits", "On photographs", "On learning rate and batch size", and "What the papers
claim" with one row per claim and one column per suite.
The suites are those with a folder beside this file, each in its latest version. Run it after `make.py`; do
not edit these parts by hand.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pandas as pd
from scipy import stats

from lmcbench.report.claims import CLAIMS as CLAIM_TESTS
from lmcbench.results.atomic_files import write_atomic
from lmcbench.results.cell_values import CONNECTED
from lmcbench.spec.architectures import short_labels
from lmcbench.spec.suite_files import load_suite

EVIDENCE = Path(__file__).parent
ROOT = EVIDENCE.parents[1]
DEFAULT = "digits"
"""The suite of the README."""
BASELINE = "lmc_linear"
MLP = "lmc_mlp"
LINE = ["architecture", "recipe", "shift"]
COMPARATORS = ("independent-equal-cost", "whole-budget")

CONTROLS = "Training shift over control: "
BARRIERS = "Error barrier on the test set"
WORTH = "Siblings and their ensembles on the test set"
WORTH_COLUMNS = [
    "architecture",
    "recipe",
    "shift",
    "fork",
    "member",
    "disagreement",
    "ensemble",
    "gain",
    "soup",
    "cost",
]
"""The most important columns of that table, as the README shows them."""

RUNS = """| run | version | replicates | device |
|---|---|---|---|
{rows}

"""

IN_SHORT = """## In short, on digits

A demonstration with {n} replicates on a CPU. Numbers are means over replicates, by network (without the
baseline) and shift where a range is given; in brackets 95 % t intervals over replicates. All are in the
[tables](../benchmark/evidence/{folder}/leaderboard.md) and
[tests](../benchmark/evidence/{folder}/findings.md). Against the papers:

{contrary}

In agreement with them:

{agreeing}

"""

PHOTOGRAPHS = "cifar10-cpu-fork"
"""The suite of the section on photographs."""

ON_PHOTOGRAPHS = """## On photographs

How early do siblings become connected? These are results of
[{suite}](../benchmark/evidence/{folder}/README.md) on a CPU, {planned}n = {n}. The suite has 10,000 training
and 2,000 test images of a JPEG copy of CIFAR-10 (not the original pixels), three small networks of timm's, no
data shift, and recipes that `lmcbench tune` chose. The table has error barriers on the test set (chord form,
percentage points) by fork, in epochs or as share of the 16 epochs: means with 95 % t intervals over
replicates.

{table}

{points}

"""

RECIPES = "noise-grid"
"""The suite of the section on recipes."""

ON_RECIPES = """## On learning rate and batch size

Does the noise of SGD set the barrier? [{suite}](../benchmark/evidence/{folder}/README.md) trains one
network, the ResNet of `digits`, with {count} recipes (CPU, n = {n}; a demonstration). Without shift, siblings
that separate at initialisation have mean error barriers of {low} to {high} points, at mean accuracies of
{accuracies} %: the lowest with `{least}`, the highest with `{most}` (batch size, learning
rate, epochs). A barrier belongs to a network with its recipe.

Spearman's rank correlation between the recipes' noise scales, g = lr (N/B - 1), and their barriers within a
replicate is {correlation} (mean with 95 % t interval over replicates).

"""

CLAIMS = """## What the papers claim

`lmcbench report RUN --findings` tests the papers' claims on the records of a run. Each cell below has the
effect, its 95 % t interval over replicates, and a verdict; CPU, n replicates as in the column's head, or as
stated in the cell. Barriers, accuracies and disagreement are in percentage points. A positive effect agrees
with the claim. The convex baseline `lmc_linear` is in no effect. A dash means that the run does not contain
what the claim needs. The linked findings explain each test and have the results by architecture.

{table}

{controls}

"""


def main() -> None:
    """Rewrite both pages."""
    for name, write in (("README.md", quoted_readme), ("docs/findings.md", quoted)):
        page = ROOT / name
        write_atomic(page, write(page.read_text(encoding="utf-8")))
        print(f"Quoted the evidence in {page}.")


def versions() -> dict[str, int]:
    """Return the suites with evidence and their latest version, the default suite first."""
    found: dict[str, int] = {}
    for file in EVIDENCE.glob("*/findings.md"):
        name, _, version = file.parent.name.rpartition("-v")
        found[name] = max(found.get(name, 0), int(version))
    return dict(sorted(found.items(), key=lambda item: (item[0] != DEFAULT, item[0])))


# --- README.md -----------------------------------------------------------------------------------


def quoted_readme(page: str) -> str:
    """Return the README with the default suite's tables, links and numbers of replicates."""
    block = re.search(rf"```\n{BARRIERS}.*?```", page, re.DOTALL)
    assert block is not None
    page = page[: block.start()] + f"```\n{excerpt()}```" + page[block.end() :]
    for suite in versions():
        page = re.sub(rf"evidence/{suite}-v\d+/", f"evidence/{_folder(suite)}/", page)
    of = {"the figure": PHOTOGRAPHS, "the tables": DEFAULT}  # in their order on the page
    numbers = iter(of.values())
    page, found = re.subn(r"n = \d+(?=\s+replicates)", lambda _: f"n = {_replicates(next(numbers))}", page)
    assert found == len(of)
    return page


def excerpt() -> str:
    """Return rows of two tables: the baseline, and the network with the highest barrier at fork 0.

    They are under label-skew; the barriers under its control are shown too.
    """
    tables = _text(DEFAULT, "leaderboard.md")
    barriers, worth = (_table(tables[tables.index(title) :]) for title in (BARRIERS, WORTH))
    skewed = [row for row in barriers if row["shift"] == "label-skew"]
    highest = max(skewed, key=lambda row: float(row["0"].split()[0]))["architecture"]
    shown = [row for row in skewed if row["architecture"].partition("(")[0] == BASELINE]
    for shift in ("same(label-skew)", "label-skew"):
        shown += [row for row in barriers if (row["architecture"], row["shift"]) == (highest, shift)]
    members = [
        {column: row[column] for column in WORTH_COLUMNS}
        for row in worth
        if (row["architecture"], row["shift"]) == (highest, "label-skew") and row["fork"] not in COMPARATORS
    ]
    return (
        f"{BARRIERS} (chord form, percentage points, by fork)\n\n{_simple(shown)}\n"
        f"{WORTH} (percent)\n\n{_simple(members)}"
    )


def _simple(rows: list[dict[str, str]]) -> str:
    """Return a table as the terminal shows it."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )


# --- docs/findings.md ----------------------------------------------------------------------------


def quoted(page: str) -> str:
    """Return the page of findings with its quoted parts replaced by what the evidence has."""
    start, end = page.index("| run |"), page.index("Small networks on small images.")
    page = page[:start] + runs_table() + page[end:]
    parts = [in_short(), on_photographs(), on_recipes(), claims()]
    for text in parts:
        start = page.index(text.partition("\n")[0])
        page = page[:start] + text + page[page.index("\n## ", start) + 1 :]
    return page


def runs_table() -> str:
    """Return the table of runs."""
    rows = (
        f"| [{suite}](../benchmark/evidence/{_folder(suite)}/README.md) | {version} | {_replicates(suite)} | "
        f"{_device(suite)} |"
        for suite, version in versions().items()
    )
    return RUNS.format(rows="\n".join(rows))


def in_short() -> str:
    """Return the section on the default suite: what contradicts the papers, then what agrees with them."""
    cells = _cells(DEFAULT)
    baseline = cells["architecture"] == BASELINE
    networks = cells[~baseline]
    means = networks.groupby(["fork", *LINE])[["error_chord", "soup_error", "ensemble_accuracy"]].mean()
    barriers = means["error_chord"]
    forks = [f for f in dict.fromkeys(cells["fork"]) if re.fullmatch(r"[\d.]+%?", f)]
    forks.sort(key=lambda fork: float(fork.rstrip("%")))
    later = ", ".join(f"{100 * barriers.loc[fork].max():.1f} with {_of_training(fork)}" for fork in forks[1:])
    mlp = barriers.loc["0"].index.get_level_values("architecture") == MLP
    convex = 100 * cells[baseline].groupby(["fork", *LINE])["error_chord"].mean().max()
    agreeing = [
        "Siblings of the other networks that share only their initialisation (fork 0) are separated by mean "
        f"error barriers of {_span(barriers.loc['0'][~mlp])} percentage points. After training in common at "
        f"most so many points are left, in any network: {later}.",
        "Independently initialised networks are separated by barriers of "
        f"{_span(barriers.loc['independent'])} points. Their soups have an accuracy of "
        f"{_span(1 - means.loc['independent', 'soup_error'])} %, their ensembles of "
        f"{_span(means.loc['independent', 'ensemble_accuracy'])} %.",
        "Recalibrating BatchNorm statistics lowers the barrier of the ResNet, the only network with "
        f"BatchNorm: {_effect('Recalibrating BatchNorm')} points.",
        f"The linear softmax has error barriers of at most {convex:.1f} points under any shift; its loss is "
        "convex.",
    ]
    return IN_SHORT.format(
        n=_replicates(DEFAULT),
        folder=_folder(DEFAULT),
        contrary=_points([*_against_shift(networks), *_against_rest(barriers.loc["0"][mlp])]),
        agreeing=_points(agreeing),
    )


def _against_shift(networks: pd.DataFrame) -> list[str]:
    """Barriers under shift less those under the control: all, then at fork 0, then by network."""
    by = (
        networks.groupby(["replicate", "fork", "architecture", "shift"])["error_chord"]
        .mean()
        .unstack("shift")
    )
    single, skew = [], by["label-skew"] - by["same(label-skew)"]
    for shift, control in (("label-skew", "same(label-skew)"), ("disjoint-halves", "same-half")):
        differences = (by[shift] - by[control]).dropna().unstack("replicate")
        single += [(*_interval(row), name, shift, fork) for (fork, name), row in differences.iterrows()]
    above, below = [c for c in single if c[1] > 0], [c for c in single if c[2] < 0]
    raises = "A training shift raises"
    margin = float(_claim(raises)["margin"])
    at_0 = skew.loc[:, "0"].groupby("replicate").mean()
    points = [
        f"The shifts do not raise the barrier over their controls on average: {_effect(raises)} points, "
        f"{_claim(raises)['verdict']} (margin {margin:g} points). This is the mean of forks 0 and 3 %, two "
        "shifts and four networks, and at 3 % barriers are small with and without shift. At fork 0 alone, "
        f"label-skew has {_shown(*_interval(at_0))} points more than its control, which leaves "
        f"{_left_open(*_interval(at_0)[1:], margin)} open."
    ]
    apart = (
        f"By network, shift and fork there are {len(single)} intervals, of which {len(above)} above 0 and "
        f"{len(below)} below; they are not corrected for their number. "
    )
    if above:
        *numbers, name, shift, fork = max(above)
        apart += f"The largest is {name} under {shift} at fork {fork}: {_shown(*numbers)} points."
    return [*points, apart.strip()]


def _left_open(low: float, high: float, margin: float) -> str:
    """Which effects beyond the margin an interval contains."""
    found = {"a rise": high > margin, "a fall": low < -margin}
    names = [name for name, contained in found.items() if contained]
    return f"{' and '.join(names) or 'neither a rise nor a fall'} of more than {margin:g} points"


def _against_rest(mlp: pd.Series) -> list[str]:
    """The MLP at fork 0, and ensembles at equal cost."""
    beats = "At equal training cost and data, an ensemble of siblings beats one"
    equal, one = f"{beats} of independent networks", f"{beats} network"
    return [
        f"The MLP has no barrier to lower: at fork 0 its mean barriers are {_span(mlp)} points, and less "
        "than 2 count as connected (Frankle et al. found the same for a small network on MNIST). That later "
        "forks lower the barrier holds for the mean of the networks and not for the MLP.",
        "At equal cost and data, without shift, ensembles of siblings are not more accurate than ensembles "
        f"of independent networks, {_effect(equal)} points, nor than one network that gets the whole budget, "
        f"{_effect(one)} points (verdicts: {_claim(equal)['verdict']}, {_claim(one)['verdict']}; margin "
        f"{float(_claim(one)['margin']):g} point).",
    ]


def _claim(start: str) -> dict[str, str]:
    """The first claim that starts so."""
    return next(c for c in _table(_text(DEFAULT, "findings.md")) if c["claim"].startswith(start))


def _effect(start: str) -> str:
    found = _claim(start)
    return f"{found['effect']} ({found['95 % interval']})"


def _interval(values: pd.Series) -> tuple[float, float, float]:
    """Mean, and 95 % t interval, in percentage points."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std() / len(values) ** 0.5
    return 100 * values.mean(), 100 * (values.mean() - half), 100 * (values.mean() + half)


def _shown(mean: float, low: float, high: float) -> str:
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def _span(fractions: pd.Series) -> str:
    return f"{100 * fractions.min():.1f} to {100 * fractions.max():.1f}"


def _points(points: list[str]) -> str:
    whole = (point.replace(" %", "\N{NO-BREAK SPACE}%") for point in points)
    lines = (textwrap.fill(point, 120, initial_indent="- ", subsequent_indent="  ") for point in whole)
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def _of_training(fork: str) -> str:
    if fork.endswith("%"):
        return f"{fork.removesuffix('%')} % of it"
    return f"{fork} epoch" + ("s" if fork != "1" else "")


def on_photographs() -> str:
    """Return the section on photographs: barriers by fork, and what they say."""
    cells = _cells(PHOTOGRAPHS)
    n, suite = _replicates(PHOTOGRAPHS), load_suite(PHOTOGRAPHS)
    forks = [fork.name for fork in suite.fork_list]
    by = cells.groupby(["architecture", "fork", "replicate"])[["error_chord", "error", "soup_error"]].mean()
    networks = list(dict.fromkeys(cells["architecture"]))
    lines = ["| network | accuracy | " + " | ".join(forks) + " |", "|---" * (2 + len(forks)) + "|"]
    for network in networks:
        member = 1 - by.loc[network, "error"].groupby("replicate").mean()
        heights = [_bare(by.loc[(network, fork), "error_chord"]) for fork in forks]
        lines.append(f"| {network} | {_bare(member)} % | " + " | ".join(heights) + " |")
    means = by.groupby(["architecture", "fork"]).mean()
    last = [fork for fork in forks if fork not in ("independent", *COMPARATORS)][-1]
    gained = 100 * (means["error"] - means["soup_error"])
    connected = {
        name: next((f for f in forks if means.loc[(name, f), "error_chord"] < CONNECTED), None)
        for name in networks
    }
    first = ", ".join(f"{name} {_named_fork(fork)}" for name, fork in connected.items())
    points = [
        *_contrary(PHOTOGRAPHS),
        f"The first fork with a mean barrier below {100 * CONNECTED:g} points: {first}.",
        "Accuracy of the average of two siblings' weights minus that of the siblings, in percentage points: "
        + "; ".join(
            f"fork {fork}: " + ", ".join(f"{name} {gained.loc[(name, fork)]:+.1f}" for name in networks)
            for fork in (last, "independent")
        )
        + ".",
    ]
    return ON_PHOTOGRAPHS.format(
        suite=PHOTOGRAPHS,
        folder=_folder(PHOTOGRAPHS),
        planned="" if n == suite.replicates else f"with the first {n} of {suite.replicates} replicates, ",
        n=n,
        table="\n".join(lines),
        points=_points(points),
    )


def on_recipes() -> str:
    """Return the section on recipes: the range of barriers of one network, and their correlation with g."""
    cells = _cells(RECIPES)
    cells = cells[cells["shift"] == "none"]
    noise = cells["lr"] * (cells["train_images"] / cells["batch_size"] - 1)
    means = cells.groupby("recipe")[["error_chord", "error"]].mean()
    barriers = means["error_chord"].sort_values()
    ranks = pd.Series(
        [
            stats.spearmanr(noise[mine.index], mine["error_chord"]).statistic
            for _, mine in cells.groupby("replicate")
        ]
    )
    mean, low, high = (value / 100 for value in _interval(ranks))
    return ON_RECIPES.format(
        suite=RECIPES,
        folder=_folder(RECIPES),
        count=len(means),
        n=_replicates(RECIPES),
        low=f"{100 * barriers.iloc[0]:.1f}",
        high=f"{100 * barriers.iloc[-1]:.1f}",
        least=barriers.index[0],
        most=barriers.index[-1],
        accuracies=_span(1 - means["error"]),
        correlation=f"{mean:+.2f} ({low:+.2f} to {high:+.2f})",
    )


def _contrary(suite: str) -> list[str]:
    """Name the claims that are contrary in one network, with effect."""
    text = _text(suite, "findings.md")
    found = []
    for row in _table(text[text.index("### By architecture") :]):
        for network, cell in row.items():
            if network != "claim" and cell.endswith("contrary"):
                effect = cell.partition(",")[0]
                name = network.replace("\\", "").partition("(")[0]
                found.append(f"{row['claim']}: contrary in {name}, {effect} ({_unit(row['claim'])}).")
    return found


def _unit(statement: str) -> str:
    return next(claim.unit for claim in CLAIM_TESTS if claim.statement == statement)


def _named_fork(fork: str | None) -> str:
    if fork is None:
        return "none"
    return f"{fork} of training" if fork.endswith("%") else f"epoch {fork}"


def _bare(values: pd.Series) -> str:
    """Return mean and half-width in percentage points; of one value the value alone."""
    mean, low, _ = _interval(values)
    return f"{mean:.1f} ± {mean - low:.1f}" if len(values) > 1 else f"{mean:.1f}"


def claims() -> str:
    """Return the section of claims, from its heading to the next."""
    return CLAIMS.format(table=claims_table(), controls="\n".join(_controls()))


def claims_table() -> str:
    """Return the table of claims by suites, without the claims under evaluation shifts."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for suite in versions():
        for found in _table(_text(suite, "findings.md")):
            if "(test:" not in found["claim"]:
                rows.setdefault((found["paper"], found["claim"]), {})[suite] = _cell(
                    found, _replicates(suite)
                )
    heads = [
        f"[{suite}](../benchmark/evidence/{_folder(suite)}/findings.md), n = {_replicates(suite)}"
        for suite in versions()
    ]
    lines = [("paper", "claim", *heads), ("---",) * (2 + len(versions()))]
    lines += [
        (paper, claim, *(row.get(suite, "–") for suite in versions())) for (paper, claim), row in rows.items()
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _controls() -> list[str]:
    """Which shifts the claim about controls was tested with, where there is an interval."""
    notes = []
    for suite in versions():
        for line in _text(suite, "findings.md").splitlines():
            if line.startswith(f"- {CONTROLS}") and _replicates(suite) > 1:
                notes.append(f"Training shift over control on {suite}: {line.removeprefix(f'- {CONTROLS}')}")
    return notes


def _cell(found: dict[str, str], replicates: int) -> str:
    """Effect, interval, n where it is not the suite's, verdict; a dash where there is no interval."""
    interval = found["95 % interval"]
    if interval == "–":
        return "–"
    n = "" if int(found["n"]) == replicates else f", n = {found['n']}"
    verdict = "no verdict" if found["verdict"].startswith("not testable") else found["verdict"]
    return f"{found['effect']} ({interval}{n}), {verdict}"


def _table(markdown: str) -> list[dict[str, str]]:
    """The first table of a text, rows by column."""
    lines = re.split(r"\n\n", markdown[markdown.index("\n|") + 1 :], maxsplit=1)[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


def _replicates(suite: str) -> int:
    found = re.search(r"replicates (\d+) to (\d+)", _text(suite, "README.md"))
    assert found is not None, suite
    return int(found[2]) - int(found[1]) + 1


def _device(suite: str) -> str:
    found = re.search(r"\d cells \(.*?\), (.*?), engines", _text(suite, "README.md"))
    assert found is not None, suite
    return found[1]


def _text(suite: str, name: str) -> str:
    return (EVIDENCE / _folder(suite) / name).read_text(encoding="utf-8")


def _cells(suite: str) -> pd.DataFrame:
    """Rows of the test set, one per cell and pair, with short names of networks."""
    cells = pd.read_csv(EVIDENCE / _folder(suite) / "records.csv.gz", dtype={"fork": str})
    short = short_labels(cells["architecture"].unique())
    return cells[cells["split"] == "test"].assign(architecture=cells["architecture"].map(short))


def _folder(suite: str) -> str:
    return f"{suite}-v{versions()[suite]}"


if __name__ == "__main__":
    main()
