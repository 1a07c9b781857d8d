"""The charts of what a third party's components declare, as readers of the page see them."""

from __future__ import annotations

import pytest
from flow import command, write_suite
from third_party_distribution import ENTROPY_HEADING, SUITE, installed

HEADINGS = (ENTROPY_HEADING, "Spread of posterior variances", "Entropy drop, nats")


@pytest.fixture(scope="module")
def third_party(chromium, tmp_path_factory):
    folder = tmp_path_factory.mktemp("declared")
    path, suite = installed(folder / "site"), write_suite(folder, SUITE)
    done = command("run", suite, "--store", folder / "store", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    return folder / "store" / "suites" / "tiny"


@pytest.mark.parametrize("width", [400, 1400])
def test_every_declared_chart_is_drawn_under_its_label(opened, third_party, width):
    with opened(third_party / "index.html", width) as page:
        for place, heading in enumerate(HEADINGS):
            figure = page.locator(f"figure[data-kind=declared-{place}]")
            figure.scroll_into_view_if_needed()
            figure.locator("canvas").first.wait_for()
            assert figure.locator("h3").text_content() == heading
            assert figure.locator("h3").is_visible()
            assert figure.locator("canvas").count() == (2 if place == 0 else 1)
            assert figure.get_by_label("log y").is_checked() == (place == 1)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("#scans b:not([data-name])").count() == 0


@pytest.mark.parametrize(("place", "rank"), [(0, "1"), (1, None), (2, "1")])
def test_a_declared_chart_reads_out_the_numbers_of_a_run(opened, third_party, place, rank):
    name = ("entropy", "spread", "drop")[place]
    with opened(third_party / "index.html") as page:
        figure = page.locator(f"figure[data-kind=declared-{place}]")
        figure.scroll_into_view_if_needed()
        figure.locator("canvas").first.wait_for()
        figure.locator(".chart").first.focus()
        page.keyboard.press("ArrowRight")
        tip = figure.locator(".tip:not([hidden])")
        assert tip.locator("strong").text_content() == f"linear, seed 0{f', rank {rank}' if rank else ''}"
        value = float(tip.locator(f"b[data-name={name}]").text_content())
        run = f"scans.scan.architectures[0].runs[0].declared['declared-{place}'].y"
        assert value == page.evaluate(f"[{run}].flat(2)[0]")


def test_the_choice_of_ranks_reaches_declared_charts(opened, third_party):
    lines = "() => scans.charts.get(document.querySelector('[data-kind=declared-0]'))[0].readable().length"
    with opened(third_party / "index.html") as page:
        page.locator("figure[data-kind=declared-0]").scroll_into_view_if_needed()
        page.locator("figure[data-kind=declared-0] canvas").first.wait_for()
        assert page.evaluate(lines) == 2 * 3
        page.locator("#rank-to").fill("2")
        page.locator("#rank-to").press("Tab")
        assert page.evaluate(lines) == 2 * 2
