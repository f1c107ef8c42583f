"""The documentation site is built without a warning, makes no request, and holds what it promises."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.helpers.browser import (  # noqa: F401 - a fixture
    browser,
    chromium,
    overflow_px,
    serious_findings,
)

ROOT = Path(__file__).parents[1]
# What would be fetched at reading, from another place.
FOREIGN = re.compile(r"""(?:src|srcset)=["']?(?:https?:)?//|<link[^>]+href=["']?(?:https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chromium()  # or skip before the build
    folder = tmp_path_factory.mktemp("site")
    # Not with --quiet: what it hides counts no longer as a warning.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "Documentation built" in built.stderr
    return folder


@contextmanager
def opened(browser: Browser, site: Path, name: str, width: int, scheme: str = "light") -> Iterator[Page]:  # noqa: F811
    """A page of the site, which has nothing to complain of and asks for no file of another place."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    page.on("requestfailed", lambda request: trouble.append(f"missing: {request.url}"))
    inside = (site.as_uri() + "/", "data:", "blob:", "about:")
    page.on("request", lambda r: None if r.url.startswith(inside) else trouble.append(r.url))
    page.goto((site / name).as_uri())
    yield page
    assert not trouble, trouble
    assert overflow_px(page) == 0
    page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
def test_its_pages_open(browser: Browser, site: Path, width: int, scheme: str) -> None:  # noqa: F811
    with opened(browser, site, "index.html", width, scheme) as page:
        assert page.locator("h1").inner_text().startswith("shiftbench")
        assert page.locator("img[src='report.png']").evaluate("image => image.naturalWidth") > 0
        is_dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert is_dark == (scheme == "dark")
        assert serious_findings(page) == []
    with opened(browser, site, "api/shift.html", width, scheme) as page:
        function = page.locator(".doc-function", has=page.locator("[id='suite.shift.probe.probe']"))
        shown = function.inner_text()
        assert "per_channel: bool = False" in shown
        assert "one inference pass" in shown
        assert serious_findings(page) == []
        assert "ESM_μ = ‖μ̂ − μ̃‖₂" in function.locator("pre").nth(1).inner_text()  # a formula is no paragraph
    with opened(browser, site, "gallery.html", width, scheme) as page:
        report = page.frame_locator("iframe.report")
        assert "sample" in report.locator("h1").inner_text()
        report.locator(".chart svg.marks").first.wait_for()
        assert serious_findings(page) == []


def test_search_finds_pages_also_from_a_disk(browser: Browser, site: Path) -> None:  # noqa: F811
    with opened(browser, site, "index.html", 1280) as page:
        page.locator("input[name=query]").press_sequentially("group whitening")
        page.locator(".md-search-result__link[href*='science.html']").first.wait_for()


def test_no_page_names_another_place_to_load_from(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if "sample-report" not in page.parts]
    assert len(pages) > 20
    for page in pages:
        assert not FOREIGN.search(page.read_text()), page.name


def test_pages_that_are_written_from_the_code(site: Path) -> None:
    options = (site / "all-options.html").read_text()
    assert "shiftbench run [OPTIONS] CONFIG [OVERRIDES]" in re.sub(r"<[^>]+>", "", options)
    keys = re.sub(r"<[^>]+>", "", (site / "all-keys.html").read_text())
    assert "model.norm (xbn)" in keys
    assert "weight of the newest batch in BN's running statistics" in keys
    assert "kind: xbn" in re.sub(
        r"<[^>]+>", "", (site / "files/configs/experiments/demo.yaml.html").read_text()
    )
    assert "files/configs/experiments/demo.yaml.html" in (site / "experiments.html").read_text()
