"""The documentation site is built without a warning and fetches nothing; Python examples of the pages run."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import lmcbench

ROOT = Path(__file__).parents[1]
MEASURES = sorted((ROOT / "docs" / "measures").glob("*.md"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = [
    pytest.param(block, id=f"{page.stem}-{n}")
    for page in PAGES
    for n, block in enumerate(
        re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    )
]
FETCHED = re.compile(
    r"<(?:script|img|iframe)[^>]+src=\"?https?:|<link[^>]+rel=\"?(?:stylesheet|preconnect)[^>]+https?:"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="the site is built where the extra 'docs' is installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_of_the_repository_that_is_linked_is_on_the_site(site):
    for page in ("index.html", "concepts/index.html", "benchmark/gate/index.html", "api/index.html"):
        assert (site / page).is_file()
    home = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="concepts/"' in home
    assert 'href="leaderboard/SUBMITTING/"' in home
    assert not re.search(r"href=\"?[^\"> ]+\.md\b", home)
    assert (site / "notebooks" / "connected" / "index.html").is_file()


def test_pages_fetch_nothing(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        assert not FETCHED.search(page.read_text(encoding="utf-8")), page


def test_the_api_page_has_every_public_name():
    named = set(re.findall(r"^::: lmcbench\.([\w.]+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE))
    plots = {f"plots.{name}" for name in lmcbench.plots.__all__}
    # the suite is described by its keys, in own-data.md
    assert named == ({*lmcbench.__all__} - {"plots", "Suite"}) | plots


PARTS = ("Formula", "How it is computed", "Cost", "When it misleads", "Example")


@pytest.mark.parametrize("page", [p for p in MEASURES if p.stem != "index"], ids=lambda page: page.stem)
def test_every_measure_has_a_page_from_question_to_example(page):
    text = page.read_text(encoding="utf-8")
    assert tuple(re.findall(r"^## (.+)$", text, re.MULTILINE)) == PARTS
    assert re.search(r"^\| record \|", text, re.MULTILINE) is not None
    [figure] = re.findall(r"^!\[[^\]]{20,}\]\((.+\.svg)\)$", text, re.MULTILINE)
    assert (page.parent / figure).stat().st_size < 60_000
    assert f"]({page.name})" in (page.parent / "index.md").read_text(encoding="utf-8")


@pytest.mark.slow_tier  # draws all committed figures again
def test_figures_of_measures_are_those_that_their_pages_draw():
    path = ROOT / "docs" / "figures" / "measures.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    folder = ROOT / "docs" / "measures" / "figures"
    made = script.figures()
    assert made.keys() == {file.name for file in folder.iterdir()}
    for name, content in made.items():
        committed = (folder / name).read_text(encoding="utf-8")
        assert numbers(content) == pytest.approx(numbers(committed), abs=0.5), (
            f"{name}: run python docs/figures/measures.py"
        )


def numbers(svg):
    """The coordinates of the lines of a figure."""
    lines = re.findall(r'<path d="(M[^"]+)"[^>]*clip-path', svg)
    return [float(number) for path in lines for number in re.findall(r"-?\d+(?:\.\d+)?", path)]


@pytest.mark.parametrize("block", EXAMPLES)
def test_python_examples_run_in_a_reduced_form(block, tmp_path, monkeypatch):
    """Runs are of one cell; networks and images of the reader's are small ones."""
    whole = lmcbench.run

    def reduced(suite, **asked):
        small = {"shifts": "none", "forks": 0, "replicates": 1, "device": "cpu", "jobs": 1, "progress": False}
        return whole(suite, **asked | small)

    monkeypatch.setattr(lmcbench, "run", reduced)
    monkeypatch.chdir(tmp_path)
    model, other = (
        nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)) for _ in range(2)
    )
    state_a, state_b = model.state_dict(), other.state_dict()
    torch.save(state_a, "a.pt")
    torch.save(state_b, "b.pt")

    def my_net(num_classes, in_chans, img_size):
        return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * img_size**2, num_classes))

    images = torch.rand(20, 1, 8, 8)
    given = {"model": model, "state_a": state_a, "state_b": state_b, "images": images, "my_net": my_net}
    given |= {"train_images": images, "labels": torch.arange(20) % 10, "lmcbench": lmcbench}
    if "def " in block:  # the source of a network is read from the file that defines it
        (tmp_path / "example.py").write_text(block, encoding="utf-8")
    exec(compile(block, str(tmp_path / "example.py"), "exec"), given | {"__name__": "__main__"})
