"""Make a folder of evidence from a finished run: python benchmark/evidence/make.py RUN FOLDER --took TEXT.

What a person reads is written anew: tables, findings, figures, all measures as CSV, and a README that says
what was run where. Nothing is typed by hand but how long it took.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lmcbench.report.document import make_report
from lmcbench.report.findings import DEMONSTRATION, collect_findings, render_findings
from lmcbench.report.provenance import provenance_of
from lmcbench.report.tables import run_table
from lmcbench.results.atomic_files import compress, write_atomic
from lmcbench.results.frame import CURVES, build_frame
from lmcbench.results.record import Record
from lmcbench.results.record_files import RECORDS, read_records
from lmcbench.spec.suite import DEMONSTRATIONS
from lmcbench.stats.cells import Cells

README = """# `{name}` version {version}, replicates {first} to {last}

| file | comes from |
|---|---|
| `leaderboard.md` | `lmcbench run {name}` writes it |
| `records.csv.gz` | `lmcbench.load_records(RUN)` without curves: a row per cell, pair, split |
| `findings.md` | `lmcbench report RUN --findings` |
| `report.md`, `figures/` | `lmcbench report RUN` |
{packed}
{command}

{cells} cells ({statuses}), {device}, engines: {engines}. {took} Suite digest `{digest}`, source revision
{commits}, {versions}.
{demonstration}
Written by `python benchmark/evidence/make.py`.
"""


PACKED = (
    f"| `{RECORDS}` | `python benchmark/evidence/records.py pack RUN FILE`; a run can continue from it |\n"
)


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--took", required=True, metavar="TEXT", help="how long it took, and beside what")
    parser.add_argument("--command", required=True, metavar="TEXT", help="what was typed, in Markdown")
    options = parser.parse_args()
    records = read_records(options.run)
    made = provenance_of(records, options.run)
    report = make_report(records, options.run)
    for name, content in report.figures.items():
        write_atomic(options.folder / "figures" / name, content)
    one = records[0].suite
    is_packed = (options.folder / RECORDS).exists()
    write_atomic(options.folder / "report.md", report.markdown)
    title = f"# Findings: {one.name} version {one.version}"
    write_atomic(
        options.folder / "findings.md",
        f"{title}\n\n{render_findings(collect_findings(Cells(records)))}\n{made.markdown()}",
    )
    table = run_table(records, options.run, "github")
    write_atomic(options.folder / "leaderboard.md", f"# {one.name} version {one.version}\n\n{table}")
    csv = (
        build_frame(records)
        .drop(columns=list(CURVES), errors="ignore")
        .to_csv(index=False, float_format="%.6g")
    )
    write_atomic(options.folder / "records.csv.gz", compress(csv.encode()))
    write_atomic(options.folder / "README.md", _readme(records, options.command, options.took, is_packed))
    print(f"Wrote {options.folder}.")


def _readme(records: Sequence[Record], command: str, took: str, is_packed: bool) -> str:
    one = records[0]
    replicates = {r.replicate for r in records}
    statuses = {
        status: sum(r.status == status for r in records)
        for status in ("ok", "did-not-learn", "diverged", "failed")
    }
    commits = sorted({_commit(r) for r in records})
    versions = one.env["versions"]
    demonstration = f"\n{DEMONSTRATION}\n" if one.suite.name in DEMONSTRATIONS else ""
    return README.format(
        name=one.suite.name,
        version=one.suite.version,
        first=min(replicates),
        last=max(replicates),
        command=command,
        packed=PACKED if is_packed else "",
        cells=len(records),
        statuses=", ".join(f"{n} {status}" for status, n in statuses.items() if n),
        device=", ".join(sorted({str(r.env["device"]) for r in records})),
        engines=", ".join(sorted({str(r.env["engine"]) for r in records})),
        took=took,
        digest=one.suite.digest[:16],
        commits=", ".join(commits),
        versions=", ".join(
            f"{name} {versions[name]}" for name in ("python", "torch", "timm") if name in versions
        ),
        demonstration=demonstration,
    )


def _commit(record: Record) -> str:
    git = record.env["git"] or {}
    return f"`{str(git.get('commit'))[:12]}`" + (" with changes" if git.get("dirty") else "")


if __name__ == "__main__":
    main()
