"""The report: what is in it, from records alone, and that nothing outside it is needed."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import subprocess
import sys

import pytest

from builders import make_record, toy_cell, toy_suite, write_run
from further import probed_record
from lmcbench.errors import UserError
from lmcbench.report.document import make_report
from lmcbench.report.figures.domains import barrier_matrix, domain_accuracy
from lmcbench.report.figures.draw import OF_LINES, draw
from lmcbench.report.figures.style import THEME, inline_svg, percent_bars, picture
from lmcbench.report.rank_correlation import rank_correlations
from lmcbench.results.run_folder import RunFolder
from lmcbench.spec.cells import Selection, expand
from lmcbench.spec.suite_files import load_suite
from lmcbench.stats.cells import example_cells
from lmcbench.stats.estimates import Estimate

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def rich():
    """Probe cells of both toy networks, and a cell that diverged."""
    heights = {"0": 0.5, "2": 0.01, "independent": 2.0}
    records = [
        probed_record(name, fork, height * (0.1 if name == "lmc_linear" else 1))
        for name in ("lmc_linear", "lmc_mlp")
        for fork, height in heights.items()
    ]
    return [*records, make_record(toy_cell(shift="label-skew"), status="diverged")]


@pytest.fixture(scope="module")
def report(rich):
    """The report of all kinds of figures; they are rendered into the page only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmcbench.report.document.picture", lambda figure, kind: PNG)
        return make_report(rich)


@pytest.fixture(scope="module")
def drawings(rich):
    return draw(rich)


@pytest.fixture
def text_only(monkeypatch):
    """Figures are drawn and not rendered, which takes most of a report's time."""
    monkeypatch.setattr("lmcbench.report.document.picture", lambda figure, kind: b"")
    monkeypatch.setattr("lmcbench.report.document.inline_svg", lambda figure: "<svg></svg>")


def legend_rows(figure):
    """The names in a figure's legend as they are read: row by row, from left to right."""
    figure.draw_without_rendering()
    rows = {}
    for text in figure.legends[0].get_texts():
        box = text.get_window_extent()
        rows.setdefault(round(box.y1 / 4), []).append((box.x0, text.get_text()))
    return [[name for _, name in sorted(row)] for _, row in sorted(rows.items(), reverse=True)]


def test_every_kind_of_figure_is_drawn_where_there_are_numbers_for_it(drawings, report):
    by_domain = {barrier_matrix, domain_accuracy}  # this run's data has no domains
    assert by_domain < set(OF_LINES)
    assert len(drawings) == len(OF_LINES) - len(by_domain) + 1 == len(report.figures)
    assert all(content.startswith(PNG) for content in report.figures.values())
    names = [f"{d.name}.png" for d in draw([make_record()])]
    assert names == ["barriers.png", "curves.png", "disagreement.png"]
    assert draw([make_record(status="diverged")]) == []


def test_features_without_variance_leave_a_gap_in_their_line(drawings):
    [drawing] = [drawing for drawing in drawings if drawing.name == "features"]
    to_a, to_b = drawing.figure.axes[0].lines
    assert to_b.get_ydata().tolist() == [0.5, 0.7, 1.0]
    assert [value == value for value in to_a.get_ydata()] == [True, False, True]


def test_every_axis_says_what_it_is_and_every_caption_how_many(drawings):
    for drawing in drawings:
        axes = [a for a in drawing.figure.axes if a.get_visible()]
        labels = {a.get_xlabel() for a in axes} | {a.get_ylabel() for a in axes}
        units = "nats|%|percentage points|weights' units|degrees|epoch|0 to 1"
        assert any(re.search(units, text) for text in labels), drawing.name
        titles = " ".join(a.get_title() for a in axes)
        assert re.search(r"n = \d", drawing.caption + titles), drawing.name
        grid = axes[0].get_subplotspec().get_gridspec()
        bottom = [a for a in axes if a.get_subplotspec() and a.get_subplotspec().rowspan.stop == grid.nrows]
        assert all(a.get_xlabel() or a.get_label() == "<colorbar>" for a in bottom), drawing.name


def test_the_page_holds_everything(report):
    assert report.html.count('<div class="picture') == len(report.figures) + 1  # barriers for a phone too
    assert report.html.count("<svg ") == len(report.figures) + 1
    outside = r"https?://|<link (?!rel=\"icon\" href=\"data:,\")|@import|url\((?!#)"
    assert not re.search(outside, report.html)
    assert report.html.count("<figcaption>") == len(report.figures)
    for name in report.figures:
        assert f"](figures/{name})" in report.markdown
    assert "diverged" in report.markdown
    assert "1 diverged" in report.html
    first, last = report.html.index("Barrier against fork"), report.html.index('<table class="sorts">')
    assert report.html.index('class="finding"') < first < last < report.html.index("How this was made")


def test_only_its_own_script_may_run_on_the_page(report):
    [script] = re.findall(r"<script>(.*?)</script>", report.html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]+)"', report.html)
    assert html.unescape(policy).startswith(f"default-src 'none'; script-src 'sha256-{digest}';")
    assert not re.search(r"<[^>]*\son[a-z]+=", report.html)


def test_a_drawing_in_the_page_has_its_colours_and_runs_nothing():
    evil = "</text></svg><script>alert(1)</script>"
    record = make_record()
    record.architecture.name = evil
    [drawing] = [d for d in draw([record]) if d.name == "barriers"]
    text = inline_svg(drawing.figure)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "var(--s0)" in text
    assert not set(THEME) & set(re.findall(r"#[0-9a-f]{6}", text))
    assert text == inline_svg(drawing.figure)
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_a_figure_has_the_same_bytes_each_time(kind):
    one, two = (next(d.figure for d in draw([make_record()]) if d.name == "barriers") for _ in range(2))
    picture(two, "svg")  # whatever was drawn before
    content = picture(one, kind)
    assert content == picture(two, kind)
    assert b"CreationDate" not in content
    assert b"<dc:date>" not in content


@pytest.mark.usefixtures("text_only")
def test_figures_have_the_format_that_was_asked_for():
    made = make_report([make_record()], figure_format="pdf")
    assert set(made.figures) == {"barriers.pdf", "curves.pdf", "disagreement.pdf"}
    assert "\n[Barrier against fork](figures/barriers.pdf)" in made.markdown
    assert "![Barrier against fork](figures/barriers.svg)" in (
        make_report([make_record()], figure_format="svg").markdown
    )


def test_siblings_and_independent_networks_are_not_joined_by_a_line():
    records = [make_record(toy_cell(fork=fork)) for fork in ("0", "2", "independent")]
    [drawing] = [d for d in draw(records) if d.name == "barriers"]
    [axis] = drawing.figure.axes
    joined = [
        line
        for line in axis.lines
        if line.get_linestyle() not in ("None", "none") and len(line.get_xdata()) > 1
    ]
    places = {x for line in joined[:1] for x in line.get_xdata()}
    assert places == {0.0, 1.0}
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0", "2", "independent"]
    assert max(axis.get_xticks()) > 2


@pytest.mark.usefixtures("text_only")
def test_the_report_says_how_it_was_made(tmp_path):
    folder = RunFolder(tmp_path)
    record = make_record()
    made = {"commands": ["lmcbench run toy.toml --replicates 1"], "citation": "", "versions": {}}
    with folder.claimed(record.suite.model_dump(), [], made):
        pass
    text = make_report([record], tmp_path).markdown
    assert "- Run by: lmcbench run toy.toml --replicates 1\n" in text
    assert f"digest {record.suite.digest}" in text
    assert re.search(r"- Versions: .*torch", text)
    assert "Run by" not in make_report([record]).markdown


def test_it_is_a_function_of_the_records(rich, report, monkeypatch):
    assert make_report([make_record()]) == make_report([make_record()])
    monkeypatch.setattr("lmcbench.report.document.picture", lambda figure, kind: b"")
    monkeypatch.setattr("lmcbench.report.document.inline_svg", lambda figure: "<svg></svg>")
    again = make_report(rich[::-1])
    assert again.markdown.split("## ")[1:] == report.markdown.split("## ")[1:]


@pytest.mark.usefixtures("text_only")
def test_names_are_escaped():
    cell = toy_cell(suite=toy_suite())
    record = make_record(cell)
    record.architecture.name = "<b>mlp</b>"
    page = make_report([record]).html
    assert "<b>mlp</b>" not in page
    assert "&lt;b&gt;mlp&lt;/b&gt;" in page


@pytest.mark.usefixtures("text_only")
def test_what_was_not_measured_is_said(report, monkeypatch):
    said = "were not measured; 'lmcbench run FILE.toml --measure all', with the suite's file, adds them on"
    assert said in make_report([make_record()]).markdown
    for shifts, said in (
        (["none"], "were not measured; 'lmcbench run toy-v1 --measure all' adds them to this run."),
        ([], "were not measured; suite toy has no probe cells to take them on."),
    ):
        published = toy_suite(probe={"shifts": shifts})
        monkeypatch.setattr("lmcbench.report.document.published_suite", lambda *_, p=published: p)
        assert said in make_report([make_record()]).markdown
    assert "were not measured" not in report.markdown
    with pytest.raises(UserError, match="of the records of one suite; these are of toy v1, toy v2"):
        make_report([make_record(), make_record(toy_cell(suite=toy_suite(version=2)))])


def test_the_command_needs_no_torch(tmp_path):
    write_run(tmp_path / "run", [make_record()])
    script = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['lmcbench', 'report', sys.argv[1]]\n"
        "from lmcbench.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "3 figures" in done.stdout
    written = {p.name for p in (tmp_path / "run").iterdir()}
    assert written == {"records", "run.json", "figures", "report.md", "report.html"}
    assert {p.name for p in (tmp_path / "run" / "figures").iterdir()} == {
        *("barriers.png", "curves.png", "disagreement.png")
    }


@pytest.mark.usefixtures("text_only")
@pytest.mark.parametrize(("name", "told"), [("digits", True), ("noise-grid", True), ("toy", False)])
def test_a_demonstration_is_called_one(name, told):
    record = make_record()
    record.suite.name = name
    assert ("a demonstration, no evidence" in make_report([record]).markdown) is told


def test_bars_end_where_percentages_do():
    """The numbers keep their intervals; what is drawn of an accuracy of 96 +- 13 % ends at 100."""
    assert percent_bars([Estimate(96.0, 13.0, 3), Estimate(1.0, 5.0, 3), Estimate(50.0, None, 1)]) == [
        [13.0, 1.0, 0.0],
        [4.0, 5.0, 0.0],
    ]
    records = [
        make_record(toy_cell(fork=fork, replicate=r), barrier_error=height)
        for fork in ("0", "2")
        for r, height in enumerate((0.0, 0.001, 0.2) if fork == "2" else (0.6, 0.95, 0.95))
    ]
    [axis] = next(d for d in draw(records) if d.name == "barriers").figure.axes
    segments = [part for bars in axis.collections for part in bars.get_segments()]
    heights = [y for part in segments for _, y in part]
    assert (min(heights), max(heights)) == (0.0, pytest.approx(100.0))


# --- rank correlations ---------------------------------------------------------------------------


@pytest.mark.usefixtures("text_only")
def test_correlations_are_within_replicates_and_estimated_over_them():
    heights = {0: (0.5, 0.1, 0.01, 2.0), 1: (0.4, 0.3, 0.02, 1.0)}
    suite = toy_suite(forks=[0, 1, 2, "independent"])
    records = [
        probed_record("lmc_mlp", fork, height, replicate, suite)
        for replicate, row in heights.items()
        for fork, height in zip(("0", "1", "2", "independent"), row, strict=True)
    ]
    found = {(f.form, f.over): f for f in rank_correlations(records)}
    for form in ("as published", "with gradients"):
        got = found[form, "forks and shifts"]
        assert (got.points, got.correlation.mean, got.correlation.n) == (3, 1.0, 2)
    # two equal layers: nothing to rank
    assert not any(over.startswith("layers") for _, over in found)
    assert rank_correlations([make_record()]) == []
    # ranks that agree in all replicates are no certainty
    assert "1.00, all equal | 2" in re.sub(" +", " ", make_report(records).markdown)


def test_what_siblings_are_worth_is_drawn_from_cells_and_comparators():
    """Points are where the records say: cost and accuracy, disagreement and barrier, noise and barrier."""
    records = []
    suite = toy_suite(forks=[0, 2, "independent", "independent-equal-cost", "whole-budget"])
    for shift, share, height in (("none", 0.0, 0.02), ("label-skew", 0.03, 0.1)):
        for fork in ("0", "independent-equal-cost", "whole-budget"):
            record = make_record(toy_cell(shift=shift, fork=fork, suite=suite), barrier_error=height)
            noise = {"views": [100, 100], "gradient": {"between_share": share}}
            records.append(record.model_copy(update={"noise": noise if fork == "0" else None}))
    drawn = {d.name: d.figure for d in draw(records)}
    assert {"disagreement", "accuracy-cost", "between-views"} <= drawn.keys()
    axis = drawn["between-views"].axes[0]
    points = {line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines}
    assert points["none"] == pytest.approx((0, 2))
    assert points["label-skew"] == pytest.approx((3, 10))
    shown = [axis.get_title() for axis in drawn["accuracy-cost"].axes]
    assert shown == ["lmc_mlp, none", "lmc_mlp, label-skew"]
    assert legend_rows(drawn["accuracy-cost"]) == [["fork 0", "independent-equal-cost", "whole-budget"]]


def test_ensembles_of_three_are_drawn_by_members_and_by_cost():
    """Siblings share their trunk: k of fork 2 cost phi + k (1 - phi) trainings, k independent networks k."""
    suite = toy_suite(siblings=3, forks=[2, "independent"])
    records = []
    for fork, accuracies in (("2", (0.96, 0.97)), ("independent", (0.98, 0.99))):
        cell = toy_cell(fork=fork, suite=suite)
        length = cell.recipe.length(1437)
        steps = 3 * length - (2 * cell.fork_step(1437) if fork == "2" else 0)
        cost = {"train_flop": 1e9, "train_steps": steps, "train_s": 1.5, "eval_s": 0.2, "peak_bytes": 10**8}
        scores = {"gain": 0.01, "nll": 0.1, "brier": 0.1, "ece": 0.01}
        sizes = {str(k): {"accuracy": a, **scores} for k, a in zip((2, 3), accuracies, strict=True)}
        records.append(make_record(cell, cost=cost, functions={"test": {"sizes": sizes}}))
    [drawing] = [d for d in draw(records) if d.name == "accuracy-size"]
    by_members, by_cost = drawing.figure.axes
    series = {x.get_label(): x.lines[0].get_xydata() for x in by_cost.containers}
    phi = toy_cell(fork="2", suite=suite).fork_step(1437) / length
    assert series["fork 2"][:, 0] == pytest.approx([1, 2 - phi, 3 - 2 * phi])
    assert series["independent"][:, 0] == pytest.approx([1, 2, 3])
    assert series["independent"][:, 1] == pytest.approx([95, 98, 99])
    assert [*by_members.get_xticks()] == [1, 2, 3]
    assert not [d for d in draw([make_record(toy_cell())]) if d.name == "accuracy-size"]


@pytest.mark.parametrize("more", [20, 100], ids=["for two columns", "for one column"])
def test_names_too_long_for_a_legend_are_not_cut_off(more):
    """A training shift shows all its parameters in its name."""
    records = []
    for shift in ("none", "disjoint-halves"):
        record = make_record(toy_cell(shift=shift))
        long = record.shift.model_copy(update={"name": f"{shift}-{'x' * more}"})
        records.append(record.model_copy(update={"shift": long}))
    [figure] = [d.figure for d in draw(records) if d.name == "barriers"]
    assert sorted(name for row in legend_rows(figure) for name in row) == [
        f"disjoint-halves-{'x' * more}",
        f"none-{'x' * more}",
    ]
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


def test_a_caption_says_that_networks_have_different_numbers_of_replicates():
    cells = [toy_cell("lmc_mlp", replicate=i) for i in range(4)]
    cells += [toy_cell("lmc_linear", replicate=i) for i in range(2)]
    [caption] = [d.caption for d in draw([make_record(c) for c in cells]) if d.name == "disagreement"]
    assert "n = 2 to 4 replicates" in caption
    [caption] = [d.caption for d in draw([make_record(c) for c in cells[:4]]) if d.name == "disagreement"]
    assert "n = 4 replicates" in caption


def test_words_stand_to_the_left_and_numbers_to_the_right(report):
    [rows] = re.findall(r"<h2>Siblings and their ensembles.*?</table>", report.html, re.DOTALL)
    words = ["architecture", "recipe", "shift", "fork"]
    assert re.findall(r'<th scope="col" class="text">(.*?)</th>', rows) == words
    assert re.findall(r'<th scope="col">(.*?)</th>', rows)[:2] == ["member", "disagreement"]
    assert re.findall(r'<td class="text">(.*?)</td>', rows)[:4] == ["lmc_linear", "slow", "none", "0"]


def with_recipe(record, name):
    return record.model_copy(update={"recipe": {**record.recipe, "name": name}, "key": f"{record.key}{name}"})


def test_recipes_of_a_network_are_no_replicates():
    """The interval is over two replicates, each the mean of two recipes: 19.5 and 20.5."""
    heights = {("a", 0): 0.095, ("b", 0): 0.295, ("a", 1): 0.105, ("b", 1): 0.305}
    records = [
        with_recipe(make_record(toy_cell(fork="0", replicate=r), barrier_error=height), recipe)
        for (recipe, r), height in heights.items()
    ]
    drawn = {d.name: d for d in draw(records)}
    [bars] = drawn["barriers"].figure.axes[0].collections
    [[(_, low), (_, high)]] = bars.get_segments()
    assert (low, high) == pytest.approx((20 - 12.7062 * 0.5, 20 + 12.7062 * 0.5))
    told = "Of a network with several recipes, a replicate's value is their mean."
    assert told in drawn["barriers"].caption
    assert told not in next(d.caption for d in draw(records[:1]) if d.name == "barriers")


def test_recipes_are_no_replicates_in_accuracy_and_cost():
    suite = toy_suite(forks=[0, "whole-budget"])
    records = [
        with_recipe(make_record(toy_cell(fork=fork, suite=suite)), recipe)
        for recipe in "ab"
        for fork in ("0", "whole-budget")
    ]
    [drawing] = [d for d in draw(records) if d.name == "accuracy-cost"]
    assert [axis.get_title() for axis in drawing.figure.axes] == ["lmc_mlp, a, none", "lmc_mlp, b, none"]
    assert "over n = 1 replicate," in drawing.caption


def test_a_panel_of_forks_is_of_one_recipe():
    one, other = probed_record("lmc_mlp", "0", 0.5), probed_record("lmc_mlp", "2", 0.01)
    cells = example_cells(
        [with_recipe(one, "a"), with_recipe(other, "a"), with_recipe(other, "b")], "curvature"
    )
    assert {r.recipe["name"] for r in cells["lmc_mlp"].values()} == {"a"}


def cost_caption(suite, left_out=()):
    """What stands below accuracy and cost, of a run of all of the suite but some shifts and forks."""
    [name] = {architecture.label for architecture in suite.architectures[:1]}
    cells = expand(suite, Selection(architectures=[name], replicates=range(1)))
    kept = [make_record(cell) for cell in cells if (cell.shift.label, cell.fork.name) not in left_out]
    [caption] = [d.caption for d in draw(kept) if d.name == "accuracy-cost"]
    return caption.partition("independent-equal-cost and whole-budget.")[2]


def test_the_caption_says_why_shifts_have_no_comparators():
    digits = load_suite("digits")
    assert cost_caption(digits) == (" The suite has independent-equal-cost and whole-budget under none only.")
    # a run of a part of a suite, and a suite that only its author has
    priced = ("independent-equal-cost", "whole-budget")
    both = toy_suite(forks=[0, 2, *priced])
    skewed = [(spec.shift.label, fork) for spec in both.shifts[1:] for fork in priced]
    only = " The records have independent-equal-cost and whole-budget under none only."
    assert cost_caption(both, skewed) == only
    own = toy_suite(forks=[0, 2, "whole-budget"], comparator_shifts=["none"])
    assert cost_caption(own) == " The records have whole-budget under none only."


def test_the_caption_says_nothing_of_comparators_that_every_shift_has():
    assert cost_caption(toy_suite(forks=[0, "independent-equal-cost", "whole-budget"])) == ""
