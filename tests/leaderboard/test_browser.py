"""The leaderboard's page in a browser: sorting, filtering, addresses, keyboard, and that nothing leaves it.

Needs Playwright (`pip install -e '.[browser]'`) and Chromium: Debian's (`apt-get install chromium`) or
Playwright's own (`playwright install chromium`).
"""

from __future__ import annotations

import re
import shutil

import pytest

from lmcbench.leaderboard.render import HTML, render_leaderboard
from lmcbench.spec.suite_files import load_suite
from synthetic import synthetic_suite, write_synthetic

sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install -e '.[browser]'")

ENTRIES = 6
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SUITE = synthetic_suite(
    shifts=["none", "same-half", "disjoint-halves", "label-skew"],
    forks=[0, 3, "independent", "independent-equal-cost", "whole-budget"],
)
EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        own = next((p for p in map(shutil.which, BROWSERS) if p), None)
        try:
            started = playwright.chromium.launch(executable_path=own, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium that starts: {str(error).splitlines()[0]}")
        yield started
        started.close()


def rendered(folder, entries, metas, suite=SUITE):
    """Where the page of a leaderboard of synthetic entries lies."""
    write_synthetic(folder, entries, suite, metas)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "lmcbench.spec.suite_files.load_suite",
            lambda name: suite if name == "synthetic-v1" else load_suite(name),
        )
        render_leaderboard(folder).write()
    return (folder / HTML).as_uri()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where the page of six synthetic entries lies; one of them has a title of HTML."""
    return rendered(tmp_path_factory.mktemp("board"), ENTRIES, {4: {"title": EVIL, "notes": EVIL}})


@pytest.fixture
def page(browser, address):
    """The page; afterwards no error was logged and nothing but the file itself was asked for."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    errors, asked = [], []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    yield page
    assert errors == []
    assert {url.split("#")[0] for url in asked if not url.startswith("data:")} == {address}
    context.close()


def rows(page):
    return page.locator("#table tbody tr").evaluate_all("rows => rows.map(row => row.dataset.slug)")


def column(page, key):
    """Numbers of a column, as shown."""
    heads = page.locator("#table thead th button").evaluate_all("all => all.map(one => one.dataset.sort)")
    cells = page.locator(f"#table tbody tr > :nth-child({heads.index(key) + 1})").all_inner_texts()
    return [float(re.search(r"[+−]?\d+\.\d", text)[0].replace("−", "-")) for text in cells]


def sort_of(page, key):
    return page.locator(f'th:has([data-sort="{key}"])').get_attribute("aria-sort")


def test_it_opens_ranked_with_the_baseline(page):
    assert len(rows(page)) == ENTRIES
    assert page.locator("#table tbody tr").first.locator("td").first.inner_text() == "baseline"
    assert sort_of(page, "rank") == "ascending"
    assert column(page, "area") == sorted(column(page, "area"))
    assert page.title() == "synthetic version 1 · lmcbench leaderboard"


@pytest.mark.parametrize("key", ["area", "accuracy", "disagreement"])
def test_a_header_sorts_and_sorts_back(page, key):
    better_is_high = key == "accuracy"
    page.click(f'[data-sort="{key}"]')
    assert sort_of(page, key) == ("descending" if better_is_high else "ascending")
    assert column(page, key) == sorted(column(page, key), reverse=better_is_high)
    page.click(f'[data-sort="{key}"]')
    assert column(page, key) == sorted(column(page, key), reverse=not better_is_high)
    assert page.locator('[aria-sort="ascending"], [aria-sort="descending"]').count() == 1


def test_filters(page):
    page.fill("#filter", "LMC_RESNET author")
    assert rows(page) == ["entry-003"]
    assert page.inner_text("#count") == "1 of 6 entries."
    assert "q=LMC_RESNET" in page.url
    page.fill("#filter", "no such network")
    assert rows(page) == []
    page.fill("#filter", "")
    page.check("#ranked")
    assert len(rows(page)) == ENTRIES - 1
    assert "entry-000" not in rows(page)


def test_shift_and_columns_are_switched(page):
    before = column(page, "area")
    page.select_option("#shift", "label-skew")
    assert column(page, "area") != before
    page.get_by_text("Ensembles", exact=True).click()
    assert column(page, "ensemble") != []
    assert page.locator('[data-sort="area"]').count() == 0


def test_a_view_is_its_address(page, browser, address):
    page.select_option("#shift", "label-skew")
    page.get_by_text("Ensembles", exact=True).click()
    page.click('[data-sort="soup"]')
    page.fill("#filter", "lmc")
    shown = rows(page)
    other = browser.new_page()
    other.goto(page.url)
    assert rows(other) == shown != []
    assert sort_of(other, "soup") == "descending"
    assert other.input_value("#shift") == "label-skew"
    assert other.input_value("#filter") == "lmc"
    other.close()


def test_a_deep_link_opens_the_entry_and_back_leads_to_the_table(page, address):
    page.goto(f"{address}#entry=entry-003")
    assert page.inner_text("#entry-title") == "Network 3"
    assert page.locator("#entry svg[role=img]").count() == 2 + 2 * 3
    assert page.locator("#board").is_hidden()
    page.go_back()
    assert len(rows(page)) == ENTRIES
    page.goto(f"{address}#suite=none&shift=none-such&sort=x&dir=up&cols=y&entry=z")
    assert len(rows(page)) == ENTRIES


def test_the_keyboard_is_enough(page):
    page.focus('[data-sort="accuracy"]')
    page.keyboard.press("Enter")
    assert sort_of(page, "accuracy") == "descending"
    assert page.evaluate("document.activeElement.dataset.sort") == "accuracy"
    page.keyboard.press("Space")
    assert sort_of(page, "accuracy") == "ascending"
    page.focus('tr[data-slug="entry-002"] a')
    page.keyboard.press("Enter")
    page.wait_for_selector("#entry-title")
    assert page.evaluate("document.activeElement.id") == "entry-title"
    page.keyboard.press("Escape")
    page.wait_for_selector("#table tbody tr")
    assert page.evaluate("document.activeElement.closest('tr').dataset.slug") == "entry-002"
    page.focus("#sets input:checked")
    page.keyboard.press("ArrowRight")
    assert "cols=forms" in page.url


def test_focus_can_be_seen(page):
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_html_in_titles_and_notes_is_text(page, address):
    assert page.inner_text('tr[data-slug="entry-004"] a') == EVIL
    page.goto(f"{address}#entry=entry-004")
    assert page.inner_text("#entry-title") == EVIL
    assert page.inner_text(".text-block") == EVIL
    assert page.locator("img").count() == 0


def test_the_theme_is_chosen_and_kept(page, address):
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.click("#theme")
    assert page.evaluate(colour) == light
    page.click("#theme")
    dark = page.evaluate(colour)
    assert dark != light
    page.reload()
    assert page.evaluate(colour) == dark
    page.click("#theme")
    page.emulate_media(color_scheme="dark")
    assert page.inner_text("#theme") == "Theme: system"
    assert page.evaluate(colour) == dark


@pytest.mark.parametrize("where", ["", "#entry=entry-003", "#cols=all"])
def test_a_phone_shows_it_without_scrolling_the_page_sideways(page, address, where):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{address}{where}")
    page.wait_for_timeout(50)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_caption_of_a_wide_table_stays_in_a_phones_width(page):
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.querySelector('#table').getBoundingClientRect().width") > 390
    assert page.evaluate("document.querySelector('#count').getBoundingClientRect().right") <= 390


def test_one_entry_is_told_as_one(browser, tmp_path):
    page = browser.new_page()
    page.goto(rendered(tmp_path, 1, {}))
    assert page.inner_text("#count") == "1 of 1 entry."
    assert " of 1 entry ranked." in page.inner_text("#about")
    page.close()


def test_an_entry_opens_under_the_first_shift_that_has_comparators(browser, tmp_path, page, address):
    def accuracy_and_cost(opened):
        return opened.locator("#entry figure", has_text="Ensemble accuracy against").inner_text()

    page.goto(f"{address}#entry=entry-003")
    assert "Test split, disjoint-halves," in accuracy_and_cost(page)
    some = SUITE.model_copy(update={"comparator_shifts": ["none", "label-skew"]})
    other = browser.new_page()
    other.goto(rendered(tmp_path, 2, {}, some) + "#entry=entry-001")
    assert "Test split, label-skew," in accuracy_and_cost(other)
    assert "one network, whole budget" in accuracy_and_cost(other)
    other.goto(other.url + "&shift=disjoint-halves")
    assert "whole budget" not in accuracy_and_cost(other)
    other.close()


def test_text_has_contrast_in_both_themes(page):
    script = """() => {
      const style = getComputedStyle(document.documentElement);
      const level = (name) => {
        const hex = style.getPropertyValue(name).trim().slice(1);
        const parts = [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255)
          .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
      };
      const grounds = ["--paper", "--raised", "--faint"];
      return ["--ink", "--muted", "--accent"].flatMap((text) => grounds.map((ground) => {
        const [a, b] = [level(text), level(ground)];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      }));
    }"""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert min(page.evaluate(script)) >= 4.5
