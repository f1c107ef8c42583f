"""Choosing norms and norm batches in headless Chromium: every chart follows, the address keeps the choice."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from reports.write.render import render_html
from reports.write.report_folder import ReportFiles, build_report
from tests.helpers.browser import (
    VISIBLE,
    browser,
    open_page,
    overflow_px,
    serious_findings,
    wait_for_charts,
)
from tests.helpers.composed import composed
from tests.helpers.records import expand_runs, write_run, write_sweep

__all__ = ["browser"]

NORMS = [
    {"kind": "bn"},
    {"kind": "xbn"},
    {"kind": "xbn", "position": "p1"},
    {"kind": "xbn", "position": "p3"},
    {"kind": "gn", "num_groups": 8},
]
LABELS = ["BN", "XBN-P1-GN8", "XBN-P2-GN8", "XBN-P3-GN8", "GN8"]
SIZES = [2, 4, 8, 16, 32, 64, 128, 256]
FIGURES = [
    "Depth profile of scaled ESM σ",
    "Accuracy and shift by norm batch",
    "Accuracy by shift",
    "Depth profile of scaled ESM σ, other norm batches",
    "Depth profile of scaled ESM μ",
    "Scaled ESM σ by layer and epoch",
    "Evaluation top-1 by epoch",
    "Training loss by epoch",
    "Accuracy by throughput",
    "Throughput",
]
# Of norms without a norm batch too, without a panel for each norm batch.
WITHOUT_PANELS = [FIGURES[1], FIGURES[2], *FIGURES[-2:]]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """GN, and four norms with BN at eight norm batches; two seeds, probed at every epoch."""
    root = tmp_path_factory.mktemp("large")
    model = {"arch": "small_resnet20", "norm": NORMS}
    batch = {"global_batch_size": 256, "norm_batch_size": SIZES}
    folders = write_sweep(root, probe_epochs=True, model=model, batch=batch, seeds=[0, 1])
    assert len(folders) == 2 * (4 * 8 + 1)
    return build_report([root], tmp_path_factory.mktemp("large-report") / "out")


@pytest.fixture(scope="module")
def opened(browser: Browser, large: ReportFiles) -> tuple[Page, list[str]]:
    return open_page(browser, large.html)


@pytest.fixture
def page(opened: tuple[Page, list[str]]) -> Iterator[Page]:
    """One page for all: each test finds it with nothing filtered away. No script of it may complain."""
    page, trouble = opened
    yield page
    reset(page)
    page.evaluate("scrollTo(0, 0)")
    assert trouble == []


def marks(page: Page) -> list[dict[str, int]]:
    """Of every visible chart, how many data marks carry each norm: the data behind them, not their looks."""
    script = """(selector) => charts.filter(({box}) => box.offsetParent).map(({view, box}) => {
        const counts = {};
        const visit = (item) => {
            if (item.items) item.items.forEach(visit);
            if (item.datum?.norm && item.mark?.marktype === "symbol") {
                counts[item.datum.norm] = (counts[item.datum.norm] ?? 0) + 1;
            }
        };
        visit(view.scenegraph().root);
        return counts;
    })"""
    found: list[dict[str, int]] = page.evaluate(script, VISIBLE)
    return found


def choose(page: Page, act: Callable[[], Any]) -> None:
    """Act, and wait until the charts have followed."""
    act()
    wait_for_charts(page)


def uncheck(page: Page, axis: str, value: str) -> None:
    """As a person does: open the filters if they are closed, and click the chip."""
    open_filters(page)
    page.locator(f"fieldset[data-axis={axis}] label:has(input[value='{value}'])").click()


def open_filters(page: Page) -> None:
    if page.locator(".filters details").get_attribute("open") is None:
        page.locator(".filters summary").click()


def reset(page: Page) -> None:
    open_filters(page)
    choose(page, lambda: page.get_by_role("button", name="Reset").click())


def shown(page: Page) -> str:
    return page.locator("[role=status]").inner_text()


def test_a_filter_acts_on_every_chart_and_table(page: Page) -> None:
    assert page.locator("figure h3").all_inner_texts() == FIGURES
    before = marks(page)
    assert len(before) == page.locator(VISIBLE).count()
    assert shown(page) == "Showing all 5 norms and all 8 norm batches."
    rows = page.locator(".scroll[aria-label='Summary, table'] tbody tr:visible")
    assert rows.count() == 33
    choose(page, lambda: uncheck(page, "norm", "BN"))
    after = marks(page)
    # BN's heat map goes as a whole.
    gone = page.evaluate("charts.findIndex(({box}) => !box.offsetParent)")
    expected = [{k: v for k, v in counts.items() if k != "BN"} for counts in before]
    del expected[gone]
    assert page.locator(".chart:visible").count() == len(after) == len(expected)
    assert after == expected
    assert not any("BN" in counts for counts in after)
    assert rows.count() == 25
    assert "BN" not in page.locator("section[aria-labelledby=shift] tbody th:visible").all_text_contents()
    assert shown(page) == "Showing 4 of 5 norms and all 8 norm batches."


def test_a_norm_batch_that_is_filtered_away_takes_its_panels_along(page: Page) -> None:
    profile = page.locator("figure", has_text="Depth profile of scaled ESM σ")
    assert profile.locator("h4:visible").all_inner_texts() == [
        f"Norm batch {n}" for n in (2, 16, 256, 4, 32, 128)
    ]
    open_filters(page)
    choose(page, lambda: page.get_by_role("button", name="No norm batch").click())
    # GN has none, and stays whatever is chosen.
    assert page.locator("figure:visible h3").all_inner_texts() == WITHOUT_PANELS
    assert all(counts.keys() <= {"GN8"} for counts in marks(page))
    assert shown(page) == "Showing all 5 norms and no norm batch."
    rows = page.locator(".scroll[aria-label='Summary, table'] tbody tr:visible")
    cells = rows.evaluate_all("rows => rows.map(({cells}) => [cells[0].textContent, cells[1].textContent])")
    assert cells == [["GN8", "—"]]
    listed = page.locator(".scroll[aria-label='Runs, table'] tbody th:visible").all_text_contents()
    assert listed
    assert all("GN8" in name for name in listed)
    for size in ("4", "128"):
        choose(page, lambda size=size: uncheck(page, "norm_batch_size", size))
    assert profile.locator("h4:visible").all_inner_texts() == ["Norm batch 4", "Norm batch 128"]
    assert shown(page) == "Showing all 5 norms and norm batches 4 and 128."
    # Top-1 at two of eight norm batches: two means a norm and two runs of each, of which one of BN failed.
    # GN is a level line, with a mark at each of eight norm batches.
    expected = {label: 5 if label == "BN" else 6 for label in LABELS[:4]}
    assert marks(page)[0] == {**expected, "GN8": 8}
    reset(page)
    assert shown(page) == "Showing all 5 norms and all 8 norm batches."
    assert page.locator("figure:visible").count() == len(FIGURES)


def test_the_address_restores_the_choice_and_sections_keep_it(browser: Browser, page: Page) -> None:
    choose(page, lambda: uncheck(page, "norm", "BN"))
    choose(page, lambda: uncheck(page, "norm_batch_size", "2"))
    address = page.evaluate("location.href")
    assert "norm=XBN-P1-GN8" in address
    expected, sentence = marks(page), shown(page)
    page.get_by_role("link", name="Shift", exact=True).click()
    page.wait_for_function("() => scrollY > 300")
    assert page.evaluate("location.href") == address
    again = browser.new_page(viewport={"width": 1280, "height": 900})
    again.goto(address)
    wait_for_charts(again)
    assert (shown(again), marks(again)) == (sentence, expected)
    says = "(words) => document.querySelector('[role=status]').textContent.includes(words)"
    again.evaluate("location.hash = '#none=norm'")
    again.wait_for_function(says, arg="no norm ")
    again.evaluate("location.hash = '#norm=nobody'")
    again.wait_for_function(says, arg="all 5 norms")
    again.close()


def test_keys_alone_can_choose(browser: Browser, large: ReportFiles) -> None:
    page, _ = open_page(browser, large.html)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.locator(".filters summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    choose(page, lambda: page.keyboard.press("Space"))
    assert shown(page) == "Showing 4 of 5 norms and all 8 norm batches."
    page.keyboard.press("Escape")
    assert page.locator(".filters details").get_attribute("open") is None
    page.close()


def test_the_pareto_front_is_that_of_what_is_shown(browser: Browser, tmp_path: Path) -> None:
    """GN is faster and more accurate than BN and XBN-P3, with intervals apart; XBN-P1 is near GN."""
    speeds = {"BN": 100.0, "XBN-P3-GN8": 90.0, "XBN-P1-GN8": 130.0, "GN8": 150.0}
    top1 = {"BN": 70.0, "XBN-P3-GN8": 60.0, "XBN-P1-GN8": 80.0, "GN8": 80.5}
    model = {"arch": "small_resnet20", "norm": [NORMS[i] for i in (0, 2, 3, 4)]}
    for run in expand_runs(
        model=model, batch={"global_batch_size": 64, "norm_batch_size": 4}, seeds=[0, 1, 2]
    ):
        label, more = run.model.norm.label, [0.0, 0.5, 1.0][run.seed]
        speed = {"images_per_s": speeds[label] + more}
        write_run(tmp_path / "runs", run, top1_percent=[top1[label] + more], throughput=speed)
    (tmp_path / "index.html").write_text(render_html(composed(tmp_path / "runs")))
    page, trouble = open_page(browser, tmp_path / "index.html")
    ringed = """() => {
        const {view} = charts.find(({box}) => box.closest("figure").textContent.includes("Pareto"));
        const found = [];
        const visit = (item) => {
            (item.items ?? []).forEach(visit);
            if (item.mark?.marktype === "symbol" && item.size === 300) found.push(item.datum.norm);
        };
        visit(view.scenegraph().root);
        return found.sort();
    }"""
    assert page.evaluate(ringed) == ["GN8", "XBN-P1-GN8"]
    choose(page, lambda: uncheck(page, "norm", "GN8"))
    assert page.evaluate(ringed) == ["XBN-P1-GN8"]
    choose(page, lambda: uncheck(page, "norm", "XBN-P1-GN8"))
    assert page.evaluate(ringed) == ["BN"]
    assert trouble == []
    page.close()


def test_only_a_wheel_with_ctrl_zooms_and_a_double_click_goes_back(page: Page) -> None:
    texts = "[...document.querySelectorAll('#chart-0 .role-axis-label text')].map((t) => t.textContent)"
    labels = f"{texts}.sort().join()"
    chart = page.locator("#chart-0")
    chart.hover()
    before, scrolled = page.evaluate(labels), page.evaluate("scrollY")
    page.mouse.wheel(0, -120)
    page.wait_for_function(f"() => scrollY !== {scrolled}")
    assert page.evaluate(labels) == before
    chart.hover()
    scrolled = page.evaluate("scrollY")
    page.keyboard.down("Control")
    page.mouse.wheel(0, -240)
    page.keyboard.up("Control")
    page.wait_for_function(f"(old) => {labels} !== old", arg=before)
    assert page.evaluate("scrollY") == scrolled
    chart.dblclick()
    page.wait_for_function(f"(old) => {labels} === old", arg=before)


@pytest.mark.parametrize(("width", "dark"), [(375, True), (1280, False)])
def test_a_large_page_is_quiet_fits_and_passes_the_audit(
    browser: Browser, large: ReportFiles, width: int, dark: bool
) -> None:
    page, trouble = open_page(browser, large.html, width, dark)
    assert overflow_px(page) == 0
    page.add_style_tag(
        content=".scroll { content-visibility: visible !important }"
    )  # tables out of sight, too
    assert serious_findings(page) == []
    assert trouble == []
    page.close()


def test_print_has_all_panels_and_no_controls(page: Page) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator(".filters fieldset").first.is_visible()
    assert page.locator("[role=status]").is_visible()
    assert page.locator(".chart svg.marks:visible").count() == page.locator(".chart").count()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.emulate_media(media="screen", color_scheme="light")
