"""Render tables as the leaderboard's README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args
from urllib.parse import quote

from tabulate import tabulate

from lmcbench.leaderboard import text as words
from lmcbench.leaderboard.payload import cut
from lmcbench.leaderboard.ranking_table import Standing, SuiteTable
from lmcbench.leaderboard.scores import COLUMNS, Column
from lmcbench.leaderboard.submission_file import Meta
from lmcbench.leaderboard.trust import TrustLevel
from lmcbench.output import escape_markdown
from lmcbench.results.record import Status
from lmcbench.stats.estimates import Estimate
from lmcbench.stats.stability import median_text

GROUPS = {
    "barriers": "Instability",
    "forms": "Forms of the barrier at fork 0",
    "worth": "Ensembles and soups of the latest fork, on the test set",
    "evaluation": "The same under evaluation shift, mean over those of the suite",
}

INTRODUCTION = f"""# Leaderboard: {words.TITLE[0].lower()}{words.TITLE[1:]}

Rendered by `lmcbench leaderboard` from the records under `submissions/`; not edited by hand.
[index.html](index.html) is the same with curves, figures and filters: one file, to be opened in a browser.

{words.MEANS}

{words.MEANS_NOT}

<details><summary>How ranks come about</summary>

{words.RANKS}

{words.UNRANKED}

{words.LATEST}

{words.FRONTIER}

Trust: {"; ".join(f"*{level}*: {meaning}" for level, meaning in words.TRUST.items())}.

</details>
"""


def render_markdown(
    tables: Sequence[SuiteTable],
    about: Mapping[str, tuple[Meta, TrustLevel]],
    places: Mapping[str, str] | None = None,
) -> str:
    """Return the page: a section per suite and version, with a table for each group of columns.

    Args:
        tables: one per suite.
        about: by slug, `submission.toml` and the trust level.
        places: by slug, the folder of a submission that is not in `submissions/`, relative to the page.
    """
    links = {s.entry.slug: _link(s, places or {}) for table in tables for s in table.standings}
    sections = [INTRODUCTION, *(_section(table, about, links) for table in tables)]
    if not tables:
        sections.append("There are no submissions yet.\n")
    return "\n".join(sections)


def _section(
    table: SuiteTable, about: Mapping[str, tuple[Meta, TrustLevel]], links: Mapping[str, str]
) -> str:
    suite = table.published
    facts = [f"Suite digest `{table.suite.digest[:12]}`."]
    if suite is None:
        facts.append(
            "No suite of this digest is published with this version of lmcbench: entries are not ranked."
        )
    else:
        shifts = escape_markdown(", ".join(table.headline))
        facts.append(f"{escape_markdown(suite.description)} The area is over {shifts}.")
        if table.comparison:
            facts.append(escape_markdown(table.comparison))
        if suite.citation:
            facts.append(f"Cite: {escape_markdown(suite.citation)}.")
        facts.append(
            f"Accuracy floor {100 * suite.floor:g} %. {table.ranked} of {len(table.standings)} ranked."
        )
    parts = [f"## {escape_markdown(table.suite.name)} version {table.suite.version}", " ".join(facts)]
    for group, title in GROUPS.items():
        columns = [column for column in COLUMNS if column.group == group]
        shown = [c for c in columns if any(s.scores.columns[c.key].n for s in table.standings)]
        if shown:
            rows = [
                _row(standing, group, shown, links[standing.entry.slug], *about[standing.entry.slug])
                for standing in table.standings
            ]
            text = tabulate(
                rows, headers="keys", tablefmt="github", disable_numparse=True, colalign=_align(rows)
            )
            parts += [f"### {title}", text]
    reasons = [
        f"- {links[s.entry.slug]}: {escape_markdown('; '.join(s.unranked))}"
        for s in table.standings
        if s.unranked
    ]
    if reasons:
        parts += ["Not ranked:", "\n".join(reasons)]
    return "\n\n".join(parts) + "\n"


def _row(
    standing: Standing, group: str, columns: Sequence[Column], link: str, meta: Meta, trust: TrustLevel
) -> dict[str, str]:
    entry = standing.entry
    row = {
        "rank": "baseline" if standing.baseline else "–" if standing.rank is None else str(standing.rank),
        "entry": f"{link} {escape_markdown(meta.title)}",
    }
    if group == "barriers":
        row |= {
            "architecture": escape_markdown(entry.network.label),
            "recipe": escape_markdown(entry.recipe["name"]),
        }
    n = standing.n or len(entry.replicates)
    for column in columns:
        row[column.title] = number(standing.scores.columns[column.key], column, n)
    if group == "barriers":
        row |= {
            "stability point": median_text(standing.scores.stability),
            "n": str(standing.n),
            "frontier": "yes" if standing.frontier else "–",
            "did not learn": f"{entry.count('did-not-learn')}/{len_cells(standing)}",
            "diverged": f"{entry.count('diverged')}/{len_cells(standing)}",
            "trust": trust,
            "rank is": standing.basis or "claimed",
            "digest": f"`{entry.submission_sha256[:12]}`",
        }
    return row


def len_cells(standing: Standing) -> int:
    """Return the number of cells of an entry that have a record."""
    return sum(standing.entry.count(status) for status in get_args(Status))


def _align(rows: Sequence[Mapping[str, str]]) -> list[str]:
    left = {"rank", "entry", "architecture", "recipe", "trust", "rank is", "digest"}
    return ["left" if name in left else "right" for name in rows[0]]


def _link(standing: Standing, places: Mapping[str, str]) -> str:
    slug = standing.entry.slug
    return f"[{slug}]({quote(places.get(slug, f'submissions/{slug}'))})"


def number(value: Estimate, column: Column, n: int) -> str:
    """Return an estimate as `12.3 ± 1.4`, followed by its number of replicates if that is not n."""
    if value.mean is None:
        return "–"
    if column.unit == "flop":
        return f"{value.mean:.2e}"
    text = tenths(value.mean, sign=column.unit == "gain" or "−" in column.title)
    interval = "" if value.half_width is None else f" ± {tenths(value.half_width)}"
    return f"{text}{interval}{f' ({value.n})' if value.n != n else ''}"


def tenths(fraction: float, *, sign: bool = False) -> str:
    """Return a fraction in percent with one digit, rounded as on the page: 0.1234 -> 12.3."""
    whole = cut(fraction)
    digits = (abs(whole) + 5) // 10
    mark = "" if digits == 0 else "−" if whole < 0 else "+" if sign else ""
    return f"{mark}{digits // 10}.{digits % 10}"
