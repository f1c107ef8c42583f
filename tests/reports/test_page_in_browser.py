"""The page as a reader meets it, in headless Chromium."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from reports.write.render import render_html
from reports.write.report_folder import ReportFiles
from tests.helpers.browser import chromium, open_page, overflow_px
from tests.helpers.composed import composed
from tests.helpers.nasty_text import NASTY
from tests.helpers.records import expand_runs, write_run, write_waiting


def page_of(folder: Path) -> Path:
    """The page alone of the runs in `<folder>/runs`."""
    page = folder / "index.html"
    page.write_text(render_html(composed(folder / "runs")))
    return page


@pytest.mark.parametrize(("width", "dark"), [(375, True), (1280, False)])
def test_charts_are_drawn_quietly_and_nothing_overflows(
    browser: Browser, sweep_report: ReportFiles, width: int, dark: bool
) -> None:
    """In dark mode as in light: page and charts have other colours, and the same places."""
    page, trouble = open_page(browser, sweep_report.html, width, dark)
    charts = page.locator(".chart svg.marks")
    assert charts.count() == 18  # the figures of test_figures.py
    for i in range(charts.count()):
        box = charts.nth(i).bounding_box()
        assert box is not None
        assert box["width"] > 250
        assert box["height"] > 80
    assert page.locator(".chart[aria-label]").count() == 18
    assert overflow_px(page) == 0
    before = colours(page)
    page.emulate_media(color_scheme="light" if dark else "dark")
    assert all(a != b for a, b in zip(before, colours(page), strict=True))
    assert overflow_px(page) == 0
    assert trouble == []
    page.close()


def colours(page: Page) -> list[str]:
    style = "getComputedStyle(document.querySelector"
    return [
        page.evaluate(f"{style}('body')).backgroundColor"),
        page.evaluate(f"{style}('.chart .role-axis-label text')).fill"),
        page.evaluate(f"{style}('.chart .mark-symbol path')).fill"),
    ]


def test_a_mark_tells_its_numbers(browser: Browser, sweep_report: ReportFiles) -> None:
    page, _ = open_page(browser, sweep_report.html)
    profile = page.locator("figure", has_text="Depth profile of scaled ESM σ").locator(".chart").first
    profile.scroll_into_view_if_needed()
    profile.locator(".mark-symbol path").nth(1).hover(force=True)
    tooltip = page.locator("#tip")
    tooltip.wait_for()
    texts = [line.split("\t") for line in tooltip.inner_text().splitlines()]
    assert texts[:2] == [["Norm", "BN"], ["Layer", "layer1.0.bn1"]]
    assert "Lowest seed" in [text[0] for text in texts]
    # The other norm at the same layer, and a rule through both.
    assert texts[-1][0] == "XBN-P2-GN8"
    assert float(texts[-1][1]) < float(texts[2][1])
    assert profile.locator("line.here").count() == 1
    page.mouse.move(1, 1)
    tooltip.wait_for(state="hidden")
    assert page.locator("line.here").count() == 0
    page.close()


def test_the_forest_plot_shows_the_norm_batch_that_is_chosen(
    browser: Browser, sweep_report: ReportFiles
) -> None:
    page, trouble = open_page(browser, sweep_report.html)
    rows = page.locator(".forest tbody tr:visible th")
    # At 4, one of BN's seeds is lost: too few are left; at 16 and 64 none is. The answer is of 16.
    assert page.locator(".headline").inner_text().startswith("At norm batch 16")
    page.locator("#at label", has_text="64").click()
    assert sorted(text.removesuffix("★") for text in rows.all_inner_texts()) == ["BN", "GN8", "XBN-P2-GN8"]
    assert page.evaluate("location.hash") == "#at=64"
    again, _ = open_page(browser, sweep_report.html)
    again.goto(page.url)
    again.reload()
    assert again.locator("#at input:checked").get_attribute("value") == "64"
    assert trouble == []
    again.close()
    page.close()


def test_a_click_on_a_header_sorts_and_the_third_restores(
    browser: Browser, sweep_report: ReportFiles
) -> None:
    page, _ = open_page(browser, sweep_report.html)
    table = page.locator(".scroll[aria-label='Summary, table']")
    header = table.locator("thead button", has_text="Scaled ESM σ")
    column = table.locator("tbody tr td:nth-child(7)")
    before = column.all_inner_texts()
    header.click()
    assert table.locator("th[aria-sort=ascending]").inner_text().startswith("Scaled ESM σ")
    told = [value(text) for text in column.all_inner_texts()]
    known = [number for number in told if number is not None]
    assert known == sorted(known)
    assert told[len(known) :] == [None]  # what is not there comes last, up and down
    header.click()
    down = [value(text) for text in column.all_inner_texts()]
    assert down == [*reversed(known), None]
    header.click()
    assert column.all_inner_texts() == before
    page.close()


def value(text: str) -> float | None:
    """The number that a cell begins with, or the mean of two."""
    if text == "—":
        return None
    parts = [float(part.split("±")[0]) for part in re.split(r"\sand\s", text)]
    return sum(parts) / len(parts)


def test_the_sections_stay_in_view_and_nothing_is_cut_at_1280(
    browser: Browser, sweep_report: ReportFiles
) -> None:
    page, _ = open_page(browser, sweep_report.html)
    cut = "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth + 1).length"
    assert page.evaluate(cut) == 0
    page.get_by_role("link", name="Cost", exact=True).click()
    page.wait_for_function("() => scrollY > 1000")
    top = "document.querySelector('nav').getBoundingClientRect().top"
    page.wait_for_function(f"() => {top} >= 0 && {top} < 5")
    below = "document.querySelector('#cost').getBoundingClientRect().top"
    page.wait_for_function(f"() => {below} > document.querySelector('.bar-top').offsetHeight")
    page.close()


def test_one_norm_batch_and_one_seed_look_fine_too(browser: Browser, tmp_path: Path) -> None:
    for run in expand_runs(batch={"global_batch_size": 4}, seeds=[0]):
        write_run(tmp_path / "runs", run)
    page, trouble = open_page(browser, page_of(tmp_path), 375)
    assert overflow_px(page) == 0
    assert trouble == []
    page.close()


def test_costs_jobs_and_waiting_runs_fit_a_phone(browser: Browser, tmp_path: Path) -> None:
    done, waiting, ended = expand_runs(model={"arch": "small_resnet20"}, batch={"global_batch_size": 4})
    job: dict[str, Any] = {"job": "1234567_999", "nodes": "gpu-rack-12-node-[0001-0016,0020]"}
    costs = {"rank_s": 9e9, "lost_steps": 123_456, "attempts": 12, "queue_wait_s": 90_000.0}
    write_run(tmp_path / "runs", done, **job, **costs)
    write_waiting(tmp_path / "runs", waiting)
    write_waiting(tmp_path / "runs", ended, "cancelled", "job 1234567_998 was cancelled")
    page, trouble = open_page(browser, page_of(tmp_path), 375)
    assert page.locator("section[aria-labelledby=cost] table").count() == 1
    assert "1 queued" in page.locator("header .meta").inner_text()
    assert page.locator("#runs ~ .scroll", has_text="gpu-rack-12-node-[0001-0016,0020]").count() == 1
    assert overflow_px(page) == 0
    page.set_viewport_size({"width": 1280, "height": 900})
    assert overflow_px(page) == 0
    assert trouble == []
    page.close()


def test_names_from_records_run_no_script(browser: Browser, tmp_path: Path) -> None:
    data = {"name": NASTY, "path": "/data", "num_classes": 10, "image_size": 28}
    model = {"arch": "small_resnet20"}
    for run in expand_runs(
        name=NASTY * 9, model=model, data=data, batch={"global_batch_size": 4}, seeds=[0, 1]
    ):
        write_run(tmp_path / "runs", run, layers=[NASTY, "b"], esm_sigma=[1, 2], reason=NASTY)
    page, trouble = open_page(browser, page_of(tmp_path), 375)
    profile = page.locator("figure", has_text="Depth profile of scaled ESM σ").locator(".chart").first
    profile.scroll_into_view_if_needed()
    profile.locator(".mark-symbol path").first.hover(force=True)
    page.locator("#tip").wait_for()
    assert NASTY in page.locator("#tip").inner_text()
    assert page.evaluate("window.pwned") is None
    assert NASTY in page.locator("h1").inner_text()
    assert overflow_px(page) == 0
    assert trouble == []
    page.close()


def test_a_missing_chromium_fails_in_ci_and_skips_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="chromium is not on the PATH"):
        chromium()
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="chromium is not on the PATH"):
        chromium()
