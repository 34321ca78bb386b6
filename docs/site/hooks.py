"""Hooks of the documentation site: pages of the repository outside docs/ are part of it, where they are.

README.md is the first page. A page that a link leads to is added under its path in the repository, and a file
that is no page is copied. So links have one form, which works on the site and in the repository.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
FIRST = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmark/gate.md", "leaderboard/SUBMITTING.md")
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and files outside docs/ that links lead to, from page to page."""
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook(path)))
    remaining = [*FIRST, *(f"docs/{file.src_uri}" for file in files if is_own(file))]
    known = set()
    while remaining:
        source = remaining.pop()
        if source in known:
            continue
        known.add(source)
        path = ROOT / source
        if not source.startswith("docs/"):  # files in docs/ are there already
            files.append(File.generated(config, site_path(source), abs_src_path=str(path)))
        if source.endswith(".md"):
            remaining += [target for target, _ in links(source, path.read_text(encoding="utf-8"))]
    return files


def is_own(file: File) -> bool:
    """Return whether a file is a page in docs/."""
    return file.src_uri.endswith(".md") and not file.src_uri.startswith("notebooks/")


def notebook(path: Path) -> str:
    """Return a notebook as a page: its text and its code."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite links to the places that files have on the site; a folder is named without a link."""
    source = repository_path(page.file.src_uri)
    here = posixpath.dirname(page.file.src_uri)

    def rewrite(found: re.Match[str]) -> str:
        target, anchor = resolve(source, found[2])
        if target is None:
            return found[0]
        if (ROOT / target).is_dir():
            return found[1]
        place = posixpath.relpath(site_path(target), here or ".")
        return f"[{found[1]}]({place}{anchor})"

    parts, last = [], 0
    for block in CODE.finditer(markdown):
        parts += [LINK.sub(rewrite, markdown[last : block.start()]), block[0]]
        last = block.end()
    return "".join([*parts, LINK.sub(rewrite, markdown[last:])])


def links(source: str, text: str) -> list[tuple[str, str]]:
    """Return the files that a page links to, by their path in the repository, with the anchor."""
    found = (resolve(source, link[2]) for link in LINK.finditer(CODE.sub("", text)))
    return [(target, anchor) for target, anchor in found if target is not None and (ROOT / target).is_file()]


def resolve(source: str, link: str) -> tuple[str | None, str]:
    """Return the path in the repository of a link's target, None for other links, and its anchor."""
    target, hash_, anchor = link.partition("#")
    if not target or re.match(r"[a-z]+:", target):
        return None, ""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if path.startswith("..") or not (ROOT / path).exists():
        return None, ""
    return path, hash_ + anchor


def site_path(source: str) -> str:
    """Return the place on the site of a file of the repository."""
    if source == "README.md":
        return "index.md"
    place = source.removeprefix("docs/")
    return place.replace(".ipynb", ".md") if place.startswith("notebooks/") else place


def repository_path(place: str) -> str:
    """Return the path in the repository of a file on the site."""
    if place == "index.md":
        return "README.md"
    return f"docs/{place}" if (ROOT / "docs" / place).is_file() else place
