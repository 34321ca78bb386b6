"""The tables of a run as LaTeX and CSV."""

import pytest

from builders import make_record, toy_cell, toy_suite
from lmcbench.output import to_csv
from lmcbench.report.export import run_latex, run_rows

SUITE = toy_suite(
    recipes={name: {"lr": 0.1, "batch_size": 32, "epochs": 10} for name in ("slow", "fast")},
    forks=[0, 3, "independent"],
)


@pytest.fixture(scope="module")
def records():
    return [
        make_record(
            toy_cell("lmc_mlp", shift, fork, r, SUITE), barrier_loss=loss, barrier_error=loss / 4 + 0.01 * r
        )
        for shift in ("none", "disjoint-halves")
        for fork, loss in (("0", 1.0), ("3", 0.5), ("independent", 2.0))
        for r in range(2)
    ]


def test_every_number_has_unit_interval_and_provenance(records, tmp_path):
    rows = run_rows(records, tmp_path)
    [barrier] = [
        r for r in rows if (r["shift"], r["fork"], r["measure"]) == ("disjoint-halves", "0", "error_chord")
    ]
    assert barrier["mean"] == pytest.approx(0.255)
    assert barrier["half_width"] == pytest.approx(12.7062 * 0.005, rel=1e-4)
    assert (barrier["unit"], barrier["n"]) == ("fraction", 2)
    [area] = [r for r in rows if (r["shift"], r["measure"]) == ("mean of shifts", "area")]
    assert (area["mean"], area["fork"]) == (pytest.approx(0.375), "")
    assert all(r["suite_digest"] == SUITE.digest and "torch" in r["versions"] for r in rows)
    assert len({tuple(r) for r in rows}) == 1
    assert to_csv(rows).splitlines()[0].endswith("mean,half_width,n,command,citation,versions")


def test_latex_has_the_tables_with_intervals(records, tmp_path):
    text = run_latex(records, tmp_path)
    assert text.count(r"\begin{tabular}") == text.count(r"\bottomrule") == 3
    assert r"\label{tab:toy-instability}" in text
    assert r"disjoint-halves & $50.0 \pm 0.0$ & $25.0 \pm 0.0$ & $37.5 \pm 0.0$" in text
    assert text.startswith("% Written by: ")
    assert f"digest {SUITE.digest}" in text
