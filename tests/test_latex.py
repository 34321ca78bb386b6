r"""LaTeX tables: what is in a cell is printed literally, and the structure holds for any text."""

import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcbench.latex import document_comment, escape_latex, latex_table

WORDS = st.text(max_size=12) | st.sampled_from(
    ["12.4 ± 1.3 (2)", "+0.4", "–", "\\end{table}", "[x] & y \\\\ %"]
)


def parsed(table):
    """The rows of a balanced table, read as LaTeX; commands and braces are removed."""
    inner = re.search(r"\\begin\{tabular\}\{([lr]+)\}\n(.*)\n\\end\{tabular\}", table, re.DOTALL)
    depth, mathematics, rows, cell = 0, False, [[]], ""
    lines = [line for line in inner[2].splitlines() if not re.fullmatch(r"\\[a-z]+", line)]
    for token in re.findall(r"\\[a-zA-Z]+|\\.|.", " ".join(lines)):
        if token == "{":
            depth += 1
        elif token == "}":
            depth -= 1
            assert depth >= 0
        elif token == "$":
            mathematics = not mathematics
        elif token == "&" and depth == 0:
            assert not mathematics
            rows[-1].append(cell.strip())
            cell = ""
        elif token == "\\\\" and depth == 0:
            rows[-1].append(cell.strip())
            rows.append([])
            cell = ""
        else:
            cell += {"\\pm": "±"}.get(token, token[1:] if re.fullmatch(r"\\[^a-zA-Z]", token) else token)
    assert depth == 0
    assert not mathematics
    assert rows.pop() == []
    assert not cell.strip()
    return inner[1], rows


@given(st.lists(st.lists(WORDS, min_size=3, max_size=3), max_size=4), WORDS)
def test_the_structure_holds_for_any_text(rows, text):
    table = latex_table(["a", text, "c"], rows, caption=text, label=text, left=1)
    alignment, found = parsed(table)
    assert alignment == "lrr"
    assert [len(row) for row in found] == [3] * (len(rows) + 1)
    assert table.isascii() or set(table) - set(map(chr, range(128))) <= set("äöüÄÖÜß")
    assert [table.count(f"\\{end}{{table}}") for end in ("begin", "end")] == [1, 1]


def test_numbers_are_mathematics_and_the_rest_is_text():
    table = latex_table(
        ["shift", "gain"],
        ["resnet_18, recipe x", ["a_b", "+12.4 ± 1.3 (2)"], ["none", "-0.1"], ["skew", "97.5"], ["x", "–"]],
        caption="50 %",
        label="digits v3_a",
    )
    assert r"\multicolumn{2}{l}{\emph{resnet\_18, recipe x}} \\" in table
    assert r"a\_b & $+12.4 \pm 1.3$ (2) \\" in table
    assert r"none & $-0.1$ \\" in table
    assert r"skew & 97.5 \\" in table
    assert r"\caption{50 \%}" in table
    assert r"\label{tab:digits-v3-a}" in table


def test_a_fact_stays_in_its_comment():
    text = document_comment({"Cite": "A\n\\input{evil}"})
    assert all(line.startswith("% ") for line in text.splitlines())


@pytest.mark.parametrize(("text", "latex"), [("~^", r"\textasciitilde{}\textasciicircum{}"), ("œ", "?")])
def test_characters_without_a_glyph(text, latex):
    assert escape_latex(text) == latex


ROWS = [["label-skew[noise=shared]", "30%", *["12.4 ± 1.3 (2)"] * 9]] * 20
HEADINGS = ["shift", "fork", *["ensemble − member at fork 0"] * 9]


def test_many_rows_are_divided_above_headings_over_all_columns():
    table = latex_table(HEADINGS, ["a", *ROWS, "b", *ROWS[:18], "c", *ROWS], caption="A", label="x", left=2)
    first, second = table.split("\n\n")
    assert [part.count(r"label-skew") for part in (first, second)] == [38, 20]
    assert r"\caption{A (1 of 2)}" in first
    assert r"\label{tab:x}" in first
    assert r"\caption{A (2 of 2)}" in second
    assert r"\label{tab:x-2}" in second
    assert second.count(r"\multicolumn") == 1


def test_long_headings_and_texts_are_broken():
    row = ["ResNet with a deep stem and BatchNorm", "9"]
    table = latex_table(["entry", "ensemble − member"], [row], caption="A", label="x")
    assert r"\begin{tabular}{p{" in table
    assert r"\raggedright ResNet with" in table
    assert r"\shortstack[r]{ensemble\\$-$\\member}" in table


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_pdflatex_compiles_wide_and_long_tables_within_the_text(tmp_path):
    everything = "".join(map(chr, range(32, 256))) + "–−±²‘’œ"
    tables = [
        latex_table(
            HEADINGS, ["résumé_1, recipe x", *ROWS, everything, *ROWS], caption="50 %", label="a", left=2
        ),
        latex_table(
            ["a", "b"],
            [["a network of words " * 4, "1.0 ± 0.1"], [everything[20:30], "–"]],
            caption="b",
            label="b",
        ),
    ]
    text = "\n\n".join([document_comment({"Cite": everything}), *tables])
    (tmp_path / "tables.tex").write_text(text, encoding="utf-8")
    body = r"\usepackage{booktabs,graphicx}\begin{document}\input{tables}\end{document}"
    (tmp_path / "paper.tex").write_text(r"\documentclass{article}" + body, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120
    )
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "paper.log").read_text(encoding="latin-1")
    assert not re.search(r"^Overfull|Float too large|Missing character", log, re.MULTILINE), log
