"""The page of a diagnosis, from plain values alone: what it says, and how it looks in a browser."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from reports.write.diagnosis_page import Scale, points, render_diagnosis, write_diagnosis
from suite.errors import UserError
from tests.helpers.browser import overflow_px
from tests.helpers.nasty_text import NASTY


def change(value: float, low: float, high: float) -> dict[str, float]:
    return {"points": value, "low": low, "high": high}


def diagnosis(**changed: Any) -> dict[str, Any]:
    finding = {
        "cause": "warming_up",
        "title": "estimates half warmed up",
        "is_harmful": True,
        "sentence": "They still consist of the initial mean 0 and variance 1 by 43 %.",
        "remedy": "Train for 44 steps or more.",
        "layers": ["bn1", NASTY],
        "lost": change(9.25, 7.5, 11.0),
        "gives_back": change(7.1, 4.8, 9.3),
        "evidence": {},
    }
    harmless = {**finding, "title": "momentum too large", "is_harmful": False, "gives_back": None}
    accuracies = [("training", "batch statistics", 90.8), ("training", "estimates", 81.5)]
    accuracies += [("evaluation", "estimates", 76.1), ("evaluation", "batch statistics", 83.3)]
    keys = ("images", "statistics", "top1_percent")
    return {
        "network": f"resnet50 {NASTY}",
        "data": "photos",
        "input": "images of 224 pixels",
        "weights": "'model'",
        "images_per_batch": 32,
        "bad_images": {"a.jpg": "empty file"},
        "verdict": [f"The first cause: {NASTY}.", "Another one by 43 %."],
        "is_healthy": False,
        "findings": [finding, harmless],
        "accuracies": [dict(zip(keys, one, strict=True)) for one in accuracies],
        "lost": change(9.3, 7.5, 11.1),
        "unexplained": change(0.1, -0.7, 0.8),
        "generalisation": change(5.4, 2.1, 8.6),
        "remedies": [
            {"name": "PreciseBN", "top1_percent": 83.3, "gives_back": change(7.2, 4.9, 9.4)},
            {"name": "prediction-time BN", "top1_percent": 70.1, "gives_back": change(-6.0, -8.0, -4.0)},
        ],
        "num_layers": 53,
        "num_training_images": 2048,
        "num_evaluation_images": 2048,
        "notes": ["A note."],
        **changed,
    }


def test_the_page_says_everything_and_asks_for_nothing() -> None:
    page = render_diagnosis(diagnosis())
    for text in ("Estimates half warmed up", "+9.2 [7.5, 11.0]", "+7.1 [4.8, 9.3]", "costs accuracy", "90.8"):
        assert text in page, text
    for text in ("2,048 training images", "53 BN layers", "A note.", "1 file was left out", "—", "43\u00a0%"):
        assert text in page, text
    assert NASTY not in page
    assert "default-src 'none'" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert "<script" not in page


def test_a_clean_bill_has_a_page_too() -> None:
    page = render_diagnosis(diagnosis(findings=[], is_healthy=True, verdict=["A clean bill."], weights=None))
    assert "No known cause has left its signature." in page
    assert 'class="verdict healthy"' in page


def test_numbers_and_places_by_hand() -> None:
    assert points(change(-1.25, -2.0, 0.5)) == "−1.2 [−2.0, 0.5]"
    assert points(None) == "—"
    scale = Scale([change(5, 0, 10), change(-5, -10, -1)])
    assert (scale.x(scale.low), scale.x(0), scale.x(scale.high)) == (0, 50, 100)
    assert Scale([]).x(0) == 50


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: the page cannot be written"):
        write_diagnosis(diagnosis(), tmp_path / "file")
    assert write_diagnosis(diagnosis(), tmp_path / "new" / "folder").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(("width", "dark"), [(375, True), (1280, False)])
def test_it_fits_a_phone_and_a_desk(browser: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    html = write_diagnosis(diagnosis(), tmp_path)
    page = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
    )
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("request", lambda r: None if r.url == html.as_uri() else trouble.append(r.url))
    page.goto(html.as_uri())
    assert overflow_px(page) == 0
    assert [url for url in trouble if not url.startswith("data:")] == []
    bars = page.locator(".bars svg")
    assert bars.count() == 4
    for i in range(4):
        box = bars.nth(i).bounding_box()
        assert box is not None
        assert box["width"] > 90
    drawn = page.locator(".drawn svg").first.bounding_box()
    assert drawn is not None
    assert drawn["x"] + drawn["width"] <= width
    page.close()
