"""The report of a run: Markdown with figures, and one self-contained page of HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from lmcbench.errors import UserError, counted
from lmcbench.output import GITHUB, escape_markdown, make_table, one_line
from lmcbench.page import content_policy, page_style, sort_script, template_text, templates, theme_script
from lmcbench.report.conclusion import conclude
from lmcbench.report.figures.draw import draw
from lmcbench.report.figures.style import Drawing, inline_svg, picture
from lmcbench.report.findings import DEMONSTRATION, collect_findings
from lmcbench.report.noise_scale import NOTES, RECIPE_NOTES, noise_table, recipe_table
from lmcbench.report.provenance import Provenance, provenance_of
from lmcbench.report.rank_correlation import rank_correlations
from lmcbench.report.tables import CONNECTIVITY, ENSEMBLES, INSTABILITY, make_tables
from lmcbench.results.frame import build_frame
from lmcbench.results.record import Record, Status
from lmcbench.spec.evaluation_shifts import EVALUATION
from lmcbench.spec.suite import DEMONSTRATIONS, Suite
from lmcbench.spec.suite_files import published_suite
from lmcbench.stats.cells import Cells
from lmcbench.stats.estimates import ROUNDING, Estimate

TEXT_COLUMNS = frozenset(
    {"architecture", "recipe", "shift", "fork", "second-order form", "ranked", "recipes of", "pair", "domain"}
)
"""Columns of the tables that are aligned to the left."""


@dataclass(frozen=True)
class Report:
    """A rendered report.

    Attributes:
        markdown: refers to the figures as `figures/NAME.png`, or in another format.
        html: contains the figures.
        figures: file name -> bytes.
    """

    markdown: str
    html: str
    figures: dict[str, bytes]


@dataclass(frozen=True)
class _Table:
    title: str
    rows: pd.DataFrame
    notes: Sequence[str]


Format = Literal["png", "pdf", "svg"]


def make_report(
    records: Sequence[Record], folder: Path | None = None, figure_format: Format = "png"
) -> Report:
    """Return the report of one run; equal records give equal bytes.

    Args:
        records: of one suite.
        folder: the run folder; logits in it make the interval of the area contain the sampling of images.
        figure_format: of the files of figures; the page contains its own.

    Raises:
        UserError: for records of more than one suite.
    """
    suites = {(r.suite.name, r.suite.version, r.suite.digest) for r in records}
    if len(suites) != 1:
        names = ", ".join(f"{name} v{version}" for name, version, _ in sorted(suites)) or "none"
        raise UserError(f"A report is of the records of one suite; these are of {names}.")
    one = records[0].suite
    suite = published_suite(one.name, one.version, one.digest)
    title = f"{one.name} version {one.version}"
    lead = _lead(records, suite)
    tables = _tables(records, suite, folder)
    made = provenance_of(records, folder)
    sentences = conclude(collect_findings(Cells(records)))
    drawings = draw(records)
    pictures = {
        f"{drawing.name}.{figure_format}": picture(drawing.figure, figure_format) for drawing in drawings
    }
    description = suite.description if suite is not None else ""
    return Report(
        _markdown(title, [description, *sentences, *lead], tables, drawings, figure_format, made),
        _html(title, description, sentences, lead, tables, drawings, made.facts),
        pictures,
    )


def _data_text(entry: Mapping[str, Any]) -> str:
    """Return a split as `cifar10 train`, a shifted test set as `cifar10.1:v6`."""
    split = str(entry["split"])
    return split.removeprefix(EVALUATION) if split.startswith(EVALUATION) else f"{entry['name']} {split}"


def _lead(records: Sequence[Record], suite: Suite | None) -> list[str]:
    """Return the paragraphs above the first table."""
    one = records[0]
    counts = {status: sum(r.status == status for r in records) for status in get_args(Status)}
    statuses = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    devices = sorted({str(r.env.get("device")) for r in records})
    versions = one.env.get("versions") or {}
    torch = versions.get("torch")
    data = ", ".join(f"{_data_text(d)} ({d['n']:,} images)" for d in one.data)
    lead = [
        f"{counted(len(records), 'cell')}: {statuses}. Data: {data}. Device: {', '.join(devices)}"
        + (f"; torch {torch}." if torch else "."),
    ]
    if one.suite.name in DEMONSTRATIONS:
        lead.append(DEMONSTRATION)
    if not any(pair.model_extra for r in records for pair in r.pairs):
        lead.append(f"Curvature, layers, landscapes and alignment were not measured; {_adding(suite)}.")
    return lead


def _adding(suite: Suite | None) -> str:
    """Return how to add analyses to the run; `suite` is None for a user's own."""
    if suite is None:
        return (
            "'lmcbench run FILE.toml --measure all', with the suite's file, adds them on the cells that "
            "[probe] in it names"
        )
    if not suite.probe.shifts:
        return f"suite {suite.name} has no probe cells to take them on"
    return f"'lmcbench run {suite.name}-v{suite.version} --measure all' adds them to this run"


def _tables(records: Sequence[Record], suite: Suite | None, folder: Path | None) -> list[_Table]:
    board = make_tables(records, suite.floor if suite is not None else 0.0, folder)
    tables = [
        *([_Table(INSTABILITY, board.instability, [])] if len(board.instability) else []),
        _Table(CONNECTIVITY, board.connectivity, []),
        _Table(ENSEMBLES, board.ensembles, board.notes),
        *(_Table(table.title, table.rows, table.notes) for table in board.by_domain),
    ]
    rows = build_frame(records)
    scales = noise_table(rows)
    if len(scales):
        tables.append(_Table("Does the noise scale set the barrier at fork 0?", scales, NOTES))
        tables.append(_Table("The cells at fork 0, by noise scale", recipe_table(rows), RECIPE_NOTES))
    found = rank_correlations(records)
    if found:
        ranks = [
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
        tables.append(_Table("Does the second-order form follow the barrier?", pd.DataFrame(ranks), notes))
    return tables


def _number(value: Estimate) -> str:
    if value.half_width is not None and value.half_width <= ROUNDING:
        # rank correlations take few values: that replicates agree does not make them certain
        return f"{replace(value, half_width=None).text(2)}, all equal"
    return value.text(2)


def _markdown(
    title: str,
    lead: list[str],
    tables: list[_Table],
    drawings: list[Drawing],
    figure_format: Format,
    made: Provenance,
) -> str:
    parts = [f"# {escape_markdown(title)}", *map(escape_markdown, lead)]
    # a PDF cannot be shown in the text
    mark = "" if figure_format == "pdf" else "!"
    for d in drawings:
        name = escape_markdown(d.title)
        parts += [
            f"## {name}",
            f"{mark}[{name}](figures/{d.name}.{figure_format})",
            escape_markdown(d.caption),
        ]
    for table in tables:
        rows = make_table(table.rows.to_numpy(), list(table.rows.columns), GITHUB, disable_numparse=True)
        notes = "\n".join(f"- {escape_markdown(note)}" for note in table.notes)
        parts += [f"## {escape_markdown(table.title)}", rows, notes]
    return "\n\n".join(part for part in [*parts, made.markdown()] if part)


def _html(
    title: str,
    description: str,
    sentences: list[str],
    lead: list[str],
    tables: list[_Table],
    drawings: list[Drawing],
    facts: Mapping[str, str],
) -> str:
    environment = templates("lmcbench.report")
    environment.filters["one_line"] = one_line
    script = theme_script() + sort_script()
    return environment.get_template("report.html").render(
        title=title,
        description=description,
        sentences=sentences,
        lead=lead,
        tables=tables,
        drawings=drawings,
        pictures={d.name: inline_svg(d.figure) for d in drawings},
        narrow={d.name: inline_svg(d.narrow) for d in drawings if d.narrow is not None},
        facts=facts,
        policy=content_policy(script),
        style=page_style() + template_text("report.css", "lmcbench.report"),
        script=script,
        text_columns=TEXT_COLUMNS,
        zip=zip,
    )
