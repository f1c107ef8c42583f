"""A real Chromium that opens a report's page."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from tests.helpers.programs import required


def chromium() -> str:
    return required("chromium", "chromium", "the report page was not opened")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


def open_page(browser: Browser, html: Path, width: int = 1280, dark: bool = False) -> tuple[Page, list[str]]:
    """The page with all charts drawn, and every complaint and outgoing request on the way."""
    page = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
    )
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    page.on(
        "request",
        lambda r: None if r.url == html.as_uri() or r.url.startswith("data:") else trouble.append(r.url),
    )
    page.goto(html.as_uri())
    wait_for_charts(page)
    return page, trouble


# Every chart that is not filtered away.
VISIBLE = ".panel:not([hidden]) .chart"


def wait_for_charts(page: Page) -> None:
    """Wait until every visible chart is drawn with the current filters."""
    page.wait_for_function("() => charts.every(({isCurrent, box}) => isCurrent || !box.offsetParent)")
    page.wait_for_function("() => !isDrawing")


def serious_findings(page: Page) -> list[str]:
    """What axe-core finds that keeps people from reading a page: rule and first element."""
    # From a disk it cannot enter frames, nor fetch styles.
    options = {"resultTypes": ["violations"], "iframes": False, "preload": False}
    found = Axe().run(page, options=options).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in serious]


def overflow_px(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
