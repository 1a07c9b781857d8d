"""A headless Chromium, and the page of a real run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flow import command

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium; tests that ask for it are skipped where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is on the path")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra 'test'")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def published(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a quickstart run leaves to be published: its smoke preset, or what COLLAPSEBENCH_PUBLISHED names."""
    given = os.environ.get("COLLAPSEBENCH_PUBLISHED")
    if given:
        return Path(given).resolve()
    folder = tmp_path_factory.mktemp("page")
    done = command("run", "quickstart", "--preset", "smoke", "--store", folder / "store")
    assert done.returncode == 0, done.stderr
    shutil.move(folder / "store/suites/quickstart", folder / "published")
    shutil.rmtree(folder / "store")
    return folder / "published"


@pytest.fixture
def opened(chromium: Any) -> Any:
    """Open a file in the browser: as a context that yields the page, and then holds it to what every page must keep."""

    @contextmanager
    def open_page(path: Path, width: int = 1400, scheme: str = "light") -> Iterator[Any]:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.set_default_timeout(10_000)
        trouble: list[str] = []
        page.on("request", lambda request: trouble.append(request.url) if request.url != path.as_uri() else None)
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: trouble.append(dialog.message) or dialog.dismiss())  # type: ignore[func-returns-value]
        page.goto(path.as_uri())
        page.locator("html[data-ready]").wait_for(state="attached")
        yield page
        context.close()
        assert trouble == []

    return open_page
