"""The page of a real run, as its readers use it: from disk, in a browser, by pointer and by keyboard."""

from __future__ import annotations

import re

import pandas as pd
import pytest

WIDTHS = (400, 1400)
KINDS = {
    "signal": ("over-temperature", "temperature", "train_signal_fraction"),
    "truncated": ("over-temperature", "temperature", "test_distortion"),
    "rate": ("over-temperature", None, "train_rate"),
    "distortion": ("over-rank", "rank", "test_distortion"),
    "utility": ("over-rank", "train_threshold", "train_utility"),
    "ward": ("replicas", "temperature", "ward_residual"),
    "edge": ("replicas", "temperature", "edge_over_temperature"),
}
"""What a figure shows: the table beside the page, its column along x, its column along y."""

POINTS = """([kind, from]) => {
    const figure = document.querySelector(`figure[data-kind=${kind}]`);
    const chart = scans.charts.get(figure)[0], box = chart.plot.over.getBoundingClientRect();
    const found = chart.readable().flatMap(({points}) => points).map(([x, y]) =>
        [box.left + chart.plot.valToPos(x, "x"), box.top + chart.plot.valToPos(y, "y")]);
    return found.filter((_, place) => place % Math.ceil(found.length / from) === 0);
}"""


def figure(page, kind):
    found = page.locator(f"figure[data-kind={kind}]")
    found.scroll_into_view_if_needed()
    found.locator("canvas").first.wait_for()
    return found


def names_of(page):
    return page.locator("#board-table tbody tr:not([hidden]) th").all_text_contents()


def tip_of(page, kind):
    """Return the run, the rank or None, and the numbers under the pointer, as text."""
    tip = page.locator(f"figure[data-kind={kind}] .tip:not([hidden])")
    name = tip.locator("strong").text_content()
    found = re.fullmatch(r"(?P<architecture>.+), seed (?P<seed>\d+)(?:, (?:rank|K =) (?P<rank>\d+))?", name)
    return found.groupdict(), tip.locator("b").all_text_contents()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_from_disk_in_silence_and_fits_its_window(opened, published, width, scheme):
    with opened(published / "index.html", width, scheme) as page:
        for kind in KINDS:
            figure(page, kind)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("figure canvas").count() >= len(KINDS)
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def test_the_board_sorts_by_a_column_and_what_has_no_value_comes_last(opened, published):
    with opened(published / "index.html") as page:
        heading = page.locator("#board-table th", has_text="identity-r2").first
        column = heading.evaluate("cell => [...cell.parentElement.children].indexOf(cell)")
        for sense, reverse in (("ascending", False), ("descending", True)):
            heading.locator("button").press("Enter")
            assert heading.get_attribute("aria-sort") == sense
            cells = page.locator(f"#board-table tbody tr td:nth-child({column + 1})")
            values = [float(value) for value in cells.evaluate_all("cells => cells.map(cell => cell.dataset.value)")]
            assert values == sorted(values, reverse=reverse)
        board = pd.read_csv(published / "board.csv")
        board = board[(board["metric"] == "pca-agreement") & (board["score"] == "threshold-identity-r2")]
        best = board.loc[board["value"].idxmax(), "architecture"]
        assert page.locator("#board-table tbody tr:first-child th").text_content() == best


def test_the_board_is_filtered_by_words_and_its_columns_come_and_go(opened, published):
    with opened(published / "index.html") as page:
        everything = names_of(page)
        page.locator("#filter").fill("digits linear")
        assert set(names_of(page)) == {"linear", "mlp-linear"}
        assert page.locator("#filtered").text_content() == f"2 of {len(everything)} rows"
        page.locator("#filter").fill("")
        assert names_of(page) == everything
        page.locator("#columns summary").click()
        heading = page.locator("#board-table th", has_text="subspace-angle")
        assert not heading.is_visible()
        page.get_by_label("subspace-angle").check()
        assert heading.is_visible()
        page.get_by_label("subspace-angle").uncheck()
        assert not heading.is_visible()


@pytest.mark.parametrize("kind", KINDS)
def test_the_value_under_the_pointer_is_that_of_the_table(opened, published, kind):
    name, along, column = KINDS[kind]
    table = pd.read_csv(published / "tables" / f"{name}.csv", dtype="str", keep_default_na=False)
    with opened(published / "index.html") as page:
        dataset = page.locator("#scan-picker option:checked").text_content()
        figure(page, kind)
        page.locator(f"figure[data-kind={kind}] .panels").scroll_into_view_if_needed()
        seen = 0
        for x, y in page.evaluate(POINTS, [kind, 12]):
            page.mouse.move(x, y)
            run, (first, second) = tip_of(page, kind)
            rows = table[(table["dataset"] == dataset) & (table["seed"] == run["seed"])]
            rows = rows[rows["architecture"] == run["architecture"]]
            if run["rank"] is not None:
                rows = rows[rows["rank"] == run["rank"]]
            if along is not None:
                rows = rows[rows[along].map(float) == float(first)]
            assert float(second) in set(rows[column].map(float))
            seen += 1
        assert seen >= 5


def test_a_figure_switches_to_a_logarithmic_scale(opened, published):
    with opened(published / "index.html", 400) as page:
        signal = figure(page, "signal")
        span = (
            "() => { const [l, h] = scans.charts.get(document.querySelector('figure')).at(0).ranges[1]; return [l, h] }"
        )
        assert page.evaluate(span)[0] < 0
        signal.get_by_label("log y").check()
        low, high = page.evaluate(span)
        assert 0 < low < 0.1 < 1 <= high
        signal.get_by_label("log y").uncheck()
        assert page.evaluate(span)[0] < 0


def test_dataset_architectures_seeds_and_ranks_are_chosen(opened, published):
    count = "kind => [...document.querySelectorAll(`figure[data-kind=${kind}] .panel`)].length"
    lines = "() => scans.charts.get(document.querySelector('figure')).map(chart => chart.readable().length)"
    with opened(published / "index.html") as page:
        figure(page, "signal")
        before = page.evaluate(lines)
        page.locator("#seeds input").first.uncheck()
        after = page.evaluate(lines)
        seeds = page.locator("#seeds input").count()
        assert [value * (seeds - 1) // seeds for value in before] == after
        page.locator("#rank-to").fill("3")
        page.locator("#rank-to").press("Tab")
        assert page.evaluate(lines) == [3 * (seeds - 1)] * len(before)
        page.locator("#architectures input").first.uncheck()
        assert page.evaluate(count, "signal") == len(before) - 1
        page.locator("#scan-picker").select_option(label="digits")
        assert page.evaluate(count, "signal") == len(before)
        for box in page.locator("#architectures input").all():
            box.uncheck()
        assert "Choose an architecture" in page.locator("figure[data-kind=signal] .panels").text_content()


def test_the_figures_are_read_by_keyboard_and_as_a_table(opened, published):
    with opened(published / "index.html") as page:
        signal = figure(page, "signal")
        chart = signal.locator(".chart").first
        chart.focus()
        for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
            page.keyboard.press(key)
        run, (temperature, value) = tip_of(page, "signal")
        assert run["rank"] == "2"
        assert value in chart.locator("[aria-live]").text_content()
        signal.locator("details summary").click()
        rows = signal.locator("details tbody tr")
        texts = rows.evaluate_all("rows => rows.map(row => [...row.cells].map(cell => cell.textContent))")
        assert [f"{run['architecture']}, seed {run['seed']}, rank 2", temperature, value] in texts
        page.keyboard.press("Escape")


def test_light_and_dark_are_chosen_against_the_system(opened, published):
    with opened(published / "index.html", scheme="dark") as page:
        page.locator("#theme").select_option("light")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_the_page_may_ask_no_network(opened, published):
    blocked = """() => new Promise(done => {
        document.addEventListener("securitypolicyviolation", event => done(event.effectiveDirective));
        new Image().src = "http://127.0.0.1:9/pixel.png";
    })"""
    with pytest.raises(AssertionError, match="Content Security Policy"), opened(published / "index.html") as page:
        assert page.evaluate(blocked) == "img-src"


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1400, "light")])
def test_an_accessibility_check_has_no_finding(opened, published, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    with opened(published / "index.html", width, scheme) as page:
        for kind in KINDS:
            figure(page, kind)
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        page.wait_for_timeout(200)
        found = axe.Axe().run(page).response["violations"]
        said = [f"{one['impact']}: {one['id']}: {one['nodes'][0]['html']}" for one in found]
        assert said == []
