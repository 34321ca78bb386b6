r"""LaTeX tables in the style of booktabs, with every foreign text escaped.

>>> print(latex_table(["shift", "area"], [["label-skew", "12.4 ± 1.3"]], caption="A & B", label="x", left=1))
\begin{table}
\centering
\caption{A \& B}
\label{tab:x}
\begin{tabular}{lr}
\toprule
shift & area \\
\midrule
label-skew & $12.4 \pm 1.3$ \\
\bottomrule
\end{tabular}
\end{table}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lmcbench.output import one_line

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "²": r"$^2$",
    "‘": "`",
    "’": "'",
    # after the end of a row, an opening bracket would begin an option
    "[": "{[}",
    "]": "{]}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}
_NUMBER = re.compile(r"([+\-−]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)( ± (\d+(?:\.\d+)?))?( \(\d+\))?")


def escape_latex(text: str) -> str:
    r"""Return text as LaTeX that prints it literally, on one line.

    Characters that pdfLaTeX has no glyph for are question marks.

    Examples:
        >>> print(escape_latex("lmc_mlp 50 % & x"))
        lmc\_mlp 50 \% \& x
    """
    return "".join(_SPECIAL.get(c, c if c.isascii() or c in "äöüÄÖÜß" else "?") for c in one_line(text))


def latex_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str] | str],
    *,
    caption: str,
    label: str,
    left: int = 1,
) -> str:
    r"""Return a `table` environment.

    Args:
        columns: headings.
        rows: cells, numbers as `12.4 ± 1.3`; a string is a heading over all columns.
        caption: above the table.
        label: letters, digits, `-`, `.` and `:`; others become `-`. It is `tab:LABEL`.
        left: number of columns that are aligned to the left, the first ones.
    """
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(caption)}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9.:-]', '-', label)}}}",
        rf"\begin{{tabular}}{{{'l' * left}{'r' * (len(columns) - left)}}}",
        r"\toprule",
        " & ".join(map(escape_latex, columns)) + r" \\",
        r"\midrule",
    ]
    for k, row in enumerate(rows):
        if isinstance(row, str):
            lines += [r"\addlinespace"] if k else []
            lines.append(rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{escape_latex(row)}}}}} \\")
        else:
            lines.append(" & ".join(map(_cell, row)) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def document_comment(facts: Mapping[str, str]) -> str:
    """Return facts as lines of a comment, one fact a line."""
    lines = [f"% {one_line(name)}: {one_line(text)}" for name, text in facts.items()]
    return "\n".join([*lines, r"% needs \usepackage{booktabs}"])


def _cell(text: str) -> str:
    found = _NUMBER.fullmatch(text)
    if found is None:
        return escape_latex(text)
    mean, half, few = found[1].replace("−", "-"), found[3], found[4] or ""
    if half is not None:
        return rf"${mean} \pm {half}${few}"
    return f"${mean}${few}" if mean[0] in "+-" else f"{mean}{few}"
