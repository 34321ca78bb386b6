"""A run's records in, its report out: Markdown, and one page of HTML that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from lmcbench.errors import UserError, counted
from lmcbench.report.figures.draw import draw
from lmcbench.report.figures.style import Drawing, picture
from lmcbench.report.findings import DEMONSTRATION
from lmcbench.report.noise_scale import CELL_NOTES, NOTES, cell_rows, noise_rows
from lmcbench.report.rank_correlation import rank_correlations
from lmcbench.report.tables import CONNECTIVITY, ENSEMBLES, make_tables
from lmcbench.results.record import Record
from lmcbench.spec.evaluation_shifts import EVALUATION
from lmcbench.spec.suite import DEMONSTRATIONS, Suite
from lmcbench.spec.suite_files import published_suite
from lmcbench.stats.estimates import ROUNDING, Estimate

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 76rem;
  margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; } p { max-width: 46rem; }
figure { margin: 1rem 0 0; } img { max-width: 100%; height: auto; }
figcaption, .note { color: #444; font-size: 0.9rem; max-width: 46rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.85rem; }
th, td { padding: 0.2rem 0.55rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th.words, td.words { text-align: left; }
:root { color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  body { color: #e9e6e0; background: #15171a; } figcaption, .note { color: #a8a39a; }
  th, td { border-bottom-color: #363b42; } img { background: #fff; padding: 0.5rem; border-radius: 4px; }
}
"""

WORDS = frozenset({"architecture", "recipe", "shift", "fork", "second-order form", "ranked", "recipes of"})
"""Columns of the tables that hold words."""


@dataclass(frozen=True)
class Report:
    """What is written.

    Attributes:
        markdown: refers to the figures as `figures/NAME.png`.
        html: holds them.
        figures: name of the file -> its bytes (PNG).
    """

    markdown: str
    html: str
    figures: dict[str, bytes]


@dataclass(frozen=True)
class _Table:
    title: str
    rows: pd.DataFrame
    notes: Sequence[str]


def make_report(records: Sequence[Record]) -> Report:
    """The report of the records of one run.

    Raises:
        UserError: where they are of more than one suite.
    """
    suites = {(r.suite.name, r.suite.version, r.suite.digest) for r in records}
    if len(suites) != 1:
        names = ", ".join(f"{name} v{version}" for name, version, _ in sorted(suites)) or "none"
        raise UserError(f"A report is of the records of one suite; these are of {names}.")
    one = records[0].suite
    suite = published_suite(one.name, one.version, one.digest)
    title = f"{one.name} version {one.version}"
    lead = _lead(records, suite)
    tables = _tables(records, suite)
    drawings = draw(records)
    pictures = {drawing.name: picture(drawing.figure) for drawing in drawings}
    return Report(
        _markdown(title, lead, tables, drawings),
        _html(title, lead, tables, drawings, pictures),
        {f"{name}.png": content for name, content in pictures.items()},
    )


def _data_text(entry: Mapping[str, Any]) -> str:
    """A split of the data: `cifar10 train`; a shifted test set by its whole name, `cifar10.1:v6`."""
    split = str(entry["split"])
    return split.removeprefix(EVALUATION) if split.startswith(EVALUATION) else f"{entry['name']} {split}"


def _lead(records: Sequence[Record], suite: Suite | None) -> list[str]:
    """What the reader must know first."""
    one = records[0]
    counts = {status: sum(r.status == status for r in records) for status in ("ok", "diverged", "failed")}
    told = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    devices = sorted({str(r.env.get("device")) for r in records})
    versions = one.env.get("versions") or {}
    torch = versions.get("torch")
    data = ", ".join(f"{_data_text(d)} ({d['n']:,} images)" for d in one.data)
    lead = [
        *([suite.description] if suite is not None and suite.description else []),
        f"{counted(len(records), 'cell')}: {told}. Data: {data}. Device: {', '.join(devices)}"
        + (f"; torch {torch}." if torch else "."),
        f"Suite digest {one.suite.digest[:12]}.",
    ]
    if one.suite.name in DEMONSTRATIONS:
        lead.append(DEMONSTRATION)
    if not any(pair.model_extra for r in records for pair in r.pairs):
        lead.append(f"Curvature, layers, landscapes and alignment were not measured; {_adding(suite)}.")
    return lead


def _adding(suite: Suite | None) -> str:
    """What adds further measures to a run; `suite` is the published one, None for a user's own."""
    if suite is None:
        return (
            "'lmcbench run FILE.toml --measure all', with the suite's file, adds them on the cells that "
            "[probe] in it names"
        )
    if not suite.probe.shifts:
        return f"suite {suite.name} has no probe cells to take them on"
    return f"'lmcbench run {suite.name}-v{suite.version} --measure all' adds them to this run"


def _tables(records: Sequence[Record], suite: Suite | None) -> list[_Table]:
    board = make_tables(records, suite.floor if suite is not None else 0.0)
    tables = [
        _Table(CONNECTIVITY, board.connectivity, []),
        _Table(ENSEMBLES, board.ensembles, board.notes),
    ]
    scales = noise_rows(records)
    if len(scales):
        tables.append(_Table("Does the noise scale set the barrier at fork 0?", scales, NOTES))
        tables.append(_Table("The cells at fork 0, by noise scale", cell_rows(records), CELL_NOTES))
    found = rank_correlations(records)
    if found:
        rows = [
            {
                "architecture": f.architecture,
                "second-order form": f.form,
                "ranked": f.over,
                "points": str(f.points),
                "rank correlation": _number(f.correlation),
                "n": str(f.correlation.n),
            }
            for f in found
        ]
        notes = [
            "Spearman's rank correlation of predicted and measured loss barriers within a replicate; mean "
            "over replicates (n) ± half-width of the 95 % Student t interval, none for n = 1 and where "
            "replicates are all equal. Layers are ranked within a cell, and a replicate's cells averaged.",
            "Ranked are cells that leave the trunk, no independent networks. Predicted and measured is the "
            "greatest inside the line, 0 < alpha < 1, signed; training loss on the pinned images. The "
            "barrier is over the chord; the rise is over the start, and less than 0 for a layer that only "
            "lowers the loss.",
        ]
        tables.append(_Table("Does the second-order form follow the barrier?", pd.DataFrame(rows), notes))
    return tables


def _number(value: Estimate) -> str:
    if value.mean is None:
        return "–"
    if value.half_width is None:
        return f"{value.mean + 0.0:.2f}"
    # rank correlations take few values: that replicates agree is no certainty
    agree = value.half_width <= ROUNDING
    return f"{value.mean + 0.0:.2f}" + (", all equal" if agree else f" ± {value.half_width:.2f}")


def _markdown(title: str, lead: list[str], tables: list[_Table], drawings: list[Drawing]) -> str:
    parts = [f"# {title}", *lead]
    for table in tables:
        rows = table.rows.to_markdown(index=False, tablefmt="github", disable_numparse=True)
        parts += [f"## {table.title}", rows, "\n".join(f"- {note}" for note in table.notes)]
    for d in drawings:
        parts += [f"## {d.title}", f"![{d.title}](figures/{d.name}.png)", d.caption]
    return "\n\n".join(part for part in parts if part) + "\n"


def _html(
    title: str,
    lead: list[str],
    tables: list[_Table],
    drawings: list[Drawing],
    pictures: dict[str, bytes],
) -> str:
    parts = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(text)}</p>" for text in lead)]
    for table in tables:
        notes = "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
        rows = _table_html(table.rows)
        parts.append(f'<h2>{escape(table.title)}</h2>\n<div class="wide">{rows}</div>\n{notes}')
    for d in drawings:
        content = base64.b64encode(pictures[d.name]).decode()
        parts.append(
            f"<h2>{escape(d.title)}</h2>\n<figure><img alt={_quoted(d.title)} "
            f'src="data:image/png;base64,{content}"><figcaption>{escape(d.caption)}</figcaption></figure>'
        )
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _table_html(rows: pd.DataFrame) -> str:
    """The table; words stand to the left, numbers to the right."""
    kinds = [' class="words"' if column in WORDS else "" for column in rows.columns]

    def row(tag: str, cells: Iterable[Any]) -> str:
        told = zip(kinds, cells, strict=True)
        return f"<tr>{''.join(f'<{tag}{kind}>{escape(str(cell))}</{tag}>' for kind, cell in told)}</tr>"

    body = "\n".join(row("td", cells) for cells in rows.itertuples(index=False))
    return f"<table>\n<thead>{row('th', rows.columns)}</thead>\n<tbody>\n{body}\n</tbody></table>"


def _quoted(text: str) -> str:
    return f'"{escape(text, quote=True)}"'
