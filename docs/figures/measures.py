"""Draw the figures of docs/measures/: python docs/figures/measures.py.

A page's Python block is executed at the root of the repository and its figure stored. The pages of analyses
show figures of the report of benchmark/evidence/analyses. Files are made small: no metadata, no comments,
coordinates with two decimals, maps with 64 colours.
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from lmcbench.report.figures.draw import draw
from lmcbench.report.figures.style import picture
from lmcbench.results.record_files import read_records

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "measures"
ANALYSES = ROOT / "benchmark" / "evidence" / "analyses"


def small(figure: Figure) -> str:
    """Return a figure as a small SVG file."""
    text = picture(figure, "svg").decode()
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"(scale\([^)]*\))|-?\d+\.\d{3,}", lambda found: found[1] or rounded(found[0]), text)
    text = re.sub(r"(?<=data:image/png;base64,)[^\"]+", lambda found: fewer_colours(found[0]), text)
    return re.sub(r"\s*\n\s*", "\n", text).strip() + "\n"


def rounded(number: str) -> str:
    """Return a number with at most two decimals."""
    return f"{float(number):.2f}".rstrip("0").rstrip(".")


def fewer_colours(encoded: str) -> str:
    """Return a PNG, in base64, with a palette of 64 colours."""
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        out = io.BytesIO()
        image.quantize(64).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def drawn_by(page: str) -> Figure | None:
    """Return the figure that a page's Python block makes; None without such a block."""
    found = re.search(r"^```python\n(.*?)^figure\.savefig\(.*?^```$", page, re.MULTILINE | re.DOTALL)
    if found is None:
        return None
    names: dict[str, Any] = {}
    exec(found[1].replace('"benchmark/', f'"{ROOT}/benchmark/'), names)
    figure = names["figure"]
    assert isinstance(figure, Figure)
    return figure


def figures() -> dict[str, str]:
    """Return every figure of the pages as SVG, by the name of its file."""
    made = {}
    reported = {drawing.name: drawing.figure for drawing in draw(read_records(ANALYSES))}
    for path in sorted(PAGES.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        shown = re.search(r"\]\(figures/([\w-]+\.svg)\)", page)
        if shown is None:
            continue
        named = re.search(r"`report/figures/([\w-]+)\.svg`", page)
        figure = drawn_by(page) if named is None else reported[named[1]]
        assert figure is not None, f"{path.name} does not say how its figure is made"
        made[shown[1]] = small(figure)
    return made


def main() -> None:
    """Write the figures beside the pages."""
    (PAGES / "figures").mkdir(exist_ok=True)
    for name, content in figures().items():
        (PAGES / "figures" / name).write_text(content, encoding="utf-8")
        print(f"{name}: {len(content) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
