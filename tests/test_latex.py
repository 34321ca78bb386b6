r"""LaTeX tables: what is in a cell is printed literally, and the structure holds for any text."""

import re

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
