"""The processes that draw, which are kept for further figures, and the script that is kept for reports."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from reports.write import drawing

SPEC = json.loads(drawing._SMALLEST)


def drawn() -> str:
    """The SVG; the fonts of the PDF are numbered in any order."""
    ((svg, _),) = drawing.draw([SPEC], lambda: None)
    return svg


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the processes were started for, from none on."""
    found: list[str] = []
    start = drawing._drawer
    monkeypatch.setattr(drawing, "_drawer", lambda what: found.append(what) or start(what))
    drawing._end_idle()
    yield found
    drawing._end_idle()


def test_a_process_draws_again_and_one_that_has_ended_is_replaced(started: list[str]) -> None:
    first = drawn()
    assert drawn() == first
    assert started == ["figures"]
    (idle,) = drawing._idle
    idle.kill()
    idle.wait()
    assert drawn() == first
    assert started == ["figures"] * 2


def test_a_figure_that_cannot_be_drawn_ends_its_process(started: list[str]) -> None:
    with pytest.raises(RuntimeError, match="a figure cannot be drawn: "):
        drawing.draw([{"mark": 7}], lambda: None)
    assert drawing._idle == []


def test_a_fork_does_not_draw_for_its_parent(started: list[str]) -> None:
    drawing.draw([SPEC], lambda: None)
    if (child := os.fork()) == 0:
        os._exit(len(drawing._idle))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(drawing._idle) == 1


def test_the_script_is_kept_and_made_anew_when_it_is_damaged(
    started: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script() -> str:
        for function in (drawing.start_bundling, drawing.vega_bundle, drawing._kept_bundle):
            function.cache_clear()
        return drawing.vega_bundle()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = script()
    (kept,) = tmp_path.glob("shiftbench/vega-*.js")
    assert script() == made
    assert started == ["bundle"]
    kept.write_text(kept.read_text()[:-9])
    assert script() == made
    kept.unlink()
    kept.mkdir()  # cannot be written
    assert script() == made
    monkeypatch.setenv("XDG_CACHE_HOME", "~no-such-user")
    assert script() == made
    assert started == ["bundle"] * 4
